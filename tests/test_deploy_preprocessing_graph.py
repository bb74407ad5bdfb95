"""The preprocessing as an ONNX graph against timm's transform, which is Pillow's."""

from dataclasses import replace

import numpy as np
import pytest

from deployment import PREPROCESSING
from fastvit.data.normalization import Normalization
from fastvit.data.whole_image import ResizeBox, WholeImage
from fastvit.errors import ExportError
from photographs import array, photographs

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from fastvit.deploy.preprocessing_graph import preprocessing_graph  # noqa: E402 - needs them

SQUARE, WIDE, TALL = {}, {"height": 48, "width": 80, "crop_pct": 0.95}, {"height": 70, "width": 33, "crop_pct": 1.0}


def by_onnxruntime(graph):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": array(image)})[0][0]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [SQUARE, WIDE, TALL], ids=["square", "wide", "tall"])
def test_the_same_bits_as_pillow_and_timm(interpolation, shape):
    preprocessing = replace(PREPROCESSING, interpolation=interpolation, **shape)
    run, transform = by_onnxruntime(preprocessing_graph(preprocessing)), preprocessing.transform()
    for name, image in photographs().items():
        np.testing.assert_array_equal(run(image), transform(image).numpy(), err_msg=name)


@pytest.mark.parametrize(("short", "long", "divisor"), [(48, 96, 32), (100, 1000, 1), (None, 0, 8)])
def test_the_same_colors_of_whole_images(short, long, divisor):
    whole = WholeImage(ResizeBox(short, long, divisor), Normalization(PREPROCESSING.mean, PREPROCESSING.std))
    run, transform = by_onnxruntime(preprocessing_graph(whole)), whole.transform()
    for name in ("as it is", "portrait", "panorama", "smaller than the crop", "one row"):
        image = photographs()[name]
        np.testing.assert_allclose(run(image), transform(image).numpy(), atol=1e-6, rtol=0, err_msg=name)


@pytest.mark.parametrize("name", ["as it is", "panorama", "smaller than the crop", "12 megapixels"])
def test_openvino_differs_by_one_level_in_one_value_of_a_thousand(name, tmp_path):
    openvino = pytest.importorskip("openvino")
    onnx.save(preprocessing_graph(PREPROCESSING), tmp_path / "graph.onnx")
    compiled = openvino.Core().compile_model(tmp_path / "graph.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    image = photographs()[name]
    difference = np.abs(compiled([array(image)])[0][0] - PREPROCESSING.transform()(image).numpy())
    assert difference.max() < 1.01 / (255 * min(PREPROCESSING.std))
    assert (difference > 1e-5).mean() < 1e-3


def test_every_operation_is_one_of_onnx_itself():
    graph = preprocessing_graph(PREPROCESSING)
    onnx.checker.check_model(graph, full_check=True)
    assert {node.domain for node in graph.graph.node} == {""}
    assert not {"Resize", "CastLike"} & {node.op_type for node in graph.graph.node}


@pytest.mark.parametrize("interpolation", ["nearest", None])
def test_what_it_cannot_do_gets_a_sentence(interpolation):
    crop_pct = None if interpolation is None else 0.9
    with pytest.raises(ExportError, match=r"bicubic or bilinear, not (nearest|in a way of the task)$"):
        preprocessing_graph(replace(PREPROCESSING, interpolation=interpolation, crop_pct=crop_pct))
    with pytest.raises(
        ExportError, match=r"^only a crop of the center .* crop_mode is border: .*-preprocessing outside$"
    ):
        preprocessing_graph(replace(PREPROCESSING, crop_mode="border"))
