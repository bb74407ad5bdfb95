"""Checkpoints of Apple, timm, open_clip, llava and fastvit, in train form and fused, into our networks.

In train form our names are timm's; `_APPLE` translates Apple's. Fused networks come in two forms: the published one, in
which timm's and Apple's pass leave the batch norms and layer scales of the blocks (`fastvit.published`), and ours,
completely fused. This file knows names and tensors, not the network.
"""

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from fastvit.checkpoint_files import CheckpointError, contents_of, state_dict_in
from fastvit.errors import some
from fastvit.layers import AttentionBlock, RepMixerBlock
from fastvit.reparam import reparameterize_model
from fastvit.variants import VARIANTS

COUNTER = ".num_batches_tracked"  # of a batch norm: in eval mode nothing is computed with it

_logger = logging.getLogger(__name__)

StateDict = dict[str, Tensor]


class FusedCheckpoint(CheckpointError):
    """The checkpoint is fused and the model is not, or not in this form."""


def load_checkpoint(
    model: nn.Module, source: str | PathLike[str] | Mapping[str, Any], *, reset_head: bool = False
) -> None:
    """Load the weights of a FastViT into a model, completely or not at all.

    Args:
        model: a classifier, an encoder or a `features_only` backbone; fused for a fused checkpoint. On the meta device
            it gets copies of the file's tensors, on the CPU.
        source: file (.pth.tar, .pth, .pt, .safetensors) or state dict, of the network alone or of a model around it,
            such as a CLIP or FastVLM, of which the rest is not read; bare or inside "state_dict_ema", "model_ema",
            "state_dict", "model", "model_state_dict" or "module" (the first that is there). Files never run code
            (`weights_only=True`).
        reset_head: keep the model's own classifier and load the rest, for another number of classes.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file holds no FastViT or several, is damaged, or does not fit the model. The model is then
            as it was before.
    """
    label = "the state dict" if isinstance(source, Mapping) else str(source)
    state = _of_network(source if isinstance(source, Mapping) else contents_of(Path(source)), label)
    own = model.state_dict()
    own_names = plain_names(own)
    if not own_names:
        raise CheckpointError("the model is not a FastViT")
    if len(own_names) < len(own):
        part = next(iter(own_names.values())).removesuffix(next(iter(own_names))).rstrip(".")
        raise CheckpointError(f"the model is more than a FastViT: pass its part {part}")
    target = {plain: own[name] for plain, name in own_names.items()}
    _require_same_network(state, target, label)
    state = _to_form_of(target, state)

    on_meta = any(tensor.is_meta for tensor in target.values())
    if reset_head and on_meta:
        raise CheckpointError("the model is on the meta device, so there is no classifier of its own to keep")
    if reset_head:
        _logger.warning("%s: everything is loaded but the classifier, which stays as it is in the model", label)
    kept = {name: tensor for name, tensor in target.items() if reset_head and _part(name) == "head"}
    parts = {_part(name) for name in target.keys() - kept}  # a backbone may lack stages, final_conv and head
    state = {name: tensor for name, tensor in state.items() if _part(name) in parts} | kept
    require_same_tensors(state, target, label)
    if on_meta:
        state = {name: tensor.to(target[name].dtype, copy=True) for name, tensor in state.items()}
    model.load_state_dict({own_names[name]: tensor for name, tensor in state.items()}, assign=on_meta)


def convert_published(state: Mapping[str, Any], model: nn.Module) -> StateDict:
    """A published checkpoint in train form in the names of `model`; timm's `pretrained_filter_fn`.

    Raises CheckpointError for another network or form. timm would not: with another number of classes, or none as for
    `features_only`, it loads what fits, and leaves the rest as initialised.
    """
    label, target = "the checkpoint", model.state_dict()
    state = _of_network(state, label)
    _require_same_network(state, target, label)
    state = _to_form_of(target, state)
    if lacking := [name for name in target if name not in state and _part(name) != "head"]:
        raise CheckpointError(f"{label} does not fit the model: it lacks {some(lacking, 3)}")
    return state


# ---- what a state dict is --------------------------------------------------------------------------------------------

# The FFN of a block: what stands before the network's own names, the stage, and the FFN without its first layer.
_FFN = re.compile(r"(.*?)((?:network\.|stages[._])(\d+)\.(?:blocks\.)?\d+\.(?:mlp|convffn)\.)conv\.(?:conv\.)?weight")


