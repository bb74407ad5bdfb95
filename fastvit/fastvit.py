"""FastViT (arXiv 2303.14189) and its seven variants, registered with timm."""

import warnings
from contextlib import nullcontext
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead, SqueezeExcite
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from fastvit.layers import AttentionBlock, ConditionalPositionalEncoding, PatchEmbed, RepConv, RepMixerBlock
from fastvit.reparam import reparameterize_model
from fastvit.variants import VARIANTS
from fastvit.weights import convert_published


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
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class FastViT(nn.Module):
    """FastViT classifier with timm's model interface. Takes images of any size from 32x32 up.

    Args:
        depths, dims, expansion, attention, layer_scale: see `fastvit.variants.Variant`. Each of `dims` must be a
            multiple of the one before.
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
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        if not len(depths) == len(dims) == len(attention):
            raise ValueError(
                f"depths {depths}, dims {dims} and attention {attention} must have an entry for each stage"
            )
        self.in_chans, self.num_classes, self.global_pool = in_chans, num_classes, global_pool
        self.num_features = 2 * dims[-1]
        self.stem = nn.Sequential(
            RepConv(in_chans, dims[0], stride=2),
            nn.GELU(),
            RepConv(dims[0], dims[0], stride=2, groups=dims[0]),
            nn.GELU(),
            RepConv(dims[0], dims[0], (1,)),
            nn.GELU(),
        )
        stages = []
        self.feature_info = []
        rates = iter(drop_path_rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths)))
        for i, (depth, dim, attends) in enumerate(zip(depths, dims, attention, strict=True)):
            block = AttentionBlock if attends else RepMixerBlock
            stages.append(
                Stage(
                    PatchEmbed(dims[i - 1], dim) if i else nn.Identity(),
                    ConditionalPositionalEncoding(dim) if attends else nn.Identity(),
                    [block(dim, expansion, layer_scale, next(rates)) for _ in range(depth)],
                )
            )
            self.feature_info.append({"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"})
        self.stages = nn.Sequential(*stages)
        self.final_conv = nn.Sequential(
            RepConv(dims[-1], self.num_features, groups=dims[-1]),
            SqueezeExcite(self.num_features, rd_divisor=1),
            nn.GELU(),
        )
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self._init_classifier()

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, dims[0], H / 4, W / 4)
        x = self.stages(x)  # (B, dims[-1], H / 32, W / 32)
        return self.final_conv(x)  # (B, num_features, H / 32, W / 32)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits=pre_logits)

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
        for i, stage in enumerate(self.stages):
            if stop_early and i > last:
                break
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
        parameter = next(self.parameters())
        self.head.reset(
            num_classes, global_pool, in_features=self.num_features, device=parameter.device, dtype=parameter.dtype
        )
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
    variant: str,
    pretrained: bool,
    *,
    fused: bool = False,
    out_indices: tuple[int, ...] = (0, 1, 2, 3),
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> nn.Module:
    with torch.device(device) if device else nullcontext():
        model = build_model_with_cfg(
            FastViT,
            variant,
            pretrained,
            pretrained_filter_fn=convert_published,
            feature_cfg={"flatten_sequential": True, "out_indices": out_indices},
            **{**vars(VARIANTS[variant]), **kwargs},
        )
    model = model.to(dtype=dtype)
    return reparameterize_model(model) if fused else model


def _cfg(crop_pct: float = 0.9) -> dict[str, Any]:
    return {
        "hf_hub_id": "timm/",  # timm completes it with the model's name and tag
        "num_classes": 1000,
        "input_size": (3, 256, 256),
        "pool_size": (8, 8),
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": ("stem.0.conv.conv", "stem.0.branches.0.conv"),
        "classifier": "head.fc",
        "license": "fastvit-license",
    }


default_cfgs = generate_default_cfgs(
    {
        f"{variant}.{tag}": _cfg(crop_pct=0.95 if variant in ("fastvit_sa36", "fastvit_ma36") else 0.9)
        for variant in VARIANTS
        for tag in ("apple_in1k", "apple_dist_in1k")
    }
)


def _register(entry: Any) -> Any:
    """Take the name over from timm's built-in FastViT; timm warns about each, and here it is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f"Overwriting {entry.__name__} in registry")
        return register_model(entry)


@_register
def fastvit_t8(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FastViT-T8: 4.0 M parameters, 0.7 GMACs at 256 px."""
    return _create("fastvit_t8", pretrained, **kwargs)


@_register
def fastvit_t12(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FastViT-T12: 7.5 M parameters, 1.4 GMACs at 256 px."""
    return _create("fastvit_t12", pretrained, **kwargs)


@_register
def fastvit_s12(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FastViT-S12: 9.5 M parameters, 1.8 GMACs at 256 px."""
    return _create("fastvit_s12", pretrained, **kwargs)


@_register
def fastvit_sa12(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FastViT-SA12: 11.6 M parameters, 1.9 GMACs at 256 px."""
    return _create("fastvit_sa12", pretrained, **kwargs)


@_register
def fastvit_sa24(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FastViT-SA24: 21.5 M parameters, 3.8 GMACs at 256 px."""
    return _create("fastvit_sa24", pretrained, **kwargs)


@_register
def fastvit_sa36(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FastViT-SA36: 31.5 M parameters, 5.6 GMACs at 256 px."""
    return _create("fastvit_sa36", pretrained, **kwargs)


@_register
def fastvit_ma36(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """FastViT-MA36: 44.0 M parameters, 7.8 GMACs at 256 px."""
    return _create("fastvit_ma36", pretrained, **kwargs)
