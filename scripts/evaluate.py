"""Evaluate a trained model, as trained and fused for inference, and compare the two.

python scripts/evaluate.py runs/quickstart
python scripts/evaluate.py runs/quickstart/last.pt data.root=/data/elsewhere
python scripts/evaluate.py configs/classification/finetune.yaml --checkpoint fastvit_t8.pth.tar
"""

import argparse
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from fastvit import fusion_error, reparameterize_model
from fastvit.errors import RecipeError, RunError, exit_on_user_error
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.task import Task
from fastvit.timing import interleaved_latency
from fastvit.training.checkpoint import read_checkpoint
from fastvit.training.device import best_device
from fastvit.training.environment import environment
from fastvit.training.evaluation import evaluate
from fastvit.training.loaders import eval_loader
from fastvit.training.run_folder import RunFolder

PICTURED_SAMPLES = 50


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with exit_on_user_error():
        task, model, folder = find_model(arguments)
        val = task.build_datasets().val
        fused = reparameterize_model(model)
        result = compare(task, model, fused, val)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    task.draw(fused.cpu(), some_samples(val)).savefig(folder / "predictions.png", dpi=120)
    print(table(result))
    print(f"\nwritten: {folder / 'evaluation.json'}, {folder / 'predictions.png'}")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of a run, a checkpoint of a run, or a recipe (.yaml)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the recipe says")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="weights for a recipe: a file that load_checkpoint reads")
    weights.add_argument("--pretrained", action="store_true", help="weights for a recipe: the hub's")
    return parser.parse_intermixed_args(argv)


def find_model(arguments: argparse.Namespace) -> tuple[Task, nn.Module, Path]:
    """The task, the model in eval mode with its weights, and the folder for the results."""
    if arguments.source.suffix in (".yaml", ".yml"):
        return model_of_recipe(arguments)
    if arguments.checkpoint or arguments.pretrained:
        raise RunError("--checkpoint and --pretrained are for recipes; a run has its own weights")
    path = RunFolder(arguments.source).best if arguments.source.is_dir() else arguments.source
    checkpoint = read_checkpoint(path)
    task = make_task(load_recipe(checkpoint["recipe"], arguments.overrides))
    model = task.build_model(initial_weights=False).eval()
    try:
        model.load_state_dict(checkpoint.get("state_dict_ema", checkpoint["state_dict"]))
    except RuntimeError as error:
        raise RunError(f"the weights in {path} do not fit the model that the overrides describe") from error
    return task, model, path.parent


def model_of_recipe(arguments: argparse.Namespace) -> tuple[Task, nn.Module, Path]:
    """As `find_model`, with weights that no run of ours has written."""
    if not arguments.checkpoint and not arguments.pretrained:
        raise RecipeError(
            f"{arguments.source} is a recipe, which has no trained weights: add --checkpoint or --pretrained"
        )
    start = {
        "pretrained": arguments.pretrained,
        "checkpoint": str(arguments.checkpoint) if arguments.checkpoint else None,
        "reset_head": False,
    }
    recipe = load_recipe(
        arguments.source, [*arguments.overrides, *(f"model.{key}={json.dumps(value)}" for key, value in start.items())]
    )
    task = make_task(recipe)
    return task, task.build_model().eval(), recipe.output


def compare(task: Task, model: nn.Module, fused: nn.Module, val: Dataset) -> dict[str, Any]:
    """Metrics, parameters and latency of both forms, and how far they agree, ready for JSON."""
    device, recipe = best_device(), task.recipe
    models = {"unfused": model.to(device), "fused": fused.to(device)}
    batches = eval_loader(val, task.collate, batch_size=recipe.loop.batch_size, workers=recipe.data.workers)
    metrics = {name: evaluate(task, each, batches, device=device) for name, each in models.items()}
    latency = latency_ms(models, task.input_size, device)
    return {
        **{
            name: {
                **metrics[name].report(),
                "parameters": sum(parameter.numel() for parameter in each.parameters()),
                "latency_ms": latency[name],
            }
            for name, each in models.items()
        },
        "same_predictions": metrics["unfused"].same_predictions(metrics["fused"]),
        "fusion_error": fusion_error(model, fused, task.input_size),
        "speed_up": latency["unfused"] / latency["fused"],
        "input_size": task.input_size,
        "recipe": recipe.to_dict(),
        "environment": environment(),
    }


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


def table(result: dict[str, Any]) -> str:
    """The comparison, for people."""
    unfused, fused, machine = result["unfused"], result["fused"], result["environment"]
    rows = [("", "unfused", "fused")]
    rows += [(name.replace("_", " "), number(value), number(fused[name])) for name, value in unfused.items()]
    if result["same_predictions"] is not None:
        rows.append(("same predictions", "", f"{result['same_predictions']} of {unfused['samples']}"))
    rows.append(("fusion error", "", f"{result['fusion_error']:.1e}"))
    rows.append(("speed-up", "", f"{result['speed_up']:.2f}x"))
    lines = [f"{name:<18}{left:>12}{right:>18}" for name, left, right in rows]
    hardware = machine["gpu"] if machine["gpu"] != "none" else f"{machine['cpu']}, threads: {machine['threads']}"
    return "\n".join([*lines, f"(latency: median for one image on {hardware}, torch {machine['torch']})"])


def number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


if __name__ == "__main__":
    main()
