"""What a benchmark suite can say: which networks, run in which forms, at which batch and image sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fastvit.config import Section, UserPath, apply_overrides, read_file, validate
from fastvit.errors import nearest
from fastvit.tasks.network import KnownModel, ModelsFile

MIN_SAMPLES = 10
Device = Literal["cpu", "cuda", "mps"]


class Network(Section):
    """A network to measure, with random weights: speed does not depend on them.

    Either a name that timm knows, or a recipe, whose task then builds the network and says the size of its images.
    """

    registered_in: ModelsFile | None = None  # a Python file that registers `name` with timm
    name: KnownModel | None = None
    recipe: UserPath | None = None
    features_only: bool = False  # a backbone: the outputs of the stages, no classifier
    image_size: PositiveInt | None = None  # pixels on a side; null: the network's own
    top1: PositiveFloat | None = None  # published, in percent, at this size
    family: str = ""  # of one color in the picture

    @model_validator(mode="after")
    def _one_origin(self) -> "Network":
        if (self.name is None) == (self.recipe is None):
            raise ValueError("give either name or recipe")
        if self.recipe and self.features_only:
            raise ValueError("features_only is about a name of timm's; a recipe says what it builds")
        return self


class Form(Section):
    """How a network is run."""

    builtin: bool = False  # timm's own FastViT in place of ours; other networks are the same either way
    fuse: bool = True  # ours: completely; timm's: what timm's pass fuses
    engine: Literal["eager", "compiled", "onnxruntime", "openvino"] = "eager"
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"  # int8: weights and activations
    channels_last: bool = True
    train: bool = False  # time training steps
    on: tuple[Device, ...] = ("cpu", "cuda", "mps")  # the devices that this form is measured on

    @model_validator(mode="after")
    def _is_possible(self) -> "Form":
        if self.train and (self.fuse or self.engine in ("onnxruntime", "openvino")):
            raise ValueError("train needs fuse: false, and engine eager or compiled")
        if self.engine == "onnxruntime" and self.dtype != "float32":
            raise ValueError("onnxruntime runs in float32: its CPU kernels have no half precision")
        if self.dtype == "int8" and self.engine != "openvino":
            raise ValueError("int8 is timed with engine openvino")
        if self.engine in ("onnxruntime", "openvino") and self.on != ("cpu",):
            raise ValueError(f"{self.engine} is measured on the CPU: add on: [cpu]")
        return self


class Claim(Section):
    """A published ratio: how many times as fast one network is as another."""

    text: str
    fast: str  # a key of networks
    slow: str
    published: PositiveFloat  # time of slow over time of fast
    published_on: str  # the device of the paper
    equal_accuracy: bool = True


class Quick(Section):
    """What --quick measures; an empty list: as without."""

    networks: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    batch_sizes: tuple[PositiveInt, ...] = ()
    image_sizes: tuple[PositiveInt, ...] = ()
    rounds: PositiveInt = 5


class Suite(Section):
    """One benchmark. Every network is measured in every form at every batch and image size."""

    title: str
    output: UserPath  # folder for the table, the JSON and the picture
    networks: Annotated[dict[str, Network], Field(min_length=1)]
    forms: Annotated[dict[str, Form], Field(min_length=1)]
    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    image_sizes: tuple[PositiveInt, ...] = ()  # in place of each network's own
    take_turns: Literal["forms", "networks"]  # the forms of one network with each other, or the networks in one form
    baseline: str | None = None  # a form or a network: ratios are to it
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: PositiveInt | None = None  # null: one for each core
    rounds: PositiveInt = 20
    calls: PositiveInt = 2  # measured in a turn, after one that is not
    picture: Literal["bars", "accuracy", "sizes"] = "bars"
    claims: tuple[Claim, ...] = ()
    quick: Quick = Quick()

    @model_validator(mode="after")
    def _names_exist(self) -> "Suite":
        used = {f"claims: {c.text}": ((c.fast, c.slow), self.networks) for c in self.claims}
        used["quick.networks"] = (self.quick.networks, self.networks)
        used["quick.forms"] = (self.quick.forms, self.forms)
        used["baseline"] = ((self.baseline,) if self.baseline else (), self.networks | self.forms)
        for key, (names, known) in used.items():
            for name in names:
                if name not in known:
                    raise ValueError(f"{key}: there is no {name!r}{nearest(name, known)}")
        compared = self.networks if self.take_turns == "networks" else self.forms
        if self.baseline and self.baseline not in compared:
            raise ValueError(f"baseline must be one of the {self.take_turns}, which take turns, not {self.baseline!r}")
        return self

    @model_validator(mode="after")
    def _enough_samples(self) -> "Suite":
        for key, rounds in (("rounds", self.rounds), ("quick.rounds", self.quick.rounds)):
            if rounds * self.calls < MIN_SAMPLES:
                raise ValueError(f"{key} * calls is {rounds * self.calls}: at least {MIN_SAMPLES} samples are needed")
        return self

    def shortened(self) -> "Suite":
        """The suite as --quick measures it."""
        quick = self.quick
        return self.model_copy(
            update={
                "networks": {k: v for k, v in self.networks.items() if not quick.networks or k in quick.networks},
                "forms": {k: v for k, v in self.forms.items() if not quick.forms or k in quick.forms},
                "batch_sizes": quick.batch_sizes or self.batch_sizes,
                "image_sizes": quick.image_sizes or self.image_sizes,
                "rounds": quick.rounds,
            }
        )


def load_suite(path: str | Path, overrides: Sequence[str] = ()) -> Suite:
    """A validated suite from a YAML file, with overrides `key.sub=value`. Raises RecipeError."""
    return validate(apply_overrides(read_file(path), overrides), Suite, str(path))
