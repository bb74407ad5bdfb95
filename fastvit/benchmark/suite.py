"""What a benchmark suite can say: which networks, run in which forms, at which batch and image sizes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fastvit.config import FREE_ON_RESUME, Section, UserPath, apply_overrides, read_file, validate
from fastvit.errors import RecipeError, nearest
from fastvit.tasks.network import KnownModel, ModelsFile

MIN_SAMPLES = 10
BUILD_MINUTES = 15.0
Device = Literal["cpu", "cuda", "mps"]
Names = tuple[str, ...]


class Accuracy(Section):
    """Published top-1 on ImageNet-1k, in percent, by how the weights were made. Speed does not depend on it."""

    plain: PositiveFloat | None = None  # trained on ImageNet-1k alone
    distilled: PositiveFloat | None = None  # and by a teacher
    zero_shot: PositiveFloat | None = None  # an image encoder of CLIP's kind, with its text encoder


class Network(Section):
    """A network to measure, with random weights: speed does not depend on them.

    Either a name that timm knows, or a recipe, whose task then builds the network and says the size of its images.
    """

    registered_in: ModelsFile | None = None  # a Python file that registers `name` with timm
    name: KnownModel | None = None
    recipe: UserPath | None = None
    features_only: bool = False  # a backbone: the outputs of the stages, no classifier
    image_size: PositiveInt | None = None  # pixels on a side; null: the network's own
    top1: Accuracy = Accuracy()  # at this size
    source: str = ""  # of top1: a key of `sources`
    family: str = ""  # of one color in the picture

    @model_validator(mode="after")
    def _one_origin(self) -> "Network":
        if (self.name is None) == (self.recipe is None):
            raise ValueError("give either name or recipe")
        if self.recipe and self.features_only:
            raise ValueError("features_only is about a name of timm's; a recipe says what it builds")
        if (self.top1 != Accuracy()) != bool(self.source):
            raise ValueError("top1 and source go together: who published it?")
        return self


class Form(Section):
    """How a network is run."""

    builtin: bool = False  # timm's own FastViT in place of ours; other networks are the same either way
    fuse: bool = True  # every batch norm that folds into a convolution, and our blocks; builtin: what timm's pass fuses
    engine: Literal["eager", "compiled", "onnxruntime", "openvino", "fastest"] = "eager"  # fastest: measured, chosen
    cuda_graph: bool = False  # eager, its kernels recorded once and replayed together
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"  # int8: weights and activations
    channels_last: bool = True
    train: bool = False  # time training steps
    on: tuple[Device, ...] = ("cpu", "cuda", "mps")  # the devices that this form is measured on

    @model_validator(mode="after")
    def _is_possible(self) -> "Form":
        if self.train and (self.fuse or self.engine not in ("eager", "compiled")):
            raise ValueError("train needs fuse: false, and engine eager or compiled")
        if self.engine == "onnxruntime" and self.dtype != "float32":
            raise ValueError("onnxruntime runs in float32: its CPU kernels have no half precision")
        if self.dtype == "int8" and self.engine != "openvino":
            raise ValueError("int8 is timed with engine openvino")
        if self.engine in ("onnxruntime", "openvino") and self.on != ("cpu",):
            raise ValueError(f"{self.engine} is measured on the CPU: add on: [cpu]")
        if self.cuda_graph and (self.engine != "eager" or self.train or self.on != ("cuda",)):
            raise ValueError("cuda_graph is about eager inference on a GPU: add on: [cuda]")
        return self


class Claim(Section):
    """A published comparison of two networks' times."""

    where: str  # in the paper
    fast: str | None = None  # a key of networks
    slow: str | None = None
    published: Annotated[dict[str, tuple[PositiveFloat, PositiveFloat]], Field(min_length=1)]  # device: fast, slow
    unit: Literal["ms", "fps"] = "ms"
    text: str = ""  # in place of the two names
    not_measured: str = ""  # why it cannot be: in place of fast and slow

    @model_validator(mode="after")
    def _can_be_measured_or_says_why(self) -> "Claim":
        if bool(self.fast and self.slow) == bool(self.not_measured) or (self.not_measured and not self.text):
            raise ValueError("give fast and slow, or not_measured and text")
        return self

    def ratio(self, device: str) -> float:
        """How many times as fast, as published for a device."""
        fast, slow = self.published[device]
        return slow / fast if self.unit == "ms" else fast / slow


class Quick(Section):
    """What --quick measures; an empty list: as without."""

    networks: Names = ()
    forms: Names = ()
    batch_sizes: tuple[PositiveInt, ...] = ()
    image_sizes: tuple[PositiveInt, ...] = ()
    rounds: PositiveInt = 6  # the least for an interval


