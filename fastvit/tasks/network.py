"""Which network a recipe trains, and the weights that it starts from: the same for all tasks."""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import timm
from pydantic import Field, model_validator
from pydantic.functional_validators import AfterValidator
from timm.layers import freeze_batch_norm_2d
from timm.models import get_pretrained_cfg
from torch import nn

from fastvit import shipped
from fastvit.config import Section, UserPath
from fastvit.errors import RecipeError, UserError, nearest
from fastvit.fastvit import FastViT
from fastvit.pretrained import LOCAL, WEIGHTS_FILES, WeightsError, create_pretrained, load_weights
from fastvit.trained import Kind, Options, Trained, find_trained, kind_of
from fastvit.trained.of_run import checkpoint_of
from fastvit.variants import VARIANTS
from fastvit.weights import CheckpointError, FusedCheckpoint

ADVICE = "set model.pretrained=false, and model.checkpoint to a file that you have"


def _known_model(name: str) -> str:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise ValueError(f"timm knows no model {name!r}{nearest(architecture, [*VARIANTS, *timm.list_models()])}")
    try:
        get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{architecture}.*")
        raise ValueError(f"{architecture} has no pretrained weights {tag!r}, but {', '.join(tags)}") from error
    return name


def register_models(name: Path) -> Path:
    """Run a Python file, once in a process, so that timm knows the models it registers.

    Args:
        name: the path of your file, or the name of a file that comes with the package, such as `ablation/networks.py`.

    Returns:
        The name as it was given, so that a recipe stays as it was written.
    """
    path = shipped.find(name.expanduser())
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    ours = shipped.FOLDER / name
    if ours.is_file() and not path.samefile(ours):
        raise ValueError(f"{path} is here and in the package: rename yours, or give its whole path")
    module_name = f"registered_{path.stem}"  # timm registers a model under the module that defines it
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise ValueError(f"{path} is not a Python file")
        sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    elif not path.samefile(sys.modules[module_name].__file__):
        raise ValueError(f"{path} and {sys.modules[module_name].__file__} have the same name: rename one")
    return name


ModelsFile = Annotated[Path, AfterValidator(register_models)]
KnownModel = Annotated[str, AfterValidator(_known_model)]  # a timm name; a tag chooses among its pretrained weights


class NetworkConfig(Section):
    """A network of timm's, ours among them, and the weights that it starts from (random ones by default)."""

    registered_in: ModelsFile | None = None  # a Python file of yours that registers `name` with timm
    name: KnownModel  # as timm calls it; a tag chooses among its pretrained weights
    drop_path_rate: float = Field(0.0, ge=0, lt=1)  # stochastic depth of the last block
    pretrained: bool = False  # start from the hub's weights
    checkpoint: UserPath | None = None  # start from a file that `fastvit.load_checkpoint` reads

    @model_validator(mode="after")
    def _one_start(self) -> "NetworkConfig":
        if self.pretrained and self.checkpoint:
            raise ValueError("pretrained and checkpoint exclude each other: a model starts from one set of weights")
        return self

    @model_validator(mode="after")
    def _states_its_images(self) -> "NetworkConfig":
        if get_pretrained_cfg(self.name) is None:
            raise ValueError(
                f"{self.name} states no mean, std and size of its images: add default_cfgs = "
                f"timm.models.generate_default_cfgs(...) to {self.registered_in or 'the file that registers it'}"
            )
        return self


