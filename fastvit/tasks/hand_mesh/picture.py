"""Hand meshes over their images."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fastvit.tasks.hand_mesh.rendering import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4  # of pairs
DRAWN_SIZE = 256  # pixels on a side that small images are drawn with
COLOR = np.array([140, 190, 255])  # of no hand
OPACITY = 0.9
LIGHT = np.array([0.0, 0.0, -1.0])  # from the camera


def overlay(image: Image.Image, vertices: np.ndarray, camera: np.ndarray, faces: np.ndarray) -> Image.Image:
    """An RGB image with the mesh over it.

    Args:
        vertices: (V, 3), in metres, in the camera's directions.
        camera: (3,), as `in_pixels` takes it.
        faces: (F, 3).
    """
    covered, brightness = render(vertices, faces, in_pixels(vertices, camera, image.size), image.size, LIGHT)
    colors = np.array(image, dtype=np.float32)
    mesh = COLOR * (0.35 + 0.65 * brightness[covered, None])
    colors[covered] += OPACITY * (mesh - colors[covered])
    return Image.fromarray(colors.round().astype(np.uint8))


def in_pixels(points: np.ndarray, camera: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """(N, 2): where points (N, 3) are in an image of this width and height.

    Args:
        camera: (3,), scale and shift in the square around the image, as `HandMesh` gives them.
    """
    longer = max(image_size)
    in_square = (camera[0] * points[:, :2] + camera[1:] + 1) * longer / 2
    return in_square - (longer - np.array(image_size)) / 2


def mesh_grid(images: np.ndarray, vertices: np.ndarray, cameras: np.ndarray, faces: np.ndarray) -> "Figure":
    """Each image beside itself with the mesh over it.

    Args:
        images: (N, S, S, 3), colors from 0 to 1.
        vertices: (N, V, 3) and cameras: (N, 3), as `overlay` takes them.
        faces: (F, 3).
    """
    from matplotlib.figure import Figure

    rows = -(-len(images) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2 * rows), layout="constrained")
    grid = figure.subplots(rows, 2 * COLUMNS, squeeze=False).reshape(-1, 2)
    for axes in grid.flatten():
        axes.set_axis_off()
    for (left, right), pixels, mesh, camera in zip(grid, images, vertices, cameras, strict=False):
        image = Image.fromarray((255 * pixels).round().astype(np.uint8))
        size = max(DRAWN_SIZE, image.width)
        image = image.resize((size, size))
        left.imshow(image)
        right.imshow(overlay(image, mesh, camera, faces))
    return figure
