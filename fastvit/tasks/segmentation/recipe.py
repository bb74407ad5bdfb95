"""What a segmentation recipe can say, besides what all recipes can."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fastvit.config import FREE_ON_RESUME, Section, UserPath
from fastvit.tasks.backbone import BackboneConfig
from fastvit.training.recipe import DataConfig, Recipe


class SegmenterConfig(BackboneConfig):
    """Semantic FPN. `pretrained` and `checkpoint` are about the classification network in it."""

    head_channels: PositiveInt = 128  # width of the head
    dropout: float = Field(0.1, ge=0, lt=1)  # of whole channels, before the last convolution


class SegmentationDataConfig(DataConfig):
    """Which images and masks, and their size for the network."""

    dataset: Literal["ade20k", "folder", "digits"]  # folder: images and masks of your own
    root: UserPath | None = Field(None, json_schema_extra=FREE_ON_RESUME)  # folder of the data, which may have moved
    num_classes: int = Field(ge=2, le=255)  # that the masks have
    class_names: tuple[str, ...] | None = None  # for pictures; null: ADE20K's own, or numbers
    zero_is_unlabelled: bool = False  # of a folder: 0 in a mask means "no label", and classes begin with 1
    check_masks: bool = Field(True, json_schema_extra=FREE_ON_RESUME)  # read every mask before training
    train_scenes: PositiveInt = 1000  # of digits: in an epoch
    val_scenes: PositiveInt = 200  # of digits: to validate on
    crop_size: int = Field(ge=32)  # pixels on a side of a training image
    short_side: PositiveInt | None = None  # pixels, before random scaling; null: images keep their own size
    long_side: PositiveInt = 2048  # pixels, at most; has no effect without short_side
    size_divisor: PositiveInt = 32  # in validation both sides are rounded up to multiples of this, the network's stride

    @model_validator(mode="after")
    def _is_consistent(self) -> "SegmentationDataConfig":
        if self.root is None and self.dataset != "digits":
            raise ValueError(f"root is missing: the folder of dataset {self.dataset}; say data.root=FOLDER")
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names are {len(self.class_names)}, but num_classes is {self.num_classes}")
        if self.dataset != "folder" and self.zero_is_unlabelled:
            raise ValueError("zero_is_unlabelled is about dataset: folder; the others have their own convention")
        return self


class SegmentationAugmentationConfig(Section):
    """Of training images; the defaults are MMSegmentation's for ADE20K."""

    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)  # smallest and largest factor of the size
    hflip: float = Field(0.5, ge=0, le=1)  # probability of mirroring left and right
    photometric: bool = True  # random brightness, contrast, saturation, hue
    max_class_share: float = Field(0.75, gt=0, le=1)  # try again where one class fills more of a crop; 1: any crop

    @model_validator(mode="after")
    def _ordered(self) -> "SegmentationAugmentationConfig":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be [smallest, largest], but is {list(self.scale)}")
        return self


class SegmentationEvaluationConfig(Section):
    """How validation images go through the network: whole, or in overlapping windows, whose logits are averaged."""

    window: int | None = Field(None, ge=32)  # pixels on a side; null: the whole image at once
    stride: PositiveInt | None = None  # pixels from one window to the next

    @model_validator(mode="after")
    def _belong_together(self) -> "SegmentationEvaluationConfig":
        if (self.window is None) != (self.stride is None):
            raise ValueError("window and stride belong together: give both or neither")
        if self.window is not None and self.stride > self.window:
            raise ValueError(f"stride ({self.stride}) must be at most window ({self.window}), or pixels are left out")
        return self


class SegmentationRecipe(Recipe):
    """A run of semantic segmentation."""

    task: Literal["segmentation"]  # what to learn
    model: SegmenterConfig
    data: SegmentationDataConfig
    augmentation: SegmentationAugmentationConfig = SegmentationAugmentationConfig()
    evaluation: SegmentationEvaluationConfig = SegmentationEvaluationConfig()
