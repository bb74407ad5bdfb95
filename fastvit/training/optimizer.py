"""The optimizer, and which parameters it treats alike."""

from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from fastvit.errors import RecipeError
from fastvit.training.recipe import Recipe

LAYER_SCALES = ("*.gamma", "gamma")  # what timm and we call the parameter of a layer scale


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """timm's optimizer of that name over the parameters that learn.

    Each group has `initial_weight_decay`, and with layer-wise decay timm's `lr_scale`.

    Raises:
        RecipeError: the optimizer does not take a setting that the recipe has.
    """
    config = recipe.optimizer
    info = get_optimizer_info(config.name)
    given: dict[str, Any] = {}
    for name, takes in (("betas", info.has_betas), ("eps", info.has_eps)):
        if (value := getattr(config, name)) is not None:
            if not takes:
                raise RecipeError(f"optimizer.{name}: {config.name} does not take it; remove it")
            given[name] = value
    groups = _parameter_groups(model, recipe)
    if config.decay_all:
        groups = [{**group, "weight_decay": config.weight_decay} for group in groups]
    optimizer = create_optimizer_v2(groups, config.name, lr=recipe.peak_lr, **given)
    for group in optimizer.param_groups:
        group["initial_weight_decay"] = group["weight_decay"]
    return optimizer


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Learning rate and weight decay of the next step, for each group by its own rule."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        if group["initial_weight_decay"]:
            group["weight_decay"] = weight_decay


def describe_groups(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """A table of the parameter groups: how many parameters, learning rate, weight decay, and the names of some."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    lines = [f"{'parameters':>12} {'tensors':>8} {'lr':>10} {'decay':>7}  names"]
    for group in optimizer.param_groups:
        members = [names[parameter] for parameter in group["params"]]
        count = sum(parameter.numel() for parameter in group["params"])
        some = ", ".join(members[:2]) + (", ..." if len(members) > 2 else "")
        lr = group["lr"] * group.get("lr_scale", 1.0)
        lines.append(f"{count:>12,} {len(members):>8} {lr:>10.3g} {group['weight_decay']:>7.3g}  {some}")
    fixed = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    if fixed:
        lines.append(f"{sum(parameter.numel() for parameter in fixed):>12,} {len(fixed):>8}  frozen")
    return "\n".join(lines)


def _parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    config = recipe.optimizer
    exempt = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    if not config.decay_layer_scale:
        exempt.update(LAYER_SCALES)
    if config.layer_decay is None:
        return param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=exempt)
    if not hasattr(model, "group_matcher"):
        raise RecipeError(
            f"optimizer.layer_decay: {type(model).__name__} does not tell its layers (group_matcher); remove it"
        )
    return param_groups_layer_decay(
        model, config.weight_decay, no_weight_decay_list=exempt, layer_decay=config.layer_decay
    )
