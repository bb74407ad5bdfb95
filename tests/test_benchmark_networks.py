"""The networks that suites register, and what is done to those that are measured."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import timm
import timm.models.fastvit
import torch
from torch import nn

import fastvit
from fastvit.benchmark.folding import fold_batch_norms
from fastvit.benchmark.networks import build, input_size
from fastvit.benchmark.steps import training_step
from fastvit.benchmark.suite import Form, Network
from fastvit.benchmark.work import macs, parameters, traffic
from fastvit.errors import RecipeError
from fastvit.tasks.network import register_models
from reference import GOLDEN, golden_image, golden_outputs, golden_weights, randomize, relative_error

register_models(Path("benchmark/cmt.py"))
register_models(Path("benchmark/merged.py"))
FUSED, UNFUSED = Form(), Form(fuse=False)


def count(model: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


# ---- CMT -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("cmt_ti", 160), pytest.param("cmt_s", 224, marks=pytest.mark.slow)])
def test_cmt_is_its_authors_network(name: str, size: int):
    model = timm.create_model(name)
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == json.loads((GOLDEN / f"{name}.json").read_text())["train"]
    model.load_state_dict(golden_weights(name, "train"))
    with torch.no_grad():
        logits = model.double().eval()(golden_image(1, size, size))
    assert relative_error(logits, torch.from_numpy(golden_outputs(name)["logits"])) < 1e-12


@pytest.mark.parametrize(
    ("name", "size", "paper_parameters", "gmacs"),
    [
        pytest.param("cmt_ti", 160, 9_492_426, 0.639, marks=pytest.mark.slow),  # its shapes: above
        ("cmt_xs", 192, 15_247_208, 1.547),
        pytest.param("cmt_s", 224, 26_256_160, 4.032, marks=pytest.mark.slow),
        pytest.param("cmt_b", 256, 45_715_076, 9.317, marks=pytest.mark.slow),
    ],
)
def test_cmt_has_its_authors_size(name: str, size: int, paper_parameters: int, gmacs: float):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert parameters(model) == paper_parameters
    assert macs(model, (3, size, size)) / 1e9 == pytest.approx(gmacs, rel=0.001)
    assert input_size(Network(name=name)) == (3, size, size)


def test_cmt_is_a_backbone_at_another_size():
    network = Network(registered_in=Path("benchmark/cmt.py"), name="cmt_ti", features_only=True, image_size=64)
    features = build(network, UNFUSED)(torch.randn(1, 3, 64, 64))
    assert [tuple(feature.shape[1:]) for feature in features] == [(46, 16, 16), (92, 8, 8), (184, 4, 4), (368, 2, 2)]
    with pytest.raises(ValueError, match="multiple of 32, not 100"):
        timm.create_model("cmt_ti", img_size=100)
    with pytest.raises(ValueError, match="no weights of cmt_ti to download"):
        timm.models.model_entrypoint("cmt_ti")(pretrained=True)


# ---- RepMixer with merged branches -----------------------------------------------------------------------------------


def test_merged_branches_train_as_the_branches_do():
    torch.manual_seed(0)
    branches = randomize(fastvit.RepMixer(8)).double().train()
    merged = timm.create_model("merged_t8").stages[0].blocks[0].token_mixer.__class__(deepcopy(branches))
    assert type(merged).__name__ == "MergedRepMixer"
    x, gradient = torch.randn(2, 4, 8, 7, 6, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    expected, actual = branches(inputs[0]), merged(inputs[1])
    for output in (expected, actual):
        output.backward(gradient)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(actual, expected, **close)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, **close)
    for own, other in zip(merged.parameters(), branches.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, **close)
    for own, other in zip(merged.buffers(), branches.buffers(), strict=True):
        torch.testing.assert_close(own, other, **close)
    torch.testing.assert_close(merged.eval()(x), branches.eval()(x))


# ---- folding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("tf_efficientnet_b0", 0),  # its convolutions pad as TensorFlow's
        ("cpubone_nano", 0),  # padding and convolution are a sequence
        ("starnet_s1", 1),  # after a sum
    ],
)
def test_every_batch_norm_after_a_convolution_is_folded(name: str, left: int):
    torch.manual_seed(0)
    model = randomize(timm.create_model(name, num_classes=10)).double().eval()
    folded = fold_batch_norms(deepcopy(model))
    assert count(folded, nn.BatchNorm2d) == left < count(model, nn.BatchNorm2d)
    assert fastvit.fusion_error(model, folded, (3, 64, 64)) < 1e-8


class Shared(nn.Module):
    """Neither pair may be folded: one convolution's output is used twice, the other convolution is called twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.twice, self.after = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        y = self.norm(y) + y
        return self.after(self.twice(y)) + self.twice(x)


