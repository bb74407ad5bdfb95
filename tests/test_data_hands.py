"""Hand models pose as the formulas say, and the synthetic images show what their labels say."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from scipy.spatial.transform import Rotation

from fastvit.errors import DataError
from fastvit.models.rotations import from_six, rotation_matrix, to_six
from fastvit.models.skinning import JOINT_ORDER, PARENTS, HandArrays, HandModel
from fastvit.tasks.hand_mesh.mano import TIPS, read_mano
from fastvit.tasks.hand_mesh.rendering import render, vertex_normals
from fastvit.tasks.hand_mesh.sample import project
from fastvit.tasks.hand_mesh.scenes import SyntheticHands
from fastvit.tasks.hand_mesh.synthetic import flexion_axes, synthetic_hand
from hands import mano_like

FREIHAND_FINGERS = ("thumb", "index", "middle", "ring", "pinky")
FREIHAND_NAMES = ["wrist", *(f"{finger}{i}" for finger in FREIHAND_FINGERS for i in "1234")]
MANO_NAMES = ["wrist", *(f"{finger}{i}" for finger in ("index", "middle", "pinky", "ring", "thumb") for i in "123")]


def by_hand(data: dict[str, np.ndarray], vectors: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and the 16 joints of one hand in float64, with homogeneous matrices and loops; poses as in FreiHAND."""
    pose = vectors + np.concatenate([np.zeros((1, 3)), data["hands_mean"].reshape(15, 3)])
    matrices = Rotation.from_rotvec(pose).as_matrix()
    rest = data["v_template"] + data["shapedirs"] @ shape
    joints = data["J_regressor"] @ rest
    bent = rest + data["posedirs"] @ (matrices[1:] - np.eye(3)).ravel()
    world = []
    for joint, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3], local[:3, 3] = matrices[joint], joints[joint] - (joints[parent] if joint else 0)
        world.append(world[parent] @ local if joint else local)
    vertices = np.zeros_like(rest)
    for v in range(len(rest)):
        for joint in range(16):
            moved = world[joint] @ np.append(bent[v] - joints[joint], 1)
            vertices[v] += data["weights"][v, joint] * moved[:3]
    return vertices, np.stack([matrix[:3, 3] for matrix in world])


def random_rotations(batch: int) -> torch.Tensor:
    return roma.random_rotmat((batch, 16))


@pytest.fixture(scope="module")
def synthetic() -> HandModel:
    return HandModel(synthetic_hand())


def test_a_pose_is_what_the_formula_gives_by_hand():
    data, rng = mano_like(), np.random.default_rng(1)
    regressor = data["J_regressor"]
    arrays = HandArrays(
        vertices=data["v_template"],
        faces=data["f"],
        skin_weights=data["weights"],
        shape_directions=data["shapedirs"],
        pose_directions=data["posedirs"],
        joints=regressor @ data["v_template"],
        joint_directions=np.einsum("jv,vcs->jcs", regressor, data["shapedirs"]),
        mean_pose=data["hands_mean"].reshape(15, 3),
        tips=TIPS,
    )
    vectors, shape = rng.standard_normal((16, 3)), rng.standard_normal(10)
    expected, skeleton = by_hand(data, vectors, shape)
    pose = vectors + np.concatenate([np.zeros((1, 3)), arrays.mean_pose])
    rotations = rotation_matrix(torch.tensor(pose)[None].float())
    vertices, joints = HandModel(arrays)(rotations, torch.tensor(shape)[None].float())
    np.testing.assert_allclose(vertices[0].numpy(), expected, atol=2e-6)
    named = dict(zip(MANO_NAMES, skeleton, strict=True))
    named |= {f"{finger}4": expected[vertex] for finger, vertex in zip(FREIHAND_FINGERS, TIPS, strict=True)}
    np.testing.assert_allclose(joints[0].numpy(), [named[name] for name in FREIHAND_NAMES], atol=2e-6)
    assert sorted(JOINT_ORDER) == list(range(21))


@pytest.mark.parametrize("form", ["npz", "pkl"])
def test_a_mano_file_poses_as_by_hand_and_as_body_models_does(form: str, tmp_path: Path):
    mano = pytest.importorskip("body_models.mano.torch")
    data, path = mano_like(), tmp_path / f"MANO_RIGHT.{form}"
    if form == "npz":
        np.savez(path, **data)
    else:
        path.write_bytes(pickle.dumps(data))
    arrays = read_mano(path)
    vectors, shape = 0.7 * torch.randn(2, 16, 3), torch.randn(2, 10)
    pose = torch.cat([vectors[:, :1], vectors[:, 1:] + torch.tensor(arrays.mean_pose)], 1)
    vertices, joints = HandModel(arrays)(rotation_matrix(pose), shape)

    expected, _ = by_hand(data, vectors[0].double().numpy(), shape[0].double().numpy())
    np.testing.assert_allclose(vertices[0].numpy(), expected, atol=2e-6)
    library = mano.MANO(model_path=path)
    turn = {"wrist_rotation": vectors[:, 0], "shape": shape}
    torch.testing.assert_close(vertices, library.forward_vertices(vectors[:, 1:], **turn), atol=2e-6, rtol=0)
    skeleton = library.forward_skeleton(vectors[:, 1:], **turn)[..., :3, 3]
    torch.testing.assert_close(joints[:, [0, 5, 6, 7, 1]], skeleton[:, [0, 1, 2, 3, 13]], atol=2e-6, rtol=0)


