"""What a recipe can say: the sections that all tasks share.

A task derives its own `Recipe` with the sections that only it has. A default is what leaving the key out means.
"""

from typing import Annotated, Any, Literal

import timm.optim
from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from fastvit.config import FREE_ON_RESUME, Section, UserPath
from fastvit.errors import RecipeError, nearest

Beta = Annotated[float, Field(ge=0, lt=1)]


class DataConfig(Section):
    """What the loop needs to know of the data; tasks add where it is and how to read it."""

    workers: int = Field(2, ge=0, json_schema_extra=FREE_ON_RESUME)  # processes that read data; 0: the main process


def _known_optimizer(name: str) -> str:
    known = timm.optim.list_optimizers()
    if name not in known:
        raise ValueError(f"no optimizer of timm is called {name!r}{nearest(name, known)}")
    return name


class OptimizerConfig(Section):
    """One of timm's optimizers. Biases and other 1-d parameters are not decayed, unless the recipe says so."""

    name: Annotated[str, AfterValidator(_known_optimizer)] = "adamw"  # as timm calls it
    lr: PositiveFloat  # peak, for batches of `lr_batch_size`
    lr_batch_size: PositiveInt | None = None  # the peak grows in proportion to loop.batch_size; null: it is fixed
    weight_decay: NonNegativeFloat = 0.0  # at the beginning
    decay_layer_scale: bool = True  # as in the published recipe, where layer scales are not 1-d
    decay_all: bool = False  # biases and norms too, as a plain AdamW does: MMDetection's and MMSegmentation's
    layer_decay: float | None = Field(None, gt=0, le=1)  # factor of the learning rate from each layer to the one before
    betas: tuple[Beta, Beta] | None = None  # null: the optimizer's own
    eps: PositiveFloat | None = None  # null: the optimizer's own

    @model_validator(mode="after")
    def _all_is_all(self) -> "OptimizerConfig":
        if self.decay_all and not self.decay_layer_scale:
            raise ValueError("decay_all: true decays layer scales too, but decay_layer_scale is false: set one of them")
        return self


class ScheduleConfig(Section):
    """Warm-up, then down in some shape; both move with every step."""

    epochs: PositiveInt  # passes through the training data until the rate has come down
    cooldown_epochs: NonNegativeInt = 0  # more epochs, at the final rate
    warmup_epochs: NonNegativeFloat = 0.0  # of them, in which the rate rises; also parts of one
    warmup_lr: NonNegativeFloat = 1e-6  # where the warm-up starts
    shape: Literal["cosine", "polynomial", "step"] = "cosine"  # of the way down
    min_lr: NonNegativeFloat = 1e-5  # where cosine and polynomial end
    power: PositiveFloat = 0.9  # of polynomial
    milestones: tuple[PositiveFloat, ...] = ()  # of step: epochs from which on the rate is a tenth of what it was
    final_weight_decay: NonNegativeFloat | None = None  # where a cosine leads the weight decay; null: it is constant

    @model_validator(mode="after")
    def _is_consistent(self) -> "ScheduleConfig":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be less than epochs ({self.epochs})")
        if bool(self.milestones) != (self.shape == "step"):
            raise ValueError("shape: step and milestones belong together: give both or neither")
        if list(self.milestones) != sorted(set(self.milestones)) or any(at >= self.epochs for at in self.milestones):
            raise ValueError(f"milestones {list(self.milestones)} must rise and be less than epochs ({self.epochs})")
        return self


class EmaConfig(Section):
    """Moving average of the weights, which is then what is evaluated and kept as best."""

    decay: float = Field(gt=0, lt=1)  # share of the former average in the next
    warmup: bool = False  # start from a low decay: for runs of few steps


class LoopConfig(Section):
    """How the loop runs."""

    batch_size: PositiveInt  # samples of an optimizer step, over all processes and accumulated batches
    # Batches one after the other whose gradients make one step: for little memory.
    accumulation: PositiveInt = Field(1, json_schema_extra=FREE_ON_RESUME)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the forward pass
    tf32: bool = True  # on NVIDIA's GPUs from Ampere on, float32 is computed in TF32: timm's choice; false: in float32
    cudnn_benchmark: bool = Field(True, json_schema_extra=FREE_ON_RESUME)  # cuDNN takes the fastest of its algorithms
    channels_last: bool = False  # order in memory in which convolutions are often faster
    compile: bool = False  # torch.compile; validation is never compiled
    grad_checkpointing: bool = False  # compute activations again in the backward pass: less memory, slower
    sync_batch_norm: bool = False  # statistics over all processes; else each its own, averaged after every epoch
    clip_grad: PositiveFloat | None = None  # largest norm of all gradients together
    max_nonfinite_steps: PositiveInt = 5  # steps without a finite loss are skipped; this many in a row end the run
    checkpoint_steps: PositiveInt | None = Field(None, json_schema_extra=FREE_ON_RESUME)  # save within epochs, too

    @model_validator(mode="after")
    def _batches_are_whole(self) -> "LoopConfig":
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size ({self.batch_size}) must be a multiple of accumulation ({self.accumulation})")
        return self


class LogConfig(Section):
    """Where else to log, besides the console, log.csv and TensorBoard."""

    wandb_project: str | None = None  # of Weights & Biases


class Recipe(Section):
    """One training run."""

    task: str  # a name in `fastvit.tasks.TASKS`
    seed: int = Field(0, ge=0, lt=2**32)  # of everything random
    output: UserPath = Field(json_schema_extra=FREE_ON_RESUME)  # folder of everything that the run writes
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    ema: EmaConfig | None = None
    loop: LoopConfig
    log: LogConfig = Field(LogConfig(), json_schema_extra=FREE_ON_RESUME)

    @property
    def peak_lr(self) -> float:
        """The learning rate at the peak, for the batch size of this recipe."""
        base = self.optimizer.lr_batch_size
        return self.optimizer.lr * (self.loop.batch_size / base if base else 1.0)

    @property
    def total_epochs(self) -> int:
        """Epochs in all."""
        return self.schedule.epochs + self.schedule.cooldown_epochs

    @model_validator(mode="after")
    def _rates_are_below_peak(self) -> "Recipe":
        for key in ("warmup_lr", "min_lr"):
            if getattr(self.schedule, key) > self.peak_lr and not (key == "min_lr" and self.schedule.shape == "step"):
                raise ValueError(
                    f"schedule.{key} ({getattr(self.schedule, key):g}) is above the peak that optimizer.lr gives for "
                    f"this batch ({self.peak_lr:g})"
                )
        return self

    def require_effect(self) -> None:
        """Raise RecipeError for a key that has no effect beside another. Of a new run: earlier ones may have it."""
        if self.schedule.final_weight_decay and not self.optimizer.weight_decay:
            raise RecipeError(
                f"schedule.final_weight_decay ({self.schedule.final_weight_decay:g}) is where optimizer.weight_decay "
                "ends, which is 0: set that, too"
            )

    def completed(self) -> "Recipe":
        """With what a user may leave for the data to tell, such as the number of classes; opens them if it must.

        Raises:
            UserError: the data are not there, or do not tell it.
        """
        return self

    def to_dict(self) -> dict[str, Any]:
        """Complete and plain: every key, only containers, strings and numbers."""
        return self.model_dump(mode="json")
