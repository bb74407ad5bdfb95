"""A trained network on the validation data of its task; as trained and as fused, side by side."""

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from tqdm import tqdm

from fastvit.compare import fusion_error
from fastvit.data.notices import sentences
from fastvit.errors import DataError, RunError, some
from fastvit.explain import grad_cam
from fastvit.predictor import CLASSIFIERS, IMAGE_CLASSIFICATION, IMAGE_MULTI_LABEL
from fastvit.recipes import build_recipe, make_task
from fastvit.reparam import reparameterize_model
from fastvit.runtime.device import autocast, best_device, cuda_kernels
from fastvit.runtime.environment import environment, name_of
from fastvit.runtime.folders import require_writable
from fastvit.runtime.processes import ALONE, Processes
from fastvit.runtime.timing import interleaved_latency
from fastvit.trained import Kind, Trained
from fastvit.trained.of_timm import imagenet_classes
from fastvit.training.evaluation import evaluate
from fastvit.training.loaders import eval_loader
from fastvit.training.task import Metrics, Network, Task

if TYPE_CHECKING:
    from fastvit.training.recipe import Recipe

FORMS = ("unfused", "fused")
FEW = 0.1  # of the names of classes
SETTLED_BY_RECIPES = ("segmentation", "hand_mesh")  # what a validation image goes through, and the metrics


def task_of(trained: Trained, overrides: Sequence[str] = ()) -> Task:
    """The task to evaluate a network with: its own or, of a classifier that has none, one on a folder of images.

    Raises:
        UserError: it does not say what it was trained for, or the overrides do not say where the images are.
    """
    if trained.task is not None:
        return trained.task
    if trained.recipe:
        return make_task(_recipe_of_file(trained, overrides))
    if trained.does in SETTLED_BY_RECIPES:
        raise RunError(f"{trained.source} was exported without its recipe: export it again, or evaluate its run")
    if trained.does in (IMAGE_CLASSIFICATION, IMAGE_MULTI_LABEL):
        raise RunError(
            f"{trained.source} takes one image as it is: evaluate its run, or a file that was exported with "
            "--preprocessing outside"
        )
    if trained.does not in CLASSIFIERS or trained.preprocessing is None or trained.labels is None:
        raise RunError(f"{trained.source} is no classifier, or does not say what images go through: evaluate its run")
    stated = trained.preprocessing
    if stated.height != stated.width:
        raise RunError(f"{trained.source} takes images of {stated.width}x{stated.height}: only squares are evaluated")
    data = stated.to_dict() | {
        "dataset": "folder",
        "num_classes": len(trained.labels),
        # A table may have some of the labels only. (Those of one label an image may have other names than the images'.)
        "classes": list(trained.labels) if trained.does == "multi_label" else None,
        "image_size": stated.height,
        "exif_orientation": not _are_imagenet(trained.labels),  # its published figures are of images as stored
    }
    recipe = {
        "task": trained.does,
        "output": f"runs/{trained.name}",
        "data": {key: value for key, value in data.items() if key not in ("height", "width")},
        # A recipe has these; here nothing follows from them.
        "model": {"name": (trained.architecture or {"name": "fastvit_t8"})["name"]},
        "augmentation": {},
        "optimizer": {"lr": 1e-3},
        "schedule": {"epochs": 1},
        "loop": {"batch_size": 64},
    }
    return make_task(_by_name(build_recipe(recipe, overrides, source=trained.source), trained.labels))


def _are_imagenet(labels: Sequence[str]) -> bool:
    """Whether these are ImageNet's classes, by their synsets or their names, but for a few."""
    classes = imagenet_classes(len(labels))
    known = {*classes, *classes.values()}
    return bool(known) and sum(label not in known for label in labels) < FEW * len(labels)


def _are_numbers(labels: Sequence[str]) -> bool:
    """Whether they are 0, 1, 2, ..., as of a network whose classes nobody has named."""
    return list(labels) == [str(number) for number in range(len(labels))]


def _by_name(recipe: Any, labels: Sequence[str]) -> "Recipe":
    """The recipe with the network's own classes, where the images have their names: some may have no image."""
    if recipe.data.classes or recipe.data.dataset != "folder":
        return recipe
    if _are_numbers(labels) and list(labels) != sorted(labels):  # the folders may have been learned sorted
        return recipe
    named = recipe.model_copy(update={"data": recipe.data.model_copy(update={"classes": tuple(labels)})})
    try:
        named.open_images(training=False)
    except DataError:  # other names, or other classes: what is wrong is told when they are opened as they are
        return recipe
    return named