class Suite(Section):
    """One benchmark. Every network is measured in every form at every batch and image size."""

    title: str
    output: UserPath = Field(json_schema_extra=FREE_ON_RESUME)  # folder for the tables, the JSON and the picture
    networks: Annotated[dict[str, Network], Field(min_length=1)]
    forms: Annotated[dict[str, Form], Field(min_length=1)]
    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    image_sizes: tuple[PositiveInt, ...] = ()  # in place of each network's own
    # What takes turns: the forms of one network; all networks in one form; each network with the baseline alone; the
    # two networks of each claim. Only what takes turns is in memory at a time.
    take_turns: Literal["forms", "networks", "baseline", "claims"]
    baseline: str | None = None  # a form or a network: ratios are to it
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: PositiveInt | None = None  # null: one for each core
    rounds: PositiveInt = 20
    calls: PositiveInt = 2  # measured in a turn
    seconds: PositiveFloat | None = None  # of samples: what takes turns is done then, if there are MIN_SAMPLES of each
    # What is not ready by then is given up.
    build_minutes: PositiveFloat = Field(BUILD_MINUTES, json_schema_extra=FREE_ON_RESUME)
    picture: Literal["bars", "accuracy", "sizes"] = "bars"
    sources: dict[str, str] = Field(default_factory=dict)  # of published accuracies
    claims: tuple[Claim, ...] = ()
    quick: Quick = Quick()

    @model_validator(mode="after")
    def _names_exist(self) -> "Suite":
        used = {f"claims: {c.where}": (tuple(filter(None, (c.fast, c.slow))), self.networks) for c in self.claims}
        used |= {
            f"networks.{k}.source": ((n.source,) if n.source else (), self.sources) for k, n in self.networks.items()
        }
        used["baseline"] = ((self.baseline,) if self.baseline else (), self.networks | self.forms)
        for key, (names, known) in used.items():
            for name in names:
                if name not in known:
                    raise ValueError(f"{key}: there is no {name!r}{nearest(name, known)}")
        return self

    @model_validator(mode="after")
    def _turns_make_sense(self) -> "Suite":
        compared = self.forms if self.take_turns == "forms" else self.networks
        if self.baseline and self.baseline not in compared:
            kind = "forms" if self.take_turns == "forms" else "networks"
            raise ValueError(f"baseline must be one of the {kind}, which take turns, not {self.baseline!r}")
        if self.take_turns == "baseline" and not self.baseline:
            raise ValueError("take_turns: baseline needs a baseline, one of the networks")
        if self.take_turns == "claims" and not self.claims:
            raise ValueError("take_turns: claims needs claims")
        return self

    @model_validator(mode="after")
    def _enough_samples(self) -> "Suite":
        _require_samples("rounds", self.rounds * self.calls)
        return self

    def only(self, networks: Names = (), forms: Names = ()) -> "Suite":
        """The suite without the other networks and forms, and claims about them; no names: all. A baseline stays."""
        networks, forms = (
            {k: v for k, v in known.items() if not names or k in names or k == self.baseline}
            for known, names in ((self.networks, networks), (self.forms, forms))
        )
        claims = tuple(c for c in self.claims if c.not_measured or {c.fast, c.slow} <= networks.keys())
        quick = Quick(rounds=self.quick.rounds)  # the rest of it may be about what is left out
        return self.model_copy(update={"networks": networks, "forms": forms, "claims": claims, "quick": quick})

    def shortened(self) -> "Suite":
        """The suite as --quick measures it.

        Raises:
            ValueError: what `quick` says does not fit the rest; without --quick it need not.
        """
        quick = self.quick
        for key, names, known in (("networks", quick.networks, self.networks), ("forms", quick.forms, self.forms)):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(
                    f"quick.{key}: there is no {unknown[0]!r}, but {', '.join(known)}: say quick.{key}=[] for all"
                )
        _require_samples("quick.rounds", quick.rounds * self.calls)
        sizes = {
            "batch_sizes": quick.batch_sizes or self.batch_sizes,
            "image_sizes": quick.image_sizes or self.image_sizes,
        }
        return self.only(quick.networks, quick.forms).model_copy(update={**sizes, "rounds": quick.rounds})


def _require_samples(key: str, count: int) -> None:
    if count < MIN_SAMPLES:
        raise ValueError(f"{key} * calls is {count}: at least {MIN_SAMPLES} samples are needed")


def quick_output(values: Mapping[str, Any]) -> dict[str, str]:
    """A folder of its own beside the one that a suite names, so that both can be measured; nothing if it names none."""
    return {"output": f"{values['output']}_quick"} if "output" in values else {}


def load_suite(path: str | Path, overrides: Sequence[str] = (), *, quick: bool = False) -> Suite:
    """A validated suite from a YAML file, with overrides `key.sub=value`. Raises RecipeError.

    Args:
        quick: shortened, into a folder of its own; overrides of what it shortens win.
    """
    values = read_file(path)
    if not quick:
        return validate(apply_overrides(values, overrides), Suite, str(path))
    values |= quick_output(values)
    won = [f"quick.{each}" for each in overrides if each.startswith(("rounds=", "batch_sizes=", "image_sizes="))]
    suite = validate(apply_overrides(values, [*won, *overrides]), Suite, str(path))
    try:
        return suite.shortened()
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from error
