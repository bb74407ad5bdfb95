"""The network of the paper's section on hands: backbone, pooled features, a small regressor, and the hand model."""

import torch
from torch import Tensor, nn

from fastvit.models.rotations import from_six, to_six
from fastvit.models.skinning import NUM_JOINTS, ROOT, HandModel

# Where the regressor starts: image units (half an image) for each metre; a hand 20 cm long is then 60 % of the image.
INITIAL_SCALE = 6.0


class HandMesh(nn.Module):
    """From an image to the mesh of the hand in it; no mesh head, only the parameters of a hand model are regressed.

    The paper says "a simple regression module" from features to weak-perspective camera, pose and shape; its size, and
    rotations as six numbers each, are our choice.

    Args:
        backbone: images (B, 3, H, W) to pooled features (B, num_features).
        num_features: of the backbone.
        hand: the hand model.
        hidden: width of the regressor.
        dropout: in the regressor.
    """

    def __init__(self, backbone: nn.Module, num_features: int, hand: HandModel, *, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.backbone = backbone
        self.regressor = Regressor(num_features, hand, hidden=hidden, dropout=dropout)
        self.hand = hand

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """What is in each image.

        Args:
            images: (B, 3, H, W).

        Returns:
            A dict with these entries.

            - vertices (B, V, 3) and joints (B, 21, 3), in metres, turned as the camera sees them, relative to the joint
              `ROOT`.
            - camera (B, 3), scale s and shift t: a point (x, y, z) is at s * (x, y) + t in the image, where (-1, -1) is
              its upper left and (1, 1) its lower right corner.
            - rotations (B, 16, 3, 3) and shape (B, S), of the hand model.
        """
        features = self.backbone(images)  # (B, num_features)
        device = "cpu" if images.is_meta else images.device.type  # the meta device has no autocast
        with torch.autocast(device, enabled=False):  # bfloat16 would move vertices by 0.4 mm
            camera, rotations, shape = self.regressor(features.to(self.hand.vertices.dtype))
            vertices, joints = self.hand(rotations, shape)
        root = joints[:, ROOT, None]
        mesh = {"vertices": vertices - root, "joints": joints - root}
        return {**mesh, "camera": camera, "rotations": rotations, "shape": shape}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As timm's models have it."""
        self.backbone.set_grad_checkpointing(enable)


class Regressor(nn.Module):
    """From features to what the hand model and the camera need, starting at a relaxed hand in the image's middle."""

    def __init__(self, num_features: int, hand: HandModel, *, hidden: int, dropout: float):
        super().__init__()
        self.num_shape = hand.num_shape
        self.layers = nn.Sequential(
            nn.Linear(num_features, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 3 + 6 * NUM_JOINTS + self.num_shape),
        )
        nn.init.normal_(self.layers[-1].weight, std=1e-3)
        nn.init.zeros_(self.layers[-1].bias)
        self.register_buffer("mean_rotations", to_six(hand.mean_rotations()), persistent=False)  # (16, 6)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Camera (B, 3), rotations (B, 16, 3, 3) and shape (B, S) from features (B, num_features)."""
        camera, rotations, shape = self.layers(features).split([3, 6 * NUM_JOINTS, self.num_shape], 1)
        scale = INITIAL_SCALE * camera[:, :1].exp()
        rotations = from_six(self.mean_rotations + rotations.unflatten(1, (NUM_JOINTS, 6)))
        return torch.cat([scale, camera[:, 1:]], 1), rotations, shape


def project(points: Tensor, camera: Tensor) -> Tensor:
    """(B, N, 2), from -1 to 1 over the image, of points (B, N, 3) by weak-perspective cameras (B, 3)."""
    return camera[:, None, :1] * points[..., :2] + camera[:, None, 1:]