def _of_network(source: Any, label: str) -> StateDict:
    """The tensors of the network in a checkpoint, under timm's names or, completely fused, under ours."""
    whole = state_dict_in(source, label)
    if len(prefixes := _prefixes(whole)) > 1:
        raise CheckpointError(f"{label} holds several FastViTs, {some(prefixes)}: pass the state dict of one of them")
    state = {plain: whole[name] for plain, name in plain_names(whole).items() if isinstance(whole[name], Tensor)}
    if not state:
        raise CheckpointError(f"{label} is not a FastViT checkpoint: it holds {some(list(whole), 3) or 'no tensors'}")
    return _from_apple(state) if any(".convffn." in name for name in state) else state


def _prefixes(names: Iterable[str]) -> list[str]:
    """What stands before the names of each FastViT among others."""
    return list(dict.fromkeys(match[1] for match in map(_FFN.fullmatch, names) if match))


def plain_names(names: Collection[str]) -> dict[str, str]:
    """{name within the first FastViT among these names: name}, without what models around it put in front, and without
    what `features_only` makes of the names of stages."""
    return {
        re.sub(r"^(stem|stages)_(\d+)\.", r"\1.\2.", name.removeprefix(prefix)): name
        for prefix in _prefixes(names)[:1]
        for name in names
        if name.startswith(prefix)
    }


def _form(names: Iterable[str]) -> str:
    parts = {part for name in names for part in name.split(".")}
    if parts & {"conv_kxk", "large_conv", "identity"}:
        return "in train form"
    return "fused the published way" if "reparam_conv" in parts else "fused"


