"""The arguments by which every command names a network: see `fastvit.trained`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastvit.trained import Options

SOURCE = "a run or its checkpoint, a recipe, a network such as fastvit_t8.apple_in1k, or an exported file"


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Which weights a recipe or the name of a network gets."""
    weights = parser.add_argument_group("weights, for a recipe or the name of a network without a tag")
    weights.add_argument("--checkpoint", type=Path, metavar="FILE", help="those of a file")
    weights.add_argument("--pretrained", action="store_true", help="those of the hub")
    weights.add_argument("--random-weights", action="store_true", help="none, to try things out")
    weights.add_argument("--num-classes", type=int, metavar="N", help="of a file or random weights (as pretrained)")


def options(arguments: argparse.Namespace, *, features_only: bool = False) -> "Options":
    """What these arguments say."""
    from fastvit.trained import Options

    return Options(
        checkpoint=arguments.checkpoint,
        pretrained=arguments.pretrained,
        random_weights=arguments.random_weights,
        num_classes=arguments.num_classes,
        image_size=getattr(arguments, "image_size", None),
        features_only=features_only,
        overrides=tuple(getattr(arguments, "overrides", ())),
    )


def tell_licence(licence: str) -> None:
    """One line, where published weights come with conditions."""
    from fastvit.trained.licence import CONDITIONS

    if licence in CONDITIONS:
        print(f"licence of Apple's published weights: {licence}, {CONDITIONS[licence]}", file=sys.stderr)
