"""The seven published networks, one row each (FastViT, Table 2; layer scale from the released code)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """What distinguishes one FastViT from another.

    Attributes:
        depths: blocks in each stage.
        dims: channels of each stage.
        expansion: hidden width of the feed-forward networks over their input width.
        attention: whether a stage mixes tokens by self-attention, after a conditional positional encoding.
        layer_scale: initial value of every layer scale.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    expansion: int
    attention: tuple[bool, ...]
    layer_scale: float


_NONE, _LAST = (False, False, False, False), (False, False, False, True)

VARIANTS = {
    "fastvit_t8": Variant((2, 2, 4, 2), (48, 96, 192, 384), 3, _NONE, 1e-5),
    "fastvit_t12": Variant((2, 2, 6, 2), (64, 128, 256, 512), 3, _NONE, 1e-5),
    "fastvit_s12": Variant((2, 2, 6, 2), (64, 128, 256, 512), 4, _NONE, 1e-5),
    "fastvit_sa12": Variant((2, 2, 6, 2), (64, 128, 256, 512), 4, _LAST, 1e-5),
    "fastvit_sa24": Variant((4, 4, 12, 4), (64, 128, 256, 512), 4, _LAST, 1e-5),
    "fastvit_sa36": Variant((6, 6, 18, 6), (64, 128, 256, 512), 4, _LAST, 1e-6),
    "fastvit_ma36": Variant((6, 6, 18, 6), (76, 152, 304, 608), 4, _LAST, 1e-6),
}
