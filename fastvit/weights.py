"""Checkpoints: ours, timm's and Apple's, in train form and fused, into our networks; ours to timm's names.

This file knows names and tensors, not the network. Names are only ever translated from ours: to timm's by `_timm_name`,
from there to Apple's by `_apple_names`. Reading a foreign file looks each of the model's own names up in it.
"""

import argparse
import logging
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fastvit.errors import UserError
from fastvit.layers import ConvBN, NormConv, ScaledConv
from fastvit.reparam import Reparameterizable
from fastvit.variants import VARIANTS

_logger = logging.getLogger(__name__)

StateDict = dict[str, Tensor]


class CheckpointError(UserError):
    """A checkpoint that cannot be loaded. The message says what the file is and what to do."""


def load_checkpoint(
    model: nn.Module, source: str | PathLike[str] | Mapping[str, Any], *, reset_head: bool = False
) -> None:
    """Load a FastViT checkpoint into a model, completely or not at all.

    Args:
        model: a classifier or a `features_only` backbone; fused for a fused checkpoint. On the meta device it gets
            copies of the file's tensors, on the CPU.
        source: file (.pth.tar, .pth, .pt, .safetensors) or state dict, written by fastvit, timm or Apple's code; bare
            or inside "state_dict_ema", "state_dict", "model_ema" or "model" (the first that is there), with or without
            the prefixes of DDP and torch.compile. Files never run code (`weights_only=True`).
        reset_head: keep the model's own classifier and load the rest, for another number of classes.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is not a FastViT checkpoint, is damaged, or does not fit the model. The model is then
            as it was before.
    """
    label = "the state dict" if isinstance(source, Mapping) else str(source)
    state = _unwrap(source if isinstance(source, Mapping) else _read(Path(source)), label)
    own = model.state_dict()
    own_names = {_plain_name(name): name for name in own}
    target = {_plain_name(name): tensor for name, tensor in own.items()}
    if not _naming(target):
        raise CheckpointError("the model is not a FastViT classifier or features_only backbone: pass its backbone")
    _require_same_network(state, target, label)
    state = _to_our_names(state, target)

    parts = {_part(name) for name in target}  # a backbone may have fewer stages, no final_conv and no head
    state = {name: tensor for name, tensor in state.items() if _part(name) in parts}
    on_meta = any(tensor.is_meta for tensor in target.values())
    if reset_head:
        if on_meta:
            raise CheckpointError("the model is on the meta device, so there is no classifier of its own to keep")
        _logger.warning("%s: everything is loaded but the classifier, which stays as it is in the model", label)
        state |= {name: tensor for name, tensor in target.items() if name.startswith("head.")}
    _require_same_tensors(state, target, label)
    if on_meta:
        state = {name: tensor.to(target[name].dtype, copy=True) for name, tensor in state.items()}
    model.load_state_dict({own_names[name]: tensor for name, tensor in state.items()}, assign=on_meta)


def convert_published(state: Mapping[str, Any], model: nn.Module) -> StateDict:
    """A published checkpoint in the names of `model`, of the same variant; timm's `pretrained_filter_fn`."""
    state = _unwrap(state, "the checkpoint")
    return _to_our_names(state, model.state_dict())


def to_timm(state: Mapping[str, Tensor]) -> StateDict:
    """Our state dict (of a classifier in train form) in the names and shapes of timm's built-in FastViT.

    Raises `CheckpointError` for a fused or foreign state dict.
    """
    if _naming(state) != "fastvit" or _is_fused(state):
        raise CheckpointError("to_timm takes the state dict of a fastvit classifier in train form (not fused)")
    names = _timm_names(state)
    return {names[name]: _linear(name, tensor) for name, tensor in state.items()}


