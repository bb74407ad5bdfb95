"""Files of weights, whoever wrote them: what is in them, without running their code."""

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict

from fastvit.errors import UserError, reason_of

# Under what training scripts keep a state dict, an average of the weights before the weights of the last step: timm's,
# torchvision's and Lightning's, PyTorch's tutorial, DeepSpeed's.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "module")


class CheckpointError(UserError):
    """A checkpoint that cannot be loaded. The message says what the file is and what to do."""


def contents_of(path: Path) -> Any:
    """What a file of torch.save or safetensors holds, on the CPU. Its first bytes say which it is, not its suffix.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is of another kind, is damaged, or holds what could run code (`weights_only=True`).
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    with path.open("rb") as file:
        magic = file.read(9)
    is_safetensors = magic[8:] == b"{"  # the length of a header in JSON, then the header
    is_zip = magic[:2] == b"PK"  # what torch writes; long ago, plain pickles
    if not (is_safetensors or is_zip or magic[:1] == b"\x80"):
        raise CheckpointError(f"{path} is not a checkpoint: neither safetensors nor written by torch.save")
    try:
        if is_safetensors:
            return load_file(path)
        if is_zip and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()):
            raise CheckpointError(f"{path} is a TorchScript program, not a checkpoint: save the model's state_dict()")
        # A Namespace is plain data, which timm's train.py puts in. An open file, because torch would go by the suffix.
        with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors, which could run code and are not loaded: if you trust it, "
            'write it again with torch.save({"state_dict": model.state_dict()}, ...)'
        ) from error
    except Exception as error:  # of many types, each meaning that the file is not what it should be
        raise CheckpointError(
            f"{path} is damaged or truncated ({reason_of(error)}): download or copy it again"
        ) from error


def state_dict_in(source: Any, label: str) -> dict[str, Any]:
    """The state dict in what a file holds, bare or under the first of `WRAPPERS` that is there, without what
    `DistributedDataParallel` and `torch.compile` put before the names.

    Raises:
        CheckpointError: there is none; `label` names the source.
    """
    if isinstance(source, Mapping):
        source = next((source[key] for key in WRAPPERS if isinstance(source.get(key), Mapping)), source)
    if not isinstance(source, Mapping) or not all(isinstance(name, str) for name in source):
        raise CheckpointError(f"{label} is not a checkpoint: it holds a {type(source).__name__}, no state dict")
    state = clean_state_dict(dict(source))
    state.pop("n_averaged", None)  # of an average that is a `torch.optim.swa_utils.AveragedModel`, as torchvision's
    return state
