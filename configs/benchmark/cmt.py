"""CMT (Guo et al., CVPR 2022, arXiv 2107.06263) as timm models, with the parameter names of its authors' code.

A suite or a recipe registers them with `registered_in: configs/benchmark/cmt.py`. The weights are random at first; the
authors' files load with `load_state_dict`. Attention has a learned bias for each pair of positions, so a network is
made for one image size: `timm.create_model("cmt_s", img_size=512)` chooses another.
"""

from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

HEADS = (1, 2, 4, 8)
REDUCTIONS = (8, 4, 2, 1)  # of keys and values, on a side
STRIDES = (4, 8, 16, 32)
HEAD_WIDTH = 1280

# name: (its own arguments, image size)
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "cmt_ti": ({"stem": 16, "dims": (46, 92, 184, 368), "depths": (2, 2, 10, 2), "expansion": 3.6}, 160),
    "cmt_xs": ({"stem": 16, "dims": (52, 104, 208, 416), "depths": (3, 3, 12, 3), "expansion": 3.77}, 192),
    "cmt_s": ({"stem": 32, "dims": (64, 128, 256, 512), "depths": (3, 3, 16, 3), "expansion": 4.0}, 224),
    "cmt_b": ({"stem": 38, "dims": (76, 152, 304, 608), "depths": (4, 4, 20, 4), "expansion": 4.0}, 256),
}


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, H * W, C)


def over_channels(norm: nn.Module, x: Tensor) -> Tensor:
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    """Half the resolution, normalized over the channels."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, 2, stride=2)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return over_channels(self.norm, self.proj(x))


class Attention(nn.Module):
    """Every position attends to `reduction` x `reduction` times fewer ones, with a bias (heads, N, N / reduction^2)."""

    def __init__(self, dim: int, heads: int, reduction: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.sr = nn.Identity()
        if reduction > 1:
            conv = nn.Conv2d(dim, dim, reduction, stride=reduction, groups=dim)
            self.sr = nn.Sequential(conv, nn.BatchNorm2d(dim))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        queries, reduced = tokens(x), tokens(self.sr(x))
        parts = self.q(queries), self.k(reduced), self.v(reduced)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        y = scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B, heads, N, C / heads)
        y = self.proj(y.transpose(1, 2).flatten(2))
        return y.transpose(1, 2).unflatten(2, x.shape[2:])  # (B, C, H, W)


class FeedForward(nn.Module):
    """An inverted residual: pointwise, depthwise beside a skip connection, pointwise."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.GELU(), nn.BatchNorm2d(hidden))
        self.proj = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.proj_act = nn.GELU()
        self.proj_bn = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Sequential(nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(self.proj_bn(self.proj_act(x + self.proj(x))))


class Block(nn.Module):
    """Local perception, attention and feed-forward, each added to its input."""

    def __init__(self, dim: int, heads: int, reduction: int, expansion: float, drop_path: float):
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.attn = Attention(dim, heads, reduction)
        self.mlp = FeedForward(dim, int(dim * expansion))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.proj(x)
        x = x + self.drop_path(self.attn(over_channels(self.norm1, x), bias))
        return x + self.drop_path(self.mlp(over_channels(self.norm2, x)))


class CMT(nn.Module):
    """A stem of three convolutions, four stages a to d, a pointwise convolution and the classifier."""

    def __init__(
        self,
        stem: int,
        dims: tuple[int, ...],
        depths: tuple[int, ...],
        expansion: float,
        img_size: int,
        *,
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        if img_size % 32:
            raise ValueError(f"img_size of CMT must be a multiple of 32, not {img_size}")
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, dims[-1], HEAD_WIDTH
        for i, channels in enumerate((in_chans, stem, stem), 1):
            self.add_module(f"stem_conv{i}", nn.Conv2d(channels, stem, 3, stride=2 if i == 1 else 1, padding=1))
            self.add_module(f"stem_norm{i}", nn.BatchNorm2d(stem))
        drop_paths = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        rows = zip("abcd", (stem, *dims), dims, depths, HEADS, REDUCTIONS, STRIDES, strict=False)
        for stage, before, dim, depth, heads, reduction, stride in rows:
            blocks = [Block(dim, heads, reduction, expansion, next(drop_paths)) for _ in range(depth)]
            positions = (img_size // stride) ** 2
            bias = nn.Parameter(
                nn.init.trunc_normal_(torch.empty(heads, positions, positions // reduction**2), std=0.02)
            )
            self.register_parameter(f"relative_pos_{stage}", bias)
            self.add_module(f"patch_embed_{stage}", PatchEmbed(before, dim))
            self.add_module(f"blocks_{stage}", nn.ModuleList(blocks))
        self.feature_info = [{"num_chs": dim, "reduction": s} for dim, s in zip(dims, STRIDES, strict=True)]
        self._fc, self._bn = nn.Conv2d(dims[-1], HEAD_WIDTH, 1), nn.BatchNorm2d(HEAD_WIDTH)
        self.head = nn.Linear(HEAD_WIDTH, num_classes) if num_classes else nn.Identity()

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """The outputs of the four stages."""
        for i in "123":
            x = getattr(self, f"stem_norm{i}")(nn.functional.gelu(getattr(self, f"stem_conv{i}")(x)))
        for stage in "abcd":
            x = getattr(self, f"patch_embed_{stage}")(x)
            for block in getattr(self, f"blocks_{stage}"):
                x = block(x, getattr(self, f"relative_pos_{stage}"))
            yield x

    def forward(self, x: Tensor) -> Tensor:
        *_, x = self.stages(x)
        x = nn.functional.silu(self._bn(self._fc(x)))
        return self.head(x.mean((2, 3)))


class Features(nn.Module):
    """The chosen stages of a CMT, as timm's `features_only` gives them."""

    def __init__(self, model: CMT, out_indices: tuple[int, ...]):
        super().__init__()
        self.model, self.out_indices = model, out_indices
        self.feature_info = [model.feature_info[i] for i in out_indices]

    def forward(self, x: Tensor) -> list[Tensor]:
        features = list(self.model.stages(x))
        return [features[i] for i in self.out_indices]


def _register(name: str, options: dict[str, Any], size: int) -> None:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            raise ValueError(f"there are no weights of {name} to download: load its authors' file")
        features = {"feature_cls": Features, "out_indices": (0, 1, 2, 3)}
        return build_model_with_cfg(CMT, name, False, feature_cfg=features, **{"img_size": size, **options, **kwargs})

    create.__name__ = name
    register_model(create)


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": {
            "input_size": (3, size, size),
            "fixed_input_size": True,
            "num_classes": 1000,
            "classifier": "head",
            "first_conv": "stem_conv1",
        }
        for name, (_, size) in NETWORKS.items()
    }
)
for _name, (_options, _size) in NETWORKS.items():
    _register(_name, _options, _size)
