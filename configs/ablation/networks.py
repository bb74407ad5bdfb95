"""The rows of the paper's ablations, as timm models: FastViT with some of its parts replaced, by the package's blocks.

A recipe or a benchmark suite registers them with `registered_in: ablation/networks.py`; their weights are
random at first. `ablation_*` are, with the paper's tables (arXiv 2303.14189):

    table 1 (from the top)  repmixer, factorized, overparameterized, large_ffn; before them timm's poolformer_s12,
                            after them fastvit_s12
    table 3                 s12_plain, sa12_plain, sa36_plain: without train-time over-parameterization
    table 4                 v2, v3: attention in the last and the last two stages, without large kernels; v1 is
                            overparameterized, v4 fastvit_s12, v5 fastvit_sa12
    figure 3                mixer_pooling, beside fastvit_s12; mixer_attention: attention in every stage
    supplementary           sa12_no_cpe; s12_kernel3, s12_kernel5, s12_kernel9: of patch embedding and FFN
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import timm
import timm.models
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from fastvit import ConvFFN, LayerScale, PatchEmbed, RepConv
from fastvit.layers import AttentionBlock, NormConv, RepMixerBlock

Change = Callable[[nn.Module], None]


def small_patch_embedding(model: nn.Module) -> None:
    """3x3 depthwise with a scale branch, as in the stem, in place of 7x7 and 3x3."""
    for embed in parts(model, PatchEmbed):
        conv = embed[0].conv.conv
        embed[0] = RepConv(conv.in_channels, conv.out_channels, stride=2, groups=conv.groups)


def pointwise_ffn(model: nn.Module) -> None:
    """A batch norm in place of the 7x7 conv-BN in front of the two pointwise convolutions."""
    for block in parts(model, (RepMixerBlock, AttentionBlock)):
        expand = block.ffn.fc1
        block.ffn.conv = nn.Identity()
        block.ffn.fc1 = NormConv(expand.in_channels, expand.out_channels)


def single_branches(model: nn.Module) -> None:
    """One conv-BN in place of parallel branches, in stem, patch embedding and head; token mixers stay as they are."""
    mixers = {block.token_mixer.mixer for block in parts(model, RepMixerBlock)}
    for conv in parts(model, RepConv):
        if conv not in mixers:
            conv.branches = nn.ModuleList()
            conv.skip = None


def no_positional_encoding(model: nn.Module) -> None:
    for stage in model.stages:
        stage.pos_emb = nn.Identity()


def kernel_size(size: int, model: nn.Module) -> None:
    """Of the large-kernel convolutions of the patch embeddings and FFNs."""
    for embed in parts(model, PatchEmbed):
        conv = embed[0].conv.conv
        sizes = (size, 3) if size > 3 else (3, 1)
        embed[0] = RepConv(conv.in_channels, conv.out_channels, sizes, stride=2, groups=conv.groups)
    for block in parts(model, (RepMixerBlock, AttentionBlock)):
        block.ffn.conv = ConvFFN(block.ffn.conv.conv.in_channels, kernel_size=size).conv


def repmixer_for_pooling(model: nn.Module) -> None:
    """In timm's PoolFormer: RepMixer and a pointwise FFN with batch norm in place of each block."""
    for stage in model.stages:
        for i, block in enumerate(stage.blocks):
            drop_path = getattr(block.drop_path2, "drop_prob", 0.0)
            stage.blocks[i] = RepMixerBlock(block.mlp.fc1.in_channels, drop_path=drop_path)
    pointwise_ffn(model)


def parts(model: nn.Module, kind: type | tuple[type, ...]) -> Iterator[Any]:
    yield from [module for module in model.modules() if isinstance(module, kind)]


class Pooling(nn.Module):
    """PoolFormer's token mixer as it is run: x + scale * (pool(norm(x)) - norm(x)) (arXiv 2111.11418)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, dim)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.scale = LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.scale(self.pool(y) - y)


def pooling_mixers(model: nn.Module) -> None:
    """Pooling in place of RepMixer in every block, to compare the token mixers in one and the same network."""
    for block in parts(model, RepMixerBlock):
        block.token_mixer = Pooling(block.token_mixer.norm.num_features)


without_large_kernels = (small_patch_embedding, pointwise_ffn)
last, last_two = (False, False, False, True), (False, False, True, True)

# name: (what it starts from, its arguments, what is replaced)
ABLATIONS: dict[str, tuple[str, dict[str, Any], tuple[Change, ...]]] = {
    "ablation_repmixer": ("poolformer_s12", {}, (repmixer_for_pooling,)),
    "ablation_factorized": ("fastvit_s12", {}, (*without_large_kernels, single_branches)),
    "ablation_overparameterized": ("fastvit_s12", {}, without_large_kernels),
    "ablation_large_ffn": ("fastvit_s12", {}, (small_patch_embedding,)),
    "ablation_s12_plain": ("fastvit_s12", {}, (single_branches,)),
    "ablation_sa12_plain": ("fastvit_sa12", {}, (single_branches,)),
    "ablation_sa36_plain": ("fastvit_sa36", {}, (single_branches,)),
    "ablation_v2": ("fastvit_s12", {"attention": last}, without_large_kernels),
    "ablation_v3": ("fastvit_s12", {"attention": last_two}, without_large_kernels),
    "ablation_sa12_no_cpe": ("fastvit_sa12", {}, (no_positional_encoding,)),
    "ablation_mixer_pooling": ("fastvit_s12", {}, (pooling_mixers,)),
    "ablation_mixer_attention": ("fastvit_s12", {"attention": (True, True, True, True)}, (no_positional_encoding,)),
    **{f"ablation_s12_kernel{k}": ("fastvit_s12", {}, (partial(kernel_size, k),)) for k in (3, 5, 9)},
}


def _register(name: str, base: str, options: dict[str, Any], changes: tuple[Change, ...]) -> None:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            raise ValueError(f"there are no weights of {name}: train it")
        model = timm.create_model(base, **{**options, **kwargs})
        for change in changes:
            change(model)
        return model

    create.__name__ = name
    register_model(create)


_S12 = timm.models.get_pretrained_cfg("fastvit_s12").to_dict()
_INPUT = ("input_size", "crop_pct", "interpolation", "mean", "std", "num_classes", "first_conv", "classifier")
default_cfgs = generate_default_cfgs({f"{name}.untrained": {key: _S12[key] for key in _INPUT} for name in ABLATIONS})
for _name, _row in ABLATIONS.items():
    _register(_name, *_row)
