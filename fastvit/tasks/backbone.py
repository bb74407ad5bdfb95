"""What a recipe says about the backbone of a detector or segmenter."""

from typing import Literal

from pydantic import PositiveInt, model_validator
from timm.layers import freeze_batch_norm_2d
from torch import nn

from fastvit.errors import RecipeError
from fastvit.models.pyramid import stages_of
from fastvit.tasks.network import NetworkConfig, build_network


class BackboneConfig(NetworkConfig):
    """The classification network, and the feature pyramid on its stages."""

    # Of the network. train: as all others. local: loop.sync_batch_norm leaves it to each process, as MMSegmentation
    # leaves a backbone that does not ask for it. frozen: statistics and weights stay as loaded.
    batch_norm: Literal["train", "local", "frozen"] = "train"
    output_norm: bool = True  # a new batch norm on the output of each stage, as in the published code
    fpn_channels: PositiveInt = 256  # width of the feature pyramid

    @model_validator(mode="after")
    def _frozen_is_of_something(self) -> "BackboneConfig":
        if self.batch_norm == "frozen" and not (self.pretrained or self.checkpoint):
            raise ValueError("batch_norm: frozen is for weights that were trained: set pretrained or checkpoint, too")
        return self


def synchronize_batch_norm(config: BackboneConfig, model: nn.Module) -> nn.Module:
    """A model around a `backbone` with batch norm statistics of all processes, the backbone's as the recipe says."""
    for name, part in model.named_children():
        if name != "backbone" or config.batch_norm != "local":
            setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(part))
    return model


def build_body(config: BackboneConfig, *, initial_weights: bool) -> nn.Module:
    """The classification network without its classifier, with the weights that the recipe starts from.

    Raises:
        RecipeError: as `build_network`; or it has no stages for a feature pyramid.
    """
    body = build_network(config, initial_weights=initial_weights, num_classes=0)
    try:
        stages_of(body)
    except ValueError as error:
        raise RecipeError(f"model.name: {config.name} cannot be the backbone: {error}") from error
    return freeze_batch_norm_2d(body) if config.batch_norm == "frozen" else body
