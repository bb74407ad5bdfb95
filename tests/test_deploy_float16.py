"""Networks whose numbers float16 cannot hold: caught, located, and kept in float32 where they are."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn

from deployment import PREPROCESSING, need
from fastvit import FastViT, reparameterize_model
from fastvit.deploy import (
    FORMATS,
    Card,
    compile_for_inference,
    export,
    float16_error,
    measure_ranges,
    overflowing_layers,
)
from fastvit.deploy.float16 import Float32, InFloat16, keep_in_float32
from fastvit.deploy.runtimes import inductor
from fastvit.errors import EngineError, ExportError
from launch import complaint, script
from photographs import photographs
from reference import randomize, relative_error

NORM, FFN = "stages.1.blocks.0.norm", "stages.0.blocks.0.mlp"
CARD = Card(PREPROCESSING)
EXAMPLE = torch.zeros(1, 3, 64, 64)


@pytest.fixture(scope="module")
def network():
    """Fused, with a layer norm before an attention that matters."""
    torch.manual_seed(0)
    norm = partial(LayerNorm2d, eps=1e-5)
    model = FastViT((1, 1), (32, 64), 2, (False, True), num_classes=7, norm=norm)
    model.stages[1].blocks[0].token_mixer.proj.weight.data *= 50
    return reparameterize_model(randomize(model))


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def loud(network):
    """The same function, but what goes from block to block in its last stage is 300 times as large."""
    model = copy.deepcopy(network)
    stage, block = model.stages[1], model.stages[1].blocks[0]
    with torch.no_grad():
        for layer in (stage.pos_emb, block.token_mixer.proj, block.mlp.fc2):
            layer.weight *= 300
            layer.bias *= 300
        for layer in (block.mlp.conv, model.final_conv[0]):
            layer.weight /= 300
    return model


@pytest.fixture(scope="module")
def wide(network):
    """Whose hidden numbers in one feed-forward network are too large for float16."""
    model = copy.deepcopy(network)
    with torch.no_grad():
        model.get_submodule(FFN).fc1.weight *= 1e6
        model.get_submodule(FFN).fc2.weight /= 1e6
    return model


def test_what_is_computed_is_what_torch_computes_in_float16(network, images):
    """torch sums a layer norm in float32, and nothing else here overflows."""
    exact = network(images)
    ours, theirs = InFloat16(network)(images)[0], copy.deepcopy(network).half()(images.half()).float()
    assert 0 < relative_error(ours, theirs) < 2 * relative_error(theirs, exact) < 0.01
    assert float16_error(network, images) == pytest.approx(relative_error(ours, exact), rel=1e-6)


def test_a_layer_norm_is_written_out_step_by_step():
    """As numpy computes it in float16 alone."""
    x = 20 * torch.randn(1, 16, 2, 2)
    for scale in (1, 100):
        half = (scale * x).half().numpy()
        with np.errstate(over="ignore"):
            centered = half - half.mean(1, keepdims=True)
            variance = (centered * centered).astype(np.float32).mean(1, keepdims=True).astype(np.float16)
            expected = centered * (1 / np.sqrt(variance + np.float16(1e-5)))
        in_float16 = InFloat16(LayerNorm2d(16, eps=1e-5))
        assert relative_error(in_float16(scale * x)[0] + 1, torch.from_numpy(expected) + 1) < 2e-3
        assert bool(in_float16.overflow) == (scale == 100)


def test_it_is_the_same_function(network, loud, images):
    assert relative_error(loud(images), network(images)) < 1e-4


def test_an_overflow_is_found_and_its_layer_kept(network, loud, wide, images):
    assert float16_error(network, images) < 3e-3
    assert overflowing_layers(network, images) == ()
    for model, layer in ((loud, NORM), (wide, FFN)):
        assert not float16_error(model, images) < 0.1
        assert overflowing_layers(model, images) == (layer,)
        assert float16_error(model, images, [layer]) < 3e-3


def test_what_passes_from_part_to_part_has_no_remedy(network, images):
    model = copy.deepcopy(network)
    with torch.no_grad():
        model.head.fc.weight *= 1e8
    with pytest.raises(ExportError, match=r"^head\.fc gives numbers of up to \d+, .* use bfloat16 or float32$"):
        overflowing_layers(model, images)


def test_ranges_name_the_layer(network, loud, images):
    quiet, ranges = ({each.name: each for each in measure_ranges(model, images)} for model in (network, loud))
    (norm,) = [each for each in ranges.values() if each.overflow]
    assert (norm.name, norm.kind) == (NORM, "LayerNorm2d")
    assert norm.largest > 65504 > quiet[NORM].largest
    assert not norm.effect < 0.1
    assert max(each.effect for each in quiet.values()) < 3e-3
    conv = network.stem[0][0]
    found = quiet["stem.0.0"]
    exact = conv.double()(images.double())
    conv.float()
    assert found.largest == pytest.approx(exact.abs().max().item(), rel=1e-5)
    half = copy.deepcopy(conv).half()(images.half())
    assert found.error == pytest.approx(relative_error(half, exact), rel=0.1)


def test_a_part_in_float32_stays_so():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    before = copy.deepcopy(model.state_dict())
    keep_in_float32(model, ["1.0", "1"])
    assert isinstance(model[1], Float32)
    assert not isinstance(model[1].part[0], Float32)
    model.half()
    assert torch.equal(model[1].part[0].weight, before["1.0.weight"])
    assert model(torch.zeros(1, 2).half()).dtype == torch.float16


def test_core_ml_is_refused_unless_the_layer_is_kept(loud, images, tmp_path):
    need("coreml")
    pictures = images.clamp(-2, 2)
    with pytest.raises(ExportError, match=r"in float16 the network differs from itself in float32 by .* keep layers"):
        export(loud, tmp_path / "a.mlpackage", EXAMPLE, card=CARD, images=pictures)
    assert not list(tmp_path.iterdir())
    layers = overflowing_layers(loud, pictures)
    sidecar = export(loud, tmp_path / "a.mlpackage", EXAMPLE, card=CARD, images=pictures, float32=(*layers, FFN))
    assert sidecar["verification"]["float32"] == [NORM, FFN]
    assert sidecar["verification"]["float16_error"] < 3e-3
    import coremltools

    main = coremltools.models.MLModel(str(tmp_path / "a.mlpackage"), skip_model_load=True).get_spec().mlProgram
    (block,) = main.functions["main"].block_specializations.values()
    kinds = [(each.type, each.outputs[0].type.tensorType.dataType) for each in block.operations]
    float32 = 11
    assert kinds.count(("layer_norm", float32)) == 1
    assert kinds.count(("conv", float32)) == 3


def test_compiling_is_refused_unless_the_layer_is_kept(wide, images, monkeypatch):
    """With torch itself for its compiler."""
    monkeypatch.setattr(inductor, "compile_program", lambda network, *_: network)
    monkeypatch.setattr("fastvit.deploy.engines.require_compiler", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"too large in float16: keep .*overflowing_layers\(model, images\)"):
        compile_for_inference(wide, images, torch.float16, "torch")
    infer = compile_for_inference(wide, images, torch.float16, "torch", float32=("stem", FFN))
    assert infer(images).dtype == torch.float16
    assert relative_error(infer(images), wide(images)) < 3e-3


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["stages.1.blocks.0.nrom"], "has no layer 'stages.1.blocks.0.nrom' .*; did you mean stages.1.blocks.0.norm?"),
        ([""], "has no layer ''"),
    ],
)
def test_a_layer_that_is_not_there(network, tmp_path, layers, message):
    need("coreml")
    for act in (
        lambda: export(network, tmp_path / "a.mlpackage", EXAMPLE, card=CARD, float32=layers),
        lambda: compile_for_inference(network, EXAMPLE, torch.float16, "torch", float32=layers),
    ):
        with pytest.raises(ExportError, match=message):
            act()


def test_what_cannot_keep_layers_says_so(network, tmp_path):
    with pytest.raises(ExportError, match="onnx files are in float32 all through: leave out float32"):
        export(network, tmp_path / "a.onnx", EXAMPLE, float32=[NORM])
    for engine in ("openvino", "onnxruntime"):
        need({"openvino": "openvino", "onnxruntime": "onnx"}[engine])
        with pytest.raises(EngineError, match=f"{engine} cannot keep layers in float32"):
            compile_for_inference(network, EXAMPLE, engine=engine, float32=[NORM])


def test_given_images_are_verified_on(network, images, tmp_path):
    kind = FORMATS["safetensors"]
    sidecar = export(network, tmp_path / "a.safetensors", EXAMPLE, format=kind, images=images)
    assert len(sidecar["verification"]["outputs"]) == 3
    with pytest.raises(ExportError, match=r"like the example, \(1, 3, 64, 64\), and as many, not \(2, 3, 32, 32\)"):
        export(network, tmp_path / "b.safetensors", EXAMPLE, images=images[..., :32, :32])


def test_the_command_verifies_on_images_and_keeps_layers(tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("portrait", "smaller than the crop"):
        photographs()[name].save(folder / f"{name}.jpg")
    command = script("export")
    arguments = ["fastvit_t8", "--random-weights", "--image-size", "64", "--output", str(tmp_path / "out")]
    command([*arguments, "--format", "safetensors", "--images", str(folder)])
    sidecar = json.loads((tmp_path / "out" / "fastvit_t8.safetensors.json").read_text())
    assert len(sidecar["verification"]["outputs"]) == 3
    for wrong, message in (
        (["onnx", "--float32", "stem"], "--float32 is for coreml"),
        (["coreml", "--float32", "auto"], "give some with --images FOLDER"),
        (["coreml", "--float32", "stem.7"], "has no layer 'stem.7' to keep in float32; did you mean stem"),
        (["onnx", "--images", str(tmp_path / "none")], "there is no image or folder"),
    ):
        if wrong[0] == "coreml":
            need("coreml")
        assert message in complaint(command, [*arguments, "--name", "other", "--format", *wrong], capsys)
