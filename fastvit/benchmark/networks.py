"""The network of a measurement, and the size of its images."""

import timm
import timm.models.fastvit
import torch
from timm.utils.model import reparameterize_model as fuse_timms_way
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastvit import reparameterize_model
from fastvit.benchmark.folding import fold_batch_norms
from fastvit.benchmark.suite import Form, Network
from fastvit.errors import RecipeError
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.network import register_models
from fastvit.training.task import Task
from fastvit.variants import VARIANTS


def build(network: Network, form: Form) -> nn.Module:
    """The network with random weights, in eval mode or, for training, in train mode; fused as the form says.

    Outside of training, batch norms have a variance that keeps activations at the size that they have in trained
    networks: without, those of EfficientNetV2-S grow to thousands, and float32 has errors of 1e-3.
    """
    torch.manual_seed(0)
    model = _made(network, form)
    if form.train:
        return model.train()
    settle(model.eval(), input_size(network))
    if not form.fuse:
        return model
    # timm's pass fuses what each of its networks says it can; ours goes on to the rest of FastViT's blocks.
    model = fuse_timms_way(model)
    return model if form.builtin else fold_batch_norms(reparameterize_model(model))


def task_of(network: Network) -> Task:
    """The task of a network that is given by a recipe."""
    return make_task(load_recipe(network.recipe))


def input_size(network: Network) -> tuple[int, int, int]:
    """(channels, height, width) of an image: as the suite, the recipe, or the weights of that name say."""
    if network.image_size:
        return 3, network.image_size, network.image_size
    if network.recipe:
        return task_of(network).input_size
    config = timm.models.get_pretrained_cfg(network.name)
    if config is None:
        raise RecipeError(f"{network.name} does not say the size of its images: set image_size")
    return config.input_size


@torch.no_grad()
def settle(model: nn.Module, size: tuple[int, int, int]) -> None:
    """Give each batch norm of a model in eval mode the mean square of what it gets, for a random image, as variance."""

    def measure(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        norm.running_var.fill_(inputs[0].square().mean())

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms if norm.running_var is not None]
    if hooks:
        model(torch.randn(1, *size, generator=torch.Generator().manual_seed(0)))
    for hook in hooks:
        hook.remove()


def _made(network: Network, form: Form) -> nn.Module:
    if network.registered_in:
        register_models(network.registered_in)
    if network.recipe:
        return task_of(network).build_model(initial_weights=False)
    if form.builtin:
        return _builtin(network)
    return timm.create_model(network.name, **_options(network))


def _builtin(network: Network) -> nn.Module:
    """timm's own FastViT, whose name in the registry is now ours."""
    variant = (network.name or "").partition(".")[0]
    if variant not in VARIANTS:
        raise RecipeError(f"builtin is about FastViT, and {network.name} is none: leave it out of this suite's forms")
    return getattr(timm.models.fastvit, variant)(**_options(network))


def _options(network: Network) -> dict[str, bool | int]:
    options: dict[str, bool | int] = {"features_only": True} if network.features_only else {}
    config = timm.models.get_pretrained_cfg(network.name)
    if config and config.fixed_input_size and network.image_size not in (None, config.input_size[-1]):
        options["img_size"] = network.image_size
    return options


def counted_part(network: Network, model: nn.Module) -> nn.Module:
    """The part whose work can be counted by shapes alone: all of it, but of a detector its backbone."""
    return task_of(network).comparable(model) if network.recipe else model
