"""timm's built-in FastViT made ours, wherever it sits in a model.

Its modules have the same parts under the same names as ours and compute the same, so an instance becomes ours by its
class alone: parameters, hooks, frozen weights and replaced parts stay what they were.
"""

import copy

import timm.models.fastvit as builtin
from timm.layers import BatchNormAct2d, ConvNormAct, FrozenBatchNormAct2d, SyncBatchNormAct
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from fastvit import layers
from fastvit.fastvit import FastViT, Stage
from fastvit.published import FusedConv
from fastvit.reparam import ADOPTERS, CannotFuse, Problems, called, does_nothing

# timm's class: ours, and the parts of both
_SAME = {
    builtin.FastVit: (FastViT, {"stem", "stages", "final_conv", "head"}),
    builtin.FastVitStage: (Stage, {"downsample", "pos_emb", "blocks"}),
    builtin.PatchEmbed: (layers.PatchEmbed, {"proj"}),
    builtin.RepMixerBlock: (layers.RepMixerBlock, {"token_mixer", "mlp", "layer_scale", "drop_path"}),
    builtin.AttentionBlock: (
        layers.AttentionBlock,
        {"norm", "token_mixer", "layer_scale_1", "drop_path1", "mlp", "layer_scale_2", "drop_path2"},
    ),
    builtin.RepMixer: (layers.RepMixer, {"norm", "mixer", "layer_scale"}),
    builtin.Attention: (layers.Attention, {"qkv", "proj"}),
    builtin.ConvMlp: (layers.ConvFFN, {"conv", "fc1", "act", "fc2"}),
    builtin.RepConditionalPosEnc: (layers.ConditionalPositionalEncoding, {"pos_enc"}),
    builtin.LayerScale2d: (layers.LayerScale, set()),
    builtin.MobileOneBlock: (layers.RepConv, {"se", "identity", "conv_kxk", "conv_scale", "act"}),
    builtin.ReparamLargeKernelConv: (layers.LargeKernelConv, {"large_conv", "small_conv", "se", "act"}),
}

_BATCH_NORMS = {  # with a place for an activation, which is empty in FastViT: without
    BatchNormAct2d: nn.BatchNorm2d,
    SyncBatchNormAct: nn.SyncBatchNorm,
    FrozenBatchNormAct2d: FrozenBatchNorm2d,
}


def from_timm(model: nn.Module) -> nn.Module:
    """A copy of `model` in which the modules of timm's built-in FastViT are ours, with the same weights.

    Works on the network, alone or inside another model, whether made before the import of fastvit, unpickled or fused.
    Raises ValueError for a module that was changed so that none of ours is its equal.
    """
    model = copy.deepcopy(model)
    for where, reason in _adopt_all(model).items():
        raise ValueError(f"{where} cannot be made fastvit's: {reason}")
    return model


def _adopt_all(model: nn.Module) -> Problems:
    problems = {}
    for name, module in list(model.named_modules()):
        if type(module) in _SAME:
            try:
                _adopt(module)
            except CannotFuse as reason:
                problems[called(module, name)] = str(reason)
    return problems


def _adopt(module: nn.Module) -> None:
    ours, parts = _SAME[type(module)]
    children = dict(module.named_children())
    dropouts = {name for name, child in children.items() if isinstance(child, nn.Dropout) and child.p == 0}
    if unknown := children.keys() - parts - dropouts - {"reparam_conv"}:
        if ours in (FastViT, Stage):  # with nothing to fuse of their own: it is enough that what is inside becomes ours
            return
        raise CannotFuse(f"it has parts that fastvit's {ours.__name__} has not: {', '.join(sorted(unknown))}")
    for name in dropouts:
        delattr(module, name)
    for part in module.modules():
        if type(part) is ConvNormAct:
            _adopt_conv_bn(part)
    if "reparam_conv" in children:
        module.se, module.act = children.get("se", nn.Identity()), children.get("act", nn.Identity())
        ours = FusedConv
    elif ours is layers.RepConv and module.conv_kxk is None:
        if [name for name, child in children.items() if not does_nothing(child)] != ["identity"]:
            raise CannotFuse("it has no convolution of its kernel size, or a hook on a part that does nothing")
        ours = nn.Sequential  # the norm of RepMixer
    module.__class__ = ours


def _adopt_conv_bn(module: ConvNormAct) -> None:
    if len(list(module.children())) > 2 or any(not does_nothing(part) for part in module.bn.children()):
        return  # it has an activation, for example
    module.bn.__class__ = _BATCH_NORMS.get(type(module.bn), type(module.bn))
    if type(module.conv) is nn.Conv2d and module.conv.kernel_size == (1, 1) and module.conv.stride != (1, 1):
        module.conv.__class__ = layers.SubsampledConv2d
    module.__class__ = layers.ConvBN


ADOPTERS.append(_adopt_all)
