"""What a detection recipe can say, besides what all recipes can."""

from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from fastvit.config import FREE_ON_RESUME, Section, UserPath
from fastvit.models.detection import LEVELS
from fastvit.tasks.backbone import BackboneConfig
from fastvit.training.recipe import DataConfig, Recipe

OF_MASK_RCNN = ("box_channels", "mask_channels", "proposals", "rois")


class DetectorConfig(BackboneConfig):
    """The detector. `pretrained` and `checkpoint` are about the classification network in it."""

    detector: Literal["mask_rcnn", "retinanet"]  # boxes and masks, or boxes
    # Pixels on a side of the anchors on each of the five levels of the pyramid.
    anchor_sizes: tuple[PositiveInt, ...] = (32, 64, 128, 256, 512)
    box_channels: PositiveInt = 1024  # width of the box head
    mask_channels: PositiveInt = 256  # width of the mask head
    proposals: PositiveInt = 1000  # regions to look at in validation; twice as many are proposed in training
    rois: PositiveInt = 512  # regions of each image that the heads learn from

    @field_validator("anchor_sizes")
    @classmethod
    def _one_for_each_level(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(sizes) != LEVELS:
            raise ValueError(f"there must be {LEVELS} sizes, one for each level of the pyramid, not {len(sizes)}")
        return sizes

    @model_validator(mode="after")
    def _keys_of_its_kind(self) -> "DetectorConfig":
        if self.detector != "mask_rcnn":
            for key in OF_MASK_RCNN:
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} is about detector: mask_rcnn, and has no effect with {self.detector}")
        return self


class DetectionDataConfig(DataConfig):
    """Which images and annotations, and their size for the network."""

    dataset: Literal["coco", "digits"]  # coco: anything in its layout and format
    root: UserPath | None = Field(None, json_schema_extra=FREE_ON_RESUME)  # folder of the data, which may have moved
    train_images: str = "train2017"  # folder under root
    val_images: str = "val2017"  # likewise
    train_annotations: str = "annotations/instances_train2017.json"  # file under root
    val_annotations: str = "annotations/instances_val2017.json"  # likewise
    num_classes: PositiveInt  # without the background
    check_images: bool = Field(True, json_schema_extra=FREE_ON_RESUME)  # read each image's header before training
    train_scenes: PositiveInt = 1000  # of digits: in an epoch
    val_scenes: PositiveInt = 200  # of digits: to validate on
    # Pixels of the shorter side: in training one of them at random, in validation the last.
    short_sides: tuple[PositiveInt, ...] = Field((800,), min_length=1)
    long_side: PositiveInt = 1333  # pixels, at most

    @model_validator(mode="after")
    def _is_consistent(self) -> "DetectionDataConfig":
        if self.root is None and self.dataset == "coco":
            raise ValueError("root is missing: the folder of dataset coco; say data.root=FOLDER")
        if max(self.short_sides) > self.long_side:
            raise ValueError(f"short_sides {list(self.short_sides)} must be at most long_side ({self.long_side})")
        return self


class DetectionAugmentationConfig(Section):
    """Of training images."""

    hflip: float = Field(0.5, ge=0, le=1)  # probability of mirroring left and right


class DetectionEvaluationConfig(Section):
    """How precision is computed."""

    # The same numbers, the second sooner.
    backend: Literal["pycocotools", "faster-coco-eval"] = Field("pycocotools", json_schema_extra=FREE_ON_RESUME)


class DetectionRecipe(Recipe):
    """A run of detection, with instance masks if the detector is Mask R-CNN."""

    task: Literal["detection"]  # what to learn
    model: DetectorConfig
    data: DetectionDataConfig
    augmentation: DetectionAugmentationConfig = DetectionAugmentationConfig()
    evaluation: DetectionEvaluationConfig = DetectionEvaluationConfig()
