"""The published networks, one row each: FastViT's seven (arXiv 2303.14189, Table 2; layer scale from the released
code), and the image encoders of MobileCLIP (2311.17049), MobileCLIP2 (2508.20691) and FastVLM (2412.13303)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from timm.layers import LayerNorm2d, SqueezeExcite
from torch import nn

from fastvit.layers import PatchEmbed

PatchEmbeds = tuple[Callable[[int, int], nn.Module], ...]


@dataclass(frozen=True)
class Variant:
    """What distinguishes one network from another.

    Attributes:
        depths, dims, expansion, attention, layer_scale, patch_embeds, stem_kernel_sizes, norm: see `fastvit.FastViT`.
        size: its parameters in train form, and its work.
        encoder: whether it ends in CLIP's projection, whose outputs are no classes.
        cfg: in which timm's configuration of that name is changed or, if there is none, added to.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    expansion: int
    attention: tuple[bool, ...]
    size: str
    layer_scale: float = 1e-5
    patch_embeds: PatchEmbeds | None = None
    stem_kernel_sizes: tuple[int, ...] = (3, 1)
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    encoder: bool = False
    cfg: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """For the constructor of `FastViT`."""
        return {name: value for name, value in vars(self).items() if name not in ("size", "encoder", "cfg")}


_NONE, _LAST = (False, False, False, False), (False, False, False, True)
_GELU = partial(PatchEmbed, act=nn.GELU)
_SE_GELU = partial(PatchEmbed, act=nn.GELU, se=partial(SqueezeExcite, rd_ratio=1 / 4))

_MOBILECLIP = {"crop_pct": 1.0, "interpolation": "bilinear"}
_FASTVLM = {
    **_MOBILECLIP,
    "crop_mode": "border",  # padded to a square
    "input_size": (3, 1024, 1024),
    "pool_size": (16, 16),
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "num_classes": 768,
    "first_conv": "stem.0.conv_kxk.0.conv",
    "classifier": "head.fc",
    "license": "apple-amlr",
}

_mci = partial(
    Variant, expansion=3, attention=_LAST, patch_embeds=(_GELU, _SE_GELU, _SE_GELU), encoder=True, cfg=_MOBILECLIP
)
_mci_5 = partial(
    _mci,
    expansion=4,
    attention=(*_LAST, True),
    patch_embeds=(_GELU,) * 4,
    stem_kernel_sizes=(3,),
    norm=partial(LayerNorm2d, eps=1e-5),
)

VARIANTS = {
    "fastvit_t8": Variant((2, 2, 4, 2), (48, 96, 192, 384), 3, _NONE, "4.0 M parameters, 0.7 GMACs"),
    "fastvit_t12": Variant((2, 2, 6, 2), (64, 128, 256, 512), 3, _NONE, "7.6 M parameters, 1.4 GMACs"),
    "fastvit_s12": Variant((2, 2, 6, 2), (64, 128, 256, 512), 4, _NONE, "9.5 M parameters, 1.8 GMACs"),
    "fastvit_sa12": Variant((2, 2, 6, 2), (64, 128, 256, 512), 4, _LAST, "11.6 M parameters, 1.9 GMACs"),
    "fastvit_sa24": Variant((4, 4, 12, 4), (64, 128, 256, 512), 4, _LAST, "21.6 M parameters, 3.8 GMACs"),
    "fastvit_sa36": Variant(
        (6, 6, 18, 6), (64, 128, 256, 512), 4, _LAST, "31.5 M parameters, 5.6 GMACs", 1e-6, cfg={"crop_pct": 0.95}
    ),
    "fastvit_ma36": Variant((6, 6, 18, 6), (76, 152, 304, 608), 4, _LAST, "44.1 M parameters, 7.8 GMACs", 1e-6),
    "fastvit_mci0": _mci((2, 6, 10, 2), (64, 128, 256, 512), size="11.4 M parameters, 2.4 GMACs"),
    "fastvit_mci1": _mci((4, 12, 20, 4), (64, 128, 256, 512), size="21.5 M parameters, 4.7 GMACs"),
    "fastvit_mci2": _mci((4, 12, 24, 4), (80, 160, 320, 640), size="35.8 M parameters, 7.8 GMACs"),
    "fastvit_mci3": _mci_5((2, 12, 24, 4, 2), (96, 192, 384, 768, 1536), size="125 M parameters, 14.8 GMACs"),
    "fastvit_mci4": _mci_5((2, 12, 24, 4, 4), (128, 256, 512, 1024, 2048), size="322 M parameters, 27.8 GMACs"),
    "fastvithd": _mci_5((2, 12, 24, 4, 2), (96, 192, 384, 768, 1536), size="125 M parameters, 243 GMACs", cfg=_FASTVLM),
}
