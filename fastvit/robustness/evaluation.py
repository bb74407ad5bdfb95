"""Measuring a classifier on all sets of a robustness recipe."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from timm.data import MaybeToTensor, create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import CenterCrop, Compose
from tqdm import tqdm

from fastvit import reparameterize_model
from fastvit.errors import DataError, RecipeError
from fastvit.robustness.corruptions import corrupt
from fastvit.robustness.recipe import RobustnessRecipe, SetConfig
from fastvit.robustness.sets import NUM_CLASSES, Part, parts_of
from fastvit.runtime.allocator import keep_freed_memory
from fastvit.runtime.device import best_device, to_device
from fastvit.runtime.randomness import Purpose, seeded
from fastvit.tasks.classification.task import Classification
from fastvit.tasks.network import NetworkConfig, build_network
from fastvit.trained import open_run


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    set: str
    corruption: str | None
    severity: int
    top1: float  # percent
    samples: int


class Classifier:
    """The recipe's model on its device, and how its images are prepared."""

    def __init__(self, recipe: RobustnessRecipe):
        source = recipe.model
        self.task: Classification | None = None
        if source.run:
            task, model, path, _ = open_run(source.run)
            if not isinstance(task, Classification):
                raise RecipeError(f"model.run: {path} is of task {task.recipe.task}, not of a classifier")
            self.task = task
            self.image_size, self.input = task.recipe.data.image_size, task.input
        else:
            config = NetworkConfig(name=source.name, pretrained=source.checkpoint is None, checkpoint=source.checkpoint)
            model = build_network(config, initial_weights=True)
            self.input = resolve_data_config(pretrained_cfg=model.pretrained_cfg)
            self.image_size = self.input["input_size"][-1]
        self.num_classes = model.num_classes
        self.device = best_device()
        keep_freed_memory(self.device)
        model.eval()
        self.model: nn.Module = (reparameterize_model(model) if source.form == "fused" else model).to(self.device)

    def transform(self, config: SetConfig) -> Compose:
        """From an image to a tensor, as timm evaluates, or with the center cropped only."""
        size = config.image_size or self.image_size
        names = ("crop_pct", "interpolation", "mean", "std")
        transform = create_transform(size, **{name: self.input[name] for name in names})
        return transform if config.resize else Compose([CenterCrop(size), *_halves(transform)[1].transforms])


def _halves(transform: Compose) -> tuple[Compose, Compose]:
    """timm's evaluation transform as resizing and cropping, and from the crop to the tensor."""
    steps = transform.transforms
    split = next(index for index, step in enumerate(steps) if isinstance(step, MaybeToTensor))
    return Compose(steps[:split]), Compose(steps[split:])


class CorruptedImages(Dataset):
    """Images of a source, resized and cropped, then corrupted, as ImageNet-C was made; the same whenever asked for."""

    def __init__(self, source: Dataset, transform: Compose, corruption: str | None, severity: int, seed: int):
        self.source, self.corruption, self.severity, self.seed = source, corruption, severity, seed
        self.crop, self.to_tensor = _halves(transform)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.source[index]
        image = self.crop(image.convert("RGB"))
        if self.corruption:
            with seeded(self.seed, Purpose.SAMPLE, index):
                image = corrupt(image, self.corruption, self.severity)
        return self.to_tensor(image), label


def measure(recipe: RobustnessRecipe) -> tuple[list[Figure], list[str]]:
    """Every figure of the recipe, and the names of the sets that are missing.

    Raises:
        UserError: the model or a set cannot be used.
    """
    present = {name: each for name, each in recipe.sets.items() if not each.folder or recipe.path(each).is_dir()}
    missing = [name for name in recipe.sets if name not in present]
    if missing and not (recipe.skip_missing and present):
        folder = recipe.path(recipe.sets[missing[0]])
        raise DataError(f"{folder} is not a folder: there are no images for {missing[0]}")
    classifier = Classifier(recipe)
    figures = []
    for name, config in present.items():
        for part in _parts(classifier, recipe, name, config):
            top1, samples = accuracy(classifier, part, batch_size=recipe.batch_size, workers=recipe.workers)
            figures.append(Figure(name, part.corruption, part.severity, top1, samples))
    return figures, missing


def _parts(classifier: Classifier, recipe: RobustnessRecipe, name: str, config: SetConfig) -> Iterator[Part]:
    transform = classifier.transform(config)
    if config.kind != "corrupted_validation":
        if classifier.num_classes != NUM_CLASSES:
            raise RecipeError(
                f"{name} is about ImageNet's {NUM_CLASSES} classes, the model knows {classifier.num_classes}"
            )
        yield from parts_of(config, recipe.path(config), transform)
        return
    source = classifier.task.open_data("val").samples.source
    yield Part(None, 0, CorruptedImages(source, transform, None, 0, recipe.seed))
    for corruption in config.corruptions:
        for severity in config.severities:
            yield Part(corruption, severity, CorruptedImages(source, transform, corruption, severity, recipe.seed))


@torch.inference_mode()
def accuracy(classifier: Classifier, part: Part, *, batch_size: int, workers: int) -> tuple[float, int]:
    """Top-1 in percent, and of how many images."""
    loader = DataLoader(part.images, batch_size, num_workers=workers)
    hits, samples = 0, 0
    description = f"{part.corruption} {part.severity}" if part.corruption else "images"
    for images, labels in tqdm(loader, desc=description, leave=False, disable=None):
        images, labels = to_device((images, labels), classifier.device)
        logits = classifier.model(images)
        if part.classes is not None:
            logits = logits[:, part.classes.to(logits.device)]
        predicted = logits.argmax(1)
        right = labels.gather(1, predicted[:, None]) if labels.ndim == 2 else predicted == labels
        hits, samples = hits + int(right.sum()), samples + len(images)
    return 100 * hits / samples, samples
