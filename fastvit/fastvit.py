"""FastViT (arXiv 2303.14189) and its descendants, registered with timm."""

import warnings
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import timm.models.fastvit as builtin
import torch
from timm.layers import ClassifierHead, SqueezeExcite, calculate_drop_path_rates, get_device_dtype
from timm.models import build_model_with_cfg, register_model
from timm.models._features import feature_take_indices
from timm.models._pretrained import DefaultCfg, PretrainedCfg
from torch import Tensor, nn

from fastvit.gradient_checkpointing import checkpointed
from fastvit.layers import AttentionBlock, ConditionalPositionalEncoding, PatchEmbed, RepConv, RepMixerBlock
from fastvit.published import fuse_as_published
from fastvit.reparam import reparameterize_model
from fastvit.variants import VARIANTS, PatchEmbeds
from fastvit.weights import FusedCheckpoint, convert_published


class Stage(nn.Module):
    """Patch embedding (not in the first stage), positional encoding (where the blocks attend), blocks."""

    def __init__(self, downsample: nn.Module, pos_emb: nn.Module, blocks: list[nn.Module]):
        super().__init__()
        self.downsample = downsample
        self.pos_emb = pos_emb
        self.blocks = nn.Sequential(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.pos_emb(self.downsample(x))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpointed(self.blocks, x)
        return self.blocks(x)


class FastViT(nn.Module):
    """FastViT classifier with timm's model interface. Takes images of any size from 32x32 up.

    Args:
        depths: blocks in each stage.
        dims: channels of each stage, a multiple of those of the stage before.
        expansion: hidden width of the feed-forward networks over their input width.
        attention: whether a stage mixes tokens by self-attention, after a conditional positional encoding.
        layer_scale: initial value of every layer scale.
        patch_embeds: what makes the patch embedding of each stage but the first from its input and output channels;
            None for `PatchEmbed` everywhere.
        stem_kernel_sizes: of the branches of the strided convolutions in the stem.
        norm: what makes the norm before each self-attention from its channels.
        in_chans: channels of the image.
        num_classes: 0 for no classifier: `forward` then returns the pooled features.
        global_pool: timm's name of the pooling; "" for none.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 at the first.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        dims: tuple[int, ...],
        expansion: int = 4,
        attention: tuple[bool, ...] = (False, False, False, False),
        layer_scale: float = 1e-5,
        *,
        patch_embeds: PatchEmbeds | None = None,
        stem_kernel_sizes: tuple[int, ...] = (3, 1),
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        patch_embeds = patch_embeds or (PatchEmbed,) * (len(dims) - 1)
        if not len(depths) == len(dims) == len(attention) == len(patch_embeds) + 1:
            raise ValueError(
                f"depths {depths}, dims {dims} and attention {attention} must have an entry for each stage, "
                "and patch_embeds for each but the first"
            )
        self.in_chans, self.num_classes, self.global_pool = in_chans, num_classes, global_pool
        self.num_features = 2 * dims[-1]
        self.stem = nn.Sequential(
            RepConv(in_chans, dims[0], stem_kernel_sizes, stride=2, act=nn.GELU),
            RepConv(dims[0], dims[0], stem_kernel_sizes, stride=2, groups=dims[0], act=nn.GELU),
            RepConv(dims[0], dims[0], (1,), act=nn.GELU),
        )
        stages, self.feature_info = [], []
        rates = calculate_drop_path_rates(drop_path_rate, depths, stagewise=True)
        for i, (dim, attends) in enumerate(zip(dims, attention, strict=True)):
            block = partial(AttentionBlock, norm=norm) if attends else RepMixerBlock
            stages.append(
                Stage(
                    patch_embeds[i - 1](dims[i - 1], dim) if i else nn.Identity(),
                    ConditionalPositionalEncoding(dim) if attends else nn.Identity(),
                    [block(dim, expansion, layer_scale, rate) for rate in rates[i]],
                )
            )
            self.feature_info.append({"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"})
        self.stages = nn.Sequential(*stages)
        self.final_conv = RepConv(
            dims[-1], self.num_features, groups=dims[-1], se=partial(SqueezeExcite, rd_divisor=1), act=nn.GELU
        )
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self._init_classifier()

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, dims[0], H / 4, W / 4)
        x = self.stages(x)  # (B, dims[-1], H / 32, W / 32)
        return self.final_conv(x)  # (B, num_features, H / 32, W / 32)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)  # one of your own has no pre_logits

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of the chosen stages, and the final features; timm's interface (`norm` has nothing to do)."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be NCHW, not {output_fmt}")
        take, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if i in take:
                intermediates.append(x)
        if intermediates_only:
            return intermediates
        return (x if stop_early and last < len(self.stages) - 1 else self.final_conv(x)), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the chosen stages do not need. Returns the absolute indices of the stages."""
        take, last = feature_take_indices(len(self.stages), indices)
        if prune_norm or prune_head or last < len(self.stages) - 1:  # the final conv works on the last stage only
            self.stages = self.stages[: last + 1]
            self.final_conv = nn.Identity()
            self.num_features = self.feature_info[last]["num_chs"]
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.head.reset(num_classes, global_pool, in_features=self.num_features, **get_device_dtype(self))
        self._init_classifier()

    def _init_classifier(self) -> None:
        self.head_hidden_size = self.head.num_features
        if isinstance(self.head.fc, nn.Linear):
            nn.init.trunc_normal_(self.head.fc.weight, std=0.02)
            nn.init.zeros_(self.head.fc.bias)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer-wise learning rate decay: the stem, each block (stage if `coarse`), the head.

        The patch embedding and positional encoding of a stage go with its first block.
        """
        blocks = [(r"^stages\.(\d+)\.(?:downsample|pos_emb)", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}


def _create(
    name: str,
    pretrained: bool,
    *,
    fused: bool = False,
    inference_mode: bool = False,
    out_indices: tuple[int, ...] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A network of `VARIANTS`, as timm's `create_model` asks for it.

    Args:
        fused: as `reparameterize_model` makes it.
        inference_mode: timm's: fused the published way, under timm's names, for files of that form.
        out_indices: which stages `features_only` gives; all by default.
        **kwargs: of `FastViT`, in place of the variant's. Another is a TypeError.
    """
    if theirs := kwargs.keys() & signature(builtin.FastVit).parameters.keys() - signature(FastViT).parameters.keys():
        raise TypeError(
            f"only timm's own class takes {', '.join(sorted(theirs))}: create the network before `import fastvit`, or "
            "by its function in timm.models.fastvit; reparameterize_model fuses it, too"
        )
    arguments = {**VARIANTS[name].arguments(), **kwargs}

    def in_form(model: nn.Module) -> nn.Module:
        model = fuse_as_published(model) if inference_mode else model
        return reparameterize_model(model) if fused else model

    def build(network: Callable[..., nn.Module]) -> nn.Module:
        features = {"flatten_sequential": True, "out_indices": out_indices or tuple(range(len(arguments["depths"])))}
        # The filter is for files that are not timm's: Apple's, under the names of the published code, and those of a
        # CLIP, whose image tower is taken. What has timm's names and shapes passes through as it is. Another network or
        # form is refused, which timm does not do where the classifier is a new one.
        return build_model_with_cfg(
            network, name, pretrained, pretrained_filter_fn=convert_published, feature_cfg=features, **arguments
        )

    with torch.device(device) if device else nullcontext():
        try:
            model = in_form(build(FastViT))
        except FusedCheckpoint:
            if not (fused or inference_mode):
                raise
            model = build(lambda **options: in_form(FastViT(**options)))
    return model.to(dtype=dtype)


default_cfgs = {}
for _name, _row in VARIANTS.items():  # timm's, with its tags and the addresses of the weights, changed as the row says
    _theirs = builtin.default_cfgs.get(_name, DefaultCfg(deque([""]), {"": PretrainedCfg()}))
    _cfgs = {tag: replace(cfg, **_row.cfg) for tag, cfg in _theirs.cfgs.items()}
    default_cfgs[_name] = replace(_theirs, cfgs=_cfgs)


def _register(name: str) -> Callable[..., nn.Module]:
    """Register a network with timm. It takes the name over from timm's own: timm warns, and here that is meant."""

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{name}: {VARIANTS[name].size} at {default_cfgs[name].default.input_size[-1]} px."
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f"Overwriting {name} in registry")
        return register_model(entry)


globals().update({name: _register(name) for name in VARIANTS})