def _stages(state: Mapping[str, Tensor]) -> list[tuple[int, int, int, bool]]:
    """(depth, dim, expansion, attends) of each stage."""
    blocks: dict[int, list[str]] = {}
    for match in filter(None, map(_FFN.fullmatch, state)):
        if f"{match[2]}fc1.weight" in state:
            blocks.setdefault(int(match[3]), []).append(match[2])
    stages = []
    for _, ffns in sorted(blocks.items()):
        hidden, dim = state[f"{ffns[0]}fc1.weight"].shape[:2]
        stages.append((len(ffns), dim, hidden // dim, f"{ffns[0].removesuffix('mlp.')}token_mixer.qkv.weight" in state))
    return stages


def _describe(stages: list[tuple[int, int, int, bool]]) -> str:
    """The variant's name if it is a published one, else what it looks like."""
    depths, dims, expansions, attention = zip(*stages, strict=True)
    looks = depths, dims, expansions[0], attention
    known = [name for name, row in VARIANTS.items() if looks == (row.depths, row.dims, row.expansion, row.attention)]
    return " or ".join(known) or "FastViT with depths {}, dims {}, expansion {}, attention {}".format(*looks)


def _part(name: str) -> str:
    """The part of the network a tensor belongs to: stem, stages.0 ..., final_conv or head."""
    return ".".join(name.split(".")[: 2 if name.startswith("stages.") else 1])


def _require_same_network(state: StateDict, target: StateDict, label: str) -> None:
    stages, wanted = _stages(state), _stages(target)
    if stages[: len(wanted)] != wanted:
        raise CheckpointError(
            f"{label} holds a {_describe(stages)}, but the model is a {_describe(wanted)}: "
            f"load it into a model of its own variant"
        )
    form, wanted_form = _form(state), _form(target)
    if form == wanted_form or (form, wanted_form) == ("fused the published way", "fused"):
        return
    forms = f"{label} holds a {_describe(stages)} {form}, but the model is {wanted_form}: load it into"
    if form == "in train form":
        raise CheckpointError(f"{forms} a model in train form, then fuse that one with fastvit.reparameterize_model")
    raise FusedCheckpoint(f"{forms} timm.create_model(..., fused=True)")


def require_same_tensors(state: Mapping[str, Tensor], target: Mapping[str, Tensor], label: str) -> None:
    """Raises CheckpointError unless a state dict has the names and shapes of the model's own."""
    head = "head.fc.weight"
    if head in state and head in target and len(state[head]) != len(target[head]):
        raise CheckpointError(
            f"{label} has a classifier of {len(state[head])} classes, but the model one of {len(target[head])}: "
            f"pass reset_head=True to keep the model's own and load the rest"
        )
    missing = [name for name in target if name not in state]
    problems = [f"lacks {name}" for name in missing]
    problems += [f"has an unknown {name}" for name in state if name not in target]
    problems += [
        f"has {name} of shape {tuple(state[name].shape)} where the model has {tuple(tensor.shape)}"
        for name, tensor in target.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        headless = len(missing) == len(problems) and all(_part(name) == "head" for name in missing)
        fix = ": create the network with num_classes=0, or pass reset_head=True to keep its own" if headless else ""
        raise CheckpointError(f"{label} does not fit the model: it {some(problems, 3)}{fix}")


def with_counters(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> StateDict:
    """A state dict with the counters of batches that the model's own has: a frozen batch norm has none."""
    kept = {name: tensor for name, tensor in state.items() if name in target or not name.endswith(COUNTER)}
    lacking = [name for name in target if name.endswith(COUNTER) and name not in state]
    return kept | {name: torch.zeros((), dtype=torch.long) for name in lacking}


# ---- translation -----------------------------------------------------------------------------------------------------

_APPLE = (  # Apple's names -> timm's, apart from the flat list `network`
    (r"^patch_embed\.", "stem."),
    (r"^conv_exp\.", "final_conv."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    (r"\.rbr_conv\.", ".conv_kxk."),
    (r"\.rbr_scale\.", ".conv_scale."),
    (r"\.rbr_skip\.", ".identity."),
    (r"\.lkb_origin\.", ".large_conv."),
    (r"\.lkb_reparam\.", ".reparam_conv."),
    (r"\.se\.reduce\.", ".se.fc1."),
    (r"\.se\.expand\.", ".se.fc2."),
    (r"\.convffn\.", ".mlp."),
    (r"\.pe\.", ".pos_enc."),
    (r"(\.layer_scale\w*)$", r"\1.gamma"),
)


def _from_apple(state: StateDict) -> StateDict:
    """Under timm's names. Apple's `network` lists blocks, patch embeddings and positional encodings in one row."""
    entry = re.compile(r"^network\.(\d+)\.(proj\b|pe\b|reparam_conv\b)?")
    place, stage = {}, 0
    for index, kind in sorted({(int(m[1]), m[2]) for m in map(entry.match, state) if m}, key=lambda pair: pair[0]):
        stage += kind == "proj"
        place[index] = f"stages.{stage}." + {None: "blocks.", "proj": "downsample."}.get(kind, "pos_emb.")
    renamed = {}
    for name, tensor in state.items():
        if name == "head.proj":  # CLIP's projection, a matrix of (in, out)
            name, tensor = "head.fc.weight", tensor.T
        name = re.sub(r"^network\.(\d+)\.", lambda m: place[int(m[1])], name)
        for pattern, replacement in _APPLE:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _to_form_of(target: Mapping[str, Tensor], state: StateDict) -> StateDict:
    """Completely fused if the target is; with a bias in the classifier, and counters, where the target has them."""
    if _form(target) == "fused" and _form(state) == "fused the published way":
        state = _fold_blocks({_fused_name(name, target): tensor for name, tensor in state.items()})
    if (weight := state.get("head.fc.weight")) is not None:  # timm's CLIP projection has a bias of zeros, Apple's none
        bias = state.pop("head.fc.bias", weight.new_zeros(len(weight)))
        if "head.fc.bias" in target or bias.any():
            state["head.fc.bias"] = bias
    return with_counters(state, target)


def _fused_name(name: str, target: Mapping[str, Tensor]) -> str:
    """Of what a `FusedConv` holds: alone, or in a sequence of convolution, squeeze-and-excitation and activation."""
    in_sequence = name.replace(".reparam_conv.", ".0.").replace(".se.", ".1.")
    return in_sequence if in_sequence in target else name.replace(".reparam_conv.", ".")


def _fold_blocks(state: StateDict) -> StateDict:
    """With each block, fused the published way, completely fused."""
    folded = dict(state)
    for prefix in {match[1] for match in map(re.compile(r"(stages\.\d+\.blocks\.\d+\.)").match, state) if match}:
        part = {name.removeprefix(prefix): folded.pop(name) for name in state if name.startswith(prefix)}
        hidden, dim = part["mlp.fc1.weight"].shape[:2]
        with torch.device("meta"):
            if "token_mixer.qkv.weight" in part:
                norm = nn.BatchNorm2d if "norm.running_mean" in part else LayerNorm2d
                block = AttentionBlock(dim, hidden / dim, norm=norm)
            else:
                block = RepMixerBlock(dim, hidden / dim)
                block.token_mixer = block.token_mixer.fuse()
        if {name: t.shape for name, t in block.state_dict().items()} == {name: t.shape for name, t in part.items()}:
            block.load_state_dict(part, assign=True)
            part = reparameterize_model(block).state_dict()
        folded |= {prefix + name: tensor for name, tensor in part.items()}
    return folded
