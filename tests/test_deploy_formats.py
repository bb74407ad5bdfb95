"""Each format against the eager network, in its own runtime; those that compile at length are slow."""

import copy
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import fastvit
from deployment import CARD, LABELS, PREPROCESSING, need, small_network
from fastvit.deploy import FORMATS, Card, export, load
from fastvit.deploy.formats import coreml
from fastvit.deploy.formats.onnx import OPSETS
from fastvit.deploy.request import make_request
from fastvit.errors import ExportError, UserError
from reference import randomize, relative_error, small

SLOW = pytest.mark.slow
FLOATING = ("onnx", "torch_export", "openvino", "aot_inductor", "executorch")
RUNNABLE = [
    "onnx",
    "torch_export",
    "openvino",
    pytest.param("aot_inductor", marks=SLOW),
    pytest.param("executorch", marks=SLOW),
]


@pytest.fixture(scope="module")
def model():
    return small_network()


def exported(model, folder, name, example=(1, 3, 64, 64), **options):
    need(name)
    path = folder / f"network{FORMATS[name].suffix}"
    return path, export(model, path, torch.randn(example), format=name, **{"card": CARD, **options})


@torch.no_grad()
def expected(model, images):
    return copy.deepcopy(model).eval()(images)


@pytest.fixture(scope="module", params=RUNNABLE)
def of_any_size(request, model, tmp_path_factory):
    """A file for any batch and size, in each format: its path and what is beside it."""
    path, sidecar = exported(
        model.train(), tmp_path_factory.mktemp(request.param), request.param, dynamic=("batch", "size")
    )
    assert model.training
    return path, sidecar


def test_equals_the_eager_network_at_every_size_it_was_exported_for(of_any_size, model):
    path, sidecar = of_any_size
    network = load(path)
    for shape in ((1, 3, 64, 64), (5, 3, 96, 64), (3, 3, 100, 132)):
        images = torch.randn(shape)
        assert relative_error(network(images), expected(model, images)) < 1e-5
    assert len(sidecar["verification"]["outputs"]) == 3


def test_a_loaded_file_serves_threads_in_any_mode(of_any_size, model):
    network = load(of_any_size[0])
    batches = [torch.randn(batch, 3, 64, 64) for batch in (1, 2, 5, 1, 3, 1, 4, 2)]
    right = [expected(model, images) for images in batches]
    start = threading.Barrier(len(batches))

    def client(number):
        start.wait()
        with torch.inference_mode(number % 2 == 0), torch.autocast("cpu", torch.bfloat16, enabled=number % 3 == 0):
            return [network(batches[number]) for _ in range(10)]

    with ThreadPoolExecutor(len(batches)) as pool:
        for outputs, output in zip(pool.map(client, range(len(batches))), right, strict=True):
            assert all(relative_error(each, output) < 1e-5 for each in outputs)
            assert len({each.data_ptr() for each in outputs}) == len(outputs)
            assert not any(each.is_inference() for each in outputs)


@pytest.mark.parametrize("name", ["openvino", "torch_export"])
def test_how_a_file_computes_can_be_chosen_where_its_runtime_can(model, tmp_path, name):
    path, _ = exported(model, tmp_path, name)
    images = torch.randn(1, 3, 64, 64)
    if name == "torch_export":
        with pytest.raises(ExportError, match="PyTorch decides on its threads itself"):
            load(path, threads=5)
        with pytest.raises(ExportError, match="computes torch_export files in float32 here, not in"):
            load(path, dtype=torch.bfloat16)
        return
    assert torch.equal(load(path, threads=2, streams=2)(images), load(path, threads=1)(images))
    if torch.bfloat16 in FORMATS[name].dtypes():
        output = load(path, dtype=torch.bfloat16)(images)
        assert output.dtype == torch.bfloat16
        assert 1e-4 < relative_error(output.float(), expected(model, images)) < 0.05


@pytest.mark.parametrize("name", RUNNABLE)
def test_takes_any_layout_and_dtype_and_refuses_other_shapes(model, tmp_path, name):
    """A bare AOTInductor package is silently wrong for channels_last and float64, and for other shapes."""
    path, _ = exported(model, tmp_path, name, example=(2, 3, 64, 96))
    network = load(path)
    images = torch.randn(2, 3, 64, 96)
    right = expected(model, images)
    last = images.to(memory_format=torch.channels_last)
    for same in (images, last, images.double(), images.numpy(), images.flip(3).flip(3), np.asfortranarray(images)):
        assert relative_error(network(same), right) < 1e-5
    for shape, axis in (((1, 3, 64, 96), "batch"), ((2, 3, 96, 64), "size"), ((2, 3, 64, 64), "size")):
        with pytest.raises(ExportError, match=f"was exported for .* export it with an open {axis}"):
            network(torch.randn(shape))
    with pytest.raises(ExportError, match="was exported for channels 3, not 4: export it for that"):
        network(torch.randn(2, 4, 64, 96))
    with pytest.raises(UserError, match="normalized floats"):
        network(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))


