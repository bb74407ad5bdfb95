"""The synthetic hand is one, and the synthetic images show what their labels say."""

import numpy as np
import pytest
import torch

from fastvit.models.rotations import rotation_matrix
from fastvit.models.skinning import HandArrays, HandModel
from fastvit.tasks.hand_mesh.rendering import render
from fastvit.tasks.hand_mesh.sample import project
from fastvit.tasks.hand_mesh.scenes import SyntheticHands, random_pose
from fastvit.tasks.hand_mesh.synthetic import RADII, flexion_axes, synthetic_hand


@pytest.fixture(scope="module")
def synthetic() -> HandModel:
    return HandModel(synthetic_hand())


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


FIRST_JOINTS = {"thumb": 1, "index": 5, "middle": 9, "ring": 13, "pinky": 17}  # of 21, the fourth is the tip


def test_joints_stay_inside_the_flesh_for_every_shape(synthetic: HandModel):
    rotations = torch.eye(3).expand(20, 16, 3, 3)
    vertices, joints = synthetic(rotations, 2 * torch.randn(20, synthetic.num_shape).clamp(-1, 1))
    nearest = torch.cdist(joints, vertices).amin(2)
    assert nearest[:, 0].max() < 0.03  # the wrist is thick
    for finger, first in FIRST_JOINTS.items():
        assert nearest[:, first : first + 3].max() < 1.5 * RADII[finger]


def test_the_mean_pose_is_that_of_the_scenes():
    """So that a hand that knows nothing of an image is the best such hand."""
    axes, rng = flexion_axes(), np.random.default_rng(0)
    bent = np.stack([random_pose(axes, rng)[1:] for _ in range(500)])
    # Of a small turn around an axis, the part of the matrix that changes its sign tells axis and angle.
    turns = np.stack(
        [bent[..., 2, 1] - bent[..., 1, 2], bent[..., 0, 2] - bent[..., 2, 0], bent[..., 1, 0] - bent[..., 0, 1]], -1
    )
    cosine = (bent.trace(axis1=2, axis2=3) - 1) / 2
    angles = np.arctan2((turns / 2 * axes).sum(-1), cosine)
    expected = (synthetic_hand().mean_pose * axes).sum(-1)
    np.testing.assert_allclose(angles.mean(0), expected, atol=0.07)


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
        pixels = project(sample.vertices, sample.intrinsics)
        covered, _ = render(sample.vertices, hands.arrays.faces, pixels, (64, 64), np.array([0.0, 0, -1.0]))
        assert covered.mean() > 0.05
        colors = np.asarray(sample.image).astype(float)
        hue = colors / colors.sum(-1, keepdims=True).clip(1)
        for where, mask in ((True, covered), (False, ~covered)):
            spread[where].append(hue[mask].std(0).max())
        joints = project(sample.joints, sample.intrinsics)
        assert ((joints > -8) & (joints < 72)).all()
    assert max(spread[True]) < 0.03
    assert np.median(spread[False]) > 0.05
