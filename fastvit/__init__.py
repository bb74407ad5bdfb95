"""FastViT (arXiv 2303.14189): layers, the seven networks for timm, and their fusion for inference.

Importing this package registers the networks with timm: `timm.create_model("fastvit_t8")`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastvit.builtin import from_timm
from fastvit.compare import fusion_error
from fastvit.fastvit import FastViT
from fastvit.layers import (
    Attention,
    AttentionBlock,
    ConditionalPositionalEncoding,
    ConvBN,
    ConvFFN,
    LayerScale,
    PatchEmbed,
    RepConv,
    RepMixer,
    RepMixerBlock,
)
from fastvit.reparam import (
    Affine,
    CannotFuse,
    Foldable,
    Reparameterizable,
    collapse,
    fold_norm,
    reparameterize_model,
)
from fastvit.weights import CheckpointError, load_checkpoint

if TYPE_CHECKING:
    from fastvit.trained import load_trained as load_trained

__version__ = "0.1.0"

__all__ = [
    "Affine",
    "Attention",
    "AttentionBlock",
    "CannotFuse",
    "CheckpointError",
    "ConditionalPositionalEncoding",
    "ConvBN",
    "ConvFFN",
    "FastViT",
    "Foldable",
    "LayerScale",
    "PatchEmbed",
    "RepConv",
    "RepMixer",
    "RepMixerBlock",
    "Reparameterizable",
    "collapse",
    "fold_norm",
    "from_timm",
    "fusion_error",
    "load_checkpoint",
    "load_trained",
    "reparameterize_model",
]


if not TYPE_CHECKING:  # which would take any name for one that is here

    def __getattr__(name: str) -> Any:
        """`load_trained`, which knows what stands on these layers; it is imported when it is asked for."""
        if name == "load_trained":
            return import_module("fastvit.trained").load_trained
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return [*globals(), "load_trained"]
