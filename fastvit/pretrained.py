"""A network of timm's with trained weights: the hub's, or those of a file. What fails is said in one sentence."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from timm.models import PretrainedCfg, get_pretrained_cfg, parse_model_name
from timm.models._hub import load_model_config_from_hf, load_model_config_from_path
from torch import nn

from fastvit.checkpoint_files import CheckpointError, contents_of, state_dict_in
from fastvit.errors import UserError, reason_of
from fastvit.weights import load_checkpoint, plain_names, require_same_tensors, with_counters

LOCAL = "local-dir:"
SCHEMES = ("hf-hub:", LOCAL)  # of timm: what follows is a repository, or a folder of the same files
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
        WeightsError: the weights cannot be downloaded, or do not exist; or what is written beside them asks for a
            network that cannot be made.
    """
    found, overlay = _where(name, advice)
    try:
        return timm.create_model(found, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except CheckpointError:  # which speaks for itself
        raise
    except TypeError as error:  # of the options
        if name.startswith(SCHEMES):  # which are those of the configuration there
            raise WeightsError(f"the network of {name} cannot be made: {reason_of(error)}") from error
        raise
    except Exception as error:  # of the hub's client, which has many
        raise WeightsError(f"the weights of {name} cannot be loaded ({reason_of(error)}); {advice}") from error


def read_config(name: str, *, advice: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """What is known of a network before its weights: timm's pretrained configuration, the architecture and its options.

    Args:
        name: as for `create_pretrained`.

    Raises:
        WeightsError: as there; or timm knows no such architecture.
    """
    if not name.startswith(SCHEMES):
        return _known_config(name), name.partition(".")[0], {}
    found, _ = _where(name, advice)
    source, place = parse_model_name(found)
    read: Callable[..., Any] = load_model_config_from_hf if source == "hf-hub" else load_model_config_from_path
    try:
        config, architecture, options = read(place)
        PretrainedCfg(**config)  # what timm is going to make of it
    except Exception as error:  # of the hub's client, or of files that are something else
        raise WeightsError(f"{name} is no network that timm can read ({reason_of(error)})") from error
    if not timm.is_model(architecture):
        raise WeightsError(f"{name} is a {architecture}, which timm does not know")
    return config, architecture, options


def load_weights(model: nn.Module, path: Path, *, reset_head: bool = False) -> None:
    """Load a file into a network, completely or not at all.

    Args:
        model: a FastViT or its stages, for which `fastvit.load_checkpoint` reads the file in anyone's names; or any
            other network, of timm's or your own, whose names the file must have.
        reset_head: keep the model's own classifier.

    Raises:
        WeightsError: there is no such file.
        CheckpointError: it does not fit.
    """
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint file {path}")
    own = model.state_dict()
    if len(plain_names(own)) == len(own):
        load_checkpoint(model, path, reset_head=reset_head)
        return
    state = with_counters(state_dict_in(contents_of(path), str(path)), own)
    if reset_head:
        heads = model.pretrained_cfg["classifier"]
        heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        state = {name: tensor for name, tensor in state.items() if not name.startswith(heads)}
        state |= {name: tensor for name, tensor in own.items() if name.startswith(heads)}
    require_same_tensors(state, own, str(path))
    model.load_state_dict(state)


def _known_config(name: str) -> dict[str, Any]:
    """timm's pretrained configuration of a network that is registered. Raises WeightsError where there is none."""
    config = get_pretrained_cfg(name)
    if config is None:
        raise WeightsError(
            f"{name} states no mean, std and size of its images: add default_cfgs = "
            f"timm.models.generate_default_cfgs(...) to the file that registers it"
        )
    return config.to_dict()


def _where(name: str, advice: str) -> tuple[str, dict[str, Any] | None]:
    """The name to give timm, and what to change in its configuration, so that cached files are not asked for again."""
    source, place = parse_model_name(name)
    if source == "local-dir":
        return name, None
    config = {"hf_hub_id": place} if source else _known_config(name)
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
            f"the weights of {name} cannot be downloaded: the hub does not answer ({reason_of(error)}); {advice}"
        ) from error
