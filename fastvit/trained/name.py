"""What a name stands for, and what can be said beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from numbers import Integral
from pathlib import Path

import timm

from fastvit import shipped
from fastvit.deploy.formats import FORMATS
from fastvit.errors import RunError, nearest, some
from fastvit.pretrained import SCHEMES
from fastvit.variants import VARIANTS

CLIP_SCHEME = "open_clip:"
SMALLEST = 32  # pixels of a side of an image


class Kind(Enum):
    """What a name stands for; the value goes on "..., which ..." in messages."""

    RUN = "a run, which has weights and classes of its own"
    RECIPE = "a recipe, which says itself what its network is"
    TIMM = "a network of timm's, which has no recipe"
    HUB = "a network with its weights"
    CLIP = "a network of open_clip's, which has no recipe"
    FILE = "an exported file, in which everything is decided"


def kind_of(source: str) -> Kind:
    """What a user means by a name. A file or folder that exists comes first, then recipes, then timm's names.

    Raises:
        RunError: nothing.
    """
    path = Path(source)
    if source.startswith(SCHEMES):
        return Kind.HUB
    if source.startswith(CLIP_SCHEME):
        return Kind.CLIP
    if any(path.name.endswith(each.suffix) for each in FORMATS.values()):
        return Kind.FILE
    if path.suffix in (".yaml", ".yml") or (not path.exists() and shipped.find(source).is_file()):
        return Kind.RECIPE
    if path.exists() or path.suffix in (".pt", ".pth", ".tar"):
        return Kind.RUN
    if len(path.parts) == 2 and path.parts[0] in {name.partition("/")[0] for name in shipped.names()}:
        raise RunError(f"there is no recipe {source}{nearest(source, shipped.names())}")
    if len(path.parts) > 1:
        return Kind.RUN
    if timm.is_model(source.partition(".")[0]):
        return Kind.TIMM
    known = nearest(source, (*shipped.names(), *VARIANTS)) or nearest(source, timm.list_models())
    raise RunError(f"there is no run, recipe, exported file or network of timm's that is called {source}{known}")


@dataclass(frozen=True)
class Options:
    """What can be said beside a name.

    Attributes:
        checkpoint: weights: a file that `fastvit.load_checkpoint` reads; of other networks, one with their own names.
        pretrained: weights: those of the hub. A tag in the name says the same.
        random_weights: weights: none, to try things out.
        num_classes: of a network of timm's, with a checkpoint or random weights; by default those of its pretraining.
        image_size: (height, width) in pixels, or one side of a square; by default as it was validated.
        features_only: the outputs of the stages in place of the classifier's.
        overrides: `key=value` in place of what a recipe says.
    """

    checkpoint: Path | None = None
    pretrained: bool = False
    random_weights: bool = False
    num_classes: int | None = None
    image_size: Sequence[int] | int | None = None
    features_only: bool = False
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_classes is not None and self.num_classes < 1:
            raise RunError(f"--num-classes is {self.num_classes}; it must be at least 1")
        if self.image_size is not None:
            sides = (self.image_size,) if isinstance(self.image_size, Integral) else tuple(self.image_size)
            if len(sides) not in (1, 2) or min(sides) < SMALLEST:
                raise RunError(f"the size of images is one side or height and width, of at least {SMALLEST} pixels")
            object.__setattr__(self, "image_size", (sides[0], sides[-1]))  # frozen

    def require_only(self, kind: Kind, source: str) -> None:
        """Raise RunError if something is said that means nothing beside this kind of name."""
        words = {field.name: f"--{field.name.replace('_', '-')}" for field in fields(self)}
        words |= {"features_only": "--features", "overrides": "key=value"}
        if extra := [word for name, word in words.items() if getattr(self, name) and name not in _TAKES[kind]]:
            raise RunError(f"{source} is {kind.value}: leave out {', '.join(extra)}")

    def which_weights(self, source: str, tags: Sequence[str] | None = None) -> str:
        """One of "checkpoint", "pretrained" and "random_weights".

        Args:
            tags: of a network of timm's or of open_clip's, those of its published weights; one may be in the name. None
                for a recipe.

        Raises:
            RunError: none is given, or several, or there are no such weights.
        """
        name, _, tag = source.partition(".") if tags is not None else (source, "", "")
        if tag and tag not in tags:
            known = f"but {', '.join(tags)}{nearest(tag, tags)}" if tags else "nor any other published ones"
            raise RunError(f"{name} has no weights {tag}, {known}")
        given = [name for name in _WEIGHTS if getattr(self, name)]
        if len(given) > 1:
            raise RunError("--checkpoint, --pretrained and --random-weights exclude each other: give one of them")
        if self.checkpoint and not self.checkpoint.is_file():
            raise RunError(f"there is no checkpoint file {self.checkpoint}")
        if tags is not None and not tags and self.pretrained:
            raise RunError(f"there are no published weights of {source}: give --checkpoint FILE")
        if not given and tag:
            return "pretrained"
        if not given:
            known = some([f"{name}.{each}" for each in tags or ()]) or "there is none"
            a_tag = "" if tags is None else f"a tag ({known}), "
            raise RunError(
                f"{source} has no weights of its own: give {a_tag}--checkpoint FILE, --pretrained for the hub's, or "
                "--random-weights to try things out"
            )
        return given[0]


_WEIGHTS = ("checkpoint", "pretrained", "random_weights")
_TAKES = {
    Kind.RUN: ("image_size", "overrides"),
    Kind.RECIPE: (*_WEIGHTS, "image_size", "overrides"),
    Kind.TIMM: (*_WEIGHTS, "num_classes", "image_size", "features_only"),
    Kind.HUB: ("image_size", "features_only"),
    Kind.CLIP: _WEIGHTS,
    Kind.FILE: (),
}
