"""A trained network on the validation data of its task, as trained and fused, side by side."""

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from fastvit.reparam import fusion_error, reparameterize_model
from fastvit.runtime.allocator import keep_freed_memory
from fastvit.runtime.device import best_device
from fastvit.runtime.environment import environment
from fastvit.runtime.processes import ALONE, Processes
from fastvit.runtime.timing import interleaved_latency
from fastvit.training.evaluation import evaluate
from fastvit.training.loaders import eval_loader
from fastvit.training.task import Metrics, Task

PICTURED_SAMPLES = 50
FORMS = ("unfused", "fused")


def evaluate_forms(
    task: Task, model: nn.Module, folder: Path, *, forms: Sequence[str] = FORMS, processes: Processes = ALONE
) -> tuple[dict[str, Any], list[Path], list[str]]:
    """Measure, and write evaluation.json, predictions.png and the task's details into a folder.

    Args:
        model: in train form and eval mode.
        forms: which of `FORMS` to measure.

    Returns:
        The result, as in evaluation.json; the files; and what the data has to say. Empty but in the main process.
    """
    models = {"unfused": model, "fused": reparameterize_model(model)}
    models = {form: models[form] for form in forms}
    data = task.open_data("val")
    metrics = measure(task, models, data.samples, processes)
    if not processes.is_main:
        return {}, [], []
    result = compare(task, models, metrics)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "evaluation.json", folder / "predictions.png"]
    written[0].write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    last = forms[-1]
    picture = task.draw(models[last].cpu(), some_samples(data.samples), data.class_names)
    picture.savefig(written[1], dpi=120)
    return result, [*written, *task.write_details(metrics[last], data, folder)], data.notices()


def measure(task: Task, models: Mapping[str, nn.Module], val: Dataset, processes: Processes) -> dict[str, Metrics]:
    """The metrics of each model over all validation data, in all processes."""
    recipe, device = task.recipe, best_device(processes.local_rank)
    keep_freed_memory(device)
    batch_size = max(recipe.loop.batch_size // (recipe.loop.accumulation * processes.count), 1)
    workers = recipe.data.workers
    batches = eval_loader(val, task.collate, batch_size=batch_size, workers=workers, processes=processes)
    on_device = [model.to(device) for model in models.values()]
    return dict(zip(models, evaluate(task, on_device, batches, device=device, processes=processes), strict=True))


def compare(task: Task, models: Mapping[str, nn.Module], metrics: dict[str, Metrics]) -> dict[str, Any]:
    """Metrics, parameters and latency of each form, and how far they agree, ready for JSON."""
    latency = latency_ms(models, task.input_size, best_device())
    result: dict[str, Any] = {
        form: {
            **metrics[form].report(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "latency_ms": latency[form],
        }
        for form, model in models.items()
    }
    if len(models) == len(FORMS):
        result["same_predictions"] = metrics["unfused"].same_predictions(metrics["fused"])
        comparable = (task.comparable(models[form]) for form in FORMS)
        result["fusion_error"] = fusion_error(*comparable, task.input_size)
        result["speed_up"] = latency["unfused"] / latency["fused"]
    return result | {"input_size": task.input_size, "recipe": task.recipe.to_dict(), "environment": environment()}


@torch.inference_mode()
def latency_ms(
    models: Mapping[str, nn.Module], input_size: tuple[int, int, int], device: torch.device
) -> dict[str, float]:
    """Median milliseconds of one image in float32."""
    image = torch.randn(1, *input_size, device=device)
    seconds = interleaved_latency({name: lambda model=model: model(image) for name, model in models.items()})
    return {name: 1000 * median(times) for name, times in seconds.items()}


def some_samples(dataset: Dataset) -> list[Any]:
    """Samples evenly spread over a dataset; of a stream, the first ones."""
    if isinstance(dataset, IterableDataset):
        return list(islice(dataset, PICTURED_SAMPLES))
    count = min(PICTURED_SAMPLES, len(dataset))
    return [dataset[i * len(dataset) // count] for i in range(count)]


def table(result: dict[str, Any], forms: Sequence[str]) -> str:
    """The comparison, for people."""
    rows = [("", *forms)]
    rows += [(name.replace("_", " "), *(number(result[form][name]) for form in forms)) for name in result[forms[0]]]
    if "fusion_error" in result:
        if result["same_predictions"] is not None:
            rows.append(("same predictions", "", f"{result['same_predictions']} of {result['unfused']['samples']}"))
        rows.append(("fusion error", "", f"{result['fusion_error']:.1e}"))
        rows.append(("speed-up", "", f"{result['speed_up']:.2f}x"))
    lines = [f"{name:<18}" + "".join(f"{value:>16}" for value in values) for name, *values in rows]
    machine = result["environment"]
    hardware = machine["gpu"] if machine["gpu"] != "none" else f"{machine['cpu']}, threads: {machine['threads']}"
    return "\n".join([*lines, f"(latency: median for one image on {hardware}, torch {machine['torch']})"])


def number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
