"""The hand mesh task: data, network, losses and metrics put together as the recipe says."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastvit.files import as_whole
from fastvit.models.hand_mesh import HandMesh, project
from fastvit.models.skinning import HandArrays, HandModel
from fastvit.tasks.hand_mesh.freihand import FreiHand
from fastvit.tasks.hand_mesh.mano import read_mano
from fastvit.tasks.hand_mesh.metrics import HandMeshMetrics
from fastvit.tasks.hand_mesh.picture import mesh_grid
from fastvit.tasks.hand_mesh.recipe import HandMeshRecipe
from fastvit.tasks.hand_mesh.scenes import SyntheticHands
from fastvit.tasks.hand_mesh.synthetic import synthetic_hand
from fastvit.tasks.hand_mesh.transform import HandImages
from fastvit.tasks.network import build_network
from fastvit.training.task import Network, Part, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = {
    "vertices": F.l1_loss,
    "joints": F.l1_loss,
    "points": F.l1_loss,
    "rotations": F.mse_loss,
    "shape": F.mse_loss,
}


class HandMeshRecovery(Task):
    """The mesh of the one hand in an image. A batch is what `HandImages` gives, each with a batch dimension."""

    recipe: HandMeshRecipe
    best_metric = "pa_mpjpe_mm"
    higher_is_better = False
    pictured = 16

    @property
    def input_size(self) -> tuple[int, int, int]:
        return 3, self.recipe.data.image_size, self.recipe.data.image_size

    def build_model(self, *, initial_weights: bool = True) -> nn.Module:
        config = self.recipe.model
        hand = HandModel(self.hand)
        backbone = build_network(config, initial_weights=initial_weights, reset_head=True, num_classes=0)
        return HandMesh(backbone, backbone.num_features, hand, hidden=config.hidden, dropout=config.dropout)

    @cached_property
    def hand(self) -> HandArrays:
        mano = self.recipe.model.mano
        return read_mano(mano) if mano else synthetic_hand()

    @property
    def prediction_settings(self) -> dict[str, Any]:
        return {"faces": self.hand.faces.tolist()}

    def open_data(self, part: Literal["train", "val"]) -> Part:
        images = HandImages(
            self._hands(part),
            self.normalization,
            image_size=self.recipe.data.image_size,
            augmentation=self.recipe.augmentation if part == "train" else None,
        )
        return Part(images)

    def _hands(self, part: Literal["train", "val"]) -> Dataset:
        """The hands as they are."""
        data, train = self.recipe.data, part == "train"
        if data.dataset == "synthetic":
            return SyntheticHands(
                train=train, size=data.train_size if train else data.val_size, image_size=data.image_size
            )
        if not train:
            return FreiHand(data.root, train=False)
        return FreiHand(data.root, train=True, versions=data.versions, mean_pose=self.hand.mean_pose)

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms, those of weight 0 left out."""
        predicted = model(batch["image"])
        predicted = {**predicted, "points": project(predicted["joints"], predicted["camera"])}
        weights = self.recipe.losses.model_dump()
        return {name: weight * COSTS[name](predicted[name], batch[name]) for name, weight in weights.items() if weight}

    def labelled(self, batch: dict[str, Tensor], class_names: Sequence[str] | None) -> tuple[Tensor, list[str]]:
        return self.normalization.undo(batch["image"]), []

    def predict(self, model: Network, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return model(batch["image"])

    def new_metrics(self) -> HandMeshMetrics:
        """Beside what is known of the images, what the hand model is without them: of mean pose and mean shape."""
        hand = HandModel(self.hand)
        vertices, joints = hand(hand.mean_rotations()[None], torch.zeros(1, hand.num_shape))
        return HandMeshMetrics(joints[0], vertices[0])

    def write_details(self, metrics: HandMeshMetrics, data: Part, folder: Path) -> list[Path]:
        """Of FreiHAND, what its challenge and its own evaluation read: [joints, vertices], each a list over images.

        Positions are in metres in the camera's frame.
        """
        if self.recipe.data.dataset != "freihand":
            return []
        joints, vertices = (torch.cat(parts).cpu() for parts in zip(*metrics.predictions, strict=True))
        # A nanometre is enough, and half the size of the file.
        rounded = [torch.round(each.double(), decimals=9).tolist() for each in (joints, vertices)]
        with as_whole(folder / "pred.json") as path:
            path.write_text(json.dumps(rounded), encoding="utf-8")
        return [folder / "pred.json"]

    def draw(self, model: Network, samples: list[dict[str, Tensor]], class_names: Sequence[str] | None) -> "Figure":
        images = torch.stack([sample["image"] for sample in samples])
        with torch.no_grad():
            predicted = model(images)
        return mesh_grid(
            self.normalization.undo(images).permute(0, 2, 3, 1).numpy(),
            predicted["vertices"].numpy(),
            predicted["camera"].numpy(),
            self.hand.faces,
        )
