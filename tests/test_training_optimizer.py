"""Which parameters learn how fast, and which decay."""

from pathlib import Path

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

import fastvit  # noqa: F401 - registers the models
from fastvit.errors import RecipeError
from fastvit.tasks.network import freeze_stages
from fastvit.training.optimizer import build_optimizer, describe_groups, set_rates
from fastvit.training.recipe import Recipe


def recipe(**optimizer):
    return Recipe(
        task="none",
        output=Path("none"),
        data={},
        optimizer={"lr": 1e-3, "weight_decay": 0.05, **optimizer},
        schedule={"epochs": 1},
        loop={"batch_size": 4},
    )


def model():
    return timm.create_model("fastvit_t8", num_classes=10)


def groups(network, optimizer):
    """Learning rate and weight decay of each parameter by name."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_the_published_recipe_decays_layer_scales_and_nothing_with_one_dimension():
    network = model()
    decays = {name: decay for name, (_, decay) in groups(network, build_optimizer(network, recipe())).items()}
    assert set(decays) == {name for name, _ in network.named_parameters()}
    for name, parameter in network.named_parameters():
        assert decays[name] == (0.05 if parameter.ndim > 1 else 0.0), name
    assert any(name.endswith("gamma") and decays[name] for name in decays)


def test_layer_scales_are_exempt_where_the_recipe_says_so():
    network = model()
    decays = groups(network, build_optimizer(network, recipe(decay_layer_scale=False)))
    assert {decay for name, (_, decay) in decays.items() if name.endswith("gamma")} == {0.0}
    assert decays["head.fc.weight"][1] == 0.05


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_all_parameters_decay_where_the_recipe_says_so(layer_decay):
    """As torch's AdamW without groups, which is what PoolFormer's dense recipes ask for."""
    network = model()
    optimizer = build_optimizer(network, recipe(decay_all=True, layer_decay=layer_decay))
    set_rates(optimizer, 1e-3, 0.03)
    decays = {name: decay for name, (_, decay) in groups(network, optimizer).items()}
    assert set(decays) == {name for name, _ in network.named_parameters()}
    assert set(decays.values()) == {0.03}


def test_decaying_all_but_layer_scales_is_a_contradiction():
    with pytest.raises(ValueError, match="decay_all: true decays layer scales too"):
        recipe(decay_all=True, decay_layer_scale=False)


def test_layer_decay_is_timm_s():
    network = model()
    ours = build_optimizer(network, recipe(layer_decay=0.7))
    set_rates(ours, 1e-3, 0.05)
    reference = create_optimizer_v2(network, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    expected = {
        parameter: (1e-3 * group["lr_scale"], group["weight_decay"])
        for group in reference.param_groups
        for parameter in group["params"]
    }
    names = dict(network.named_parameters())
    for name, (lr, decay) in groups(network, ours).items():
        assert (lr, decay) == (pytest.approx(expected[names[name]][0]), expected[names[name]][1])
    rates = groups(network, ours)
    assert rates["stem.0.conv.conv.weight"][0] < rates["stages.3.blocks.1.ffn.fc1.weight"][0] < 1e-3
    assert rates["head.fc.weight"][0] == 1e-3


def test_rates_of_a_step_respect_the_groups():
    network = model()
    optimizer = build_optimizer(network, recipe())
    set_rates(optimizer, 1e-4, 0.01)
    rates = groups(network, optimizer)
    assert rates["head.fc.weight"] == (1e-4, 0.01)
    assert rates["head.fc.bias"] == (1e-4, 0.0)


def test_frozen_stages_keep_weights_and_statistics_in_training():
    network = model().train()
    freeze_stages(network, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = build_optimizer(network, recipe(lr=0.1))
    network(torch.randn(4, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not [name for name in changed if name.startswith(("stem", "stages.0", "stages.1"))]
    assert all(any(name.startswith(part) for name in changed) for part in ("stages.2", "stages.3", "head"))
    assert "frozen" in describe_groups(network, optimizer)


def test_only_a_fastvit_has_stages_to_freeze():
    with pytest.raises(RecipeError, match=r"model\.frozen_stages: ResNet is not a FastViT"):
        freeze_stages(timm.create_model("resnet18"), 1)


@pytest.mark.parametrize(("setting", "value"), [("betas", (0.9, 0.99)), ("eps", 1e-6)])
def test_a_setting_that_the_optimizer_does_not_take_is_refused(setting, value):
    with pytest.raises(RecipeError, match=f"optimizer.{setting}: sgd does not take it"):
        build_optimizer(model(), recipe(name="sgd", **{setting: value}))


def test_layer_decay_needs_layers():
    with pytest.raises(RecipeError, match="Sequential does not tell its layers"):
        build_optimizer(torch.nn.Sequential(torch.nn.Linear(2, 2)), recipe(layer_decay=0.5))