class NamedNetwork(Section):
    """A trained network by any of the names that the commands know: see `fastvit.trained`."""

    name: str  # a run, a recipe, a network of timm's; to measure robustness also an exported file
    pretrained: bool = False  # of a recipe, or of a name of timm's without a tag: with the hub's weights
    checkpoint: UserPath | None = None  # of these: with the weights of a file

    @model_validator(mode="after")
    def _has_weights(self) -> "NamedNetwork":
        kind = kind_of(self.name)
        if self.pretrained and self.checkpoint:
            raise ValueError("pretrained and checkpoint exclude each other: give one of them")
        if kind not in (Kind.TIMM, Kind.RECIPE) and (self.pretrained or self.checkpoint):
            raise ValueError(f"{self.name} is {kind.value}: leave out pretrained and checkpoint")
        has_tag = kind is Kind.TIMM and "." in self.name
        if kind in (Kind.TIMM, Kind.RECIPE) and not (has_tag or self.pretrained or self.checkpoint):
            raise ValueError(f"{self.name} has no weights of its own: give a tag, pretrained: true, or a checkpoint")
        return self

    @property
    def weights(self) -> Path | None:
        """The file that has them; None where they are the hub's."""
        kind = kind_of(self.name)
        if kind is Kind.RUN:
            return checkpoint_of(self.name)
        if self.name.startswith(LOCAL):
            folder = Path(self.name.removeprefix(LOCAL))
            return next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), folder)
        return Path(self.name) if kind is Kind.FILE else self.checkpoint

    def find(self, *, num_classes: int | None = None) -> Trained:
        """The network. Raises UserError if there is none, or if the options do not fit it."""
        return find_trained(
            self.name, Options(checkpoint=self.checkpoint, pretrained=self.pretrained, num_classes=num_classes)
        )


@contextmanager
def in_words_of_recipes(key: str) -> Iterator[None]:
    """Within: what is wrong with a `NamedNetwork` is told of its key, with a recipe's words in place of a command's.

    Raises:
        RecipeError: in place of any UserError.
    """
    meant = {
        "give --checkpoint FILE": f"set {key}.checkpoint=FILE",
        " with --checkpoint FILE": f": {key}.checkpoint=FILE",
        " with --checkpoint": f": {key}.checkpoint=FILE",
        "set data.num_classes to as many": "name its run in place of its recipe",
        "say how many with --num-classes": "its classes must be those of the data",
        "leave out --num-classes": "its classes must be those of the data",
    }
    try:
        yield
    except UserError as error:
        message = str(error)
        for said, instead in meant.items():
            message = message.replace(said, instead)
        raise RecipeError(f"{key}: {message}") from error


def build_network(
    config: NetworkConfig, *, initial_weights: bool, reset_head: bool = False, **options: Any
) -> nn.Module:
    """The network as `timm.create_model` makes it, with the weights that the recipe starts from.

    Args:
        initial_weights: read those weights; False where a checkpoint follows.
        reset_head: leave the checkpoint's classifier out.
        **options: of `timm.create_model`, such as `num_classes`.

    Raises:
        RecipeError: there are no such weights, or they are of another network.
    """
    try:
        if config.pretrained and initial_weights:
            return _create(partial(create_pretrained, advice=ADVICE), config, options)
        model = _create(timm.create_model, config, options)
        if config.checkpoint and initial_weights:
            load_weights(model, config.checkpoint, reset_head=reset_head)
    except (CheckpointError, WeightsError) as error:
        key = "checkpoint" if config.checkpoint else "pretrained"
        message = str(error).replace("create the network with num_classes=0, or ", "")
        message = message.replace("pass reset_head=True", "set model.reset_head=true")
        if isinstance(error, FusedCheckpoint):
            message = (
                f"{config.checkpoint or config.name} is fused, without the branches and batch norms that are trained: "
                "give the network in train form that it was made from"
            )
        raise RecipeError(f"model.{key}: {message}") from error
    return model


def _create(create: Callable[..., nn.Module], config: NetworkConfig, options: Mapping[str, Any]) -> nn.Module:
    """A network with the recipe's stochastic depth. A fifth of timm's families have none, and take no rate at all."""
    try:
        return create(config.name, drop_path_rate=config.drop_path_rate, **options)
    except TypeError as error:
        if config.drop_path_rate and "drop_path_rate" in str(error):
            raise RecipeError(f"model.drop_path_rate: {config.name} has no stochastic depth; set it to 0") from error
        return create(config.name, **options)


def freeze_stages(model: nn.Module, stages: int) -> None:
    """Let the stem and the first stages of a FastViT keep their weights and their batch norm statistics.

    Raises:
        RecipeError: it is another network.
    """
    if not isinstance(model, FastViT):
        raise RecipeError(f"model.frozen_stages: {type(model).__name__} is not a FastViT; set it to 0")
    for part in (model.stem, *model.stages[:stages]):
        freeze_batch_norm_2d(part).requires_grad_(False)
