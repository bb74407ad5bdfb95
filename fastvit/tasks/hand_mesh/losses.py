"""What the network learns from."""

import torch.nn.functional as F
from torch import Tensor

from fastvit.models.hand_mesh import project
from fastvit.tasks.hand_mesh.recipe import HandLossConfig


def hand_losses(config: HandLossConfig, predicted: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weighted terms, those of weight 0 left out.

    Args:
        predicted: what `HandMesh` gives.
        batch: as `HandImages` describes, with a batch dimension.
    """
    points = project(predicted["joints"], predicted["camera"])
    terms = {
        "vertices": lambda: F.l1_loss(predicted["vertices"], batch["vertices"]),
        "joints": lambda: F.l1_loss(predicted["joints"], batch["joints"]),
        "points": lambda: F.l1_loss(points, batch["points"]),
        "rotations": lambda: F.mse_loss(predicted["rotations"], batch["rotations"]),
        "shape": lambda: F.mse_loss(predicted["shape"], batch["shape"]),
    }
    return {name: weight * terms[name]() for name, weight in config.model_dump().items() if weight}
