"""Suite `distillation`: the time of a training step with a live teacher, with stored answers, and without either."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import timm
import torch
from pydantic import PositiveInt

from fastvit.benchmark.machine import hardware
from fastvit.benchmark.report import markdown
from fastvit.benchmark.special import cells
from fastvit.benchmark.work import macs
from fastvit.config import Section, UserPath
from fastvit.runtime.allocator import keep_freed_memory
from fastvit.runtime.device import best_device, cuda_kernels
from fastvit.runtime.timing import interleaved_latency
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.classification.distillation import Teacher
from fastvit.tasks.classification.recipe import ClassificationRecipe
from fastvit.tasks.classification.task import Classification
from fastvit.training.learner import Learner

BASELINE = "none"
STEPS_PER_EPOCH = 1000  # of the schedules, which do not matter here


class DistillationSuite(Section):
    """Whose steps to time."""

    measures: Literal["distillation"]
    title: str
    output: UserPath
    recipes: tuple[str, ...]  # with a teacher
    batch_size: PositiveInt  # of a step, without accumulation
    image_size: PositiveInt | None = None  # null: the recipe's
    rounds: PositiveInt = 12
    warmup: PositiveInt = 2


SUITE = DistillationSuite


def measure(suite: DistillationSuite) -> Iterator[dict[str, Any]]:
    """Seconds of each step, and the multiply-accumulates of a forward pass of student and teacher, by recipe."""
    keep_freed_memory(best_device())
    results = {}
    for name in suite.recipes:
        overrides = [f"loop.batch_size={suite.batch_size}", "loop.accumulation=1", "optimizer.lr_batch_size=null"]
        if suite.image_size:
            overrides.append(f"data.image_size={suite.image_size}")
        recipe = load_recipe(name, overrides)
        teacher = timm.create_model(recipe.distillation.teacher.name, num_classes=recipe.data.num_classes)
        size = make_task(recipe).input_size
        student = make_task(recipe).build_model(initial_weights=False)
        with cuda_kernels(tf32=recipe.loop.tf32, benchmark=recipe.loop.cudnn_benchmark):
            seconds = interleaved_latency(_steps(recipe, teacher), rounds=suite.rounds, warmup=suite.warmup)
        results[name] = {
            "student": recipe.model.name,
            "teacher": recipe.distillation.teacher.name,
            "macs": {"student": macs(student, size), "teacher": macs(teacher, size)},
            "seconds": seconds,
        }
        yield {"recipes": results}


def table(result: dict[str, Any]) -> str:
    """A row for each recipe and way to learn."""
    rows: list[tuple[str, ...]] = [("student", "teacher", "ms a step", "from", "to", f"x {BASELINE}", "x by MACs")]
    for each in result["recipes"].values():
        work = dict.fromkeys(each["seconds"], 3 * each["macs"]["student"])  # backward is twice the forward pass
        work["live"] += each["macs"]["teacher"]
        ms = {name: [1000 * value for value in seconds] for name, seconds in each["seconds"].items()}
        for name in ms:
            rows.append((each["student"], name, *cells(ms, name, BASELINE), f"{work[name] / work[BASELINE]:.2f}"))
    machine, suite = result["environment"], result["suite"]
    where = f"{hardware('cpu' if machine['gpu'] == 'none' else 'cuda', machine)}, {machine['threads']} threads"
    return f"{markdown(rows)}\n\n{where}, torch {machine['torch']}, batch {suite['batch_size']}"


def _steps(recipe: ClassificationRecipe, teacher: torch.nn.Module) -> dict[str, Callable[[], Any]]:
    """A training step of the same student, taught in each way."""
    size = make_task(recipe).input_size
    images = torch.randint(256, (recipe.loop.batch_size, *size), dtype=torch.uint8)
    labels = torch.arange(recipe.loop.batch_size) % recipe.data.num_classes
    none = make_task(recipe.model_copy(update={"distillation": None}))
    live, stored = make_task(recipe), make_task(recipe)
    device = best_device()
    memory_format = torch.channels_last if recipe.loop.channels_last else torch.preserve_format
    live.teacher = Teacher(teacher, torch.ones(3), torch.zeros(3)).to(device, memory_format=memory_format)
    return {
        BASELINE: _step(none, (images, labels)),
        "stored": _step(stored, (images, labels, (labels[:, None],))),
        "live": _step(live, (images, labels)),
    }


def _step(task: Classification, batch: tuple[Any, ...]) -> Callable[[], Any]:
    device, channels_last = best_device(), task.recipe.loop.channels_last
    memory_format = torch.channels_last if channels_last else torch.preserve_format
    model = task.build_model(initial_weights=False).to(device, memory_format=memory_format).train()
    learner = Learner(task, model, task.recipe, device=device, steps_per_epoch=STEPS_PER_EPOCH)

    return lambda: learner.step(STEPS_PER_EPOCH, [batch])
