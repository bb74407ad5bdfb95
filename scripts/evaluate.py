"""Evaluate a trained model, as trained and fused for inference, and compare the two.

python scripts/evaluate.py runs/quickstart
python scripts/evaluate.py runs/quickstart/last.pt data.root=/data/elsewhere
python scripts/evaluate.py configs/classification/finetune.yaml --checkpoint fastvit_t8.pth.tar
python scripts/evaluate.py fastvit_t8.apple_in1k data.root=/data/imagenet data.image_size=320
torchrun --nproc-per-node 8 scripts/evaluate.py runs/fastvit_t8
python scripts/evaluate.py configs/robustness/all.yaml model.name=fastvit_t8.apple_in1k root=/data
"""

import argparse
import json
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from fastvit import fusion_error, reparameterize_model, robustness
from fastvit.allocator import keep_freed_memory
from fastvit.errors import RecipeError, RunError, exit_on_user_error
from fastvit.robustness.recipe import is_robustness_recipe, read_robustness_recipe
from fastvit.tasks import load_recipe, make_task, recipe_for_model
from fastvit.tasks.runs import open_run
from fastvit.tasks.task import Metrics, Task
from fastvit.timing import interleaved_latency
from fastvit.training.device import best_device
from fastvit.training.distributed import Processes, process_group
from fastvit.training.environment import environment
from fastvit.training.evaluation import evaluate
from fastvit.training.loaders import eval_loader

PICTURED_SAMPLES = 50
FORMS = ("unfused", "fused")


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with exit_on_user_error(), process_group() as processes:
        if is_robustness_recipe(Path(arguments.source)):
            processes.on_main(lambda: evaluate_robustness(arguments))
            return
        task, model, folder = find_model(arguments)
        folder = arguments.output or folder / folder_name(arguments.overrides)
        models = {"unfused": model, "fused": reparameterize_model(model)}
        models = {form: models[form] for form in FORMS if arguments.form in (form, "both")}
        val = task.build_datasets().val
        metrics = measure(task, models, val, processes)
        if not processes.is_main:
            return
        result = compare(task, models, metrics)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        last = list(models)[-1]
        task.draw(models[last].cpu(), some_samples(val)).savefig(folder / "predictions.png", dpi=120)
        details = task.write_details(metrics[last], folder)
        print(table(result, list(models)))
        written = (folder / "evaluation.json", folder / "predictions.png", *details)
        print("\nwritten:", *written, sep="\n  ")
        for line in task.notices():
            print(line)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder of a run, a checkpoint of a run, a recipe (.yaml), or a timm name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the recipe says")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="weights for a recipe or name: what load_checkpoint reads")
    weights.add_argument("--pretrained", action="store_true", help="weights for a recipe: the hub's")
    parser.add_argument("--form", choices=(*FORMS, "both"), default="both", help="which to evaluate (default: both)")
    parser.add_argument("--output", type=Path, help="folder of the results (default: the run's, or one in it)")
    return parser.parse_intermixed_args(argv)


def folder_name(overrides: Sequence[str]) -> str:
    """Results by other settings than the run's own go into a folder of their own, within the run's."""
    settings = [override for override in overrides if not override.startswith("output=")]
    return re.sub(r"[^\w.=,-]+", "_", ",".join(settings))[:100]


def find_model(arguments: argparse.Namespace) -> tuple[Task, nn.Module, Path]:
    """The task, the model in eval mode with its weights, and the folder of the run."""
    source = Path(arguments.source)
    if source.suffix in (".yaml", ".yml"):
        return model_of_recipe(arguments)
    if not source.exists() and "/" not in arguments.source and source.suffix != ".pt":
        return model_by_name(arguments)
    if arguments.checkpoint or arguments.pretrained:
        raise RunError("--checkpoint and --pretrained are for recipes; a run has its own weights")
    run = open_run(source, arguments.overrides)
    return run.task, run.model, run.path.parent


def model_of_recipe(arguments: argparse.Namespace) -> tuple[Task, nn.Module, Path]:
    """As `find_model`, with weights that no run of ours has written."""
    if not arguments.checkpoint and not arguments.pretrained:
        raise RecipeError(
            f"{arguments.source} is a recipe, which has no trained weights: add --checkpoint or --pretrained"
        )
    if (task := load_recipe(arguments.source, arguments.overrides).task) != "classification":
        raise RecipeError(f"{arguments.source}: for {task} there are no weights but those of runs; evaluate a run")
    start = {
        "pretrained": arguments.pretrained,
        "checkpoint": str(arguments.checkpoint) if arguments.checkpoint else None,
        "reset_head": False,
    }
    weights = [f"model.{key}={json.dumps(value)}" for key, value in start.items()]
    task = make_task(load_recipe(arguments.source, [*arguments.overrides, *weights]))
    return task, task.build_model().eval(), task.recipe.output


def model_by_name(arguments: argparse.Namespace) -> tuple[Task, nn.Module, Path]:
    """As `find_model`, of a classifier of timm's on a folder of images."""
    recipe = recipe_for_model(arguments.source, arguments.overrides, checkpoint=arguments.checkpoint)
    task = make_task(recipe)
    return task, task.build_model().eval(), recipe.output


def evaluate_robustness(arguments: argparse.Namespace) -> None:
    """Measure, and write into the recipe's output."""
    recipe = read_robustness_recipe(Path(arguments.source), arguments.overrides)
    if arguments.checkpoint or arguments.pretrained or arguments.form != "both":
        raise RecipeError("a robustness recipe says itself which model: set model.name, model.checkpoint, model.form")
    figures, missing = robustness.measure(recipe)
    summary = robustness.summarize(recipe, figures, missing)
    written = robustness.write(summary, figures, arguments.output or recipe.output)
    print(robustness.table(summary))
    print("\nwritten:", *written, sep="\n  ")


def measure(task: Task, models: dict[str, nn.Module], val: Dataset, processes: Processes) -> dict[str, Metrics]:
    """The metrics of each model over all validation data, in all processes."""
    recipe, device = task.recipe, best_device(processes.local_rank)
    keep_freed_memory(device)
    batch_size = max(recipe.loop.batch_size // (recipe.loop.accumulation * processes.count), 1)
    workers = recipe.data.workers
    batches = eval_loader(val, task.collate, batch_size=batch_size, workers=workers, processes=processes)
    return {
        form: evaluate(task, model.to(device), batches, device=device, processes=processes)
        for form, model in models.items()
    }


def compare(task: Task, models: dict[str, nn.Module], metrics: dict[str, Metrics]) -> dict[str, Any]:
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
    models: dict[str, nn.Module], input_size: tuple[int, int, int], device: torch.device
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


if __name__ == "__main__":
    main()
