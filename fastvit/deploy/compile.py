"""Compile a network for inference with `torch.compile`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fastvit.reparam import relative_error, reparameterize_model

# Largest relative L2 difference from the eager network in its own precision.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.05}


def compile_for_inference(
    model: nn.Module, example_input: Tensor, dtype: torch.dtype | None = None
) -> Callable[[Tensor], Any]:
    """A fast function of images: the network fused, then cast, in channels_last, compiled, and warmed up.

    Needs what `torch.compile` needs: a C++ compiler on CPU, Triton on a GPU.

    Args:
        model: any network with fastvit's blocks, fused or not; it is left as it is. Sets the device.
        example_input: (B, C, H, W), what it is warmed up with. Other batch sizes work and are compiled when they first
            come; so are other image sizes.
        dtype: precision to compute in; by default that of the model. Folding is done before casting.

    Returns:
        A function of images, in any dtype and memory format, that returns what the model does in eval mode, in `dtype`.

    Raises:
        ValueError: `dtype` is not a precision for networks.
        RuntimeError: the outputs for the example differ from the eager network's by more than `TOLERANCE`.
    """
    fused = reparameterize_model(model)
    parameter = next(fused.parameters())
    dtype = dtype or parameter.dtype
    if dtype not in TOLERANCE:
        raise ValueError(f"dtype must be one of {', '.join(map(str, TOLERANCE))}, not {dtype}")
    with torch.no_grad():
        expected = fused(example_input.to(parameter))

    network = fused.to(dtype=dtype, memory_format=torch.channels_last)
    on_cpu = parameter.device.type == "cpu"
    # On CPU, freezing packs the weights once for its matrix kernels; on CUDA, max-autotune records CUDA graphs.
    how = {"options": {"freezing": True}} if on_cpu else {"mode": "max-autotune"}
    compiled = torch.compile(network, **how)

    def infer(images: Tensor) -> Any:
        images = images.to(device=parameter.device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            output = compiled(images)
        return output if on_cpu else tree_map(torch.clone, output)  # the next replay of a CUDA graph overwrites it

    error = relative_error(infer(example_input), expected)
    if not error <= TOLERANCE[dtype]:
        raise RuntimeError(
            f"the compiled network differs from the eager one by {error:.1e} (relative L2), more than "
            f"{TOLERANCE[dtype]:g} in {dtype}: use reparameterize_model(model) without compiling, and report this"
        )
    return infer
