"""Exported files with the preprocessing inside, on real photographs of odd sizes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from deployment import LABELS, PREPROCESSING, discerning_network, need
from fastvit.deploy import FORMATS, Card, export, load
from fastvit.deploy.request import make_request
from fastvit.errors import ExportError
from fastvit.trained import load_trained
from launch import complaint, script
from photographs import array, photographs

TOLERANCE = {".onnx": 1e-4, ".xml": 1e-3}  # OpenVINO computes the preprocessing in float32
CARD = Card(PREPROCESSING, LABELS)
EXAMPLE = torch.zeros(1, 3, 64, 64)


@pytest.fixture(scope="module")
def model():
    return discerning_network()


@pytest.fixture(scope="module", params=["onnx_image", "openvino_image"])
def path(request, model, tmp_path_factory):
    need(request.param)
    path = tmp_path_factory.mktemp(request.param) / f"network{FORMATS[request.param].suffix}"
    export(model, path, EXAMPLE, format=request.param, card=CARD)
    return path


@torch.no_grad()
def expected(model, image):
    return model(PREPROCESSING.transform()(image)[None]).softmax(1)[0]


def test_the_same_probabilities_as_in_python(model, path):
    network, classes, tolerance = load(path), set(), TOLERANCE[path.suffix]
    for name, image in photographs().items():
        right = expected(model, image)
        torch.testing.assert_close(network(image), right, rtol=0, atol=tolerance, msg=name)
        torch.testing.assert_close(network(array(image)), right, rtol=0, atol=tolerance)
        classes.add(int(right.argmax()))
    assert len(classes) > 1  # not the same answer to everything


def test_the_json_file_says_how_it_was_verified(path):
    sidecar = load(path).sidecar
    assert sidecar["input"] | {"height": [1, None], "width": [1, None], "dtype": "uint8"} == sidecar["input"]
    assert sidecar["outputs"] == {"probabilities": [len(LABELS)]}
    verified = sidecar["verification"]["pictures"]
    assert max(each["probabilities"] for each in verified) < TOLERANCE[path.suffix]
    assert any(min(each["picture"]) < 64 for each in verified)
    assert any(max(each["picture"]) > 3 * min(each["picture"]) for each in verified)


def test_the_labels_are_in_the_file_itself(path):
    if path.suffix == ".onnx":
        onnx = pytest.importorskip("onnx")
        labels = {each.key: each.value for each in onnx.load(path).metadata_props}["labels"]
    else:
        labels = pytest.importorskip("openvino").Core().read_model(path).get_rt_info("labels").astype(str)
    assert tuple(json.loads(labels)) == LABELS


def test_images_are_predicted_by_it(model, path):
    image = photographs()["portrait"]
    prediction = load_trained(path)(image)
    assert prediction.label == LABELS[int(expected(model, image).argmax())]


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (np.zeros((64, 64, 3), np.float32), "float32 of (64, 64, 3)"),
        (np.zeros((1, 64, 64, 3), np.uint8), "uint8 of (1, 64, 64, 3)"),
        (np.zeros((64, 64), np.uint8), "uint8 of (64, 64)"),
        (np.zeros((0, 64, 3), np.uint8), "uint8 of (0, 64, 3)"),
    ],
)
def test_what_is_no_image_gets_a_sentence(path, image, shape):
    with pytest.raises(ExportError) as caught:
        load(path)(image)
    assert str(caught.value) == f"an image must be RGB, uint8 (H, W, 3), not {shape}"


def test_pillow_images_of_other_modes_and_other_memory_are_taken(path):
    network, image = load(path), photographs()["as it is"].crop((0, 0, 90, 80))
    right = network(image)
    assert torch.equal(network(image.convert("RGBA")), right)
    assert torch.equal(network(np.asfortranarray(array(image))), right)


def test_a_wrong_preprocessing_leaves_nothing(model, tmp_path, monkeypatch):
    need("onnx_image")
    from fastvit.deploy import preprocessing_graph

    monkeypatch.setitem(preprocessing_graph.KERNELS, "bicubic", preprocessing_graph.KERNELS["bilinear"])
    with pytest.raises(ExportError, match="the preprocessing in the file differs from the one in Python by"):
        export(model, tmp_path / "a.onnx", EXAMPLE, format="onnx_image", card=CARD)
    assert list(tmp_path.iterdir()) == []


def test_a_probability_that_is_not_a_number_is_refused(model, monkeypatch):
    """Also if it is not the first: Python takes 1e-6 for the larger of 1e-6 and NaN."""
    need("onnx_image")
    from fastvit.deploy.formats import image_input

    kind = FORMATS["onnx_image"]
    monkeypatch.setattr(kind, "run_on_images", lambda *_: None)
    monkeypatch.setattr(image_input, "compare_pixels", lambda *_: [{}, {}])
    monkeypatch.setattr(image_input, "compare_probabilities", lambda *_: [1e-6, float("nan")])
    with pytest.raises(ExportError, match="differs from Python's by nan"):
        kind.check(None, make_request(model, EXAMPLE, card=CARD))


class Named(nn.Module):
    """A classifier whose output has a name."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, len(LABELS), 3, stride=2)

    def forward(self, x):
        return {"logits": 3 * self.conv(x).mean((2, 3))}


def test_an_output_may_have_a_name(tmp_path):
    need("onnx_image")
    model, image = Named().eval(), photographs()["portrait"]
    export(model, tmp_path / "a.onnx", EXAMPLE, format="onnx_image", card=CARD)
    with torch.no_grad():
        right = model(PREPROCESSING.transform()(image)[None])["logits"].softmax(1)[0]
    torch.testing.assert_close(load(tmp_path / "a.onnx")(image), right, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("example", "card", "message"),
    [
        (EXAMPLE, Card(PREPROCESSING), "that have labels and a stated preprocessing"),
        (EXAMPLE, Card(labels=LABELS), "that have labels and a stated preprocessing"),
        (EXAMPLE.expand(2, -1, -1, -1), CARD, "one image at a time, not 2"),
        (EXAMPLE, Card(replace(PREPROCESSING, interpolation="nearest"), LABELS), "bicubic or bilinear, not nearest"),
    ],
)
def test_bad_requests_get_a_sentence(model, tmp_path, example, card, message):
    need("onnx_image")
    with pytest.raises(ExportError, match=message):
        export(model, tmp_path / "a.onnx", example, format="onnx_image", card=card)
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_cannot_have_it_says_so(tmp_path, capsys):
    arguments = ["fastvit_t8", "--random-weights", "--image-size", "32", "--output", str(tmp_path)]
    said = complaint(script("export"), [*arguments, "--format", "safetensors", "--preprocessing", "inside"], capsys)
    assert said == "--preprocessing inside is for onnx, openvino and coreml; safetensors cannot have it"
