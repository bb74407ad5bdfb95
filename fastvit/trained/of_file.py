"""An exported file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fastvit.deploy.card import Card
from fastvit.deploy.load import load
from fastvit.deploy.sidecar import read_sidecar, sidecar_path
from fastvit.errors import RunError
from fastvit.predictor import IMAGE_CLASSIFICATION, IMAGE_MULTI_LABEL
from fastvit.trained.name import Kind, Options
from fastvit.trained.network import Trained
from fastvit.training.task import Network


def of_file(source: str, options: Options) -> Trained:
    """What was exported, by the JSON file beside it. Raises UserError."""
    path = Path(source)
    if path.suffix == ".safetensors" and path.exists() and not sidecar_path(path).exists():
        raise RunError(f"{source} holds weights alone: name their network, and give the file with --checkpoint")
    sidecar = read_sidecar(path)
    card = Card.from_dict(sidecar)
    does = card.task or ("classification" if card.labels else None)

    def read() -> Network:
        return AnyBatch(load(path), *sidecar["input"]["batch"])

    if sidecar["input"]["layout"] == "HWC":
        does = IMAGE_MULTI_LABEL if does == "multi_label" else IMAGE_CLASSIFICATION
        read = partial(load, path)
    return Trained(
        source=source,
        name=path.name.partition(".")[0],
        kind=Kind.FILE,
        does=does,
        preprocessing=card.preprocessing,
        labels=card.labels or None,
        weights=path.name,
        architecture=card.architecture,
        task=None,
        load=read,
        licence=card.licence,
        stated=card,
    )


class AnyBatch:
    """An exported network, which takes from `low` to `high` images at a time, as a function of any number of images."""

    def __init__(self, network: Callable[[Tensor], Any], low: int, high: int):
        self.network, self.low, self.high = network, low, high

    def __call__(self, images: Tensor) -> Any:
        parts = [self._some(part) for part in images.split(self.high)]
        return tree_map(lambda *outputs: torch.cat(outputs), *parts)

    def _some(self, images: Tensor) -> Any:
        """The last image is repeated where there are too few."""
        count = len(images)
        filled = torch.cat([images, images[-1:].expand(max(self.low - count, 0), -1, -1, -1)])
        return tree_map(lambda output: output[:count], self.network(filled))
