"""The weights that a recipe's network starts from."""

from pathlib import Path

import pytest
import torch

from fastvit.errors import RecipeError
from fastvit.reparam import reparameterize_model
from fastvit.tasks import load_recipe, make_task
from launch import QUICKSTART


def network(*overrides: str) -> torch.nn.Module:
    return make_task(load_recipe(QUICKSTART, overrides)).build_model()


def test_training_does_not_start_from_a_fused_network(tmp_path: Path):
    torch.save(reparameterize_model(network()).state_dict(), tmp_path / "fused.pt")
    message = r"^model\.checkpoint: .*fused\.pt is fused, .*: give the network in train form"
    with pytest.raises(RecipeError, match=message):
        network(f"model.checkpoint={tmp_path / 'fused.pt'}", "model.reset_head=true")


def test_a_checkpoint_without_a_classifier_may_start_with_a_new_one(tmp_path: Path):
    state = {name: tensor for name, tensor in network().state_dict().items() if not name.startswith("head.")}
    torch.save(state, tmp_path / "model.pt")
    start = f"model.checkpoint={tmp_path / 'model.pt'}"
    message = r"lacks head\.fc\.weight, lacks head\.fc\.bias: set model\.reset_head=true to keep its own$"
    with pytest.raises(RecipeError, match=message):
        network(start)
    started = network(start, "model.reset_head=true")
    assert torch.equal(started.final_conv.se.fc1.weight, state["final_conv.se.fc1.weight"])