def test_safetensors_loads_into_a_fused_network(tmp_path):
    model = randomize(timm.create_model("fastvit_t8", num_classes=7))
    card = Card(architecture={"name": "fastvit_t8", "options": {"num_classes": 7}})
    path, _ = exported(model, tmp_path, "safetensors", card=card)
    images = torch.randn(1, 3, 64, 64)
    right = expected(model, images)
    assert relative_error(load(path)(images), right) < 1e-5
    empty = timm.create_model("fastvit_t8", num_classes=7, fused=True)
    fastvit.load_checkpoint(empty, path)
    assert relative_error(empty(images), right) < 1e-5


def test_safetensors_of_a_network_that_timm_does_not_build_says_so(model, tmp_path):
    path, _ = exported(model, tmp_path, "safetensors")
    with pytest.raises(ExportError, match="holds weights and no network"):
        load(path)


@pytest.mark.parametrize("opset", [OPSETS.start, pytest.param(OPSETS.stop - 1, marks=SLOW)])
def test_onnx_has_the_opset_that_was_asked_for(model, tmp_path, opset):
    need("onnx")
    import onnx

    path, _ = exported(model, tmp_path, "onnx", opset=opset)
    assert next(entry.version for entry in onnx.load(path).opset_import if not entry.domain) == opset
    assert [each.name for each in tmp_path.iterdir() if "data" in each.name] == []  # the weights are inside


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch_export", "onnx", "openvino", "executorch"])
def test_backbones_and_networks_around_them_export(tmp_path, name):
    class Segmenter(nn.Module):
        """A dict of outputs, one of them as large as the image."""

        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone
            self.head = nn.Conv2d(384, 5, 1)

        def forward(self, x):
            features = self.backbone(x)
            masks = nn.functional.interpolate(self.head(features[3]), size=x.shape[2:], mode="bilinear")
            return {"masks": masks, "coarse": features[3]}

    backbone = timm.create_model("fastvit_t8", features_only=True)
    images = torch.randn(2, 3, 96, 128)
    for model in (backbone, Segmenter(backbone)):
        folder = tmp_path / type(model).__name__
        path, sidecar = exported(model, folder, name, card=Card(), dynamic=("batch", "size"))
        right, outputs = expected(model, images), load(path)(images)
        if isinstance(right, dict):
            assert list(outputs) == list(right) == list(sidecar["outputs"])
            right, outputs = right.values(), outputs.values()
        for output, of_eager in zip(outputs, right, strict=True):
            assert relative_error(output, of_eager) < 1e-5


@pytest.fixture(scope="module")
def core_ml(model, tmp_path_factory):
    return exported(model, tmp_path_factory.mktemp("coreml"), "coreml", dynamic=("size",))


def test_core_ml_takes_images_of_a_range_of_sizes_and_names_classes(core_ml):
    path, sidecar = core_ml
    import coremltools

    description = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec().description
    image = description.input[0].type.imageType
    assert (image.height, image.width) == (64, 64)
    assert (image.imageSizeRange.widthRange.lowerBound, image.imageSizeRange.widthRange.upperBound) == (64, 1024)
    assert description.predictedFeatureName == "classLabel"
    assert "not run" in sidecar["verification"]["checked"]


def test_core_ml_of_other_weights_is_refused(core_ml, model):
    """The check of the constants, with another network's program."""
    path, _ = core_ml
    kind = FORMATS["coreml"]

    def request(model):
        return make_request(model, torch.randn(1, 3, 64, 64), dynamic=("size",), card=CARD)

    kind.check(path, request(model))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.fc.bias[3] += 0.01
    with pytest.raises(ExportError, match=r"head\.fc\.bias"):
        kind.check(path, request(other))


