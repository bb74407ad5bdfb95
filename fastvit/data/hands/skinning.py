"""An articulated hand mesh: blend shapes, a kinematic tree of rotations, linear blend skinning, as in MANO.

MANO: Romero, Tzionas and Black, "Embodied Hands", SIGGRAPH Asia 2017; the formulas are those of SMPL (2015).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastvit.data.hands.rotations import rotation_matrix

# Fingers in the order in which the skeleton has them, three joints each from knuckle to tip, after the wrist.
FINGERS = ("index", "middle", "pinky", "ring", "thumb")
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
# The 21 joints of a hand in FreiHAND's order: wrist, then thumb, index, middle, ring and pinky, each from its base to
# its tip. Numbers below 16 are joints of the skeleton, 16 to 20 the tips of thumb, index, middle, ring and pinky.
JOINT_ORDER = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
ROOT = 9  # of the 21: the knuckle of the middle finger, to which positions are relative, as in FreiHAND's tools
BONES = tuple((0 if i % 4 == 1 else i - 1, i) for i in range(1, 21))  # pairs of the 21, to draw a hand


class HandArrays(NamedTuple):
    """A hand model as numbers, in metres. V vertices, F triangles, S shape coefficients, 16 joints.

    All arrays are float32 but for `faces`, which are integers.
    """

    vertices: np.ndarray  # (V, 3): at rest
    faces: np.ndarray  # (F, 3): vertices of each triangle
    skin_weights: np.ndarray  # (V, 16): how much a vertex follows each joint; they sum to 1
    shape_directions: np.ndarray  # (V, 3, S): what a unit of each shape coefficient adds
    pose_directions: np.ndarray  # (V, 3, 135): what each entry of (rotation - identity) of the 15 finger joints adds
    joints: np.ndarray  # (16, 3): at rest
    joint_directions: np.ndarray  # (16, 3, S): what a unit of each shape coefficient adds
    mean_pose: np.ndarray  # (15, 3): a relaxed hand, as axis times angle of each finger joint
    parents: tuple[int, ...]  # of the 16 joints; -1 for the wrist
    tips: tuple[int, ...]  # vertices at the tips of thumb, index, middle, ring and pinky


class HandModel(nn.Module):
    """From rotations and shape to a mesh and its 21 joints.

    Its arrays are not part of the state dict: they come from the file that they came from before, which for MANO may
    not be passed on.
    """

    def __init__(self, arrays: HandArrays):
        super().__init__()
        self.parents, self.tips = tuple(arrays.parents), list(arrays.tips)
        self.num_shape = arrays.shape_directions.shape[2]
        for name in HandArrays._fields[:8]:
            dtype = torch.int64 if name == "faces" else torch.float32
            self.register_buffer(name, torch.as_tensor(getattr(arrays, name), dtype=dtype), persistent=False)

    def forward(self, rotations: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Pose the hand.

        Args:
            rotations: (B, 16, 3, 3), of each joint relative to its parent; the wrist's turns the whole hand.
            shape: (B, S).

        Returns:
            Vertices (B, V, 3) and joints (B, 21, 3) in `JOINT_ORDER`, in metres, in the frame of the rest pose.
        """
        joints = self.joints + torch.einsum("jcs,bs->bjc", self.joint_directions, shape)  # (B, 16, 3)
        bends = (rotations[:, 1:] - torch.eye(3, device=shape.device, dtype=shape.dtype)).flatten(1)  # (B, 135)
        vertices = self.vertices + torch.einsum("vcs,bs->bvc", self.shape_directions, shape)
        vertices = vertices + torch.einsum("vcp,bp->bvc", self.pose_directions, bends)  # (B, V, 3)
        turns, posed = self._kinematics(rotations, joints)
        shifts = posed - torch.einsum("bjcd,bjd->bjc", turns, joints)  # where each joint takes the origin
        turn = torch.einsum("vj,bjcd->bvcd", self.skin_weights, turns)  # (B, V, 3, 3)
        shift = torch.einsum("vj,bjc->bvc", self.skin_weights, shifts)
        vertices = torch.einsum("bvcd,bvd->bvc", turn, vertices) + shift
        return vertices, self._ordered(posed, vertices)

    def mean_rotations(self) -> Tensor:
        """(16, 3, 3): a relaxed hand, not turned."""
        return torch.cat([torch.eye(3).to(self.mean_pose)[None], rotation_matrix(self.mean_pose)])

    def _kinematics(self, rotations: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation (B, 16, 3, 3) and position (B, 16, 3) of each joint in the frame of the hand."""
        turns, places = [rotations[:, 0]], [joints[:, 0]]
        for joint, parent in enumerate(self.parents[1:], start=1):
            bone = joints[:, joint] - joints[:, parent]
            places.append(places[parent] + torch.einsum("bcd,bd->bc", turns[parent], bone))
            turns.append(turns[parent] @ rotations[:, joint])
        return torch.stack(turns, 1), torch.stack(places, 1)

    def _ordered(self, joints: Tensor, vertices: Tensor) -> Tensor:
        return torch.cat([joints, vertices[:, self.tips]], 1)[:, list(JOINT_ORDER)]