def _recipe_of_file(trained: Trained, overrides: Sequence[str]) -> "Recipe":
    """The recipe that an exported file has with it, for what computes in float32, and with the names of its classes."""
    recipe: dict[str, Any] = {**trained.recipe, "output": f"runs/{trained.name}"}
    recipe["loop"] = {**recipe["loop"], "precision": "float32"}
    if trained.labels:
        recipe["data"] = {**recipe["data"], "class_names": list(trained.labels)}
    return build_recipe(recipe, overrides, source=trained.source)


def evaluate_forms(
    trained: Trained,
    task: Task,
    folder: Path,
    *,
    forms: Sequence[str] = FORMS,
    explain: bool = False,
    processes: Processes = ALONE,
) -> tuple[dict[str, Any], list[Path], list[str]]:
    """Measure, and write evaluation.json, predictions.png, mistakes.png and the task's details into a folder.

    Computed in the precision of the task's recipe; exported files in their own.

    Args:
        task: from `task_of`.
        forms: some of `FORMS`; exported files have one, "exported", and fused weights "fused" alone.
        explain: show in mistakes.png where the network has looked, by `fastvit.explain`.

    Returns:
        The result, as in evaluation.json; the files; and what the data has to say. Empty but in the main process.

    Raises:
        UserError: the data is missing, or is of other classes; or the weights are; or nothing can be explained.
    """
    processes.on_main(lambda: require_writable(folder))
    data = task.open_data("val")
    _require_same_classes(trained, data.class_names, stated=bool(getattr(task.recipe.data, "classes", None)))
    models = _forms(trained, forms)
    form, model = list(models.items())[-1]
    if explain:
        grad_cam(model, torch.zeros(1, *task.input_size))  # fails before the long work, if it fails
    metrics = measure(task, models, data.samples, processes)
    notices = sentences(processes.union(data.notices()))
    if not processes.is_main:
        return {}, [], []
    result = compare(task, models, metrics, _input_size(trained, task))
    result |= {"source": trained.source, "weights": trained.weights}
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "evaluation.json", folder / "predictions.png"]
    written[0].write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    shown = some_samples(data.samples, task.pictured)
    picture = task.draw(_on(model, torch.device("cpu")), shown, data.class_names)
    picture.savefig(written[1], dpi=120)
    if mistakes := task.draw_mistakes(metrics[form], data, explain_with=model if explain else None):
        written.append(folder / "mistakes.png")
        mistakes.savefig(written[-1], dpi=120)
    elif explain:
        notices.append("--explain: there is no mistakes.png, because no image is wrong, or the images are a stream")
    return result, [*written, *task.write_details(metrics[form], data, folder)], notices


def _forms(trained: Trained, forms: Sequence[str]) -> dict[str, Network]:
    if trained.kind is Kind.FILE:
        return {"exported": trained.network}
    if trained.is_fused and "fused" not in forms:
        raise RunError(f"{trained.source}: the weights are fused, and there is no other form of them: leave out --form")
    models = {"unfused": trained.module, "fused": reparameterize_model(trained.module)}
    return {form: models[form] for form in forms if form == "fused" or not trained.is_fused}


def _require_same_classes(trained: Trained, names: Sequence[str] | None, *, stated: bool) -> None:
    """Labels are positions among the names: with the same ones in another order all would be wrong.

    A few may differ: ImageNet has two cranes, and each source of it has other names to tell them apart.

    Args:
        stated: whether the recipe names the classes, in order; who has no names in the network has them there.
    """
    if not names or not trained.labels or not set(names) & set(trained.labels):
        return
    unnamed = trained.task is None and _are_numbers(trained.labels)
    if unnamed and stated and len(names) == len(trained.labels):
        return
    different = [(own, other) for own, other in zip(trained.labels, names, strict=False) if own != other]
    moved = {own for own, _ in different} & {other for _, other in different}
    if len(names) == len(trained.labels) and not moved and len(different) < FEW * len(names):
        return
    what = f"{len(trained.labels)} there, {len(names)} here"
    if different:
        what = some([f"{own} is {other}" for own, other in different])
    hint = "; name the folders in the network's order: data.classes=[...]" if unnamed else ""
    raise DataError(f"the classes of {trained.source} are not those of the images: {what}{hint}")