def test_core_ml_of_tiny_weights_and_of_batch_norms_that_the_converter_folds(tmp_path):
    """coremltools rounds 2e-9 up to the smallest number of float16, numpy to zero: every trained network has such."""
    need("coreml")
    model = randomize(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 4, 1)))
    with torch.no_grad():
        model[3].weight[:2] = 2e-9
    path, _ = exported(model, tmp_path, "coreml", card=Card(PREPROCESSING))
    with torch.no_grad():
        model[1].running_mean[2] += 0.5
    request = make_request(model, torch.randn(1, 3, 64, 64), card=Card(PREPROCESSING))
    with pytest.raises(ExportError, match=r"0\.weight \(its bias\) are missing or others"):
        FORMATS["coreml"].check(path, request)


@SLOW
@pytest.mark.parametrize("name", ["fastvit_t8", "resnet18"])
def test_core_ml_of_trained_networks(tmp_path, name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=len(LABELS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.5)
    for _ in range(4):
        loss = nn.functional.cross_entropy(model(torch.randn(8, 3, 64, 64)), torch.randint(len(LABELS), (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path, _ = exported(model, tmp_path, "coreml")
    assert path.is_dir()


@SLOW
def test_core_ml_of_a_network_with_equal_constants(tmp_path):
    """Of equal constants, such as biases that are still zero, coremltools keeps one."""
    model = timm.create_model("fastvit_t8", num_classes=len(LABELS))
    path, _ = exported(model, tmp_path, "coreml")
    assert path.is_dir()


@SLOW
@pytest.mark.parametrize("name", [*FLOATING, "coreml"])
@pytest.mark.parametrize("variant", ["fastvit_mci0", "fastvit_mci3"])
def test_encoders(variant, name, tmp_path):
    """Without projection: squeeze-and-excitation inside, or layer norms and a stage of stride 64."""
    torch.manual_seed(0)
    model = randomize(timm.create_model(variant, num_classes=0, **small(variant))).eval()
    example = (1, 3, 128, 128)
    path, sidecar = exported(model, tmp_path, name, example, dynamic=FORMATS[name].axes, card=Card(PREPROCESSING))
    assert sidecar["outputs"] == {"output": [1, model.num_features]}
    if name != "coreml":
        images = torch.randn(2, 3, 160, 128)
        assert relative_error(load(path)(images), expected(model, images)) < 1e-5


def test_an_open_size_begins_where_the_smallest_map_has_two_pixels():
    """torch.export takes an axis of one pixel for a constant."""
    model = timm.create_model("fastvit_mci3", features_only=True, **small("fastvit_mci3"))
    with pytest.raises(ExportError, match=r"images are 128 to 1024 pixels on a side .*, not 64x64$"):
        make_request(model, torch.zeros(1, 3, 64, 64), dynamic=("size",))
    assert make_request(model, torch.zeros(1, 3, 160, 128), dynamic=("size",)).ranges()["height"] == (128, 1024)


@SLOW
def test_the_stage_of_stride_64_is_exported(tmp_path):
    model = randomize(timm.create_model("fastvit_mci3", features_only=True, **small("fastvit_mci3")))
    path, _ = exported(model, tmp_path, "torch_export", (1, 3, 160, 128), card=Card(), dynamic=("size",))
    images = torch.randn(1, 3, 128, 192)
    features = load(path)(images)
    assert features[-1].shape == (1, 512, 2, 3)
    assert relative_error(features[-1], expected(model, images)[-1]) < 1e-5


def test_the_pixel_network_normalizes_as_the_preprocessing_does():
    """Core ML gets pixels from 0 to 255, everything else normalized images."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    network = coreml.PixelNetwork(nn.Identity(), PREPROCESSING, classifier=False)
    whole = replace(PREPROCESSING, crop_pct=1.0).transform()(Image.fromarray(pixels))
    of_pixels = network(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
    torch.testing.assert_close(of_pixels[0], whole, atol=1e-5, rtol=0)


def test_the_sidecar_says_what_is_needed_to_use_the_file(model, tmp_path):
    path, returned = exported(model, tmp_path, "onnx", card=replace(CARD, weights="tests"))
    sidecar = json.loads((tmp_path / "network.onnx.json").read_text())
    assert sidecar == json.loads(json.dumps(returned))
    assert sidecar["labels"] == list(LABELS)
    assert sidecar["preprocessing"] == PREPROCESSING.to_dict()
    assert sidecar["weights"] == "tests"
    assert sidecar["bytes"] == path.stat().st_size
    assert {"fastvit", "torch", "onnx", "onnxruntime"} <= sidecar["versions"].keys()
