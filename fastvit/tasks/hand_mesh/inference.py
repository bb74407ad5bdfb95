"""The hand in one photograph, of any size."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastvit.data.preprocessing import Preprocessing
from fastvit.tasks.hand_mesh.picture import in_pixels, overlay
from fastvit.tasks.hand_mesh.transform import fit, to_tensor, warp
from fastvit.training.task import Network

PICTURE_SIZE = 1024  # pixels of the longer side of the picture, at most


@dataclass(frozen=True)
class PredictedHand:
    """The mesh of a hand, and where it is in its photograph.

    Attributes:
        vertices: (V, 3) and joints: (21, 3), in metres, in the camera's directions, relative to the joint `ROOT`.
        points: (21, 2), the joints in pixels of the photograph.
        camera: (3,), scale and shift in the square around the photograph, as `HandMesh` gives them.
        picture: the photograph with the mesh over it.
    """

    vertices: np.ndarray
    joints: np.ndarray
    points: np.ndarray
    camera: np.ndarray
    picture: Image.Image

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, without the picture."""
        return {name: getattr(self, name).tolist() for name in ("vertices", "joints", "points", "camera")}


@torch.no_grad()
def predict_hand(
    network: Network,
    image: Image.Image,
    preprocessing: Preprocessing,
    faces: np.ndarray,
    *,
    device: torch.device | str = "cpu",
) -> PredictedHand:
    """What a network says about a photograph of one right hand, which should fill most of it.

    Args:
        network: in eval mode on `device`; from images (1, 3, S, S) to what `HandMesh` gives.
        image: in RGB, upright.
        preprocessing: the network's: S, mean and std.
        faces: (F, 3), of the hand model.
    """
    outputs = network(prepare(image, preprocessing)[None].to(device))
    names = ("vertices", "joints", "camera")
    vertices, joints, camera = (outputs[name][0].float().cpu().numpy() for name in names)
    picture = image.copy()
    picture.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
    points = in_pixels(joints, camera, image.size)
    return PredictedHand(vertices, joints, points, camera, overlay(picture, vertices, camera, faces))


def prepare(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """(3, S, S): the image in the middle of a square, as in training."""
    side = preprocessing.height
    return to_tensor(warp(image, fit(image.size, side), side), preprocessing.mean, preprocessing.std)
