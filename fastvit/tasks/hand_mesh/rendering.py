"""A small software renderer: a shaded mesh in front of nothing, with a depth buffer, in numpy."""

import numpy as np


def render(
    vertices: np.ndarray, faces: np.ndarray, intrinsics: np.ndarray, size: int, light: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a mesh with diffuse light, interpolated over each triangle.

    Args:
        vertices: (V, 3), in front of the camera: x to the right, y down, z away from it.
        faces: (F, 3), counter-clockwise seen from outside.
        intrinsics: (3, 3), in pixels; (0, 0) is the corner of the first pixel, its center (0.5, 0.5).
        size: pixels on a side.
        light: (3,), of length 1, from the surface to the lamp.

    Returns:
        Which pixels the mesh covers, (size, size), and how bright it is there, (size, size), from 0 to 1.
    """
    pixels = vertices @ intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    shade = (vertex_normals(vertices, faces) @ light).clip(0, 1)
    corners = pixels[faces]  # (F, 3, 2)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    front = area < -1e-9  # turned towards the camera: y points down
    face, x, y, weights = _covered(corners[front], area[front], size)
    drawn = faces[front][face]  # (N, 3): the triangle of each covered pixel
    depth = (weights * vertices[drawn, 2]).sum(1)
    order = np.argsort(-depth, kind="stable")  # far to near: the last one written stays
    covered, brightness = np.zeros((size, size), dtype=bool), np.zeros((size, size), dtype=np.float32)
    covered[y[order], x[order]] = True
    brightness[y[order], x[order]] = (weights * shade[drawn]).sum(1)[order]
    return covered, brightness


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3), of length 1: the means of the triangles around each vertex, weighted by their areas."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, faces[:, k], np.cross(b - a, c - a))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)


def _covered(corners: np.ndarray, area: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of a triangle and a pixel whose center is in it.

    Args:
        corners: (F, 3, 2), in pixels.
        area: (F,), twice the signed area of each.

    Returns:
        Triangle, column and row, each (N,), and the barycentric weights of the corners (N, 3).
    """
    low = np.floor(corners.min(1) - 0.5).clip(0, size).astype(int)  # (F, 2): the box of pixels around each triangle
    extent = np.ceil(corners.max(1)).clip(0, size).astype(int) - low
    counts = extent[:, 0] * extent[:, 1]
    face = np.repeat(np.arange(len(corners)), counts)  # (M,): every pixel of every box
    place = np.arange(len(face)) - np.repeat(counts.cumsum() - counts, counts)
    x, y = low[face, 0] + place % extent[face, 0], low[face, 1] + place // extent[face, 0]
    to_x, to_y = (corners[face, :, axis] - each[:, None] - 0.5 for axis, each in ((0, x), (1, y)))  # (M, 3)
    areas = to_x[:, [1, 2, 0]] * to_y[:, [2, 0, 1]] - to_y[:, [1, 2, 0]] * to_x[:, [2, 0, 1]]  # opposite each corner
    weights = areas / area[face, None]
    inside = weights.min(1) >= 0
    return face[inside], x[inside], y[inside], weights[inside]
