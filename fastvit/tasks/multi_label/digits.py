"""The demo: which digits are in a scene?"""

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastvit.data.digit_scenes import DigitScenes
from fastvit.data.digits import Digits


class LabelledScenes(Dataset):
    """Scenes of several digits, with a label for each digit that is in one: (10,) of 0 and 1."""

    classes = Digits.classes

    def __init__(self, *, train: bool, count: int, size: int):
        self.scenes = DigitScenes(train=train, count=count, size=size)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor]:
        scene = self.scenes[index]
        labels = torch.zeros(len(self.classes))
        labels[scene.digits] = 1
        return scene.image, labels