def _device(models: Mapping[str, Network], local_rank: int = 0) -> torch.device:
    on_cpu = any(not isinstance(model, nn.Module) for model in models.values())  # where exported files are at home
    return torch.device("cpu") if on_cpu else best_device(local_rank)


def _on(model: Network, device: torch.device) -> Network:
    return model.to(device) if isinstance(model, nn.Module) else model


def measure(task: Task, models: Mapping[str, Network], val: Dataset, processes: Processes) -> dict[str, Metrics]:
    """The metrics of each model over all validation data, in all processes."""
    recipe, device = task.recipe, _device(models, processes.local_rank)
    batch_size = max(recipe.loop.batch_size // (recipe.loop.accumulation * processes.count), 1)
    workers = recipe.data.workers
    batches = eval_loader(val, task.collate, batch_size=batch_size, workers=workers, processes=processes, device=device)
    shown = tqdm(batches, desc="evaluating", unit="batch", leave=False, disable=None if processes.is_main else True)
    on_device = [_on(model, device) for model in models.values()]
    precision = recipe.loop.precision
    metrics = evaluate(task, on_device, shown, device=device, precision=precision, processes=processes)
    return dict(zip(models, metrics, strict=True))


def _input_size(trained: Trained, task: Task) -> tuple[int, int, int]:
    """(channels, height, width) of a typical image; of an exported file, those that it was exported for."""
    stated = trained.preprocessing
    return (3, stated.height, stated.width) if trained.kind is Kind.FILE and stated else task.input_size


def compare(
    task: Task, models: Mapping[str, Network], metrics: Mapping[str, Metrics], input_size: tuple[int, int, int]
) -> dict[str, Any]:
    """Metrics, parameters and latency of each form, and how far they agree, ready for JSON."""
    latency = latency_ms(models, task, input_size)
    result: dict[str, Any] = {}
    for form, model in models.items():
        result[form] = metrics[form].report()
        if isinstance(model, nn.Module):
            result[form]["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        result[form]["latency_ms"] = latency[form]
    if len(models) == len(FORMS):
        result["same_predictions"] = metrics["unfused"].same_predictions(metrics["fused"])
        unfused, fused = (task.comparable(models[form]) for form in FORMS)
        result["fusion_error"] = fusion_error(unfused, fused, input_size)
        result["speed_up"] = latency["unfused"] / latency["fused"]
    return result | {
        "precision": task.recipe.loop.precision,
        "input_size": input_size,
        "device": name_of(_device(models)),
        "recipe": task.recipe.to_dict(),
        "environment": environment(),
    }


@torch.inference_mode()
def latency_ms(models: Mapping[str, Network], task: Task, input_size: tuple[int, int, int]) -> dict[str, float]:
    """Median milliseconds of one image, in the recipe's precision."""
    device, loop = _device(models), task.recipe.loop
    image = torch.randn(1, *input_size, device=device)
    with autocast(device, loop.precision), cuda_kernels(tf32=loop.tf32, benchmark=loop.cudnn_benchmark):
        seconds = interleaved_latency({name: lambda model=model: model(image) for name, model in models.items()})
    return {name: 1000 * median(times) for name, times in seconds.items()}


def some_samples(dataset: Dataset, count: int) -> list[Any]:
    """So many samples evenly spread over a dataset, or all that it has; of a stream, the first ones."""
    if isinstance(dataset, IterableDataset):
        return list(islice(dataset, count))
    count = min(count, len(dataset))
    return [dataset[i * len(dataset) // count] for i in range(count)]


def table(result: dict[str, Any]) -> str:
    """The result, for people."""
    forms = [form for form in (*FORMS, "exported") if form in result]
    rows = [("", *forms)]
    rows += [(name.replace("_", " "), *(number(result[form][name]) for form in forms)) for name in result[forms[0]]]
    if "fusion_error" in result:
        if result["same_predictions"] is not None:
            rows.append(("same predictions", "", f"{result['same_predictions']} of {result['unfused']['samples']}"))
        rows.append(("fusion error", "", f"{result['fusion_error']:.1e}"))
        rows.append(("speed-up", "", f"{result['speed_up']:.2f}x"))
    lines = [f"{name:<18}" + "".join(f"{value:>16}" for value in values) for name, *values in rows]
    weights = result["weights"].partition(", sha256")[0]
    where = f"{result['device']}, torch {result['environment']['torch']}"
    how = f"in {result['precision']}; latency: median for one image on {where}"
    return "\n".join([f"{weights}:", *lines, f"({how})"])


def number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
