"""What the tests compare with: the published code's outputs, and networks far from their initialisation.

A fresh FastViT is almost blind to fusion bugs: its layer scales are 1e-5 and its batch norms are identities.
"""

import json
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from timm.models.fastvit import LayerScale2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastvit import LayerScale
from fastvit.variants import VARIANTS as ROWS

GOLDEN = Path(__file__).parent / "golden"
VARIANTS = ("fastvit_t8", "fastvit_t12", "fastvit_s12", "fastvit_sa12", "fastvit_sa24", "fastvit_sa36", "fastvit_ma36")
# One of each kind: without attention, with it, with squeeze-and-excitation in between, with layer norm and five stages.
KINDS = ("fastvit_t8", "fastvit_sa12", "fastvit_mci0", "fastvit_mci3")
ENCODERS = ("fastvit_mci0", "fastvit_mci1", "fastvit_mci2", "fastvit_mci3", "fastvit_mci4", "fastvithd")


def small(name: str) -> dict[str, tuple[int, ...]]:
    """Options of `timm.create_model` for a network with all the kinds of layers it has: some are large."""
    row = ROWS[name]
    stages = len(row.depths)
    return {"depths": (1,) * stages, "dims": row.dims if stages == 4 else tuple(32 * 2**i for i in range(stages))}


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and statistics of norms and layer scales of 0.1 to 0.5, in place.

    One variance in seven is of the order of the batch norm's epsilon, with a weight that makes up for it, so that the
    activations of a deep network stay finite in half precision.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                uniform(module.weight, 0.5, 1.5)
                uniform(module.bias, -0.5, 0.5)
                uniform(module.running_mean, -0.5, 0.5)
                uniform(module.running_var, 0.5, 1.5)
                module.running_var[::7] *= 1e-4
                module.weight[::7] *= 1e-2
            elif isinstance(module, nn.LayerNorm):
                uniform(module.weight, 0.5, 1.5)
                uniform(module.bias, -0.5, 0.5)
            elif isinstance(module, (LayerScale, LayerScale2d)):
                uniform(module.gamma, 0.1, 0.5)
    return model


@torch.no_grad()
def tell_apart(model: nn.Module, images: Tensor) -> nn.Module:
    """The classifier, in eval mode, changed in place so that its logits differ between these images."""
    logits = model.eval()(images)
    scale = 3 / logits.std(0)
    model.head.fc.weight *= scale[:, None]
    model.head.fc.bias.copy_(scale * (model.head.fc.bias - logits.mean(0)))
    return model


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def golden_weights(variant: str, form: str) -> dict[str, Tensor]:
    """The state dict, in Apple's names, from which the published code computed the golden outputs.

    Each tensor depends on its name and shape only. `form` is "unfused" or "fused".
    """
    return dict(_golden_weights(variant, form))


@lru_cache(4)  # half a second for a small one
def _golden_weights(variant: str, form: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(_fill(name, shape)) for name, shape in golden_shapes(variant, form).items()}


def golden_shapes(variant: str, form: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in json.loads((GOLDEN / f"{variant}.json").read_text())[form].items()}


def golden_outputs(variant: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / f"{variant}.npz"))


def golden_image(batch: int, height: int, width: int) -> Tensor:
    rng = np.random.default_rng([batch, height, width])
    return torch.from_numpy(rng.standard_normal((batch, 3, height, width)).astype(np.float32)).double()


def _fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    if leaf in ("running_mean", "bias"):
        value = 0.1 * rng.standard_normal(shape)
    elif leaf == "running_var":
        value = rng.uniform(0.5, 1.5, shape)
    elif "layer_scale" in leaf:
        value = rng.uniform(0.2, 0.6, shape)
    elif len(shape) == 1:  # batch-norm weight
        value = rng.uniform(0.5, 1.5, shape)
    else:
        value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return np.asarray(value, dtype=np.float32)
