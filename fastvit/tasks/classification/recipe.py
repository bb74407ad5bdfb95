"""What a classification recipe can say, besides what all recipes can."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from pydantic.functional_validators import AfterValidator
from timm.data import create_transform

from fastvit.config import FREE_ON_RESUME, Section, UserPath
from fastvit.data.division import Division
from fastvit.data.folder import learned_classes
from fastvit.data.listing import ALL, Listing, is_undivided, list_folder, open_listing, read_table
from fastvit.data.sources import READ_BY_TIMM, WITH_COLUMNS, has_columns, open_source, require_num_classes
from fastvit.errors import RecipeError, nearest
from fastvit.tasks.network import NamedNetwork, NetworkConfig
from fastvit.training.recipe import DataConfig, Recipe
from fastvit.training.run_folder import RunFolder


def _known_dataset(name: str) -> str:
    own = ("digits", "folder")
    if name not in own and name.partition("/")[0] not in READ_BY_TIMM:
        prefixes = ", ".join(f"{prefix}/" for prefix in READ_BY_TIMM)
        raise ValueError(
            f"must be digits, folder, or begin with one of {prefixes}, but is {name!r}{nearest(name, own)}"
        )
    return name


def _one_column(name: str) -> str:
    if "," in name:
        raise ValueError(f"must be the name of one column, but is {name!r}")
    return name


def _known_policy(policy: str) -> str:
    try:
        create_transform(32, is_training=True, auto_augment=policy)
    except (AssertionError, ValueError) as error:
        raise ValueError(f"timm cannot read {policy!r}: {error}") from error
    return policy


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"must be [smallest, largest], but is {list(bounds)}")
    return bounds


Bounds = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered)]
Probability = Annotated[float, Field(ge=0, le=1)]
Column = Annotated[str, AfterValidator(_one_column)]


class ModelConfig(NetworkConfig):
    """The classifier."""

    drop_rate: float = Field(0.0, ge=0, lt=1)  # dropout before the classifier
    reset_head: bool = False  # leave the checkpoint's classifier out, for other classes
    # Keep the stem and this many stages as they are; 0 keeps nothing, not even the stem.
    frozen_stages: int = Field(0, ge=0, le=4)

    @model_validator(mode="after")
    def _head_of_a_checkpoint(self) -> "ModelConfig":
        if self.reset_head and not self.checkpoint:
            raise ValueError("reset_head is about the classifier of a checkpoint, and none is given")
        return self


class ImageDataConfig(DataConfig):
    """Which images, and their size for the network. What is null is as the model was pretrained."""

    dataset: Annotated[str, AfterValidator(_known_dataset)]  # digits, folder, or timm's: torch/cifar10, wds/..., ...
    root: UserPath | None = Field(None, json_schema_extra=FREE_ON_RESUME)  # folder of the data, which may have moved
    table: UserPath | None = Field(None, json_schema_extra=FREE_ON_RESUME)  # CSV: path, label and perhaps split
    train_split: str = "train"  # of a folder: the folder in it; of timm's datasets: its name there
    val_split: str = "validation"  # of a table or an undivided folder also: all
    val_share: float = Field(0.2, gt=0, lt=1)  # to validate on, of a table without splits or an undivided folder
    test_share: float = Field(0.0, ge=0, lt=1)  # to test on, of the same
    num_classes: PositiveInt | None = None  # null: counted in the data
    classes: tuple[str, ...] | None = None  # of a folder or a table, in order; null: all that it has, sorted
    image_column: Column | None = None  # of hfds/, hfids/ and tfds/: which has the images; null: image
    label_column: Column | None = None  # of the same: which has the labels; null: label
    image_size: int = Field(ge=32)  # pixels on a side
    crop_pct: float | None = Field(None, gt=0, le=1)  # validation: side of the center crop over that of the image
    crop_mode: Literal["center", "border", "squash"] | None = None  # validation: crop, pad to the whole, or stretch
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None  # of resizing
    mean: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] | None = None  # of the colors, from 0 to 1
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None  # standard deviation of the same
    # Of an image that cannot be read. Not for streams (wds/, ...): timm leaves bad images out there.
    on_bad_image: Literal["error", "skip"] = Field("error", json_schema_extra=FREE_ON_RESUME)
    exif_orientation: bool = True  # turn photographs as their EXIF says; not for streams, which timm reads

    @model_validator(mode="after")
    def _is_consistent(self) -> "ImageDataConfig":
        if self.table and self.dataset != "folder":
            raise ValueError(f"table is of dataset folder, not of {self.dataset}: leave one of them out")
        if (self.image_column or self.label_column) and not has_columns(self.dataset):
            prefixes = ", ".join(f"{prefix}/" for prefix in WITH_COLUMNS)
            raise ValueError(
                f"image_column and label_column are of {prefixes}; {self.dataset} has no columns: leave them out"
            )
        if self.val_share + self.test_share >= 1:
            raise ValueError(
                f"val_share ({self.val_share:g}) and test_share ({self.test_share:g}) leave no image to train on"
            )
        return self


class AugmentationConfig(Section):
    """timm's augmentations by timm's names."""

    scale: Bounds = (0.08, 1.0)  # area of the random crop over that of the image
    ratio: Bounds = (3 / 4, 4 / 3)  # width over height of the random crop
    hflip: Probability = 0.5  # of mirroring left and right
    vflip: Probability = 0.0  # of mirroring top and bottom
    color_jitter: NonNegativeFloat = 0.4  # strength; has no effect beside auto_augment
    auto_augment: Annotated[str, AfterValidator(_known_policy)] | None = None  # such as rand-m9-mstd0.5-inc1
    reprob: Probability = 0.0  # of random erasing
    remode: Literal["const", "rand", "pixel"] = "pixel"  # erase with the mean color, one random color, or random pixels
    recount: PositiveInt = 1  # most patches erased in an image
    mixup: NonNegativeFloat = 0.0  # alpha; 0 is off
    cutmix: NonNegativeFloat = 0.0  # alpha; 0 is off
    mixup_prob: Probability = 1.0  # of mixing a batch at all
    mixup_switch_prob: Probability = 0.5  # of cutmix where both are on
    smoothing: float = Field(0.0, ge=0, lt=1)  # of the labels

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


class DistillationConfig(Section):
    """Learning from a teacher's answers to the same, mixed images (DeiT, section 4, without its extra token)."""

    teacher: NamedNetwork | None = None
    answers: UserPath | None = Field(None, json_schema_extra=FREE_ON_RESUME)  # of `fastvit teach`; no teacher is run
    kind: Literal["hard", "soft"] = "hard"  # learn the teacher's most probable class, or its probabilities
    alpha: Probability = 0.5  # weight of the teacher in the loss; the labels have the rest
    temperature: PositiveFloat = 1.0  # of soft

    @model_validator(mode="after")
    def _somebody_answers(self) -> "DistillationConfig":
        if self.teacher is None and self.answers is None:
            raise ValueError("give a teacher, or the answers of one")
        return self


