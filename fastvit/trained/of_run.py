"""A run, a checkpoint of one, or a recipe with weights."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fastvit.checkpoint_files import CheckpointError
from fastvit.deploy.sidecar import sha256
from fastvit.errors import RecipeError, RunError, require_packages
from fastvit.predictor import CLASSIFIERS
from fastvit.pretrained import create_pretrained, load_weights, read_config
from fastvit.recipes import load_recipe, make_task
from fastvit.reparam import reparameterize_model
from fastvit.trained.licence import licence_of, licence_of_recipe
from fastvit.trained.name import Kind, Options
from fastvit.trained.network import Trained
from fastvit.training.checkpoint import read_checkpoint
from fastvit.training.task import Task
from fastvit.weights import FusedCheckpoint

ADVICE = "give a file that you have with --checkpoint FILE"


def of_run(source: str, options: Options) -> Trained:
    """The best network of a run; of a checkpoint, its moving average if there is one. Raises UserError."""
    require_packages(f"reading the run {source}", "pydantic", extra="train")
    path = checkpoint_of(source)
    checkpoint = read_checkpoint(path)
    where = f"output={json.dumps(str(path.parent))}"  # the run may have moved since
    task = make_task(load_recipe(checkpoint["recipe"], [where, *options.overrides]))
    state = checkpoint.get("state_dict_ema", checkpoint["state_dict"])

    def load() -> nn.Module:
        model = task.build_model(initial_weights=False).eval()
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            described = (
                "the overrides describe" if options.overrides else "its recipe describes in this version of fastvit"
            )
            raise RunError(f"the weights in {path} do not fit the model that {described}") from error
        return model

    epoch = checkpoint.get("metrics", {}).get("epoch")
    epochs = f"epoch {epoch:.0f} of {task.recipe.total_epochs}, " if epoch else ""
    name, labels = path.resolve().parent.name, checkpoint.get("class_names")
    weights = f"{name}/{path.name}, {epochs}sha256 {sha256(path)}"
    own = {"name": name, "labels": labels, "weights": weights, "licence": licence_of_recipe(task.recipe)}
    return _of_task(source, task, options, Kind.RUN, **own, load=load)


def checkpoint_of(source: str) -> Path:
    """The file of weights of a run, or of one of its checkpoints."""
    return Path(source) / "best.pt" if Path(source).is_dir() else Path(source)


def run_of(checkpoint: Path) -> Trained | None:
    """The run that a checkpoint is from; None if it is a file of another kind."""
    try:
        read_checkpoint(checkpoint)
    except RunError:
        return None
    return of_run(str(checkpoint), Options())


def of_recipe(source: str, options: Options) -> Trained:
    """The network of a recipe with the weights of a file, of the hub, or random ones. Raises UserError."""
    require_packages(f"reading the recipe {source}", "pydantic", extra="train")
    start = options.which_weights(source)
    task = make_task(load_recipe(source, options.overrides).completed())
    recipe: Any = task.recipe
    if start == "pretrained":
        _require_pretrained(source, recipe)

    def load() -> nn.Module:
        model = task.build_model(initial_weights=False).eval()
        if start == "pretrained":
            weights = create_pretrained(recipe.model.name, advice=ADVICE, num_classes=recipe.data.num_classes)
            model.load_state_dict(weights.state_dict())
        elif options.checkpoint:
            return with_weights(model, options.checkpoint, advice="set data.num_classes to as many")
        return model

    run = run_of(options.checkpoint) if options.checkpoint else None
    words = words_for_weights(start, recipe.model.name, options.checkpoint)
    labels, licence = (run.labels, run.licence) if run else (None, licence_of(recipe.model.name, start))
    own = {"name": recipe.output.name, "labels": labels, "weights": words, "licence": licence}
    return _of_task(source, task, options, Kind.RECIPE, **own, load=load)


def with_weights(model: nn.Module, checkpoint: Path, *, advice: str) -> nn.Module:
    """The network with the weights of a file and its classifier; fused, where the file is.

    Raises RunError, with `advice` where the file has another number of classes.
    """
    try:
        try:
            load_weights(model, checkpoint)
        except FusedCheckpoint:
            model = reparameterize_model(model)
            load_weights(model, checkpoint)
    except CheckpointError as error:
        said = str(error).replace("pass reset_head=True to keep the model's own and load the rest", advice)
        raise RunError(said.replace(", or pass reset_head=True to keep its own", " in Python")) from error
    return model


def _require_pretrained(source: str, recipe: Any) -> None:
    if recipe.task != "classification":
        raise RecipeError(f"{source}: the hub has no weights for {recipe.task}: give those of a run with --checkpoint")
    config, _, _ = read_config(recipe.model.name, advice=ADVICE)
    if config["num_classes"] != recipe.data.num_classes:
        raise RecipeError(
            f"{source}: {recipe.model.name} has {config['num_classes']} classes, and data.num_classes is "
            f"{recipe.data.num_classes}: give the weights of a run with --checkpoint"
        )


def words_for_weights(start: str, name: str, checkpoint: Path | None, hub: str = "timm's hub") -> str:
    """Where weights come from, by what `Options.which_weights` says; without folders, since the words travel."""
    if checkpoint:
        return f"{checkpoint.name}, sha256 {sha256(checkpoint)}"
    return f"{hub}, {name}" if start == "pretrained" else "random"


def _of_task(
    source: str,
    task: Task,
    options: Options,
    kind: Kind,
    *,
    name: str,
    labels: Sequence[str] | None,
    weights: str,
    licence: str,
    load: Callable[[], nn.Module],
) -> Trained:
    recipe: Any = task.recipe
    architecture = None
    height, width = options.image_size or task.input_size[1:]
    count = getattr(recipe.data, "num_classes", 0)
    if not labels or len(labels) != count:
        labels = task.class_names or [str(label) for label in range(count)]
    if recipe.task in CLASSIFIERS:
        architecture = {"name": recipe.model.name.partition(".")[0], "options": {"num_classes": count}}
    return Trained(
        source=source,
        name=name,
        kind=kind,
        does=recipe.task,
        preprocessing=replace(task.preprocessing, height=height, width=width),
        labels=tuple(labels) if labels else None,
        weights=weights,
        architecture=architecture,
        task=task,
        load=load,
        licence=licence,
    )