def test_a_missing_mano_file_says_where_to_register(tmp_path: Path):
    with pytest.raises(DataError, match=r"no MANO file .*MANO_RIGHT.pkl; register at https://mano.is.tue.mpg.de"):
        read_mano(tmp_path / "MANO_RIGHT.pkl")


def test_a_file_that_is_no_mano_hand_is_named(tmp_path: Path):
    pytest.importorskip("body_models")
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(b"<html>please log in</html>")
    with pytest.raises(DataError, match=r"MANO_RIGHT.pkl cannot be read as a MANO hand .*register at"):
        read_mano(path)
    np.savez(tmp_path / "small.npz", **mano_like(vertices=100))
    with pytest.raises(DataError, match="100 vertices and 16 joints, which is no MANO hand"):
        read_mano(tmp_path / "small.npz")


def test_the_arrays_of_a_hand_are_not_in_checkpoints(synthetic: HandModel):
    assert not synthetic.state_dict()


def test_six_numbers_make_a_rotation_and_back():
    rotations = random_rotations(3)
    torch.testing.assert_close(from_six(to_six(rotations)), rotations, atol=1e-6, rtol=0)
    made = from_six(torch.randn(50, 6))
    torch.testing.assert_close(made @ made.mT, torch.eye(3).expand(50, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(made), torch.ones(50))
    assert from_six(torch.zeros(6)).isfinite().all()


def test_the_synthetic_hand_at_rest_is_its_template(synthetic: HandModel):
    vertices, joints = synthetic(torch.eye(3).expand(1, 16, 3, 3), torch.zeros(1, synthetic.num_shape))
    torch.testing.assert_close(vertices[0], synthetic.vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(joints[0, 1], synthetic.joints[13], atol=1e-6, rtol=0)


def test_the_wrist_turns_the_whole_hand(synthetic: HandModel):
    rotations, shape, turn = random_rotations(2), torch.randn(2, synthetic.num_shape), roma.random_rotmat(2)
    vertices, joints = synthetic(rotations, shape)
    turned = torch.cat([turn[:, None] @ rotations[:, :1], rotations[:, 1:]], 1)
    vertices2, joints2 = synthetic(turned, shape)
    wrist = joints[:, :1]
    torch.testing.assert_close(vertices2, (vertices - wrist) @ turn.mT + wrist, atol=1e-6, rtol=0)
    torch.testing.assert_close(joints2, (joints - wrist) @ turn.mT + wrist, atol=1e-6, rtol=0)


def test_the_synthetic_hand_is_closed_and_its_faces_look_outwards():
    arrays = synthetic_hand()
    edges = np.concatenate([arrays.faces[:, [0, 1]], arrays.faces[:, [1, 2]], arrays.faces[:, [2, 0]]])
    assert len(np.unique(edges, axis=0)) == len(edges)  # each direction of an edge once
    assert {tuple(edge) for edge in edges} == {tuple(edge[::-1]) for edge in edges}  # and the other direction, too
    corners = arrays.vertices[arrays.faces]
    volumes = np.einsum("fc,fc->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    part = connected_parts(arrays)
    assert len(np.unique(part)) == 6  # the palm and five fingers
    assert all(volumes[part == each].sum() > 5e-6 for each in np.unique(part))  # cubic metres
    np.testing.assert_allclose(arrays.skin_weights.sum(1), 1, atol=1e-6)
    assert arrays.skin_weights.min() >= 0
    assert set(arrays.faces.flatten()) == set(range(len(arrays.vertices)))


def connected_parts(arrays: HandArrays) -> np.ndarray:
    """(F,): a number for the connected part of the mesh that a face belongs to."""
    part = np.arange(len(arrays.vertices))
    while True:
        before = part.copy()
        for k in range(3):
            np.minimum.at(part, arrays.faces[:, k], part[arrays.faces].min(1))
        if (part == before).all():
            return part[arrays.faces[:, 0]]


def test_bending_every_finger_brings_the_tips_towards_the_palm(synthetic: HandModel):
    tips = [4, 8, 12, 16, 20]
    bent = rotation_matrix(torch.cat([torch.zeros(1, 3), 0.7 * torch.tensor(flexion_axes())]))
    shape = torch.zeros(1, synthetic.num_shape)
    _, flat = synthetic(torch.eye(3).expand(1, 16, 3, 3), shape)
    _, fist = synthetic(bent[None], shape)
    assert (fist[0, tips, 2] < flat[0, tips, 2] - 0.02).all()  # the palm faces -z
    wrist_to_tips = [(hand[0, tips] - hand[0, 0]).norm(dim=1) for hand in (fist, flat)]
    assert (wrist_to_tips[0] < wrist_to_tips[1]).all()


def test_joints_stay_inside_the_flesh_for_every_shape(synthetic: HandModel):
    rotations = torch.eye(3).expand(20, 16, 3, 3)
    vertices, joints = synthetic(rotations, 2 * torch.randn(20, synthetic.num_shape).clamp(-1, 1))
    nearest = torch.cdist(joints, vertices).amin(2)
    assert nearest.max() < 0.03


def brute_force(pixels, depths, faces, size):
    """The nearest triangle of each pixel, or -1, by testing each with each."""
    nearest, owner = np.full((size, size), np.inf), np.full((size, size), -1)
    for f, face in enumerate(faces):
        a, b, c = pixels[face]
        matrix = np.array([[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1, 1, 1]])
        if np.linalg.det(matrix) >= -1e-9:
            continue
        for y in range(size):
            for x in range(size):
                weights = np.linalg.solve(matrix, [x + 0.5, y + 0.5, 1])
                depth = weights @ depths[face]
                if weights.min() >= 0 and depth < nearest[y, x]:
                    nearest[y, x], owner[y, x] = depth, f
    return owner


def test_rendering_is_what_testing_each_pixel_with_each_triangle_gives(synthetic: HandModel):
    arrays, size = synthetic_hand(), 16
    with torch.no_grad():
        vertices, _ = synthetic(random_rotations(1), torch.zeros(1, 10))
    vertices = vertices[0].double().numpy() + np.array([0.0, 0.05, 0.4])
    intrinsics = np.array([[30.0, 0, 8], [0, 30.0, 8], [0, 0, 1]])
    light = np.array([0.0, 0.0, -1.0])
    covered, brightness = render(vertices, arrays.faces, intrinsics, size, light)
    owner = brute_force(project(vertices, intrinsics), vertices[:, 2], arrays.faces, size)
    assert 20 < covered.sum() < size * size
    np.testing.assert_array_equal(covered, owner >= 0)
    shade = (vertex_normals(vertices, arrays.faces) @ light).clip(0, 1)[arrays.faces[owner[covered]]]
    assert (brightness[covered] <= shade.max(1) + 1e-6).all()
    assert (brightness[covered] >= shade.min(1) - 1e-6).all()


def test_a_mesh_that_leaves_the_image_is_cut_off():
    vertices = np.array([[-5.0, -5, 2], [-5, 5, 2], [5, 0, 2]])
    covered, brightness = render(vertices, np.array([[0, 1, 2]]), np.diag([10.0, 10, 1]), 8, np.array([0.0, 0, -1]))
    assert covered.all()
    np.testing.assert_allclose(brightness, 1, atol=1e-6)
    away, _ = render(vertices, np.array([[0, 2, 1]]), np.diag([10.0, 10, 1]), 8, np.array([0.0, 0, -1]))
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


def test_held_out_scenes_are_fixed_and_training_scenes_follow_the_random_state():
    val, train = (SyntheticHands(train=train, size=4, image_size=32) for train in (False, True))
    assert np.array_equal(np.asarray(val[2].image), np.asarray(val[2].image))
    assert not np.allclose(val[2].joints, val[3].joints)
    np.random.seed(1)
    first, second = train[0], train[0]
    np.random.seed(1)
    again = train[0]
    assert np.array_equal(first.vertices, again.vertices)
    assert not np.allclose(first.vertices, second.vertices)
    assert not any(np.allclose(first.joints, val[i].joints) for i in range(4))
    with pytest.raises(IndexError):
        val[4]


def test_the_hand_in_a_scene_is_where_its_labels_say():
    """Where the labelled mesh is, and only there, the image has one hue: that of the skin, more or less bright."""
    hands = SyntheticHands(train=False, size=20, image_size=64)
    spread = {True: [], False: []}
    for i in range(20):
        sample = hands[i]
        covered, _ = render(sample.vertices, hands.arrays.faces, sample.intrinsics, 64, np.array([0.0, 0, -1.0]))
        assert covered.mean() > 0.05
        colors = np.asarray(sample.image).astype(float)
        hue = colors / colors.sum(-1, keepdims=True).clip(1)
        for where, mask in ((True, covered), (False, ~covered)):
            spread[where].append(hue[mask].std(0).max())
        joints = project(sample.joints, sample.intrinsics)
        assert ((joints > -8) & (joints < 72)).all()
    assert max(spread[True]) < 0.03
    assert np.median(spread[False]) > 0.05
