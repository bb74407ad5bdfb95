"""Suite `loader`: images a second that worker processes make, ours beside timm's loader, from the same files.

Measured is what reaches the main process of the training data of a recipe: read, decoded, augmented, put together as
batches of pixels. What the device does to them is not part of it. The loaders take turns, an epoch each, and only one
works at a time.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from PIL import Image
from pydantic import PositiveInt
from timm.data import FastCollateMixup, ImageDataset, create_loader
from timm.data.loader import fast_collate

from fastvit.benchmark.machine import cores
from fastvit.benchmark.report import markdown
from fastvit.benchmark.special import cells
from fastvit.config import Section, UserPath
from fastvit.errors import RunError
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.classification.augmentation import build_mixup
from fastvit.tasks.classification.task import Classification
from fastvit.training.loaders import loader_of

PHOTO_SIZE = (500, 375)  # of most of ImageNet's
BASELINE = "timm"
BATCHES_OF_EACH = 8  # of a worker in an epoch


class LoaderSuite(Section):
    """What to load."""

    measures: Literal["loader"]
    title: str
    output: UserPath
    recipe: str  # of a classification
    root: UserPath | None = None  # a folder of images; null: photographs of scikit-learn, as JPEG files
    images: PositiveInt = 1024  # how many are made at least, without a root
    batch_size: PositiveInt = 32  # small, so that an epoch has many
    workers: tuple[PositiveInt | Literal["all"], ...] = (1, "all")  # all: one for each core
    rounds: PositiveInt = 5


SUITE = LoaderSuite
Epoch = Callable[[int], Iterable[Any]]  # the batches of an epoch, by its number


def measure(suite: LoaderSuite) -> Iterator[dict[str, Any]]:
    """Images a second of each loader in each round, for each number of workers."""
    numbers = list(dict.fromkeys(cores() if each == "all" else each for each in suite.workers))
    rates: dict[int, dict[str, list[float]]] = {}
    with _files(suite, max(numbers)) as root:
        for workers in numbers:
            loaders = _loaders(suite, root, workers)
            rates[workers] = {name: [] for name in loaders}
            for number, (name, epoch) in itertools.product(range(suite.rounds), loaders.items()):
                rates[workers][name].append(images_per_second(epoch(number), workers))
            yield {"images_per_second": rates}


def images_per_second(batches: Iterable[tuple[Any, Any]], workers: int) -> float:
    """From the last of the first wave on: the first batches of all workers come together.

    Raises RunError where nothing comes after them.
    """
    batches = iter(batches)
    for _ in itertools.islice(batches, workers):
        pass
    start = time.perf_counter()
    images = sum(len(labels) for _, labels in batches)
    if not images:
        raise RunError(f"an epoch needs more batches than there are workers ({workers}): give more images")
    return images / (time.perf_counter() - start)


def table(result: dict[str, Any]) -> str:
    """A row for each number of workers and each loader."""
    rows: list[tuple[str, ...]] = [("workers", "loader", "images/s", "from", "to", f"x {BASELINE}")]
    for workers, rates in result["images_per_second"].items():
        rows += [(f"{workers}", name, *cells(rates, name, BASELINE)) for name in rates]
    machine = result["environment"]
    return f"{markdown(rows)}\n\n{machine['cpu']}, {machine['cpu_count']} cores, torch {machine['torch']}"


def _loaders(suite: LoaderSuite, root: Path, workers: int) -> dict[str, Epoch]:
    classes = sum(1 for folder in (root / "train").iterdir() if folder.is_dir())
    data = [f"data.root={root}", f"data.num_classes={classes}", f"data.workers={workers}"]
    batch = [f"loop.batch_size={suite.batch_size}", "loop.accumulation=1", "optimizer.lr_batch_size=null"]
    task = make_task(load_recipe(suite.recipe, [*data, *batch]))
    loaders = {"ours": _ours(task), BASELINE: _timms(task, fast_collate)}
    if task.augment.mixup:
        loaders["timm, mixing in the workers"] = _timms(task, build_mixup(task.recipe, FastCollateMixup))
    return loaders


def _ours(task: Classification) -> Epoch:
    return loader_of(task, task.open_data("train")).batches


def _timms(task: Classification, collate: Callable[..., Any]) -> Epoch:
    """timm's loader as its training script makes it, except for the part that is for the device."""
    recipe = task.recipe
    loader = create_loader(
        ImageDataset(str(recipe.data.root / "train")),
        task.input_size,
        recipe.loop.batch_size,
        is_training=True,
        **task.transform_options,
        num_workers=recipe.data.workers,
        collate_fn=collate,
        device=torch.device("cpu"),
    )
    return lambda epoch: loader.loader


@contextmanager
def _files(suite: LoaderSuite, workers: int) -> Iterator[Path]:
    """The folder of the suite, or one of photographs, enough for so many workers."""
    if suite.root:
        yield suite.root
        return
    with TemporaryDirectory() as folder:
        root = Path(folder)
        _write_photographs(root / "train", max(suite.images, BATCHES_OF_EACH * workers * suite.batch_size))
        yield root


def _write_photographs(folder: Path, count: int) -> None:
    """Parts of two photographs, of the size that most of ImageNet has, as JPEG files in two classes."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]  # 640 x 427
    for number in range(count):
        photograph = photographs[number % 2]
        left, top = number % (photograph.width - PHOTO_SIZE[0]), number % (photograph.height - PHOTO_SIZE[1])
        part = photograph.crop((left, top, left + PHOTO_SIZE[0], top + PHOTO_SIZE[1]))
        path = folder / f"class {number % 2}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.save(path, quality=95)
