"""What a robustness evaluation can say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from fastvit.config import Section, UserPath, apply_overrides, read_file, validate
from fastvit.robustness.corruptions import CORRUPTIONS, SEVERITIES
from fastvit.tasks.network import NamedNetwork
from fastvit.trained import Kind, kind_of


class ModelSource(NamedNetwork):
    """A trained classifier."""

    form: Literal["unfused", "fused"] = "fused"


class SetConfig(Section):
    """One set of images to evaluate on."""

    kind: Literal[
        "imagenet", "imagenet_a", "imagenet_r", "imagenet_v2", "imagenet_real", "imagenet_c", "corrupted_validation"
    ]
    folder: str = ""  # below the root; not for corrupted_validation, which is about the run's own validation images
    image_size: PositiveInt | None = None  # null: the model's own
    crop_pct: float | None = Field(None, gt=0, le=1)  # side of the crop over that of the image; null: the model's own
    resize: bool = True  # as the model's evaluation does; false: only crop the center, for images stored in their size
    corruptions: tuple[Literal[CORRUPTIONS], ...] = CORRUPTIONS
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = SEVERITIES
    expected: dict[str, float] = Field(default_factory=dict)  # published top-1 by the model's name
    expected_crop_pct: dict[str, float] = Field(default_factory=dict)  # of those that were not cropped as here

    @model_validator(mode="after")
    def _crops_in_one_way(self) -> "SetConfig":
        if self.crop_pct and not self.resize:
            raise ValueError("crop_pct is about resizing, and resize is false: remove one of them")
        return self

    @model_validator(mode="after")
    def _has_a_folder(self) -> "SetConfig":
        if bool(self.folder) == (self.kind == "corrupted_validation"):
            raise ValueError("folder is for all kinds but corrupted_validation")
        return self


class RobustnessRecipe(Section):
    """An evaluation of one model on several sets."""

    task: Literal["robustness"]
    model: ModelSource
    root: UserPath | None = None  # folder of the sets
    output: UserPath | None = None  # null: a folder of its own for each recipe and network, in runs/robustness
    skip_missing: bool = False  # report sets that are not there, rather than stop
    batch_size: PositiveInt = 64
    workers: int = Field(4, ge=0)  # of each process
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = True
    seed: int = Field(0, ge=0, lt=2**32)  # of corruptions made on the fly
    sets: dict[str, SetConfig]  # by the name that the table gives them

    @model_validator(mode="after")
    def _sets_can_be(self) -> "RobustnessRecipe":
        if not self.sets:
            raise ValueError("sets is empty: there is nothing to evaluate")
        if self.root is None and any(each.folder for each in self.sets.values()):
            raise ValueError("root is missing: the folder of the sets; say root=FOLDER")
        return self

    @model_validator(mode="after")
    def _is_computed_as_it_says(self) -> "RobustnessRecipe":
        kind = kind_of(self.model.name)
        if kind is Kind.FILE and (self.precision != "float32" or self.model.form != "fused"):
            raise ValueError(f"{self.model.name} is {kind.value}: leave out precision and model.form")
        return self

    def path(self, config: SetConfig) -> Path:
        """The folder of a set."""
        return self.root / config.folder


def read_robustness_recipe(path: Path, overrides: Sequence[str]) -> RobustnessRecipe:
    """A validated recipe from a YAML file, with overrides `key.sub=value`. Raises RecipeError."""
    return validate(apply_overrides(read_file(path), overrides), RobustnessRecipe, str(path))
