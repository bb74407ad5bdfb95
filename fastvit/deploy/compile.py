"""Compile a network for inference with `torch.compile`."""

import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch._inductor.config as inductor_config
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fastvit.reparam import relative_error, reparameterize_model
from fastvit.runtime.allocator import keep_freed_memory

# Largest relative L2 difference from the eager network in its own precision.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.05}

_numbers = itertools.count()


def compile_for_inference(
    model: nn.Module, example_input: Tensor, dtype: torch.dtype | None = None
) -> Callable[[Tensor], Any]:
    """A fast function of images: the network fused, then cast, in channels_last, compiled, and warmed up.

    Needs what `torch.compile` needs: a C++ compiler on CPU, Triton on a GPU. On CPU the process keeps the memory that
    it frees from then on (`fastvit.runtime.allocator.keep_freed_memory`).

    Args:
        model: any network with fastvit's blocks, fused or not; it is left as it is. Sets the device.
        example_input: (B, C, H, W), what it is compiled for and warmed up with. Other batch sizes work too: on CPU one
            compilation, when the first of them comes, serves all (batches of 1, and of 16 and more, take one each).
            Another image size is compiled when it first comes.
        dtype: precision to compute in; by default that of the model. Folding is done before casting.

    Returns:
        A function of images, in any dtype and memory format, that returns what the model does in eval mode, in `dtype`.

    Raises:
        ValueError: `dtype` is not a precision for networks.
        RuntimeError: the outputs for the example differ from the eager network's by more than `TOLERANCE`.
    """
    fused = _fuse(model)
    parameter = next(fused.parameters())
    dtype = dtype or parameter.dtype
    if dtype not in TOLERANCE:
        raise ValueError(f"dtype must be one of {', '.join(map(str, TOLERANCE))}, not {dtype}")
    with torch.no_grad():
        expected = fused(example_input.to(parameter))

    on_cpu = parameter.device.type == "cpu"
    keep_freed_memory(parameter.device)
    if on_cpu:
        _make_depthwise(fused)
    network = fused.to(dtype=dtype, memory_format=torch.channels_last)
    known_shapes = set()

    @functools.cache
    def compiled_for(image_size: torch.Size) -> Callable[[Tensor], Any]:
        return _compile(network, on_cpu)

    @torch.no_grad()
    def infer(images: Tensor) -> Any:
        images = images.to(device=parameter.device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        compiled = compiled_for(images.shape[1:])
        if not on_cpu:
            return tree_map(torch.clone, compiled(images))  # the next replay of a CUDA graph overwrites the output
        images = images.detach()  # the mark is an attribute: not on the user's tensor
        torch._dynamo.maybe_mark_dynamic(images, 0)
        if images.shape in known_shapes:
            return compiled(images)
        with inductor_config.patch(freezing=True):  # `options` alone does not freeze: torch 2.15 reads both
            output = compiled(images)
        known_shapes.add(images.shape)
        return output

    error = relative_error(infer(example_input), expected)
    if not error <= TOLERANCE[dtype]:
        raise RuntimeError(
            f"the compiled network differs from the eager one by {error:.1e} (relative L2), more than "
            f"{TOLERANCE[dtype]:g} in {dtype}: use reparameterize_model(model) without compiling, and report this"
        )
    return infer


class RepeatedDepthwise(nn.Module):
    """A grouped convolution with several outputs for each input channel, as a depthwise one on repeated channels.

    The same numbers, from oneDNN's depthwise kernel: for several outputs it has a slow one only (those four of T8's 52
    convolutions took a sixth of the time in float32, more than a quarter in bfloat16).
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        channels = conv.out_channels
        self.times = channels // conv.in_channels
        self.conv = nn.Conv2d(channels, channels, conv.kernel_size, conv.stride, conv.padding, groups=channels)
        self.conv.weight, self.conv.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(self.times, dim=1))


def _make_depthwise(model: nn.Module) -> None:
    """Replace every `nn.Conv2d` in `model` that `RepeatedDepthwise` is for."""
    for name, module in model.named_children():
        if type(module) is not nn.Conv2d:
            _make_depthwise(module)
        elif 1 < module.groups == module.in_channels < module.out_channels and _is_plain(module):
            setattr(model, name, RepeatedDepthwise(module))


def _is_plain(conv: nn.Conv2d) -> bool:
    return conv.dilation == (1, 1) and conv.padding_mode == "zeros" and not conv._forward_hooks


def _fuse(model: nn.Module) -> nn.Module:
    """The fused copy; what fusing warns about points to the caller of `compile_for_inference`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fused = reparameterize_model(model)
    for warning in caught:
        warnings.warn(warning.message, stacklevel=3)
    return fused


def _compile(network: nn.Module, on_cpu: bool) -> Callable[[Tensor], Any]:
    def forward(images: Tensor) -> Any:
        return network(images)

    # torch counts compilations by code object, and refuses what exceeds its limit of 8. And it remembers by file, line
    # and name which sizes have changed between calls, and compiles for any such size from then on, which is up to 1.6
    # times as slow (SA12). With the code of the class, or of this function, both would be so for the networks and image
    # sizes of a process together. Each gets a copy of the code, with a name of its own.
    forward.__code__ = forward.__code__.replace(co_name=f"forward_{next(_numbers)}")
    if not on_cpu:
        return torch.compile(forward, mode="max-autotune", fullgraph=True)  # records CUDA graphs
    # Freezing packs the weights once, in the layout of oneDNN's kernels. The network is ours alone and stays as it
    # is, so that nothing about it needs to be checked in each call.
    options = {"freezing": True, "guard_filter_fn": torch.compiler.skip_guard_on_inbuilt_nn_modules_unsafe}
    return torch.compile(forward, options=options, fullgraph=True)