class LossConfig(Section):
    """What an error costs."""

    class_weights: Literal["balanced"] | None = None  # balanced: each class counts equally, however many images it has


class ClassificationRecipe(Recipe):
    """A run of image classification."""

    label_column: ClassVar[str] = "label"  # of a table
    task: Literal["classification"]  # what to learn
    model: ModelConfig
    data: ImageDataConfig
    augmentation: AugmentationConfig
    loss: LossConfig = LossConfig()
    distillation: DistillationConfig | None = None

    @model_validator(mode="after")
    def _pairs_to_mix(self) -> "ClassificationRecipe":
        batch_size = self.loop.batch_size // self.loop.accumulation
        if self.augmentation.mixes and batch_size % 2:
            raise ValueError(f"loop.batch_size / loop.accumulation ({batch_size}) must be even for mixup and cutmix")
        return self

    def completed(self) -> "ClassificationRecipe":
        data = self.data
        if data.num_classes and (data.classes or not self.is_list):
            return self
        names = getattr(self.open_images(training=True), "classes", None)
        if names is None:
            raise RecipeError(f"data.num_classes is missing, and dataset {data.dataset} does not say its classes")
        found = {"num_classes": len(names), "classes": tuple(names) if data.dataset == "folder" else None}
        return self.model_copy(update={"data": data.model_copy(update=found)})

    def open_images(self, *, training: bool) -> Any:
        """The images of one part with their labels, as `fastvit.data.sources.open_source` gives them."""
        data = self.data
        split = data.train_split if training else data.val_split
        if self.is_list:
            images = open_listing(self._listing(training), split, data.classes, upright=data.exif_orientation)
            where = str(images.listing.source)
            require_num_classes(images, data.num_classes, where, some_may_lack=not training)
            return images
        return open_source(
            data.dataset,
            data.root,
            split,
            training=training,
            num_classes=data.num_classes,
            image_size=data.image_size,
            upright=data.exif_orientation,
            classes=data.classes if training else self._classes_to_validate,
            columns=(data.image_column, data.label_column),
        )

    @property
    def _classes_to_validate(self) -> tuple[str, ...] | None:
        """Of a divided folder: where nobody has named them, those to train on, of which validation may lack some."""
        data = self.data
        if data.classes or data.dataset != "folder" or data.root is None:
            return data.classes
        learned = learned_classes(data.root, data.val_split, data.train_split) or ()
        return learned if len(learned) == data.num_classes else None

    @property
    def is_list(self) -> bool:
        """Whether the images are those of a table or of an undivided folder."""
        return self.data.table is not None or (self.data.dataset == "folder" and is_undivided(self.data.root))

    def _listing(self, training: bool) -> Listing:
        """The images of a table or of an undivided folder, divided as in the run's folder if that is there.

        Not divided where all of them are to be validated on: they may be others than those of the run.
        """
        data = self.data
        listing = read_table(data.table, data.root, self.label_column) if data.table else list_folder(data.root)
        if data.val_split == ALL and not training:
            return listing
        return Division(data.val_share, data.test_share, self.seed, RunFolder(self.output).split).of(listing)
