"""Hand models pose as the formulas say, and their joints are those that FreiHAND's toolbox regresses."""

import numpy as np
import pytest
import roma
import torch
from scipy.spatial.transform import Rotation

from fastvit.models.rotations import from_six, rotation_matrix, to_six
from fastvit.models.skinning import PARENTS, HandArrays, HandModel
from fastvit.tasks.hand_mesh.synthetic import synthetic_hand
from hands import TIPS, mano_like, toolbox_joints


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


def test_a_pose_is_what_the_formulas_give_by_hand():
    data, rng = mano_like(), np.random.default_rng(1)
    arrays = HandArrays(
        vertices=data["v_template"],
        faces=data["f"],
        skin_weights=data["weights"],
        shape_directions=data["shapedirs"],
        pose_directions=data["posedirs"],
        mean_pose=data["hands_mean"].reshape(15, 3),
        joint_regressor=data["J_regressor"],
        tips=TIPS,
    )
    vectors, shape = rng.standard_normal((16, 3)), rng.standard_normal(10)
    expected, _ = by_hand(data, vectors, shape)
    pose = vectors + np.concatenate([np.zeros((1, 3)), arrays.mean_pose])
    rotations = rotation_matrix(torch.tensor(pose)[None].float())
    vertices, joints = HandModel(arrays)(rotations, torch.tensor(shape)[None].float())
    np.testing.assert_allclose(vertices[0].numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(joints[0].numpy(), toolbox_joints(expected, data["J_regressor"], TIPS), atol=2e-6)


def test_joints_of_the_mesh_and_of_the_bones_are_the_same_at_rest_only(synthetic: HandModel):
    """FreiHAND's joints are not the points that the bones turn around; the synthetic hand tells them apart, too."""
    arrays = synthetic_hand()
    data = {
        "v_template": arrays.vertices,
        "weights": arrays.skin_weights,
        "shapedirs": arrays.shape_directions,
        "posedirs": arrays.pose_directions,
        "J_regressor": arrays.joint_regressor,
        "hands_mean": 0 * arrays.mean_pose,
    }
    bones = [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3]  # in FreiHAND's order
    apart = []
    for vectors in (np.zeros((16, 3)), np.concatenate([np.zeros((1, 3)), arrays.mean_pose])):
        _, chain = by_hand(data, vectors, np.zeros(10))
        _, joints = synthetic(rotation_matrix(torch.tensor(vectors).float())[None], torch.zeros(1, 10))
        apart.append(np.linalg.norm(joints[0, bones].numpy() - chain, axis=1).max())
    assert apart[0] < 1e-6
    assert apart[1] > 5e-4  # metres, at the mean pose


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
    torch.testing.assert_close(joints[0, 1], synthetic.bone_joints[13], atol=1e-6, rtol=0)


def test_the_wrist_turns_the_whole_hand(synthetic: HandModel):
    rotations, shape, turn = random_rotations(2), torch.randn(2, synthetic.num_shape), roma.random_rotmat(2)
    vertices, joints = synthetic(rotations, shape)
    turned = torch.cat([turn[:, None] @ rotations[:, :1], rotations[:, 1:]], 1)
    vertices2, joints2 = synthetic(turned, shape)
    wrist = joints[:, :1]
    torch.testing.assert_close(vertices2, (vertices - wrist) @ turn.mT + wrist, atol=1e-6, rtol=0)
    torch.testing.assert_close(joints2, (joints - wrist) @ turn.mT + wrist, atol=1e-6, rtol=0)