# ---- reading files ---------------------------------------------------------------------------------------------------


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    with path.open("rb") as file:
        magic = file.read(9)
    try:
        if magic[8:] == b"{":  # safetensors: the length of a header in JSON, then the header
            return load_file(path)
        is_zip = magic[:2] == b"PK"
        if not is_zip and magic[:1] != b"\x80":  # torch writes zip archives, and long ago plain pickles
            raise CheckpointError(f"{path} is not a checkpoint: neither safetensors nor written by torch.save")
        if is_zip and not zipfile.is_zipfile(path):
            raise CheckpointError(f"{path} is truncated: download or copy it again")
        if is_zip and any(n.endswith("/constants.pkl") for n in zipfile.ZipFile(path).namelist()):
            raise CheckpointError(f"{path} is a TorchScript program, not a checkpoint: save the model's state_dict()")
        # A Namespace is plain data, which timm's train.py puts in. An open file, for torch would go by the suffix.
        with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error):
            raise CheckpointError(f"{path} is truncated: download or copy it again") from error
        raise CheckpointError(
            f"{path} holds Python objects besides tensors, which could run code and are not loaded: if you trust it, "
            'write it anew with torch.save({"state_dict": model.state_dict()}, ...)'
        ) from error
    except (RuntimeError, EOFError, OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({error}): download or copy it again") from error


def _unwrap(checkpoint: Any, label: str) -> StateDict:
    state = checkpoint
    for key in ("state_dict_ema", "state_dict", "model_ema", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{label} is not a FastViT checkpoint: it holds a {type(state).__name__}, no state dict")
    state = {_plain_name(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    if not _naming(state):
        found = ", ".join(list(state)[:3]) or "no tensors"
        raise CheckpointError(f"{label} is not a FastViT checkpoint: it holds {found}")
    return state


# ---- what a state dict is --------------------------------------------------------------------------------------------

_FC1 = re.compile(r"(?:network|stages)\.(\d+)\..*\.(ffn|mlp|convffn)\.fc1\.weight")
_WRITERS = {"ffn": "fastvit", "mlp": "timm", "convffn": "Apple"}


def _naming(names: Iterable[str]) -> str | None:
    """Whose names these are: "fastvit", "timm" or "Apple"; None if nobody's."""
    return next((_WRITERS[match[2]] for match in map(_FC1.fullmatch, names) if match), None)


def _is_fused(names: Iterable[str]) -> bool:
    return not any(re.search(r"\.(skip|identity|rbr_skip)\.", name) for name in names)


def _stages(state: Mapping[str, Tensor]) -> list[tuple[int, int, int, bool]]:
    """(depth, dim, expansion, attends) of each stage."""
    blocks: dict[int, list[str]] = {}
    for name in state:
        if match := _FC1.fullmatch(name):
            blocks.setdefault(int(match[1]), []).append(name)
    stages = []
    for _, names in sorted(blocks.items()):
        hidden, dim = state[names[0]].shape[:2]
        attends = any(name.startswith(names[0].rsplit(".", 3)[0] + ".token_mixer.qkv") for name in state)
        stages.append((len(names), dim, hidden // dim, attends))
    return stages


def _describe(stages: list[tuple[int, int, int, bool]]) -> str:
    """The variant's name if it is one of the seven, else what it looks like."""
    for name, row in VARIANTS.items():
        if stages == list(zip(row.depths, row.dims, [row.expansion] * 4, row.attention, strict=True)):
            return name
    depths, dims, expansions, attention = zip(*stages, strict=True)
    return f"FastViT with depths {depths}, dims {dims}, expansion {expansions[0]}, attention {attention}"


def _require_same_network(state: StateDict, target: StateDict, label: str) -> None:
    stages, wanted = _stages(state), _stages(target)
    if stages[: len(wanted)] != wanted:
        raise CheckpointError(
            f"{label} holds a {_describe(stages)}, but the model is a {_describe(wanted)}: "
            f"load it into a model of its own variant"
        )
    if _is_fused(state) and not _is_fused(target):
        raise CheckpointError(
            f"{label} holds a fused {_describe(stages)}, but the model is in train form: load it into "
            f"timm.create_model(..., fused=True), or use the checkpoint from before fusing"
        )
    if _is_fused(target) and not _is_fused(state):
        raise CheckpointError(
            f"{label} holds a {_describe(stages)} in train form, but the model is fused: load it into a model in train "
            f"form, then fuse that one with fastvit.reparameterize_model"
        )


def _require_same_tensors(state: StateDict, target: StateDict, label: str) -> None:
    head = "head.fc.weight"
    if head in state and head in target and len(state[head]) != len(target[head]):
        raise CheckpointError(
            f"{label} has a classifier of {len(state[head])} classes, but the model one of {len(target[head])}: "
            f"pass reset_head=True to keep the model's own and load the rest"
        )
    problems = [f"lacks {name}" for name in target if name not in state]
    problems += [f"has an unknown {name}" for name in state if name not in target]
    problems += [
        f"has {name} of shape {tuple(state[name].shape)} where the model has {tuple(tensor.shape)}"
        for name, tensor in target.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{label} does not fit the model: it {'; '.join(problems[:3])}{more}")


# ---- names -----------------------------------------------------------------------------------------------------------

_TIMM = (  # ours -> timm's, in this order
    (r"^stem\.2\.", "stem.1."),
    (r"^stem\.4\.", "stem.2."),
    (r"^final_conv\.0\.", "final_conv."),
    (r"^final_conv\.1\.", "final_conv.se."),
    (r"\.downsample\.", ".downsample.proj."),
    (r"\.proj\.0\.conv\.", ".proj.0.large_conv."),
    (r"\.proj\.0\.branches\.0\.", ".proj.0.small_conv."),
    (r"(^stem\.\d|^final_conv|\.proj\.1|\.mixer)\.conv\.", r"\1.conv_kxk.0."),
    (r"\.branches\.0\.", ".conv_scale."),
    (r"\.skip\.", ".identity."),
    (r"\.token_mixer\.norm\.", ".token_mixer.norm.identity."),
    (r"\.token_mixer\.scale\.", ".token_mixer.layer_scale."),
    (r"\.token_mixer\.qkv\.norm\.", ".norm."),
    (r"\.token_mixer\.(qkv|proj)\.conv\.", r".token_mixer.\1."),
    (r"\.token_mixer\.proj\.scale\.", ".layer_scale_1."),
    (r"\.ffn\.fc2\.scale\.", ".layer_scale."),
    (r"\.ffn\.fc2\.conv\.", ".ffn.fc2."),
    (r"\.ffn\.", ".mlp."),
    (r"\.pos_emb\.conv\.", ".pos_emb.pos_enc."),
    # where a RepConv, RepMixer or positional encoding is fused
    (r"(^stem\.\d|^final_conv|\.proj\.\d|\.token_mixer|\.pos_emb)\.(weight|bias)$", r"\1.reparam_conv.\2"),
)

_APPLE = (  # timm's -> Apple's, except for the position in the flat list `network`
    (r"^stem\.", "patch_embed."),
    (r"^final_conv\.", "conv_exp."),
    (r"^head\.fc\.", "head."),
    (r"\.conv_kxk\.", ".rbr_conv."),
    (r"\.conv_scale\.", ".rbr_scale."),
    (r"\.identity\.", ".rbr_skip."),
    (r"\.large_conv\.", ".lkb_origin."),
    (r"\.proj\.0\.reparam_conv\.", ".proj.0.lkb_reparam."),
    (r"\.se\.fc1\.", ".se.reduce."),
    (r"\.se\.fc2\.", ".se.expand."),
    (r"\.mlp\.", ".convffn."),
    (r"\.pos_enc\.", ".pe."),
    (r"(\.layer_scale\w*)\.gamma$", r"\1"),
)


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def _timm_names(names: Iterable[str]) -> dict[str, str]:
    """Our name -> timm's. An attention block has two layer scales, numbered there."""
    names = list(names)
    attention = tuple(name.split("token_mixer")[0] + "layer_scale." for name in names if ".token_mixer.qkv" in name)
    renamed = {name: _rename(name, _TIMM) for name in names}
    return {
        name: theirs.replace(".layer_scale.", ".layer_scale_2.") if theirs.startswith(attention) else theirs
        for name, theirs in renamed.items()
    }


def _apple_names(names: Iterable[str]) -> dict[str, str]:
    """Timm's name -> Apple's, where `network` lists patch embeddings, positional encodings and blocks in one row."""
    names = list(names)
    part = re.compile(r"^stages\.(\d+)\.(downsample|pos_emb|blocks)\.")
    order = ("downsample", "pos_emb", "blocks")
    row = sorted({(int(m[1]), order.index(m[2])) for m in map(part.match, names) if m})
    flat = {name: part.sub(lambda m: f"network.{row.index((int(m[1]), order.index(m[2])))}.", name) for name in names}
    return {name: _rename(theirs, _APPLE) for name, theirs in flat.items()}


def _plain_name(name: str) -> str:
    """The name without what DDP, torch.compile and timm's `features_only`, which also flattens, put in front."""
    name = re.sub(r"^(module\.|_orig_mod\.|model\.)+", "", name)
    return re.sub(r"^(stem|stages)_(\d+)\.", r"\1.\2.", name)


def _part(name: str) -> str:
    """The part of the network a tensor belongs to: stem, stages.0 ... stages.3, final_conv or head."""
    return ".".join(name.split(".")[: 2 if name.startswith("stages.") else 1])


# ---- translation -----------------------------------------------------------------------------------------------------


def _to_our_names(state: StateDict, target: Mapping[str, Tensor]) -> StateDict:
    """The tensors under the names of `target`, whatever is unknown there under its own."""
    writer = _naming(state)
    if writer == "fastvit":
        return state
    leaves = _unfused_leaves(target) if _is_fused(state) else {}
    names = [name for name in target if name.rpartition(".")[0] not in leaves]
    names += [f"{prefix}.{name}" for prefix, leaf in leaves.items() for name in leaf.state_dict()]
    theirs = _timm_names(names)
    if writer == "Apple":
        apple = _apple_names(theirs.values())
        theirs = {name: apple[theirs[name]] for name in names}
    ours = {their: name for name, their in theirs.items()}
    converted = {ours.get(name, name): _conv(name, tensor) for name, tensor in state.items()}
    for prefix, leaf in leaves.items():
        if all(f"{prefix}.{name}" in converted for name in leaf.state_dict()):
            leaf.load_state_dict({n: converted.pop(f"{prefix}.{n}") for n in leaf.state_dict()}, assign=True)
            converted |= {f"{prefix}.{name}": tensor for name, tensor in leaf.fuse().state_dict().items()}
    return converted


def _unfused_leaves(target: Mapping[str, Tensor]) -> dict[str, Reparameterizable]:
    """What the published fusing leaves in train form and ours does not, empty, by name."""
    leaves: dict[str, Reparameterizable] = {}
    with torch.device("meta"):
        for name, tensor in target.items():
            prefix, _, kind = name.rpartition(".")
            if kind != "weight" or tensor.ndim != 4:
                continue
            out_channels, in_channels, kernel_size, _ = tensor.shape
            if prefix.endswith(".ffn.conv"):
                leaves[prefix] = ConvBN(out_channels, out_channels, kernel_size, groups=out_channels)
            elif prefix.endswith(".token_mixer.qkv"):
                leaves[prefix] = NormConv(in_channels, out_channels)
            elif prefix.endswith((".ffn.fc2", ".token_mixer.proj")):
                leaves[prefix] = ScaledConv(in_channels, out_channels)
    return leaves


def _linear(name: str, tensor: Tensor) -> Tensor:
    """The projections of the attention are linear layers elsewhere, (out, in) instead of (out, in, 1, 1)."""
    return tensor.flatten(1) if re.search(r"\.token_mixer\.(qkv|proj)\.conv\.weight$", name) else tensor


def _conv(name: str, tensor: Tensor) -> Tensor:
    return tensor[:, :, None, None] if re.search(r"\.token_mixer\.(qkv|proj)\.weight$", name) else tensor
