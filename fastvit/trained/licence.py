"""The licence of the published weights that a network has, or that its training began from."""

from typing import Any

from timm.models import get_pretrained_cfg

CONDITIONS = {  # Apple's licences of weights, which are not those of the code
    "apple-amlr": "for research only, and so is all that is made with them",
    "apple-ascl": "with conditions of Apple's: read it before you use them",
}


def licence_of(name: str, start: str) -> str:
    """What timm's configuration of a network calls the licence of its published weights; "" where that says nothing.

    Args:
        name: of a network of timm's, with a tag or without.
        start: which weights: "pretrained", "checkpoint" or "random_weights", as `Options.which_weights` says. Of a file
            that does not say whose it is, Apple's conditions are assumed where Apple's weights have them.
    """
    config = get_pretrained_cfg(name)
    licence = (config and config.license) or ""
    counts = start == "pretrained" or (start == "checkpoint" and licence in CONDITIONS)
    return licence if counts else ""


def licence_of_recipe(recipe: Any) -> str:
    """The same of the weights that a recipe starts from."""
    model = recipe.model  # every task's own kind has one
    start = "pretrained" if model.pretrained else "checkpoint" if model.checkpoint else "random_weights"
    return licence_of(model.name, start)
