"""A network of open_clip's: its image tower as an encoder, and the whole of it where texts are compared with images."""

from typing import Any

from torch import nn

from fastvit.data.preprocessing import Preprocessing
from fastvit.errors import RunError, nearest, reason_of, require_packages
from fastvit.pretrained import require_on_hub
from fastvit.trained.licence import licence_of
from fastvit.trained.name import CLIP_SCHEME, Kind, Options
from fastvit.trained.network import Trained
from fastvit.trained.of_run import ADVICE, words_for_weights

WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # by the names that open_clip looks for


def of_clip(source: str, options: Options) -> Trained:
    """The image tower of `open_clip:NAME.TAG`, as an encoder. Raises UserError."""
    name, tag, start = _parse(source, options)
    return Trained(
        source=source,
        name=name,
        kind=Kind.CLIP,
        does=None,
        preprocessing=_preprocessing(source, name, tag),
        labels=None,
        weights=words_for_weights(start, source, options.checkpoint, hub="open_clip's hub"),
        architecture=None,
        task=None,
        load=lambda: load_clip(source, options).visual,
        licence=_licence(name, start),
    )


def load_clip(source: str, options: Options) -> nn.Module:
    """Both towers of `open_clip:NAME.TAG`, in eval mode.

    Raises:
        UserError: it has no text tower that open_clip knows, or its weights are missing or do not fit.
    """
    import open_clip

    name, tag, start = _parse(source, options)
    weights = {"pretrained": tag, "checkpoint": options.checkpoint and str(options.checkpoint)}.get(start)
    if start == "pretrained" and (place := open_clip.get_pretrained_cfg(name, tag).get("hf_hub")):
        owner, repository, *file = place.strip("/").split("/")
        require_on_hub(source, f"{owner}/{repository}", file or WEIGHTS_FILES, advice=ADVICE)
    try:
        # Not the text tower's own weights, which would be downloaded to be replaced by those of the whole.
        return open_clip.create_model(name, pretrained=weights, pretrained_text=False).eval()
    except Exception as error:  # of the hub's client or of torch
        reason = reason_of(error)
        raise RunError(f"the weights of {source} cannot be loaded ({reason}); {ADVICE}") from error


def load_tokenizer(source: str) -> Any:
    """What turns texts into the numbers that the text tower takes. Raises RunError."""
    import open_clip

    try:
        return open_clip.get_tokenizer(_name_and_tag(source)[0])
    except Exception as error:  # some are on the hub
        raise RunError(f"the tokenizer of {source} cannot be loaded ({error})") from error


def _name_and_tag(source: str) -> tuple[str, str]:
    name, _, tag = source.removeprefix(CLIP_SCHEME).partition(".")
    return name, tag


def _parse(source: str, options: Options) -> tuple[str, str, str]:
    """The name, the tag of its weights, and which weights are asked for, as `Options.which_weights` says."""
    if not source.startswith(CLIP_SCHEME):
        raise RunError(
            f"{source} has no text tower: name a network of open_clip's, as open_clip:MobileCLIP2-S0.dfndr2b"
        )
    require_packages(source, "open_clip", extra="features")
    import open_clip

    name, tag = _name_and_tag(source)
    known = open_clip.list_models()
    if name not in known:
        raise RunError(f"open_clip has no network {name}{nearest(name, known)}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    start = options.which_weights(source, tags)
    return name, tag or next(iter(tags), ""), start  # without a tag, images are prepared as for the first


def _preprocessing(source: str, name: str, tag: str) -> Preprocessing:
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    stated = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    size = open_clip.get_model_config(name)["vision_cfg"].get("image_size", 224)
    config = PreprocessCfg(**merge_preprocess_dict(merge_preprocess_dict(PreprocessCfg(), {"size": size}), stated))
    if config.resize_mode != "shortest":
        raise RunError(f"{source} resizes images by {config.resize_mode}, which fastvit does not do")
    _, height, width = config.input_size
    return Preprocessing(height, width, 1.0, config.interpolation, tuple(config.mean), tuple(config.std))


def _licence(name: str, start: str) -> str:
    """Of Apple's image towers, by timm's configuration; of others timm says what weights of its own have."""
    import open_clip

    tower = open_clip.get_model_config(name)["vision_cfg"].get("timm_model_name")
    return licence_of(tower, start if start == "random_weights" else "checkpoint") if tower else ""