def test_what_is_used_twice_is_not_folded():
    model = randomize(Shared()).eval()
    assert count(fold_batch_norms(deepcopy(model)), nn.BatchNorm2d) == 2


# ---- what is built ---------------------------------------------------------------------------------------------------


def test_forms_are_what_they_say():
    network = Network(name="fastvit_t8.apple_in1k", image_size=64)
    theirs, ours = build(network, Form(builtin=True)), build(network, FUSED)
    assert type(theirs) is timm.models.fastvit.FastVit
    assert count(theirs, nn.BatchNorm2d) == 10  # what timm's pass leaves, in the FFNs
    assert type(ours) is fastvit.FastViT
    assert count(ours, nn.BatchNorm2d) == 0
    assert not ours.training
    assert build(network, Form(fuse=False, train=True)).training
    mobileone = Network(name="mobileone_s0", image_size=32)
    assert parameters(build(mobileone, FUSED)) < parameters(build(mobileone, UNFUSED))
    backbone = build(Network(name="fastvit_t8", features_only=True, image_size=64), FUSED)
    assert [tuple(f.shape[1:]) for f in backbone(torch.randn(1, 3, 64, 64))][-1] == (384, 2, 2)
    with pytest.raises(RecipeError, match="resnet18 is none"):
        build(Network(name="resnet18", image_size=32), Form(builtin=True))


def test_activations_are_of_the_size_that_trained_networks_have():
    """Else the standard deviation of these logits is 260, and float32 is off by 2e-3."""
    model = build(Network(name="tf_efficientnetv2_s", image_size=384), UNFUSED)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 384, 384)).std() < 1


def test_work_is_counted_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(8 * 256, 10))
    assert macs(network, (3, 32, 32)) == 16 * 16 * 8 * 3 * 9 + 8 * 16 * 16 * 10
    assert parameters(network) == 8 * 27 + 8 + 8 * 256 * 10 + 10
    tensors = [3 * 32 * 32, 8 * 256, 8 * 256, 10]  # into and out of the two layers
    kernels = [8 * 27, 8, 8 * 256 * 10, 10]

    def moved(cache: int) -> int:
        beyond = sum(max(2 * 4 * each - cache, 0) for each in tensors) + sum(
            max(4 * each - cache, 0) for each in kernels
        )
        return beyond + max(4 * sum(kernels) - cache, 0)

    for cache in (8192, 20_000, 2**20):
        assert traffic(network, (3, 32, 32), 2, torch.float32, cache) == moved(cache)
    assert moved(2**20) == 0 < moved(20_000)


def test_the_work_of_attention_is_counted():
    """SA12 over S12 at two sizes: qkv and projection grow with the positions, attention with their square."""
    extra = {}
    with torch.device("meta"):
        networks = {name: timm.create_model(name, fused=True) for name in ("fastvit_s12", "fastvit_sa12")}
    for px in (256, 512):
        work = {name: macs(network, (3, px, px)) for name, network in networks.items()}
        extra[px] = work["fastvit_sa12"] - work["fastvit_s12"]
    positions, dim, blocks = 8 * 8, 512, 2
    per_position = blocks * dim * (4 * dim - 9) + 49 * dim  # not: RepMixer's 3x3; but: CPE's 7x7
    assert extra[256] == positions * per_position + blocks * 2 * positions**2 * dim
    assert extra[512] == 4 * positions * per_position + blocks * 2 * (4 * positions) ** 2 * dim


# ---- training steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["quickstart/segmentation_digits.yaml", "quickstart/detection_digits.yaml", None])
def test_a_step_trains_with_the_losses_of_the_task(recipe: str | None):
    network = Network(recipe=Path(recipe)) if recipe else Network(name="fastvit_t8")
    form = Form(fuse=False, train=True)
    model = build(network, form)
    step = training_step(network, form, model, torch.randn(2, 3, 96, 128), torch.device("cpu"))
    step()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
    assert sum(parameter.grad.abs().sum() > 0 for parameter in trained) > 0.9 * len(trained)


def test_a_step_of_a_task_without_made_up_data_is_refused():
    network = Network(recipe=Path("quickstart/hand_mesh_synthetic.yaml"))
    with pytest.raises(RecipeError, match="training steps of hand_mesh cannot be timed on made-up data"):
        training_step(network, Form(fuse=False, train=True), nn.Linear(1, 1), torch.zeros(1), torch.device("cpu"))
