"""A picture of hand meshes over their images."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4  # of pairs
SKIN = np.array([0.55, 0.75, 1.0])  # no color that a hand has


def mesh_grid(images: np.ndarray, vertices: np.ndarray, cameras: np.ndarray, faces: np.ndarray) -> "Figure":
    """Each image beside itself with the mesh over it.

    Args:
        images: (N, S, S, 3), colors from 0 to 1.
        vertices: (N, V, 3), in metres, in the camera's directions.
        cameras: (N, 3): scale and shift, as `HandMesh` gives them.
        faces: (F, 3).
    """
    from matplotlib.figure import Figure

    rows = -(-len(images) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2 * rows), layout="constrained")
    grid = figure.subplots(rows, 2 * COLUMNS, squeeze=False).reshape(-1, 2)
    for axes in grid.flatten():
        axes.set_axis_off()
    for (left, right), image, mesh, camera in zip(grid, images, vertices, cameras, strict=False):
        for axes in (left, right):
            axes.imshow(image, extent=(-1, 1, 1, -1))
        _draw_mesh(right, mesh, camera, faces)
        right.set(xlim=(-1, 1), ylim=(1, -1))
    return figure


def _draw_mesh(axes: "Axes", vertices: np.ndarray, camera: np.ndarray, faces: np.ndarray) -> None:
    """The triangles that face the camera, far ones first, lit from the camera."""
    from matplotlib.collections import PolyCollection

    corners = vertices[faces]  # (F, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facing = -normals[:, 2] / np.linalg.norm(normals, axis=1).clip(1e-12)
    shown = np.argsort(-corners[..., 2].mean(1))
    shown = shown[facing[shown] > 0]
    colors = SKIN * (0.35 + 0.65 * facing[shown, None])
    polygons = camera[0] * corners[shown, :, :2] + camera[1:]
    axes.add_collection(PolyCollection(polygons, facecolors=colors, edgecolors=colors, linewidths=0.2, alpha=0.9))
