"""LiteRT's files against the eager network, in LiteRT's own interpreter.

They run where `pip install "fastvit[litert]"` was, which takes torch below 2.15; int8 is in test_deploy_int8.py.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch

from deployment import CARD, need, small_network
from fastvit.deploy import export, load
from fastvit.errors import ExportError
from reference import randomize, relative_error

pytestmark = pytest.mark.slow  # 10 to 40 seconds for each conversion


@pytest.fixture(autouse=True)
def _packages():
    need("litert")


@torch.no_grad()
def expected(model, images):
    return model.eval()(images)


@pytest.mark.parametrize("name", ["fastvit_t8", "fastvit_sa12"])
def test_computes_what_the_eager_network_does(name, tmp_path):
    torch.manual_seed(0)
    model = randomize(timm.create_model(name))
    sidecar = export(model, tmp_path / "network.tflite", torch.zeros(1, 3, 256, 256))
    images = torch.randn(1, 3, 256, 256)
    assert relative_error(load(tmp_path / "network.tflite")(images), expected(model, images)) < 1e-5
    assert {"litert-torch", "ai-edge-litert"} < set(sidecar["versions"])


def test_images_are_in_the_layout_of_android(tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    path, model = tmp_path / "network.tflite", small_network()
    export(model, path, torch.zeros(2, 3, 64, 96), card=CARD)
    assert json.loads((tmp_path / "network.tflite.json").read_text())["input"]["layout"] == "NHWC"
    images = torch.randn(2, 3, 64, 96)
    run = interpreter.Interpreter(str(path)).get_signature_runner()
    (logits,) = run(images=images.permute(0, 2, 3, 1).numpy()).values()
    assert relative_error(torch.from_numpy(logits), expected(model, images)) < 1e-5


def test_the_stages_come_in_order_and_threads_get_their_own(tmp_path):
    model = randomize(timm.create_model("fastvit_t8", features_only=True)).eval()
    export(model, tmp_path / "network.tflite", torch.zeros(1, 3, 64, 64))
    network, images = load(tmp_path / "network.tflite"), torch.randn(8, 1, 3, 64, 64)
    with ThreadPoolExecutor(4) as pool:
        for found, image in zip(pool.map(network, images), images, strict=True):
            for stage, right in zip(found, expected(model, image), strict=True):
                assert relative_error(stage, right) < 1e-5


def test_nothing_stays_open(tmp_path):
    with pytest.raises(ExportError, match="litert cannot keep open: batch"):
        export(small_network(), tmp_path / "network.tflite", torch.zeros(1, 3, 64, 64), dynamic=("batch",))
    assert list(tmp_path.iterdir()) == []
