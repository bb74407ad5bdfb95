"""A small teacher, images in folders, and recipes that learn from it: for the tests of stored answers."""

from pathlib import Path

import timm
import torch
from torchvision.transforms.functional import to_tensor

from fastvit.data.digits import Digits
from fastvit.tasks import load_recipe, make_task
from fastvit.training.engine import Trainer
from reference import randomize

IMAGES, BATCH, EPOCHS = 74, 24, 2  # three steps in an epoch, and two images left
AUGMENTATION = "mixup: 0.8, cutmix: 1.0, reprob: 0.5, auto_augment: rand-m9-mstd0.5-inc1, smoothing: 0.1"
TEACHER = "teacher.pt"


def write_digits(root: Path) -> None:
    """Digits as files."""
    for split, count in (("train", IMAGES), ("val", 50)):
        digits = Digits(train=split == "train", image_size=40)
        for index in range(count):
            image, label = digits[index]
            (root / split / str(label)).mkdir(parents=True, exist_ok=True)
            image.save(root / split / str(label) / f"{index}.png")


def write_teacher(root: Path) -> None:
    """A teacher whose answers differ from image to image: random, but no class is favoured."""
    torch.manual_seed(0)
    model = randomize(timm.create_model("test_byobnet", num_classes=10)).eval()
    with torch.no_grad():
        classifier = model.get_classifier()
        classifier.bias.zero_()
        digits = torch.stack([to_tensor(image) for image in Digits(train=False, image_size=32).images[:100]])
        classifier.bias.copy_(-model(3 * digits - 2).mean(0))
    torch.save(model.state_dict(), root / TEACHER)


def recipe_of(root: Path, output: Path, *overrides: str):
    """A recipe with a live teacher.

    Args:
        root: where `write_digits` and `write_teacher` wrote.
    """
    settings = (
        f"output={output}",
        f"data={{dataset: folder, root: {root}, num_classes: 10, image_size: 32, workers: 0}}",
        f"augmentation={{{AUGMENTATION}}}",
        f"distillation={{teacher: {{name: test_byobnet, checkpoint: {root / TEACHER}}}}}",
        f"loop={{batch_size: {BATCH}}}",
        f"schedule={{epochs: {EPOCHS}}}",
        "model={name: test_byobnet}",
    )
    return load_recipe("quickstart/digits", [*settings, *overrides])


def taught(recipe, path: Path, *overrides: str):
    """The same recipe, which reads the answers of a file."""
    return recipe(f"distillation.answers={path}", "distillation.teacher=null", *overrides)


def start_training(recipe) -> None:
    """As far as the first batch."""
    trainer = Trainer(make_task(recipe), recipe, None)
    next(iter(trainer.task.training_batches(trainer.batches, 0, 0)))
