"""What a hand network says about single photographs, of any size."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastvit.data.preprocessing import Preprocessing
from fastvit.predictor import Prediction, Predictor, Shown
from fastvit.tasks.hand_mesh.picture import in_pixels, overlay
from fastvit.tasks.hand_mesh.transform import fit, to_tensor, warp

PICTURE_SIZE = 1024  # pixels of the longer side of a picture, at most


class Prepared(NamedTuple):
    """An image (3, S, S) as the network takes it, and the (width, height) of its photograph."""

    image: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Hand(Prediction):
    """The mesh of the one hand in a photograph.

    Attributes:
        vertices: (V, 3) and joints: (21, 3), in metres, in the camera's directions, relative to the root joint.
        points: (21, 2), the joints in pixels of the photograph.
        camera: (3,), scale and shift in the square around the photograph.
        faces: (F, 3), of the hand model.
    """

    vertices: np.ndarray
    joints: np.ndarray
    points: np.ndarray
    camera: np.ndarray
    faces: np.ndarray

    def rows(self, shown: Shown = Shown()) -> list[tuple[Any, ...]]:
        return [
            (joint, *(f"{value:.2f}" for value in point), *(f"{value:.5f}" for value in position))
            for joint, (point, position) in enumerate(zip(self.points, self.joints, strict=True))
        ]

    def to_dict(self, shown: Shown = Shown()) -> dict[str, Any]:
        return {name: getattr(self, name).tolist() for name in ("points", "joints", "vertices", "camera")}

    def summary(self, shown: Shown = Shown()) -> str:
        (left, top), (right, bottom) = self.points.min(0), self.points.max(0)
        return f"a hand from ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f})"

    def draw(self, image: Image.Image, shown: Shown = Shown()) -> Image.Image:
        """The photograph, at most `PICTURE_SIZE` pixels on a side, with the mesh over it."""
        picture = image.copy()
        picture.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
        return overlay(picture, self.vertices, self.camera, self.faces)


class HandPredictor(Predictor):
    """The hand in a photograph of any size, which should fill most of it."""

    preprocessing: Preprocessing

    @cached_property
    def faces(self) -> np.ndarray:
        return np.array(self.settings["faces"])

    def columns(self, shown: Shown = Shown()) -> tuple[str, ...]:
        return ("joint", "left", "top", "x", "y", "z")

    def prepare(self, image: Image.Image) -> Prepared:
        return Prepared(prepare(image, self.preprocessing), image.size)

    @torch.inference_mode()
    def predict(self, prepared: Sequence[Prepared]) -> list[Hand]:
        outputs = self.network(torch.stack([each.image for each in prepared]).to(self.device))
        names = ("vertices", "joints", "camera")
        found = zip(*(outputs[name].float().cpu().numpy() for name in names), strict=True)
        return [
            Hand(vertices, joints, in_pixels(joints, camera, each.size), camera, self.faces)
            for each, (vertices, joints, camera) in zip(prepared, found, strict=True)
        ]


def prepare(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """(3, S, S): the image in the middle of a square, as in training."""
    side = preprocessing.height
    return to_tensor(warp(image, fit(image.size, side), side), preprocessing.normalization)
