"""From images to embeddings, with the network in any of its forms."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastvit.deploy.sidecar import sha256
from fastvit.errors import RunError
from fastvit.predictor import CLASSIFIERS
from fastvit.runtime.device import to_device
from fastvit.trained import Kind, Trained


class Embedder:
    """A frozen network. Of a classifier the features before its last layer are taken; of an encoder, its outputs.

    Args:
        device: where to compute; exported files are at home on the CPU.

    Attributes:
        prepare: from an RGB image to a crop (3, height, width) uint8; to be called in any process.
        width: numbers in an embedding.
        model: what embeddings must have in common to be compared, ready for JSON.

    Raises:
        UserError: the network gives no features of whole images, or its weights are missing.
    """

    def __init__(self, trained: Trained, device: torch.device):
        require_features(trained)
        self.preprocessing = trained.preprocessing
        self.prepare = self.preprocessing.crop
        self.is_classifier = trained.does in CLASSIFIERS
        digest = sha256(Path(trained.source)) if trained.kind is Kind.FILE else weights_sha256(trained.network)
        self.model = {
            "features": "before the classifier" if self.is_classifier else "outputs",
            "weights_sha256": digest,
            **self.preprocessing.to_dict(),
        }
        self.network: Any
        self.network, self.device = trained.fused_on(device)
        blank = torch.zeros(1, 3, self.preprocessing.height, self.preprocessing.width, dtype=torch.uint8)
        try:
            self.width = self(blank).shape[1]
        except ValueError as error:
            raise RunError(f"{trained.source} {error}: name a classifier or an encoder") from error

    @torch.inference_mode()
    def __call__(self, crops: Tensor) -> np.ndarray:
        """Embeddings (B, width) in float32, of crops (B, 3, height, width)."""
        crops = to_device(crops, self.device, channels_last=True)
        images = self.preprocessing.normalize(crops)
        if self.is_classifier:
            outputs = self.network.forward_head(self.network.forward_features(images), pre_logits=True)
        else:
            outputs = self.network(images)
        return _of_whole_images(outputs).float().cpu().numpy()


def weights_sha256(model: nn.Module) -> str:
    """Of all parameters and buffers with their names: the same whatever file or hub they come from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def require_features(trained: Trained) -> None:
    """Raise RunError for a network that has none of whole images. Its weights are not read."""
    if trained.kind is Kind.FILE and trained.does is not None:
        raise RunError(
            f"{trained.source} is an exported classifier, whose features are inside: name the run or the network that "
            "it was made from"
        )
    if trained.does not in (None, *CLASSIFIERS):
        raise RunError(f"{trained.source} is for {trained.does}: features are those of a classifier or an encoder")
    if trained.preprocessing is None:
        raise RunError(f"{trained.source} does not say what images go through: export it with its preprocessing stated")


def _of_whole_images(outputs: Any) -> Tensor:
    """(B, D); of the maps of several stages (B, D, H, W), the last, averaged. Raises ValueError."""
    if isinstance(outputs, tuple | list):
        outputs = outputs[-1].mean((2, 3)) if outputs[-1].ndim == 4 else outputs[-1]
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise ValueError("gives no single row of numbers for an image")
    return outputs
