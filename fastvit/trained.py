"""A trained network from wherever it is: a run of ours, a file that `load_checkpoint` reads, or timm's hub."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import timm
from timm.data import ImageNetInfo
from timm.models import get_pretrained_cfg
from torch import nn

from fastvit.data.preprocessing import Preprocessing
from fastvit.errors import RecipeError, RunError, nearest
from fastvit.tasks import build_recipe, load_recipe, make_task
from fastvit.tasks.classification.task import Classification
from fastvit.training.checkpoint import read_checkpoint
from fastvit.training.recipe import Recipe
from fastvit.training.run_folder import RunFolder
from fastvit.training.task import Task
from fastvit.variants import VARIANTS
from fastvit.weights import CheckpointError, load_checkpoint

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Trained:
    """A network in eval mode, and what belongs to it.

    Attributes:
        name: short, fit for a file name.
        architecture: {"name", "options"} of `timm.create_model`; None if it is not plainly one of timm's.
        preprocessing: as it was validated with.
        labels: names of its classes; None for what is no classifier.
        weights: where they come from, in words.
        task: of the run it is from, else None.
    """

    name: str
    model: nn.Module
    architecture: Mapping[str, Any] | None
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    weights: str
    task: Task | None = None


def find_trained(
    source: str,
    *,
    checkpoint: Path | None = None,
    random_weights: bool = False,
    num_classes: int | None = None,
    image_size: tuple[int, int] | None = None,
    features_only: bool = False,
    overrides: Sequence[str] = (),
) -> Trained:
    """The network that a user names.

    Args:
        source: folder or checkpoint of a run, or a name of timm's: with a tag for the hub's weights, without one with
            `checkpoint` or `random_weights`.
        checkpoint: weights for a name of timm's.
        random_weights: none are wanted.
        num_classes: of a name of timm's with `checkpoint` or `random_weights`; 1000 by default.
        image_size: (height, width) in pixels; by default that of the run, or of the pretraining.
        features_only: the outputs of the stages in place of the classifier's, of a name of timm's.
        overrides: `key=value` for the recipe of a run.

    Raises:
        UserError: there are no such weights, or they do not fit.
    """
    if Path(source).exists():
        if checkpoint or random_weights or num_classes or features_only:
            raise RunError(
                f"{source} is a run, which has its own weights and classes: the options --checkpoint, "
                "--random-weights, --num-classes and --features are for names of networks, such as fastvit_t8"
            )
        return _of_run(Path(source), image_size, overrides)
    if overrides:
        raise RunError(f"there is no run {source}, and key=value is for runs")
    return _of_timm(source, checkpoint, random_weights, num_classes, image_size, features_only)


def _of_run(source: Path, image_size: tuple[int, int] | None, overrides: Sequence[str]) -> Trained:
    task, model, path, class_names = open_run(source, overrides)
    recipe = task.recipe
    height, width = image_size or task.input_size[1:]
    pretrained_cfg = get_pretrained_cfg(recipe.model.name).to_dict()
    preprocessing = replace(Preprocessing.of_timm(pretrained_cfg, height, width), crop_pct=None, interpolation=None)
    architecture, labels = None, None
    if isinstance(task, Classification):
        pretrained_cfg |= {name: task.input[name] for name in ("crop_pct", "interpolation", "mean", "std")}
        preprocessing = Preprocessing.of_timm(pretrained_cfg, height, width)
        labels = class_names or tuple(str(label) for label in range(recipe.data.num_classes))
        name = recipe.model.name.partition(".")[0]
        architecture = {"name": name, "options": {"num_classes": len(labels)}}
    return Trained(
        path.resolve().parent.name,
        model,
        architecture,
        preprocessing,
        labels,
        f"{path}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}",
        task,
    )


def _of_timm(
    name: str,
    checkpoint: Path | None,
    random_weights: bool,
    num_classes: int | None,
    image_size: tuple[int, int] | None,
    features_only: bool,
) -> Trained:
    architecture, _, tag = name.partition(".")
    if architecture not in VARIANTS:
        raise RunError(f"there is no run {name}, and no network of that name: one of {', '.join(VARIANTS)}")
    if (bool(tag), checkpoint is not None, random_weights).count(True) != 1:
        raise RunError(
            f"{name}: say which weights, one of a tag ({', '.join(timm.list_pretrained(f'{architecture}.*'))}), "
            "--checkpoint FILE, or --random-weights"
        )
    if tag and num_classes:
        raise RunError(f"{name} has {IMAGENET_CLASSES} classes; --num-classes is for --checkpoint and --random-weights")
    options: dict[str, Any] = (
        {"features_only": True} if features_only else {"num_classes": num_classes or IMAGENET_CLASSES}
    )
    try:
        config = get_pretrained_cfg(name).to_dict()
        model = timm.create_model(name, pretrained=bool(tag), **options).eval()
        if checkpoint:
            load_checkpoint(model, checkpoint)
    except (CheckpointError, FileNotFoundError) as error:
        raise RunError(f"{error}") from error
    except Exception as error:  # of the hub's client, which has many
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"the weights of {name} cannot be had from the hub ({reason})") from error
    weights = (
        f"{checkpoint}, sha256 {hashlib.sha256(checkpoint.read_bytes()).hexdigest()}"
        if checkpoint
        else (f"timm's hub, {name}" if tag else "random")
    )
    height, width = image_size or config["input_size"][1:]
    return Trained(
        architecture,
        model,
        {"name": architecture, "options": options},
        Preprocessing.of_timm(config, height, width),
        None if features_only else _imagenet_or_numbers(options["num_classes"]),
        weights,
    )


def _imagenet_or_numbers(num_classes: int) -> tuple[str, ...]:
    if num_classes != IMAGENET_CLASSES:
        return tuple(str(label) for label in range(num_classes))
    imagenet = ImageNetInfo()
    return tuple(imagenet.index_to_description(label) for label in range(num_classes))


class TrainedRun(NamedTuple):
    """A task, its network in eval mode, the checkpoint that the weights are from, and the names of the classes."""

    task: Task
    model: nn.Module
    path: Path
    class_names: tuple[str, ...] | None


def open_run(source: Path, overrides: Sequence[str] = ()) -> TrainedRun:
    """The best network of a run; of a checkpoint, its moving average if there is one.

    Args:
        source: folder of a run, or a checkpoint in it.
        overrides: `key.sub=value` in place of what the run's recipe says.

    Raises:
        RunError: there is no such checkpoint, or it does not fit the overrides.
    """
    path = RunFolder(source).best if source.is_dir() else source
    checkpoint = read_checkpoint(path)
    task = make_task(load_recipe(checkpoint["recipe"], overrides))
    model = task.build_model(initial_weights=False).eval()
    try:
        model.load_state_dict(checkpoint.get("state_dict_ema", checkpoint["state_dict"]))
    except RuntimeError as error:
        raise RunError(f"the weights in {path} do not fit the model that the overrides describe") from error
    names = checkpoint.get("class_names")
    return TrainedRun(task, model, path, names and tuple(names))


def recipe_for_model(name: str, overrides: Sequence[str] = (), *, checkpoint: Path | None = None) -> Recipe:
    """A recipe to evaluate a classifier of timm's on a folder of images, at the size that it was made for.

    Args:
        checkpoint: its weights; by default the hub's.

    Raises:
        RecipeError: timm knows no such model, or the overrides do not say where the images are.
    """
    model = {"name": name, "pretrained": checkpoint is None, "checkpoint": checkpoint and str(checkpoint)}
    try:
        pretrained = get_pretrained_cfg(name)
    except RuntimeError as error:
        raise RecipeError(f"there is no run, recipe or model of timm's called {name} ({error})") from error
    if pretrained is None:
        known = nearest(name, timm.list_models())
        raise RecipeError(f"there is no run, no recipe and no model of timm's that is called {name}{known}")
    size = (pretrained.test_input_size or pretrained.input_size)[-1]
    # Published figures are of images as they are stored.
    data = {"dataset": "folder", "num_classes": pretrained.num_classes, "image_size": size, "exif_orientation": False}
    rest = {"augmentation": {}, "optimizer": {"lr": 1e-3}, "schedule": {"epochs": 1}, "loop": {"batch_size": 64}}
    recipe = {"task": "classification", "output": f"runs/{name}", "model": model, "data": data, **rest}
    return build_recipe(recipe, overrides, source=name)
