"""From a hand in an image to tensors, with augmentation that changes image, camera and hand alike."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastvit.models.skinning import ROOT
from fastvit.tasks.hand_mesh.recipe import HandAugmentationConfig
from fastvit.tasks.hand_mesh.sample import HandSample, project


class HandImages(Dataset):
    """The samples of a source as dicts of tensors.

    image: (3, S, S), normalised. joints: (21, 3) and vertices: (V, 3), in metres, relative to the joint `ROOT`, in the
    camera's frame. points: (21, 2), the joints in the image, which reaches from -1 to 1. root: (3,), in metres in the
    camera's frame. intrinsics: (3, 3), in pixels of `image`. rotations: (16, 3, 3) and shape: where they are known.

    Args:
        source: of `HandSample`s.
        image_size: S.
        mean, std: to normalise the colors with.
        augmentation: None for none. Draws from numpy's global random state, which the training loop seeds.
    """

    def __init__(
        self,
        source: Dataset,
        *,
        image_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augmentation: HandAugmentationConfig | None,
    ):
        self.source, self.image_size, self.augmentation = source, image_size, augmentation
        self.mean, self.std = (torch.tensor(each).view(3, 1, 1) for each in (mean, std))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample, color = self.source[index], np.ones(3)
        roll, zoom = 0.0, 1.0
        if self.augmentation:
            roll, zoom, color = draw(self.augmentation)
        sample = moved(sample, roll=roll, zoom=zoom, size=self.image_size)
        pixels = (np.asarray(sample.image, dtype=np.float32) * color.astype(np.float32)).clip(0, 255) / 255
        image = (torch.from_numpy(pixels).permute(2, 0, 1).contiguous() - self.mean) / self.std
        root = sample.joints[ROOT]
        numbers = {
            "joints": sample.joints - root,
            "vertices": sample.vertices - root,
            "points": project(sample.joints, sample.intrinsics) * 2 / self.image_size - 1,
            "root": root,
            "intrinsics": sample.intrinsics,
            "rotations": sample.rotations,
            "shape": sample.shape,
        }
        known = {name: torch.as_tensor(value).float() for name, value in numbers.items() if value is not None}
        return {"image": image, **known}


def draw(augmentation: HandAugmentationConfig) -> tuple[float, float, np.ndarray]:
    """A roll in radians, a zoom, and a factor for each color channel (3,)."""
    limit = min(2 * augmentation.rotation, 180.0)
    roll = float(np.clip(np.random.normal(0, 1) * augmentation.rotation, -limit, limit))
    if np.random.uniform() >= augmentation.rotation_prob:
        roll = 0.0
    zoom = 1 + float(np.clip(np.random.normal(0, 1), -1, 1)) * augmentation.scale
    return np.deg2rad(roll), zoom, np.random.uniform(1 - augmentation.color, 1 + augmentation.color, 3)


def moved(sample: HandSample, *, roll: float, zoom: float, size: int) -> HandSample:
    """The sample as a camera sees it that is rolled around its axis, with another zoom, in `size` x `size` pixels.

    Exact for a pinhole camera: the roll turns the hand around the camera's axis and the image around the principal
    point; the zoom, around the middle of the image, changes the intrinsics only.
    """
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    width, height = sample.image.size
    factor = size / max(width, height)
    resized = np.array([[factor, 0, (size - factor * width) / 2], [0, factor, (size - factor * height) / 2], [0, 0, 1]])
    middle = (1 - zoom) * size / 2
    zoomed = np.array([[zoom, 0, middle], [0, zoom, middle], [0, 0, 1]]) @ resized
    pixels = zoomed @ sample.intrinsics @ turn @ np.linalg.inv(sample.intrinsics)  # from old pixels to new ones
    rotations = sample.rotations
    if rotations is not None:
        rotations = np.concatenate([(turn @ rotations[0])[None].astype(rotations.dtype), rotations[1:]])
    return HandSample(
        image=sample.image.transform(
            (size, size), Image.Transform.AFFINE, np.linalg.inv(pixels)[:2].flatten(), Image.Resampling.BILINEAR
        ),
        intrinsics=zoomed @ sample.intrinsics,
        joints=sample.joints @ turn.T,
        vertices=sample.vertices @ turn.T,
        rotations=rotations,
        shape=sample.shape,
    )
