"""What does not load: one sentence says why, and the model is as it was before."""

import copy

import pytest
import timm
import torch
from torch import nn

from checkpoints import equal, fresh
from fastvit import CheckpointError, load_checkpoint
from reference import golden_weights, randomize, small


@pytest.fixture(scope="module")
def source():
    """In train form, of every kind of layer."""
    torch.manual_seed(0)
    return randomize(fresh())


class _Code:
    def __reduce__(self):
        return print, ("this would have run",)


def _code(path, state):
    torch.save({"state_dict": state, "extra": _Code()}, path)


def _tensor(path, state):
    torch.save(torch.zeros(3), path)


def _resnet(path, state):
    torch.save({"conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}, path)


def _convnext(path, state):
    """Has stages and blocks, too."""
    torch.save({"stages.0.blocks.0.mlp.fc1.weight": torch.zeros(4, 1)}, path)


def _student_and_teacher(path, state):
    names = ("student", "teacher")
    torch.save({f"{name}.{key}": tensor for name in names for key, tensor in state.items()}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_code, "which could run code and are not loaded"),
        (_tensor, "is not a checkpoint: it holds a Tensor"),
        (_resnet, "is not a FastViT checkpoint: it holds conv1.weight, fc.weight"),
        (_convnext, "is not a FastViT checkpoint: it holds stages.0.blocks"),
        (_student_and_teacher, r"holds several FastViTs, student\., teacher\.: pass the state dict of one of them"),
    ],
)
def test_files_that_are_no_checkpoint(source, tmp_path, capsys, write, message):
    write(tmp_path / "file.pt", source.state_dict())
    model = fresh()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(model, tmp_path / "file.pt")
    assert str(tmp_path / "file.pt") in str(error.value)
    assert equal(model.state_dict(), before)
    assert "this would have run" not in capsys.readouterr().out


def _without_a_tensor(state):
    return {name: tensor for name, tensor in state.items() if name != "stem.0.conv_kxk.0.conv.weight"}


def _with_a_foreign_tensor(state):
    return {**state, "stem.9.weight": torch.zeros(1)}


def _of_another_shape(state):
    return {**state, "stem.0.conv_kxk.0.conv.weight": torch.zeros(64, 1, 3, 3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_a_tensor, r"lacks stem\.0\.conv_kxk\.0\.conv\.weight$"),
        (_with_a_foreign_tensor, r"has an unknown stem\.9\.weight"),
        (
            _of_another_shape,
            r"stem\.0\.conv_kxk\.0\.conv\.weight of shape \(64, 1, 3, 3\) where the model has \(64, 3, 3, 3\)",
        ),
    ],
)
def test_never_a_partial_load(source, change, message):
    model = fresh()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model, change(source.state_dict()))
    assert equal(model.state_dict(), before)


@pytest.mark.parametrize(
    ("form", "name", "fused", "message"),
    [
        ("fused", "fastvit_t8", False, r"holds a fastvit_t8 fused.*, but the model is in train form: .*fused=True"),
        ("unfused", "fastvit_t8", True, r"holds a fastvit_t8 in train form, but the model is fused: .*reparameterize"),
        ("unfused", "fastvit_sa24", False, r"holds a fastvit_t8, but the model is a fastvit_sa24"),
        ("fused", "fastvit_t12", True, r"holds a fastvit_t8, but the model is a fastvit_t12"),
    ],
)
@pytest.mark.parametrize("writer", ["Apple", "fastvit"])
def test_files_for_another_model(form, name, fused, message, writer):
    state = golden_weights("fastvit_t8", form)
    if writer == "fastvit":
        model = timm.create_model("fastvit_t8", fused=form == "fused")
        load_checkpoint(model, state)
        state = model.state_dict()
    model = timm.create_model(name, fused=fused)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model, state)
    assert equal(model.state_dict(), before)


def test_a_model_that_is_no_fastvit(source):
    with pytest.raises(CheckpointError, match="the model is not a FastViT"):
        load_checkpoint(nn.Linear(2, 2), source.state_dict())


def test_forms_that_do_not_fit():
    """Completely fused, nothing is left of what the published form keeps apart."""
    fused, published = (fresh(**{form: True}) for form in ("fused", "inference_mode"))
    with pytest.raises(CheckpointError, match=r"fused, but the model is fused the published way: .*fused=True"):
        load_checkpoint(published, fused.state_dict())


def test_a_file_without_a_classifier():
    """As FastVLM's for transformers, fused the published way."""
    state = fresh(num_classes=0, inference_mode=True).state_dict()
    message = r"lacks head\.fc\.weight, lacks head\.fc\.bias: .* with num_classes=0, or pass"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(fresh(fused=True), state)
    load_checkpoint(fresh(num_classes=0, fused=True), state)


def test_a_model_around_a_network():
    class Clip(nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = nn.ModuleDict({"trunk": fresh("fastvit_t8", **small("fastvit_t8"))})
            self.text = nn.Linear(2, 2)

    clip = Clip()
    with pytest.raises(CheckpointError, match=r"the model is more than a FastViT: pass its part visual\.trunk"):
        load_checkpoint(clip, clip.visual["trunk"].state_dict())
