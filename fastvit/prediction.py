"""What a classifier, in any form, sees in image files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastvit import reparameterize_model
from fastvit.data.reading import IMAGE_SUFFIXES, is_image, read_image
from fastvit.deploy import FORMATS, Exported, Preprocessing, load
from fastvit.errors import DataError, ExportError
from fastvit.trained import find_trained

MOST_IMAGES_DRAWN = 12


@dataclass(frozen=True)
class Classifier:
    """Images (B, 3, H, W) -> logits (B, classes), `batch` of them at a time, and what goes before and after."""

    logits: Callable[[Tensor], Tensor]
    batch: int
    preprocessing: Preprocessing
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    path: Path
    labels: list[str]  # the most probable first
    probabilities: list[float]


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images, those of a folder sorted, with the folders in it."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"there is no image or folder {path}")
        inside = sorted(filter(is_image, path.rglob("*")))
        if path.is_dir() and not inside:
            raise DataError(f"there are no images in {path}: none of its files ends in {', '.join(IMAGE_SUFFIXES)}")
        found += inside if path.is_dir() else [path]
    return found


def find_classifier(model: str) -> Classifier:
    path = Path(model)
    if any(model.endswith(each.suffix) for each in FORMATS.values()) and (path.exists() or path.suffix != ".pt"):
        return exported_classifier(path, load(path))
    trained = find_trained(model)
    if trained.labels is None:
        raise ExportError(f"{model} is no classifier: fastvit evaluate draws the predictions of a run")
    network = reparameterize_model(trained.model)

    @torch.no_grad()
    def logits(images: Tensor) -> Tensor:
        return network(images)

    return Classifier(logits, 1, trained.preprocessing, trained.labels)


def exported_classifier(path: Path, network: Exported) -> Classifier:
    sidecar = network.sidecar
    missing = [name for name in ("preprocessing", "labels") if sidecar[name] is None]
    if missing:
        raise ExportError(f"{path} was exported without {' and '.join(missing)}: it cannot name what is in an image")
    preprocessing = Preprocessing.from_dict(sidecar["preprocessing"])
    return Classifier(network, sidecar["input"]["batch"][0], preprocessing, tuple(sidecar["labels"]))


def predict(classifier: Classifier, paths: Sequence[Path], top: int) -> Iterator[Prediction]:
    """In as few images at a time as the network takes; the last ones are repeated to fill their batch."""
    transform = classifier.preprocessing.transform()
    for start in range(0, len(paths), classifier.batch):
        some = paths[start : start + classifier.batch]
        images = torch.stack([transform(read_image(path)) for path in some])
        filled = torch.cat([images, images[-1:].expand(classifier.batch - len(some), -1, -1, -1)])
        probabilities = classifier.logits(filled)[: len(some)].softmax(dim=1)
        best = probabilities.topk(min(top, len(classifier.labels)))
        for path, values, indices in zip(some, best.values.tolist(), best.indices.tolist(), strict=True):
            yield Prediction(path, [classifier.labels[index] for index in indices], values)


def table(predictions: Sequence[Prediction]) -> str:
    """A block of lines for each image."""
    lines = []
    for prediction in predictions:
        lines.append(str(prediction.path))
        for label, probability in zip(prediction.labels, prediction.probabilities, strict=True):
            lines.append(f"  {probability:7.2%}  {label}")
    return "\n".join(lines)


def draw(predictions: Sequence[Prediction], path: Path) -> None:
    """The first images, and beside each its classes as bars."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExportError('the picture needs matplotlib: pip install "fastvit[train]", or say --no-picture') from error
    shown = predictions[:MOST_IMAGES_DRAWN]
    figure = Figure(figsize=(8, 1.8 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), 2, squeeze=False, width_ratios=(1, 2))
    for (left, right), prediction in zip(rows, shown, strict=True):
        left.imshow(read_image(prediction.path))
        left.set_axis_off()
        right.barh(prediction.labels, prediction.probabilities)
        right.invert_yaxis()  # the most probable on top
        right.set_xlim(0, 1)
        right.set_title(prediction.path.name, fontsize=9)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:
        raise ExportError(f"the picture {path} cannot be written ({error})") from error
