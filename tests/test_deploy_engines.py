"""Engines that read ONNX: any number of images, and images of other sizes than those that they were made ready for."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastvit.deploy import compile_for_inference
from fastvit.deploy.engines import ENGINES, _Sizes
from fastvit.deploy.runtimes.openvino import Requests
from fastvit.deploy.runtimes.run import Settings
from fastvit.deploy.runtimes.streams import Streams
from fastvit.errors import EngineError
from reference import relative_error


class Halves(nn.Module):
    """Takes any size; but written down for 16 pixels, it means another thing at others."""

    def forward(self, x):
        return x[:, :, : int(x.shape[2] // 2)].mean(2) if x.shape[2] > 16 else x.mean(2)


class OneHead(nn.Module):
    """Attention over the positions of a picture of 8 pixels on a side to a quarter of them."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(5, 8, 1), nn.LayerNorm(8)
        self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))
        self.fewer = nn.Conv2d(8, 8, 2, stride=2)
        self.bias = nn.Parameter(torch.randn(1, 64, 16))

    def forward(self, x):
        x = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        tokens, fewer = (each.flatten(2).transpose(1, 2) for each in (x, self.fewer(x)))
        parts = self.q(tokens), self.k(fewer), self.v(fewer)
        q, k, v = (part.unflatten(2, (1, -1)).transpose(1, 2) for part in parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return self.proj(y.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, x.shape[2:])


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_made_ready_for_one_image_it_takes_several(engine):
    """Traced with one image, torch.onnx takes the number of images for the number of heads, a constant."""
    model, images = OneHead().eval(), torch.randn(3, 5, 8, 8)
    infer = compile_for_inference(model, images[:1], engine=engine)
    torch.testing.assert_close(infer(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [nn.Flatten(), Halves()])
def test_a_network_of_one_image_size_keeps_to_it(first):
    """Either the network takes one alone, or what is written of it does."""
    model = nn.Sequential(first, nn.Flatten(), nn.LazyLinear(5))
    model(torch.randn(1, 3, 16, 16))
    images = torch.randn(4, 3, 16, 16)
    infer = compile_for_inference(model, images[:1], engine="openvino")
    assert relative_error(infer(images), model.eval()(images)) < 1e-5
    with pytest.raises(EngineError, match="made ready for images of 3x16x16, not 3x32x32"):
        infer(torch.randn(1, 3, 32, 32))


def test_a_network_that_is_ready_for_any_size_waits_for_no_other_to_become_so():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    infer, images = (
        compile_for_inference(model, torch.randn(1, 3, 16, 16), engine="onnxruntime"),
        torch.randn(2, 3, 16, 32),
    )
    infer(images)
    with ThreadPoolExecutor(1) as pool, _Sizes._making:
        found = pool.submit(infer, images).result(timeout=10)
    torch.testing.assert_close(found, model(images), rtol=1e-4, atol=1e-5)


def test_who_has_a_request_or_a_stream_waits_for_no_other_that_is_made():
    pytest.importorskip("openvino")
    from openvino import Model, opset13

    x = opset13.parameter([1, 3, 8, 8])
    requests, images = Requests(Model([opset13.relu(x)], [x]), Settings(threads=1), 1), torch.randn(1, 3, 8, 8)
    for run in (requests, Streams(lambda streams: lambda images: (images.relu(),), threads=1)):
        run(images)
        with ThreadPoolExecutor(1) as pool, run._lock:
            (found,) = pool.submit(run, images).result(timeout=10)
        assert torch.equal(found, images.relu())


@pytest.mark.parametrize(
    ("number", "options", "together", "pieces"),
    [
        (7, {}, 4, [1, 2, 2, 2]),
        (4, {}, 4, [1, 1, 1, 1]),
        (3, {}, 1, [3]),  # fewer than threads
        (3, {"streams": 2}, 2, [1, 2]),
        (7, {"whole": True}, 1, [7]),
    ],
)
def test_a_batch_is_divided_among_the_threads_and_comes_back_in_order(number, options, together, pieces):
    """With more threads than the tests have beside each other."""
    made, sizes = [], []

    def compute(images):
        sizes.append(len(images))
        return images + 1, images.sum((1, 2, 3))

    run = Streams(lambda streams: made.append(streams) or compute, threads=4, **options)
    images = torch.randn(number, 3, 2, 2)
    more, sums = run(images)
    assert (made, sorted(sizes)) == ([together], pieces)
    assert torch.equal(more, images + 1)
    torch.testing.assert_close(sums, images.sum((1, 2, 3)))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Triton brings a compiler, or is not used")
def test_torch_needs_a_c_compiler_on_a_gpu_as_triton_looks_for_it(monkeypatch):
    """With it Triton builds what starts a kernel. It is said before the network is compiled."""
    found = set()
    monkeypatch.setattr("shutil.which", lambda name: name if name in found else None)
    monkeypatch.delenv("CC", raising=False)
    on_gpu = SimpleNamespace(example=SimpleNamespace(device=torch.device("cuda")))
    with pytest.raises(EngineError, match=r"^torch needs a C compiler such as gcc: install one$"):
        ENGINES["torch"].require(on_gpu)
    found.add("clang")
    ENGINES["torch"].require(on_gpu)
    found.clear()
    found.add("/opt/compiler")
    monkeypatch.setenv("CC", "/opt/compiler")
    ENGINES["torch"].require(on_gpu)
    monkeypatch.setenv("CC", "/opt/none")
    with pytest.raises(EngineError, match=r"^torch needs a C compiler such as gcc, and CC names /opt/none, which is"):
        ENGINES["torch"].require(on_gpu)
    ENGINES["torch"].require(SimpleNamespace(example=SimpleNamespace(device=torch.device("mps"))))
