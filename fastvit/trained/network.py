"""A trained network, and what belongs to it."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import nn

from fastvit.data.preprocessing import Preprocessing
from fastvit.data.reading import HANDED, as_rgb
from fastvit.deploy.card import Card
from fastvit.errors import ExportError, RunError
from fastvit.fastvit import FastViT
from fastvit.predictor import CLASSIFIERS, Prediction, Predictor, find_predictor
from fastvit.reparam import Reparameterizable, reparameterize_model
from fastvit.trained.name import Kind
from fastvit.training.task import Network, Task

EXAMPLE_BATCH = 16  # images, on which an engine is compared with the network


@dataclass(frozen=True)
class Trained:
    """A trained network. Its weights are read when `network` is first asked for.

    Call it with an image for what it says about that.

    Attributes:
        source: the name that it was found by.
        name: short, fit for a file name.
        kind: what it was named by.
        does: its task, such as "classification"; None for what gives features.
        preprocessing: as it was validated with; None if an exported file does not say.
        labels: names of its classes; None where there are none.
        weights: where they come from, in words, without folders of this machine.
        architecture: {"name", "options"} of `timm.create_model`; None if it is not plainly one of timm's.
        task: of a run or a recipe, with its settings; else None.
        load: reads the weights.
        licence: of published weights that it has or began from, as timm calls it; "" where nothing is said.
        stated: what an exported file says; of others nothing.
    """

    source: str
    name: str
    kind: Kind
    does: str | None
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    weights: str
    architecture: Mapping[str, Any] | None
    task: Task | None
    load: Callable[[], Network]
    licence: str = ""
    stated: Card = Card()  # noqa: RUF009 - frozen

    @cached_property
    def network(self) -> Network:
        """In eval mode, on the CPU, in train form unless its file is fused; of an exported file, a function of images.

        Raises UserError.
        """
        return self.load()

    @property
    def module(self) -> nn.Module:
        """The network, to be fused, exported or quantised. Raises ExportError if it is an exported file."""
        self.require_module()
        return self.network

    @cached_property
    def is_fused(self) -> bool:
        """Whether it is a FastViT of which nothing is left to fuse, since its weights are fused ones."""
        network = self.network
        return isinstance(network, FastViT) and not any(
            isinstance(each, Reparameterizable) for each in network.modules()
        )

    def require_module(self) -> None:
        """Raise ExportError if it is an exported file."""
        if self.kind is Kind.FILE:
            raise ExportError(f"{self.source} is exported already: name the run or the network that it was made from")

    def fused_on(self, device: torch.device) -> tuple[Network, torch.device]:
        """A fused copy, channels last, and the device; of an exported file that itself and the CPU, its home."""
        network = self.network
        if not isinstance(network, nn.Module):
            return network, torch.device("cpu")
        return reparameterize_model(network).to(device, memory_format=torch.channels_last), device

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """What prediction needs besides the network, the preprocessing and the labels; None if nothing."""
        return self.task.prediction_settings if self.task else self.stated.settings

    @property
    def recipe(self) -> Mapping[str, Any] | None:
        """What a network that is no classifier was trained by, without folders; None if unknown."""
        if self.task is None or self.does in CLASSIFIERS:
            return self.stated.recipe
        from fastvit.config import without_folders

        return {key: value for key, value in without_folders(self.task.recipe).items() if key != "log"}

    @property
    def card(self) -> Card:
        """What belongs to it, to travel with an exported file."""
        return Card(
            preprocessing=self.preprocessing,
            labels=self.labels,
            weights=self.weights,
            architecture=self.architecture,
            task=self.does,
            licence=self.licence,
            settings=self.settings,
            recipe=self.recipe,
        )

    @cached_property
    def predictor(self) -> Predictor:
        """What says something about images, on the CPU."""
        return self.predictor_on(torch.device("cpu"))

    def predictor_on(
        self, device: torch.device, engine: str | None = None, dtype: torch.dtype = torch.float32
    ) -> Predictor:
        """As `predictor`, on a device; exported files are at home on the CPU.

        Args:
            engine: of `compile_for_inference`, for a classifier that is no exported file. It makes the network ready
                for images of the validated size, which takes seconds to minutes. One that does not compute on the
                device computes on the CPU. None: PyTorch, at once.
            dtype: that the engine computes in.

        Raises:
            UserError: its task has none, an exported file does not say what it needs, or the engine cannot be used.
        """
        known = {"preprocessing": self.preprocessing, "labels": self.labels, "settings": self.settings}
        try:
            make = find_predictor(self.does, known)
        except RunError as error:
            raise RunError(f"{self.source} {error}") from error
        if engine:
            device = _device_of(engine, device)
            network = self._made_ready(device, engine, dtype)
        else:
            network, device = self.fused_on(device)
        return make(network, device=device, **known)

    def _made_ready(self, device: torch.device, engine: str, dtype: torch.dtype) -> Network:
        from fastvit.deploy.compile import compile_for_inference

        if self.does not in CLASSIFIERS or self.preprocessing is None:
            raise RunError(f"{self.source} is no classifier, whose images have one size: leave out the engine")
        shape = (EXAMPLE_BATCH, 3, self.preprocessing.height, self.preprocessing.width)
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        network = self.module  # on the CPU, where it stays
        if device.type != "cpu":
            network = copy.deepcopy(network).to(device)
        return compile_for_inference(network, example, dtype, engine)

    def __call__(self, image: Image.Image) -> Prediction:
        """What it says about an image, which is turned as its EXIF orientation says, as photographs in files are.

        Raises TypeError for what is no image of PIL's.
        """
        (prediction,) = self.predictor.predict([self.predictor.prepare(_as_read(image))])
        return prediction

    def explain(self, image: Image.Image) -> Image.Image:
        """The part of an image that a classifier sees, colored where it speaks for the most probable class.

        Raises RunError where there is no such picture: see `fastvit.explain`.
        """
        return self.predictor.explain(_as_read(image))


def _as_read(image: Image.Image) -> Image.Image:
    """An image as if it were read from its file. Raises TypeError for what is none."""
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"it takes a PIL image, not a {type(image).__name__}: fastvit.data.reading.read_image(path) makes one of a "
            "file, PIL.Image.fromarray one of an array; prepared tensors are for its .network"
        )
    return as_rgb(image, upright=True, name=HANDED)


def _device_of(engine: str, device: torch.device) -> torch.device:
    """The device, or the CPU if the engine computes there and not on the device. "auto" is on any."""
    from fastvit.deploy.engines import ENGINES

    devices = ENGINES[engine].devices if engine in ENGINES else (device.type,)
    return torch.device("cpu") if "cpu" in devices and device.type not in devices else device
