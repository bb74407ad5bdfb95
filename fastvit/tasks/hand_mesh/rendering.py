"""A small software renderer: a shaded mesh in front of nothing, with a depth buffer, in numpy."""

from collections.abc import Iterator

import numpy as np

AT_ONCE = 2**18  # pixels in the boxes around some triangles, which bounds the memory


def render(
    vertices: np.ndarray, faces: np.ndarray, pixels: np.ndarray, size: tuple[int, int], light: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a mesh with diffuse light, interpolated over each triangle.

    Args:
        vertices: (V, 3): x to the right, y down, z away from the camera.
        faces: (F, 3), counter-clockwise seen from outside.
        pixels: (V, 2): where a camera sees each vertex; (0, 0) is the corner of the first pixel, its center (0.5, 0.5).
        size: width and height of the image.
        light: (3,), of length 1, from the surface to the lamp.

    Returns:
        Which pixels the mesh covers, (height, width), and how bright it is there, (height, width), from 0 to 1.
    """
    shade = (vertex_normals(vertices, faces) @ light).clip(0, 1)
    corners = pixels[faces]  # (F, 3, 2)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    front = area < -1e-9  # turned towards the camera: y points down
    nearest = np.full(size[::-1], np.inf)  # depth of what has been drawn
    brightness = np.zeros(size[::-1], dtype=np.float32)
    for face, x, y, weights in _covered(corners[front], area[front], size):
        drawn = faces[front][face]  # (N, 3): the triangle of each covered pixel
        depth = (weights * vertices[drawn, 2]).sum(1)
        far_to_near = np.argsort(-depth, kind="stable")  # the last one written stays
        shown = far_to_near[depth[far_to_near] < nearest[y, x][far_to_near]]
        nearest[y[shown], x[shown]] = depth[shown]
        brightness[y[shown], x[shown]] = (weights * shade[drawn]).sum(1)[shown]
    return nearest < np.inf, brightness


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3), of length 1: the means of the triangles around each vertex, weighted by their areas."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, faces[:, k], np.cross(b - a, c - a))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)


def _covered(
    corners: np.ndarray, area: np.ndarray, size: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Every pair of a triangle and a pixel whose center is in it, for some triangles at a time.

    Args:
        corners: (F, 3, 2), in pixels.
        area: (F,), twice the signed area of each.

    Yields:
        Triangle, column and row, each (N,), and the barycentric weights of the corners (N, 3).
    """
    low = np.floor(corners.min(1) - 0.5).clip(0, size).astype(int)  # (F, 2): the box of pixels around each triangle
    extent = np.ceil(corners.max(1)).clip(0, size).astype(int) - low
    counts = extent[:, 0] * extent[:, 1]
    groups = np.flatnonzero(np.diff(counts.cumsum() // AT_ONCE)) + 1
    for some in np.split(np.arange(len(corners)), groups):
        face = np.repeat(some, counts[some])  # (M,): every pixel of every box
        place = np.arange(len(face)) - np.repeat(counts[some].cumsum() - counts[some], counts[some])
        x, y = low[face, 0] + place % extent[face, 0], low[face, 1] + place // extent[face, 0]
        to_x, to_y = (corners[face, :, axis] - each[:, None] - 0.5 for axis, each in ((0, x), (1, y)))  # (M, 3)
        areas = to_x[:, [1, 2, 0]] * to_y[:, [2, 0, 1]] - to_y[:, [1, 2, 0]] * to_x[:, [2, 0, 1]]  # opposite corners
        weights = areas / area[face, None]
        inside = weights.min(1) >= 0
        yield face[inside], x[inside], y[inside], weights[inside]
