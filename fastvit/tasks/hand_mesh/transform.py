"""From a hand in an image to tensors, with augmentation that changes image, camera and hand alike."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastvit.data.normalization import Normalization
from fastvit.models.skinning import ROOT
from fastvit.tasks.hand_mesh.sample import HandSample, project

if TYPE_CHECKING:
    from fastvit.tasks.hand_mesh.recipe import HandAugmentationConfig


class HandImages(Dataset):
    """The samples of a source as dicts of tensors.

    image: (3, S, S), normalised. joints: (21, 3) and vertices: (V, 3), in metres, relative to the joint `ROOT`, in the
    camera's frame. points: (21, 2), the joints in the image, which reaches from -1 to 1. root: (3,), in metres in the
    camera's frame. intrinsics: (3, 3), in pixels of `image`. rotations: (16, 3, 3) and shape: where they are known.

    Args:
        source: of `HandSample`s.
        image_size: S.
        augmentation: None for none. Draws from numpy's global random state, which the training loop seeds.
    """

    def __init__(
        self,
        source: Dataset,
        normalization: Normalization,
        *,
        image_size: int,
        augmentation: "HandAugmentationConfig | None",
    ):
        self.source, self.normalization = source, normalization
        self.image_size, self.augmentation = image_size, augmentation

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample, color = self.source[index], np.ones(3)
        roll, zoom = 0.0, 1.0
        if self.augmentation:
            roll, zoom, color = draw(self.augmentation)
        sample = moved(sample, roll=roll, zoom=zoom, size=self.image_size)
        image = to_tensor(sample.image, self.normalization, color)
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


def draw(augmentation: "HandAugmentationConfig") -> tuple[float, float, np.ndarray]:
    """A roll in radians, a zoom, and a factor for each color channel (3,)."""
    limit = min(2 * augmentation.rotation, 180.0)
    roll = float(np.clip(np.random.normal(0, 1) * augmentation.rotation, -limit, limit))
    if np.random.uniform() >= augmentation.rotation_prob:
        roll = 0.0
    window = 1 + float(np.clip(np.random.normal(0, 1), -1, 1)) * augmentation.scale  # what is cropped, as METRO's
    return np.deg2rad(roll), 1 / window, np.random.uniform(1 - augmentation.color, 1 + augmentation.color, 3)


def moved(sample: HandSample, *, roll: float, zoom: float, size: int) -> HandSample:
    """The sample as a camera sees it that is rolled around its axis, with another zoom, in `size` x `size` pixels.

    Exact for a pinhole camera: the roll turns the hand around the camera's axis and the image around the principal
    point; the zoom, around the middle of the image, changes the intrinsics only.
    """
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    middle = (1 - zoom) * size / 2
    zoomed = np.array([[zoom, 0, middle], [0, zoom, middle], [0, 0, 1]]) @ fit(sample.image.size, size)
    pixels = zoomed @ sample.intrinsics @ turn @ np.linalg.inv(sample.intrinsics)  # from old pixels to new ones
    rotations = sample.rotations
    if rotations is not None:
        rotations = np.concatenate([(turn @ rotations[0])[None].astype(rotations.dtype), rotations[1:]])
    return HandSample(
        image=warp(sample.image, pixels, size),
        intrinsics=zoomed @ sample.intrinsics,
        joints=sample.joints @ turn.T,
        vertices=sample.vertices @ turn.T,
        rotations=rotations,
        shape=sample.shape,
    )


def fit(image_size: tuple[int, int], side: int) -> np.ndarray:
    """(3, 3): from the pixels of an image of this width and height to those of a square, into whose middle it fits."""
    factor = side / max(image_size)
    shift = (side - factor * np.array(image_size)) / 2
    return np.array([[factor, 0, shift[0]], [0, factor, shift[1]], [0, 0, 1]])


def warp(image: Image.Image, pixels: np.ndarray, side: int) -> Image.Image:
    """The image in a square, moved by `pixels` (3, 3), affine; black where there is none.

    Where it becomes less than half as large, pixels are averaged first: a photograph would lose most of its own.
    """
    shrink = int(1 / np.sqrt(np.linalg.det(pixels[:2, :2])) + 1e-6)
    if shrink > 1:
        image, pixels = image.reduce(shrink), pixels @ np.diag([shrink, shrink, 1])
    inverse = np.linalg.inv(pixels)[:2].flatten()
    return image.transform((side, side), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)


def to_tensor(image: Image.Image, normalization: Normalization, color: Sequence[float] = (1, 1, 1)) -> Tensor:
    """(3, H, W), each channel multiplied by its part of `color`, then normalised."""
    pixels = (np.asarray(image, dtype=np.float32) * np.array(color, dtype=np.float32)).clip(0, 255)
    return normalization(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
