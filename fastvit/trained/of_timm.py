"""A network of timm's: by its name with weights, from the hub, or from a folder."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from fastvit.data.preprocessing import Preprocessing
from fastvit.deploy.sidecar import sha256
from fastvit.errors import RunError
from fastvit.pretrained import LOCAL, WEIGHTS_FILES, create_pretrained, read_config
from fastvit.trained.licence import licence_of
from fastvit.trained.name import Kind, Options
from fastvit.trained.network import Trained
from fastvit.trained.of_run import ADVICE, run_of, with_weights, words_for_weights
from fastvit.variants import VARIANTS


def of_timm(source: str, options: Options) -> Trained:
    """A name, with the weights of its tag, of a file, or random ones. Raises UserError."""
    architecture = source.partition(".")[0]
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
    start = options.which_weights(source, tags)
    config, _, _ = read_config(source, advice=ADVICE)
    classes = config["num_classes"]
    if start == "pretrained" and options.num_classes not in (None, classes):
        raise RunError(f"{source} has {classes} classes: --num-classes is for --checkpoint and --random-weights")
    run = _run_of_this_network(architecture, options)
    asked = _options(len(run.labels) if run else options.num_classes or classes, options)
    features = options.features_only or (run is None and _is_encoder(architecture, config, asked["num_classes"]))

    def load() -> nn.Module:
        if start == "pretrained":
            return create_pretrained(source, advice=ADVICE, **asked).eval()
        model = timm.create_model(architecture, **asked).eval()
        if options.checkpoint:
            return with_weights(model, options.checkpoint, advice="say how many with --num-classes")
        return model

    trained = Trained(
        source=source,
        name=architecture,
        kind=Kind.TIMM,
        does=None if features else "classification",
        preprocessing=_preprocessing(config, options),
        labels=None if features else _labels(config, asked["num_classes"]),
        weights=words_for_weights(start, source, options.checkpoint),
        architecture={"name": architecture, "options": asked},
        task=None,
        load=load,
        licence=licence_of(source, start),
    )
    return trained if run is None else _as_validated(trained, run, options)


def of_hub(source: str, options: Options) -> Trained:
    """What `hf-hub:owner/name` or `local-dir:folder` holds. Raises UserError."""
    config, architecture, own = read_config(source, advice="copy its files here, and name them as local-dir:FOLDER")
    asked = own | _options(config["num_classes"], options)
    unfused = {name: value for name, value in asked.items() if name not in ("fused", "inference_mode")}
    place = Path(source.partition(":")[2].partition("@")[0])
    features = options.features_only or _is_encoder(architecture, config, config["num_classes"])
    return Trained(
        source=source,
        name=place.resolve().name,
        kind=Kind.HUB,
        does=None if features else "classification",
        preprocessing=_preprocessing(config, options),
        labels=None if features else _labels(config, config["num_classes"]),
        weights=_words_for_place(source),
        architecture={"name": architecture, "options": unfused},
        task=None,
        load=lambda: create_pretrained(source, advice=ADVICE, **_options(config["num_classes"], options)).eval(),
        licence=config.get("license", licence_of(architecture, "checkpoint")) or "",
    )


def _words_for_place(source: str) -> str:
    """The same; of a folder here its name alone, and a digest of the weights in it."""
    if not source.startswith(LOCAL):
        return source
    folder = Path(source.removeprefix(LOCAL)).resolve()
    digests = [sha256(folder / name) for name in WEIGHTS_FILES if (folder / name).is_file()]
    return ", sha256 ".join([f"{LOCAL}{folder.name}", *digests[:1]])


def _run_of_this_network(architecture: str, options: Options) -> Trained | None:
    """The run that the weights are from, if they are from one. It knows the classes, the size and the crop."""
    run = run_of(options.checkpoint) if options.checkpoint else None
    if run is None:
        return None
    its_name = run.architecture and run.architecture["name"]
    if its_name != architecture:
        raise RunError(f"{options.checkpoint} is of a run of {its_name or run.does}, not of {architecture}")
    if options.num_classes not in (None, len(run.labels)):
        raise RunError(f"{options.checkpoint} has {len(run.labels)} classes: leave out --num-classes")
    return run


def _as_validated(trained: Trained, run: Trained, options: Options) -> Trained:
    height, width = options.image_size or (run.preprocessing.height, run.preprocessing.width)
    return replace(
        trained,
        does=run.does if trained.labels else None,
        preprocessing=replace(run.preprocessing, height=height, width=width),
        labels=run.labels if trained.labels else None,
        licence=run.licence,
    )


def _options(num_classes: int, options: Options) -> dict[str, Any]:
    return {"features_only": True} if options.features_only else {"num_classes": num_classes}


def _is_encoder(architecture: str, config: Mapping[str, Any], num_classes: int) -> bool:
    """Whether it ends in CLIP's projection, as published, and not in a classifier that was trained in its place."""
    row = VARIANTS.get(architecture)
    published = (
        row is not None and row.encoder and num_classes == timm.models.get_pretrained_cfg(architecture).num_classes
    )
    return published and not config.get("label_names")


def _preprocessing(config: Mapping[str, Any], options: Options) -> Preprocessing:
    preprocessing = Preprocessing.of_timm(config)
    height, width = options.image_size or (preprocessing.height, preprocessing.width)
    return replace(preprocessing, height=height, width=width)


def _labels(config: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """As the configuration names them; else ImageNet's, by their number; else numbers."""
    names = config.get("label_names")
    if names and len(names) == num_classes:
        descriptions = config.get("label_descriptions")
        described = descriptions if isinstance(descriptions, Mapping) else {}
        return tuple(described.get(name, name) for name in names)
    return tuple(imagenet_classes(num_classes).values()) or tuple(str(label) for label in range(num_classes))


def imagenet_classes(count: int) -> dict[str, str]:
    """The synsets of the set of ImageNet's with so many classes, and their names, in order; {} if there is none."""
    subset = infer_imagenet_subset({"num_classes": count})
    if subset is None:
        return {}
    imagenet = ImageNetInfo(subset)
    names = [imagenet.index_to_description(label) for label in range(count)]
    often = Counter(names)  # two classes of ImageNet are called crane
    synsets = imagenet.label_names()
    return {each: f"{name} ({each})" if often[name] > 1 else name for each, name in zip(synsets, names, strict=True)}
