"""A network of timm's with trained weights: the hub's, or those of a file. What fails is said in one sentence."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from timm.models import PretrainedCfg, get_pretrained_cfg, load_state_dict, parse_model_name
from timm.models._hub import load_model_config_from_hf, load_model_config_from_path
from torch import Tensor, nn

from fastvit.errors import UserError, some
from fastvit.reparam import Reparameterizable
from fastvit.weights import CheckpointError, load_checkpoint

SCHEMES = ("hf-hub:", "local-dir:")  # of timm: what follows is a repository, or a folder of the same files
SECONDS_TO_ANSWER = 5.0
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # by the names that timm looks for


class WeightsError(UserError):
    """Weights that are not there, or are of another network."""


def create_pretrained(name: str, *, advice: str, **options: Any) -> nn.Module:
    """`timm.create_model(name, pretrained=True, **options)`; without a network it fails in seconds, not in a minute.

    Args:
        name: that timm knows, with a tag or without; or one of `SCHEMES` and where it is.
        advice: what to do where nothing can be downloaded; the end of the sentence.

    Raises:
        WeightsError: the weights cannot be downloaded, or do not exist.
    """
    found, overlay = _where(name, advice)
    try:
        return timm.create_model(found, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (CheckpointError, TypeError):  # which speak for themselves, the second of the options
        raise
    except Exception as error:  # of the hub's client, which has many
        raise WeightsError(f"the weights of {name} cannot be loaded ({_reason(error)}); {advice}") from error


def read_config(name: str, *, advice: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """What is known of a network before its weights: timm's pretrained configuration, the architecture and its options.

    Args:
        name: as for `create_pretrained`.

    Raises:
        WeightsError: as there; or timm knows no such architecture.
    """
    if not name.startswith(SCHEMES):
        return get_pretrained_cfg(name).to_dict(), name.partition(".")[0], {}
    found, _ = _where(name, advice)
    source, place = parse_model_name(found)
    read: Callable[..., Any] = load_model_config_from_hf if source == "hf-hub" else load_model_config_from_path
    try:
        config, architecture, options = read(place)
        PretrainedCfg(**config)  # what timm is going to make of it
    except Exception as error:  # of the hub's client, or of files that are something else
        raise WeightsError(f"{name} is no network that timm can read ({_reason(error)})") from error
    if not timm.is_model(architecture):
        raise WeightsError(f"{name} is a {architecture}, which timm does not know")
    return config, architecture, options


def load_weights(model: nn.Module, path: Path, *, reset_head: bool = False) -> None:
    """Load a file into a network, completely or not at all.

    Args:
        model: a FastViT, for which `fastvit.load_checkpoint` reads the file in anyone's names; or any other network of
            timm's or around one, whose own names the file must have.
        reset_head: keep the model's own classifier.

    Raises:
        WeightsError: there is no such file, or it does not fit.
    """
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint file {path}")
    is_ours = any(isinstance(module, Reparameterizable) for module in model.modules())
    if is_ours and hasattr(model, "stem"):
        load_checkpoint(model, path, reset_head=reset_head)
        return
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch raises many types here, each meaning that the file is not what it should be
        raise WeightsError(f"{path} cannot be read as a checkpoint ({_reason(error)})") from error
    own = model.state_dict()
    if reset_head:
        heads = model.pretrained_cfg["classifier"]
        heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        state = {name: own.get(name, tensor) if name.startswith(heads) else tensor for name, tensor in state.items()}
    if problems := _differences(state, own):
        raise WeightsError(f"{path} does not fit {type(model).__name__}: it {some(problems, 3)}")
    model.load_state_dict(state)


def _differences(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    problems = [f"lacks {name}" for name in own if name not in state]
    problems += [f"has an unknown {name}" for name in state if name not in own]
    return problems + [
        f"has {name} of shape {tuple(state[name].shape)} where the network has {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]


def _where(name: str, advice: str) -> tuple[str, dict[str, Any] | None]:
    """The name to give timm, and what to change in its configuration, so that cached files are not asked for again."""
    source, place = parse_model_name(name)
    if source == "local-dir":
        return name, None
    config = {"hf_hub_id": place} if source else get_pretrained_cfg(name).to_dict()
    repository = config.get("hf_hub_id")
    if not repository or config.get("file"):  # from a plain address, or from a file
        return name, None
    repository, _, revision = repository.partition("@")
    files = (config.get("hf_hub_filename"), *WEIGHTS_FILES) if config.get("hf_hub_filename") else WEIGHTS_FILES
    cached = [try_to_load_from_cache(repository, file, revision=revision or None) for file in files]
    path = next((file for file in cached if isinstance(file, str)), None)
    if path and source is None:
        return name, {"file": path}
    if path and (Path(path).parent / "config.json").exists():
        return f"local-dir:{Path(path).parent}", None
    _require_answer(name, hf_hub_url(repository, files[0], revision=revision or None), advice)
    return name, None


def require_on_hub(name: str, repository: str, files: Sequence[str], *, advice: str) -> None:
    """Raise WeightsError in seconds where none of these files is in the cache, and the hub does not answer."""
    if not any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        _require_answer(name, hf_hub_url(repository, files[0]), advice)


def _require_answer(name: str, url: str, advice: str) -> None:
    """Ask once. The hub's client asks six times for each file, for 25 seconds and in as many lines."""
    try:
        get_hf_file_metadata(url, timeout=SECONDS_TO_ANSWER)
    except HfHubHTTPError:
        pass  # an answer: what it means for the download is timm's to find out
    except Exception as error:
        raise WeightsError(
            f"the weights of {name} cannot be downloaded: the hub does not answer ({_reason(error)}); {advice}"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
