"""The renderer draws what testing each pixel with each triangle gives."""

import numpy as np
import pytest
import roma
import torch

from fastvit.models.skinning import HandModel
from fastvit.tasks.hand_mesh import rendering
from fastvit.tasks.hand_mesh.rendering import render, vertex_normals
from fastvit.tasks.hand_mesh.sample import project
from fastvit.tasks.hand_mesh.synthetic import synthetic_hand


def brute_force(pixels, depths, faces, width, height):
    """The nearest triangle of each pixel, or -1, by testing each with each."""
    nearest, owner = np.full((height, width), np.inf), np.full((height, width), -1)
    for f, face in enumerate(faces):
        a, b, c = pixels[face]
        matrix = np.array([[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1, 1, 1]])
        if np.linalg.det(matrix) >= -1e-9:
            continue
        for y in range(height):
            for x in range(width):
                weights = np.linalg.solve(matrix, [x + 0.5, y + 0.5, 1])
                depth = weights @ depths[face]
                if weights.min() >= 0 and depth < nearest[y, x]:
                    nearest[y, x], owner[y, x] = depth, f
    return owner


@pytest.mark.parametrize("at_once", [rendering.AT_ONCE, 50])
def test_rendering_is_what_testing_each_pixel_with_each_triangle_gives(at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rendering, "AT_ONCE", at_once)
    arrays, (width, height) = synthetic_hand(), (13, 16)
    with torch.no_grad():
        vertices, _ = HandModel(arrays)(roma.random_rotmat((1, 16)), torch.zeros(1, 10))
    vertices = vertices[0].double().numpy() + np.array([0.0, 0.05, 0.4])
    pixels = project(vertices, np.array([[30.0, 0, 6], [0, 30.0, 8], [0, 0, 1]]))
    light = np.array([0.0, 0.0, -1.0])
    covered, brightness = render(vertices, arrays.faces, pixels, (width, height), light)
    owner = brute_force(pixels, vertices[:, 2], arrays.faces, width, height)
    assert 20 < covered.sum() < width * height
    np.testing.assert_array_equal(covered, owner >= 0)
    shade = (vertex_normals(vertices, arrays.faces) @ light).clip(0, 1)[arrays.faces[owner[covered]]]
    assert (brightness[covered] <= shade.max(1) + 1e-6).all()
    assert (brightness[covered] >= shade.min(1) - 1e-6).all()


def test_a_mesh_that_leaves_the_image_is_cut_off():
    vertices = np.array([[-5.0, -5, 2], [-5, 5, 2], [5, 0, 2]])
    pixels, light = project(vertices, np.diag([10.0, 10, 1])), np.array([0.0, 0, -1])
    covered, brightness = render(vertices, np.array([[0, 1, 2]]), pixels, (8, 8), light)
    assert covered.all()
    np.testing.assert_allclose(brightness, 1, atol=1e-6)
    away, _ = render(vertices, np.array([[0, 2, 1]]), pixels, (8, 8), light)
    assert not away.any()  # seen from behind


def test_normals_of_a_sphere_point_away_from_its_center():
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 40, endpoint=False), np.linspace(0.2, np.pi - 0.2, 20))
    points = np.stack([np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)], -1).reshape(-1, 3)
    rows = np.arange(19)[:, None] * 40
    a, b = rows + np.arange(40), rows + (np.arange(40) + 1) % 40
    faces = np.concatenate([np.stack([a, a + 40, b], -1), np.stack([b, a + 40, b + 40], -1)]).reshape(-1, 3)
    normals = vertex_normals(points, faces)
    inner = slice(40, -40)
    assert ((normals * points).sum(1)[inner] > 0.99).all()
