"""Images of one color for each of ImageNet's classes, and a classifier that knows the colors."""

from types import SimpleNamespace

import torch
from PIL import Image
from torch import nn

from fastvit.robustness.classifier import Classifier
from fastvit.robustness.evaluation import Meter
from fastvit.robustness.recipe import SetConfig
from fastvit.robustness.sets import FileReader, parts_of
from fastvit.runtime.processes import ALONE

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bilinear", "crop_pct": 1.0, "input_size": (3, 32, 32)}


def color_of(index):
    return 25 * (index // 100), 25 * (index // 10 % 10), 25 * (index % 10)


CODE = torch.tensor([color_of(index) for index in range(1000)]) / 255


class ReadsColors(nn.Module):
    """Tells a class by the mean color of the image, and knows which is the nearest."""

    def forward(self, images):
        return -torch.cdist(images.mean((2, 3)), CODE)


class ColorClassifier:
    """In place of a trained model."""

    device, num_classes, image_size, input = torch.device("cpu"), 1000, 32, PLAIN
    transform, geometry = Classifier.transform, Classifier.geometry

    def __init__(self, model=None):
        self.model = model or ReadsColors()


def draw(path, index):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), color_of(index)).save(path, "PNG")


def config(kind, **settings):
    return SetConfig(kind=kind, folder="set", **settings)


def meter(readers, model=None, processes=ALONE, **settings):
    defaults = {"batch_size": 64, "workers": 0, "precision": "float32", "channels_last": False}
    return Meter(SimpleNamespace(**defaults | settings), ColorClassifier(model), readers, processes)


def top1_of(kind, folder, **settings):
    """Of each part of a set."""
    settings = config(kind, **settings)
    measure = meter({"set": FileReader(ColorClassifier().transform(settings))})
    return [measure.accuracy("set", part)[0] for part in parts_of(settings, folder)]
