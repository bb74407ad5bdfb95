"""The embedded demo data: images of the synthetic hand, drawn when they are asked for."""

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from fastvit.models.rotations import rotation_matrix
from fastvit.models.skinning import ROOT, HandModel
from fastvit.tasks.hand_mesh.rendering import render
from fastvit.tasks.hand_mesh.sample import HandSample, project
from fastvit.tasks.hand_mesh.synthetic import MEAN_BEND, flexion_axes, synthetic_hand

FOCAL = 2.5  # focal length over image size
HELD_OUT = 1  # seed of the scenes to validate on


class SyntheticHands(Dataset):
    """A synthetic hand in random poses, shapes, light and colors, before a random background. Nothing is read.

    Random are: the bend of each finger and finger joint, the spread, the thumb; ten shape coefficients; the turn of the
    hand (rolled up to 29 degrees, tilted up to 20 in both directions, seen from the palm); its place and distance; one
    lamp; the colors of the skin and of the background, a gradient with soft patches.

    Args:
        train: scenes that are new whenever they are asked for, from numpy's global random state, which the training
            loop seeds; else scenes that are fixed, from the same distribution.
        size: how many.
        image_size: pixels on a side.
    """

    def __init__(self, *, train: bool, size: int, image_size: int):
        self.train, self.size, self.image_size = train, size, image_size
        self.arrays = synthetic_hand()
        self.model = HandModel(self.arrays)
        self.axes = flexion_axes()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> HandSample:
        if not 0 <= index < self.size:
            raise IndexError(index)
        seed = np.random.randint(2**31, size=2).tolist() if self.train else (HELD_OUT, index)
        rng = np.random.default_rng(seed)
        rotations, shape = (
            random_pose(self.axes, rng),
            np.clip(rng.standard_normal(self.model.num_shape), -2, 2).astype(np.float32),
        )
        with torch.no_grad():
            posed = self.model(torch.from_numpy(rotations)[None], torch.from_numpy(shape)[None])
        vertices, joints = (part[0].double().numpy() for part in posed)
        place = np.array([*rng.uniform(-0.02, 0.02, 2), rng.uniform(0.5, 0.65)]) - joints[ROOT]
        vertices, joints = vertices + place, joints + place
        focal, center = FOCAL * self.image_size, self.image_size / 2
        intrinsics = np.array([[focal, 0, center], [0, focal, center], [0, 0, 1]])
        image = self._draw(vertices, intrinsics, rng)
        return HandSample(image, intrinsics, joints, vertices, rotations, shape)

    def _draw(self, vertices: np.ndarray, intrinsics: np.ndarray, rng: np.random.Generator) -> Image.Image:
        light = rng.normal([0, -0.4, -1], 0.4)
        pixels, size = project(vertices, intrinsics), (self.image_size, self.image_size)
        covered, brightness = render(vertices, self.arrays.faces, pixels, size, light / np.linalg.norm(light))
        skin = np.array([0.85, 0.62, 0.5]) * rng.uniform(0.45, 1.15) + rng.normal(0, 0.04, 3)
        ambient = rng.uniform(0.25, 0.5)
        hand = skin * (ambient + (1 - ambient) * brightness[..., None])  # (size, size, 3)
        colors = np.where(covered[..., None], hand, random_background(self.image_size, rng))
        colors = colors + rng.normal(0, 0.01, colors.shape)
        return Image.fromarray((255 * colors.clip(0, 1)).round().astype(np.uint8))


def random_pose(axes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(16, 3, 3): rotations of the wrist and the finger joints, which bend around `axes` (15, 3), float32."""
    bend = rng.uniform(0, 2, (5, 1)) * MEAN_BEND + rng.normal(0, 0.1, (5, 3))  # radians
    vectors = bend.reshape(15, 1) * axes
    vectors[::3, 2] += rng.normal(0, 0.1, 5)  # spread, at the knuckles
    turn = _turn(rng.uniform(-0.5, 0.5), 2) @ _turn(rng.uniform(-0.35, 0.35), 1) @ _turn(rng.uniform(-0.35, 0.35), 0)
    fingers = rotation_matrix(torch.from_numpy(vectors.astype(np.float32))).numpy()
    return np.concatenate([turn[None], fingers]).astype(np.float32)


def random_background(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3), from 0 to 1: a gradient between two colors and a soft pattern."""
    ramp = np.linspace(0, 1, size)
    along = np.cos(angle := rng.uniform(0, 2 * np.pi)) * ramp[:, None] + np.sin(angle) * ramp
    colors = rng.uniform(0, 1, (2, 3))
    background = colors[0] + (colors[1] - colors[0]) * ((along + 1) / 2.5)[..., None]
    blocks = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    coarse = blocks.resize((size, size), Image.Resampling.BICUBIC)
    background += rng.uniform(0, 0.4) * (np.asarray(coarse) / 255 - 0.5)
    return background


def _turn(angle: float, axis: int) -> np.ndarray:
    """(3, 3): rotation around the x, y or z axis."""
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix, (i, j) = np.eye(3), [(1, 2), (2, 0), (0, 1)][axis]
    matrix[i, i], matrix[j, j], matrix[i, j], matrix[j, i] = cosine, cosine, -sine, sine
    return matrix
