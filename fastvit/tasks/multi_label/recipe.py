"""What a recipe of several labels an image can say: what a classification recipe can, except for its teacher."""

from typing import Any, ClassVar, Literal

from pydantic import PositiveInt, model_validator

from fastvit.tasks.classification.recipe import ClassificationRecipe, ImageDataConfig
from fastvit.tasks.multi_label.digits import LabelledScenes


class MultiLabelDataConfig(ImageDataConfig):
    """Which images: those of a table with the column `labels`, or scenes of digits."""

    dataset: Literal["folder", "digits"]  # folder, of a table; or scenes of digits, made on the fly
    train_scenes: PositiveInt = 1000  # of digits: in an epoch
    val_scenes: PositiveInt = 200  # of digits: to validate on

    @model_validator(mode="after")
    def _table_is_given(self) -> "MultiLabelDataConfig":
        if self.dataset == "folder" and self.table is None:
            raise ValueError(
                "table is missing: several labels an image come from a table with the columns path and labels "
                "(class folders say one label: task=classification)"
            )
        return self


class MultiLabelRecipe(ClassificationRecipe):
    """A run of classification with several labels an image."""

    label_column: ClassVar[str] = "labels"
    task: Literal["multi_label"]  # what to learn
    data: MultiLabelDataConfig

    @model_validator(mode="after")
    def _has_no_teacher(self) -> "MultiLabelRecipe":
        if self.distillation:
            raise ValueError("distillation is for one label an image, where a teacher's probabilities sum to 1")
        return self

    def open_images(self, *, training: bool) -> Any:
        data = self.data
        if data.dataset == "folder":
            return super().open_images(training=training)
        count = data.train_scenes if training else data.val_scenes
        return LabelledScenes(train=training, count=count, size=data.image_size)
