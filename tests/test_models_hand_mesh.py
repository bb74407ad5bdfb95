"""The hand mesh network fuses, exports, and keeps its mesh sharp."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from fastvit import fusion_error, reparameterize_model
from fastvit.compare import relative_error
from fastvit.models.hand_mesh import INITIAL_SCALE
from fastvit.models.skinning import ROOT
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.hand_mesh.task import HandMeshRecovery
from reference import VARIANTS, randomize

DEMO = Path(__file__).parent.parent / "configs" / "quickstart" / "hand_mesh_synthetic.yaml"


def task(*overrides: str) -> HandMeshRecovery:
    return make_task(load_recipe(DEMO, overrides))


def test_a_new_network_predicts_a_relaxed_hand_in_the_middle():
    model = task().build_model().eval()
    with torch.no_grad():
        predicted = model(torch.randn(2, 3, 64, 64))
    relaxed = model.hand.mean_rotations().expand(2, 16, 3, 3)
    torch.testing.assert_close(predicted["rotations"], relaxed, atol=0.1, rtol=0)
    torch.testing.assert_close(predicted["camera"], torch.tensor([[INITIAL_SCALE, 0, 0]] * 2), atol=0.2, rtol=0)
    assert not predicted["joints"][:, ROOT].any()


def test_the_outputs_are_one_hand():
    model = randomize(task().build_model()).eval()
    with torch.no_grad():
        predicted = model(torch.randn(3, 3, 64, 64))
        vertices, joints = model.hand(predicted["rotations"], predicted["shape"])
    torch.testing.assert_close(predicted["vertices"], vertices - joints[:, ROOT, None])
    assert (predicted["camera"][:, 0] > 0).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_backbone(name: str):
    with torch.device("meta"):
        model = task(f"model.name={name}").build_model()
    assert model.regressor.layers[0].in_features == model.backbone.num_features


def test_fused_equals_unfused():
    model = randomize(task("model.name=fastvit_sa12").build_model())
    nn.init.normal_(model.regressor.layers[-1].weight, std=0.2)  # so that the mesh depends on the image
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        first, second = model.eval()(images)["joints"]
    assert (first - second).norm(dim=-1).mean() > 1e-3  # metres
    fused = reparameterize_model(model)
    assert fusion_error(model, fused, (3, 64, 64)) < 1e-5
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]


def test_gradient_checkpointing_is_the_backbone_s():
    model = task().build_model()
    for enable in (True, False):
        model.set_grad_checkpointing(enable)
        assert {stage.grad_checkpointing for stage in model.backbone.stages} == {enable}


def test_half_precision_does_not_blur_the_mesh():
    model = task().build_model().eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        predicted = model(images)
    with torch.no_grad():
        vertices, joints = model.hand(predicted["rotations"], predicted["shape"])
    assert predicted["vertices"].dtype == torch.float32
    torch.testing.assert_close(predicted["vertices"], vertices - joints[:, ROOT, None], atol=1e-7, rtol=0)


@pytest.fixture(scope="module")
def fused() -> nn.Module:
    model = randomize(task().build_model())
    nn.init.normal_(model.regressor.layers[-1].weight, std=0.05)
    return reparameterize_model(model)


@pytest.mark.slow
def test_the_whole_pipeline_exports_with_torch(fused: nn.Module):
    exported = torch.export.export(
        fused, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    ).module()
    images = torch.randn(5, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(exported(images), fused(images)) < 1e-6


@pytest.mark.slow
def test_the_whole_pipeline_exports_to_onnx(fused: nn.Module, tmp_path: Path):
    path, images = tmp_path / "hand.onnx", torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = fused(images)
    torch.onnx.export(
        fused,
        (torch.randn(2, 3, 64, 64),),
        path,
        dynamo=True,
        external_data=False,
        dynamic_shapes=({0: "batch"},),
        output_names=list(expected),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path)
    outputs = session.run(list(expected), {session.get_inputs()[0].name: images.numpy()})
    for name, output in zip(expected, outputs, strict=True):
        np.testing.assert_allclose(output, expected[name], atol=2e-5, err_msg=name)
