"""What a recipe would do, without doing it."""

from pathlib import Path

import torch
import yaml
from matplotlib.figure import Figure

from fastvit.data.grid import captioned_grid
from fastvit.data.lettering import legible
from fastvit.runtime.folders import beside, require_writable
from fastvit.runtime.randomness import Purpose, seed_everything
from fastvit.training.loaders import loader_of
from fastvit.training.log import say
from fastvit.training.optimizer import build_optimizer, describe_groups
from fastvit.training.recipe import Recipe
from fastvit.training.schedule import lr_schedule, weight_decay_schedule
from fastvit.training.task import Task

PICTURED_IMAGES = 30


def dry_run(task: Task, recipe: Recipe) -> Path:
    """Print the complete recipe and the parameter groups, and draw the schedules and the first batch.

    Returns:
        The folder of the pictures: the recipe's output with `-dry-run` added. The output itself is not touched.

    Raises:
        RunError: it cannot be written.
    """
    folder = beside(recipe.output, "-dry-run")
    require_writable(folder)
    seed_everything(recipe.seed, Purpose.WEIGHTS)
    model = task.build_model()
    groups = describe_groups(model, build_optimizer(model, recipe))
    data = task.open_data("train")
    loader = loader_of(task, data)
    batch = next(loader.batches(epoch=0))
    seed_everything(recipe.seed, Purpose.STEP, 0, 0)  # the mixing of the first step
    images, captions = task.labelled(batch, data.class_names)

    folder.mkdir(parents=True, exist_ok=True)
    picture = captioned_grid(images[:PICTURED_IMAGES], captions[:PICTURED_IMAGES], font=legible(captions)[1])
    picture.savefig(folder / "batch.png", dpi=120)
    _schedule_picture(recipe, loader.steps_per_epoch).savefig(folder / "schedule.png", dpi=120)
    say(yaml.safe_dump(recipe.to_dict(), sort_keys=False))
    say(groups)
    say(f"\n{loader.steps_per_epoch} steps per epoch, {recipe.total_epochs * loader.steps_per_epoch} in all")
    say(f"pictures: {folder / 'batch.png'}, {folder / 'schedule.png'}")
    return folder


def _schedule_picture(recipe: Recipe, steps_per_epoch: int) -> Figure:
    steps = torch.linspace(0, recipe.total_epochs * steps_per_epoch - 1, 1000).long().tolist()
    schedules = {
        "learning rate": lr_schedule(recipe, steps_per_epoch),
        "weight decay": weight_decay_schedule(recipe, steps_per_epoch),
    }
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (name, schedule) in zip(figure.subplots(1, 2), schedules.items(), strict=True):
        axes.plot([step / steps_per_epoch for step in steps], [schedule(step) for step in steps])
        axes.set_xlabel("epoch")
        axes.set_title(name)
        axes.grid(alpha=0.3)
    return figure
