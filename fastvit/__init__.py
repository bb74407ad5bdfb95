"""FastViT (arXiv 2303.14189): layers, the seven networks for timm, and their fusion for inference.

Importing this package registers the networks with timm: `timm.create_model("fastvit_t8")`.
"""

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
from fastvit.reparam import Affine, CannotFuse, Foldable, Reparameterizable, reparameterize_model
from fastvit.weights import CheckpointError, load_checkpoint

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
    "from_timm",
    "fusion_error",
    "load_checkpoint",
    "reparameterize_model",
]
