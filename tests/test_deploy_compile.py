"""compile_for_inference: one contract for all engines, and how one is chosen. The small network is far from random."""

import copy
import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from torch import nn

from deployment import need
from fastvit import FastViT, errors
from fastvit.deploy import ENGINES, compile, compile_for_inference
from fastvit.deploy.engines import Engine, OnnxRuntime
from fastvit.deploy.runtimes.openvino import precisions
from fastvit.errors import EngineError, ExportError, MissingPackage, UserError
from reference import randomize, relative_error

FLOAT32, BFLOAT16 = (torch.float32, 1e-5), (torch.bfloat16, 0.03)
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    """Of one stage: compiling takes its time. Real networks are in the slow tests."""
    torch.manual_seed(0)
    return randomize(FastViT((1,), (32,), 2, (False,), num_classes=7))


@torch.no_grad()
def expected(model, images):
    return copy.deepcopy(model).eval()(images.float())


@pytest.fixture(
    scope="module",
    params=[
        ("torch", *FLOAT32),
        pytest.param(("torch", *BFLOAT16), marks=SLOW),
        ("openvino", *FLOAT32),
        ("openvino", *BFLOAT16),
        ("onnxruntime", *FLOAT32),
    ],
    ids=lambda param: f"{param[0]}-{str(param[1]).removeprefix('torch.')}",
)
def compiled(request, model):
    """By each engine: what it returns, and how far that may be from the eager network."""
    name, dtype, tolerance = request.param
    if name != "torch":
        need({"openvino": "openvino", "onnxruntime": "onnx"}[name])
    if name == "openvino" and dtype not in precisions():
        pytest.skip("this CPU has no bfloat16")
    before = copy.deepcopy(model.train())
    with torch.autocast("cpu", torch.bfloat16):  # the caller's mode does not matter
        infer = compile_for_inference(model, torch.randn(1, 3, 64, 64), dtype, name)
    assert infer.engine == name
    assert model.training
    assert all(map(torch.equal, model.state_dict().values(), before.state_dict().values()))
    return infer, tolerance


def test_equals_the_eager_network_for_any_batch_and_layout(compiled, model):
    infer, tolerance = compiled
    for batch in (2, 1, 3, 17):
        images = torch.randn(batch, 3, 64, 64)
        right = expected(model, images)
        output = infer(images)
        assert (output.dtype, output.device, output.requires_grad) == (infer.dtype, infer.device, False)
        assert relative_error(output, right) < tolerance
        for same in (images.to(memory_format=torch.channels_last), images.double(), images.numpy()):
            torch.testing.assert_close(infer(same), output, rtol=1e-4, atol=1e-4 * output.abs().max().item())


def test_the_same_function_in_any_context(compiled, model, compilations):
    """torch.compile would compile again, without frozen weights, or return another dtype."""
    infer, _ = compiled
    images = torch.randn(1, 3, 64, 64)
    right = infer(images)
    others = []
    with torch.inference_mode():
        others += [infer(images), infer(torch.ones(1, 3, 64, 64) * images)]
    with torch.autocast("cpu", torch.bfloat16):
        others.append(infer(images))
    with torch.enable_grad():
        others.append(infer(images.clone().requires_grad_()))
    with ThreadPoolExecutor(1) as pool:
        others.append(pool.submit(infer, images).result())
    for other in others:
        assert torch.equal(other, right)
        assert (other.dtype, other.requires_grad, other.is_inference()) == (right.dtype, False, False)
    assert compilations == []


def test_eight_threads_get_their_own_outputs(compiled, model):
    infer, tolerance = compiled
    batches = [torch.randn(batch, 3, 64, 64) for batch in (1, 2, 5, 1, 3, 1, 4, 2)]
    right = [expected(model, images) for images in batches]
    start = threading.Barrier(len(batches))

    def client(images):
        start.wait()
        return [infer(images) for _ in range(20)]

    with ThreadPoolExecutor(len(batches)) as pool:
        for outputs, output in zip(pool.map(client, batches), right, strict=True):
            assert all(relative_error(each, output) < tolerance for each in outputs)
            assert len({each.data_ptr() for each in outputs}) == len(outputs)


