"""What a hand mesh recipe can say, besides what all recipes can."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from fastvit.config import FREE_ON_RESUME, Section, UserPath
from fastvit.tasks.hand_mesh.freihand import VERSIONS
from fastvit.tasks.network import NetworkConfig
from fastvit.training.recipe import DataConfig, Recipe


class HandNetworkConfig(NetworkConfig):
    """The backbone and what follows it. `checkpoint` and `pretrained` are about the backbone."""

    hidden: PositiveInt = 1024  # width of the regressor
    dropout: float = Field(0.0, ge=0, lt=1)  # in the regressor
    mano: UserPath | None = Field(None, json_schema_extra=FREE_ON_RESUME)  # MANO_RIGHT.pkl, for FreiHAND


class HandDataConfig(DataConfig):
    """Which images, and their size for the network."""

    dataset: Literal["freihand", "synthetic"]  # synthetic: hands that are drawn, to try things out
    root: UserPath | None = Field(None, json_schema_extra=FREE_ON_RESUME)  # folder of FreiHAND
    versions: tuple[Literal[VERSIONS], ...] = VERSIONS  # of FreiHAND's training images: their backgrounds
    image_size: int = Field(224, ge=32)  # pixels on a side
    train_size: PositiveInt = 4096  # synthetic scenes in an epoch; each epoch's are new
    val_size: PositiveInt = 512  # synthetic scenes to validate on


class HandAugmentationConfig(Section):
    """Random changes of a training image, its camera and its hand, which stay consistent. Defaults: METRO's."""

    rotation: NonNegativeFloat = 90.0  # standard deviation in degrees, cut off at twice that and at half a turn
    rotation_prob: float = Field(0.4, ge=0, le=1)  # of turning an image at all
    scale: float = Field(0.25, ge=0, lt=1)  # standard deviation of the crop's side, cut off at one deviation
    color: float = Field(0.4, ge=0, lt=1)  # each channel is multiplied by 1 - color to 1 + color


class HandLossConfig(Section):
    """Weights of the terms. Positions are in metres, points in half images; all but the last two are mean distances."""

    vertices: NonNegativeFloat = 100.0  # mean absolute difference of coordinates
    joints: NonNegativeFloat = 100.0  # as vertices
    points: NonNegativeFloat = 1.0  # as vertices, of the joints in the image
    rotations: NonNegativeFloat = 1.0  # mean squared difference of the entries of the matrices
    shape: NonNegativeFloat = 0.01  # mean squared difference of the coefficients


class HandMeshRecipe(Recipe):
    """One training run of a hand mesh network."""

    task: Literal["hand_mesh"]  # what to learn
    model: HandNetworkConfig
    data: HandDataConfig
    augmentation: HandAugmentationConfig = HandAugmentationConfig()
    losses: HandLossConfig = HandLossConfig()

    @model_validator(mode="after")
    def _files_are_given(self) -> "HandMeshRecipe":
        freihand = self.data.dataset == "freihand"
        for key, value in (("data.root", self.data.root), ("model.mano", self.model.mano)):
            if freihand and value is None:
                raise ValueError(f"{key} is missing: dataset freihand needs it")
            if not freihand and value is not None:
                raise ValueError(f"{key} is for FreiHAND, and data.dataset is {self.data.dataset}; remove it")
        return self
