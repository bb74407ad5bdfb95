"""The network of a measurement, its size and its work."""

import copy

import timm
import timm.models.fastvit
import torch
from timm.utils.model import reparameterize_model as fuse_timms_way
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastvit import reparameterize_model
from fastvit.benchmark.suite import Form, Network
from fastvit.errors import RecipeError
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.network import register_models
from fastvit.variants import VARIANTS


def build(network: Network, form: Form) -> nn.Module:
    """The network with random weights, in eval mode or, for training, in train mode; fused as the form says."""
    torch.manual_seed(0)
    if network.registered_in:
        register_models(network.registered_in)
    if network.recipe:
        model = make_task(load_recipe(network.recipe)).build_model(initial_weights=False)
    elif form.builtin:
        model = _builtin(network)
    else:
        model = timm.create_model(network.name, **_options(network))
    model.train(form.train)
    if not form.fuse:
        return model
    # timm's pass fuses what each of its networks says it can; ours goes on to the rest of FastViT's blocks.
    model = fuse_timms_way(model)
    return model if form.builtin else reparameterize_model(model)


def input_size(network: Network) -> tuple[int, int, int]:
    """(channels, height, width) of an image: as the suite, the recipe, or the weights of that name say."""
    if network.image_size:
        return 3, network.image_size, network.image_size
    if network.recipe:
        return make_task(load_recipe(network.recipe)).input_size
    config = timm.models.get_pretrained_cfg(network.name)
    if config is None:
        raise RecipeError(f"{network.name} does not say the size of its images: set image_size")
    return config.input_size


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module, size: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image in the convolutions, linear layers and matrix products of attention."""
    model = copy.deepcopy(model).to("meta").eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.empty(1, *size, device="meta"))
    return counter.get_total_flops() // 2


def _builtin(network: Network) -> nn.Module:
    """timm's own FastViT, whose name in the registry is now ours."""
    variant = (network.name or "").partition(".")[0]
    if variant not in VARIANTS:
        raise RecipeError(f"builtin is about FastViT, and {network.name} is none: leave it out of this suite's forms")
    return getattr(timm.models.fastvit, variant)(**_options(network))


def _options(network: Network) -> dict[str, bool]:
    return {"features_only": True} if network.features_only else {}