def test_other_sizes_of_images(compiled, model):
    infer, tolerance = compiled
    if infer.engine == "torch":
        pytest.skip("compiled as the first size was; in test_deploy_inductor.py without the compiler")
    with pytest.raises(EngineError, match="made ready for images of 3x64x64, not 4x96x128"):
        infer(torch.randn(2, 4, 96, 128))  # which is no reason to give up
    images = torch.randn(2, 3, 96, 128)
    assert relative_error(infer(images), expected(model, images)) < tolerance


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(0, 3, 64, 64)]
)
def test_what_is_not_images_gets_a_sentence(compiled, images):
    with pytest.raises(UserError, match=r"normalized floats of shape \(B, C, H, W\), not torch"):
        compiled[0](images)


@pytest.fixture
def compilations(monkeypatch) -> list[torch.Size]:
    """The shapes of images that torch compiled for."""
    from fastvit.deploy.runtimes import inductor

    real, shapes = inductor.compile_program, []

    def compile_program(network, images, options):
        shapes.append(images.shape)
        return real(network, images, options)

    monkeypatch.setattr(inductor, "compile_program", compile_program)
    return shapes


class Features(nn.Module):
    """Outputs in a dict of lists, one of them of integers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return {"maps": [y, y.relu()], "best": y.argmax(1)}


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_outputs_are_nested_as_the_model_nests_them(engine):
    model, images = Features().eval(), torch.randn(4, 3, 16, 16)
    infer = compile_for_inference(model, images, engine=engine)
    right, outputs = model(images), infer(images)
    assert outputs.keys() == right.keys()
    assert [each.shape for each in outputs["maps"]] == [each.shape for each in right["maps"]]
    assert torch.equal(outputs["best"], right["best"])


class Fake(Engine):
    """An engine that takes some time, or fails."""

    def __init__(self, name, factor=1.0, calls=1, problem=None):
        self.name, self.factor, self.calls, self.problem = name, factor, calls, problem
        self.built = None

    def require(self, subject):
        super().require(subject)
        if self.problem:
            raise self.problem()  # a new one: its traceback holds all that was there when it was raised

    def build(self, subject):
        class Run:
            def __call__(run, images):
                for _ in range(self.calls):
                    output = subject.network(images)
                return (self.factor * output,)

        run = Run()
        self.built = weakref.ref(run)
        return run


def test_auto_keeps_the_fastest_tells_of_all_and_releases_the_others(model, monkeypatch):
    engines = (
        Fake("slow", calls=6),
        Fake("fast"),
        Fake("wrong", factor=1.001),
        Fake("missing", problem=lambda: MissingPackage("missing", "package", extra="extra")),
        Fake("broken", problem=lambda: OSError("no such library\nat all")),
    )
    monkeypatch.setattr(compile, "ENGINES", {each.name: each for each in engines})
    with pytest.warns(UserWarning, match="left out") as caught:
        infer = compile_for_inference(model, torch.randn(1, 3, 64, 64))
    assert {warning.filename for warning in caught} == {__file__}
    assert [str(each.message).split()[1] for each in caught] == ["wrong", "broken"]  # not: what is just not installed
    assert infer.engine == "fast"
    slow, fast, *others = infer.report
    assert 0 < fast.milliseconds < slow.milliseconds
    assert max(fast.error, slow.error) < 1e-5
    assert [each.milliseconds for each in others] == [None] * 3
    assert "by 1.0e-03" in others[0].problem
    assert 'pip install "fastvit[extra]"' in others[1].problem
    assert others[2].problem == "no such library"
    assert all(each.engine in repr(infer) for each in infer.report)
    gc.collect()
    assert [each.built and each.built() is not None for each in engines[:3]] == [False, True, False]


def test_nothing_that_can_compute_it_is_an_error(model, monkeypatch):
    monkeypatch.setattr(compile, "ENGINES", {"only": Fake("only", problem=lambda: EngineError("not today"))})
    with pytest.raises(EngineError, match="no engine can compute this network here; only: not today"):
        compile_for_inference(model, torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_an_engine_that_is_not_installed_names_its_extra(model, monkeypatch, engine):
    monkeypatch.setattr(errors, "find_spec", lambda module: None)
    with pytest.raises(MissingPackage, match=r'pip install "fastvit\[(openvino|export)\]"'):
        compile_for_inference(model, torch.randn(1, 3, 64, 64), engine=engine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "openvno"}, "did you mean openvino?"),
        ({"example_input": torch.zeros(3, 64, 64)}, r"\(B, C, H, W\), not \(3, 64, 64\)"),
        ({"example_input": torch.zeros(1, 4, 64, 64)}, r"does not take images of shape \(1, 4, 64, 64\)"),
        ({"dtype": torch.int8}, "dtype must be one of"),
        ({"engine": "onnxruntime", "dtype": torch.bfloat16}, "onnxruntime computes in float32"),
        ({"engine": "tensorrt"}, "tensorrt computes on cuda"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 2, "streams": 3}, "3 streams need as many threads"),
        ({"engine": "torch", "threads": 5}, "set_num_threads"),
    ],
)
def test_what_cannot_be_done_gets_a_sentence(model, options, message):
    options = {"example_input": torch.zeros(1, 3, 64, 64), **options}
    with pytest.raises(UserError, match=message) as caught:
        compile_for_inference(model, **options)
    assert "\n" not in str(caught.value)


def test_detectors_get_a_sentence_before_any_work():
    from fastvit.models import retinanet

    detector = retinanet("fastvit_t8", num_classes=3)
    with pytest.raises(ExportError, match="PyramidRetinaNet finds another number of boxes in each image"):
        compile_for_inference(nn.Sequential(detector), torch.zeros(1, 3, 64, 64))


def test_a_wrong_result_is_refused(model, monkeypatch):
    monkeypatch.setitem(ENGINES, "wrong", Fake("wrong", factor=1.01))
    with pytest.raises(RuntimeError, match=r"what wrong computes differs from the network by 1\.0e-02"):
        compile_for_inference(model, torch.randn(1, 3, 64, 64), engine="wrong")


def test_a_result_that_is_not_a_number_is_refused(model, monkeypatch):
    """Also if it is that of another batch than the example: Python takes 1e-6 for the larger of 1e-6 and NaN."""

    class Broken(Fake):
        def trials(self, subject):
            return [(3, *subject.example.shape[1:]), (2, *subject.example.shape[1:])]

        def build(self, subject):
            return lambda images: (subject.network(images) * (float("nan") if len(images) == 3 else 1),)

    monkeypatch.setitem(ENGINES, "broken", Broken("broken"))
    with pytest.raises(RuntimeError, match="what broken computes differs from the network by nan"):
        compile_for_inference(model, torch.randn(1, 3, 64, 64), engine="broken")


def test_tf32_may_err_more_and_is_told(model, monkeypatch):
    monkeypatch.setitem(ENGINES, "fake", Fake("fake", factor=1 + 4.7e-4))
    monkeypatch.setattr(Fake, "precision", lambda self, subject: "tf32")
    infer = compile_for_inference(model, torch.randn(1, 3, 64, 64), engine="fake")
    assert "by fake in tf32 on cpu" in repr(infer)


def test_outputs_of_another_shape_are_refused(model, monkeypatch):
    monkeypatch.setattr(OnnxRuntime, "build", lambda self, subject: lambda images: (subject.network(images)[:, None],))
    with pytest.raises(RuntimeError, match="by inf"):
        compile_for_inference(model, torch.randn(1, 3, 64, 64), engine="onnxruntime")


def test_a_warning_points_to_the_caller(model):
    hooked = copy.deepcopy(model)
    hooked.stem[0].register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"stem\.0 .* is left unfused") as caught:
        compile_for_inference(hooked, torch.randn(2, 3, 64, 64), engine="onnxruntime")
    (warning,) = (w for w in caught if "left unfused" in str(w.message))
    assert warning.filename == __file__


@SLOW
@pytest.mark.parametrize("variant", ["fastvit_t8", "fastvit_sa12"])
def test_real_networks(variant):
    model = randomize(timm.create_model(variant)).eval()
    images = torch.randn(1, 3, 256, 256)
    infer = compile_for_inference(model, images)
    assert {each.problem for each in infer.report} == {None}
    assert relative_error(infer(images), expected(model, images)) < 1e-5
    assert np.isfinite([each.milliseconds for each in infer.report]).all()


SIGNALLED = """
import os, signal, torch
from fastvit import FastViT
from fastvit.deploy import compile_for_inference

def ready():
    model = FastViT((1,), (32,), 2, (False,), num_classes=3)
    return compile_for_inference(model, torch.randn(1, 3, 32, 32), engine="openvino")

signal.signal(signal.SIGCHLD, lambda *_: print("alive"))
first = ready()
second = ready()
del first
del second
os.kill(os.getpid(), signal.SIGCHLD)
"""


@pytest.mark.slow
def test_signals_arrive_after_openvino_is_gone():
    """Each of its cores gave the process a stack for signals, and the end of a data worker was the end of the run."""
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
