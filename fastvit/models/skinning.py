"""An articulated hand mesh: blend shapes, a kinematic tree of rotations, linear blend skinning, as in MANO.

MANO: Romero, Tzionas and Black, "Embodied Hands", SIGGRAPH Asia 2017; the formulas are those of SMPL (2015).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastvit.models.rotations import rotation_matrix

# Fingers in the order in which the skeleton has them, three joints each from knuckle to tip, after the wrist.
FINGERS = ("index", "middle", "pinky", "ring", "thumb")
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
NUM_JOINTS = len(PARENTS)
# The 21 joints of a hand in FreiHAND's order: wrist, then thumb, index, middle, ring and pinky, each from its base to
# its tip. Numbers below 16 are rows of the joint regressor, 16 to 20 the tips of thumb, index, middle, ring and pinky.
JOINT_ORDER = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
ROOT = 9  # of the 21: the knuckle of the middle finger, to which positions are relative, as in FreiHAND's tools


class HandArrays(NamedTuple):
    """A hand model as numbers, in metres. V vertices, F triangles, S shape coefficients, 16 joints.

    All arrays are float32 except `faces`, which are integers.
    """

    vertices: np.ndarray  # (V, 3): at rest
    faces: np.ndarray  # (F, 3): vertices of each triangle
    skin_weights: np.ndarray  # (V, 16): how much a vertex follows each joint; they sum to 1
    shape_directions: np.ndarray  # (V, 3, S): what a unit of each shape coefficient adds
    pose_directions: np.ndarray  # (V, 3, 135): what each entry of (rotation - identity) of the 15 finger joints adds
    mean_pose: np.ndarray  # (15, 3): a relaxed hand, as axis times angle of each finger joint
    joint_regressor: np.ndarray  # (16, V): each joint as a mean of vertices; the weights sum to 1
    tips: tuple[int, ...]  # vertices at the tips of thumb, index, middle, ring and pinky


class HandModel(nn.Module):
    """From rotations and shape to a mesh and its 21 joints.

    The joint regressor serves twice. Of the vertices at rest it gives the joints that the bones turn around, which stay
    inside. Of the posed vertices it gives, with the finger tips, the 21 joints that FreiHAND annotates and measures
    (utils/model.py of its toolbox, since version 2). Where fingers bend, the two are some millimetres apart.

    Its arrays are not part of the state dict: they come from the file that they came from before, which for MANO may
    not be passed on.
    """

    def __init__(self, arrays: HandArrays):
        super().__init__()
        self.num_shape = arrays.shape_directions.shape[2]
        tips = np.eye(len(arrays.vertices))[list(arrays.tips)]
        buffers = {
            **{name: getattr(arrays, name) for name in HandArrays._fields[:6]},
            "bone_joints": arrays.joint_regressor @ arrays.vertices,  # (16, 3)
            "bone_joint_directions": np.einsum("jv,vcs->jcs", arrays.joint_regressor, arrays.shape_directions),
            "regressor": np.concatenate([arrays.joint_regressor, tips])[list(JOINT_ORDER)],  # (21, V)
        }
        for name, value in buffers.items():
            dtype = torch.int64 if name == "faces" else torch.float32
            self.register_buffer(name, torch.as_tensor(value, dtype=dtype), persistent=False)

    def forward(self, rotations: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Pose the hand.

        Args:
            rotations: (B, 16, 3, 3), of each joint relative to its parent; the wrist's turns the whole hand.
            shape: (B, S).

        Returns:
            Vertices (B, V, 3) and joints (B, 21, 3) in `JOINT_ORDER`, in metres, in the frame of the rest pose.
        """
        joints = self.bone_joints + torch.einsum("jcs,bs->bjc", self.bone_joint_directions, shape)  # (B, 16, 3)
        bends = (rotations[:, 1:] - torch.eye(3, device=shape.device, dtype=shape.dtype)).flatten(1)  # (B, 135)
        vertices = self.vertices + torch.einsum("vcs,bs->bvc", self.shape_directions, shape)
        vertices = vertices + torch.einsum("vcp,bp->bvc", self.pose_directions, bends)  # (B, V, 3)
        turns, posed = self._kinematics(rotations, joints)
        shifts = posed - torch.einsum("bjcd,bjd->bjc", turns, joints)  # where each joint takes the origin
        turn = torch.einsum("vj,bjcd->bvcd", self.skin_weights, turns)  # (B, V, 3, 3)
        shift = torch.einsum("vj,bjc->bvc", self.skin_weights, shifts)
        vertices = torch.einsum("bvcd,bvd->bvc", turn, vertices) + shift
        return vertices, torch.einsum("jv,bvc->bjc", self.regressor, vertices)

    def mean_rotations(self) -> Tensor:
        """(16, 3, 3): a relaxed hand, not turned."""
        return torch.cat([torch.eye(3).to(self.mean_pose)[None], rotation_matrix(self.mean_pose)])

    def _kinematics(self, rotations: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation (B, 16, 3, 3) and position (B, 16, 3) of each joint in the frame of the hand."""
        bones = (joints[:, 1:] - joints[:, list(PARENTS[1:])]).unsqueeze(-1)  # (B, 15, 3, 1)
        turn, place = rotations[:, :1], joints[:, :1]
        turns, places = [], []
        for i in range(3):  # all fingers at once: knuckles, then the joints after them, then the last ones
            place = place + (turn @ bones[:, i::3]).squeeze(-1)  # (B, 5, 3)
            turn = turn @ rotations[:, 1 + i :: 3]  # (B, 5, 3, 3)
            turns.append(turn)
            places.append(place)
        turn, place = (torch.stack(each, 2).flatten(1, 2) for each in (turns, places))  # finger after finger
        return torch.cat([rotations[:, :1], turn], 1), torch.cat([joints[:, :1], place], 1)
