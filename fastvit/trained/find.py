"""From a name to a trained network."""

from pathlib import Path

from fastvit.trained.name import Kind, Options, kind_of
from fastvit.trained.network import Trained
from fastvit.trained.of_clip import of_clip
from fastvit.trained.of_file import of_file
from fastvit.trained.of_run import of_recipe, of_run
from fastvit.trained.of_timm import of_hub, of_timm

NO_OPTIONS = Options()


def find_trained(source: str, options: Options = NO_OPTIONS) -> Trained:
    """The network that a name stands for. Weights are not read yet, so that everything else can be checked first.

    Raises:
        UserError: it stands for nothing, or the options do not belong to it.
    """
    kind = kind_of(source)
    options.require_only(kind, source)
    find = {
        Kind.RUN: of_run,
        Kind.RECIPE: of_recipe,
        Kind.TIMM: of_timm,
        Kind.HUB: of_hub,
        Kind.CLIP: of_clip,
        Kind.FILE: of_file,
    }
    return find[kind](source, options)


def load_trained(
    source: str | Path,
    *,
    checkpoint: str | Path | None = None,
    pretrained: bool = False,
    random_weights: bool = False,
    num_classes: int | None = None,
    image_size: tuple[int, int] | int | None = None,
    overrides: tuple[str, ...] = (),
) -> Trained:
    """A trained network with its preprocessing and its labels, ready to be called with an image.

    >>> model = fastvit.load_trained("runs/quickstart")
    >>> model(image).label
    '7'

    Args:
        source: a run, a recipe, a network of timm's, or an exported file: see `fastvit.trained`.
        checkpoint, pretrained, random_weights, num_classes, image_size, overrides: see `fastvit.trained.Options`.

    Raises:
        UserError: there is no such network, or its weights are missing or do not fit.
    """
    options = Options(
        checkpoint=Path(checkpoint) if checkpoint else None,
        pretrained=pretrained,
        random_weights=random_weights,
        num_classes=num_classes,
        image_size=image_size,
        overrides=overrides,
    )
    trained = find_trained(str(source), options)
    trained.network  # noqa: B018 - reads the weights
    return trained
