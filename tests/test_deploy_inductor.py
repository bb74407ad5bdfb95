"""What is used of torch's private interfaces: these tests fail when a release of torch changes it."""

import copy
import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._inductor import graph
from torch._inductor.codecache import PyCodeCache

from fastvit.deploy.runtimes import inductor
from fastvit.deploy.runtimes.inductor import OPTIONS, Compiled, compile_program


class Small(nn.Module):
    """A convolution of its own kernel, and one that is a matrix product."""

    def __init__(self):
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 8, 1))

    def forward(self, x):
        return self.convs(x).mean((2, 3))


@pytest.fixture
def network():
    return Small().eval().requires_grad_(False).to(memory_format=torch.channels_last)


def images(batch, height=32, width=32):
    return torch.randn(batch, 3, height, width).contiguous(memory_format=torch.channels_last)


def test_weights_are_packed_into_the_program_and_go_with_it(network, monkeypatch):
    """torch keeps what it generates, with the weights, as long as the process lives."""
    sources, packed = [], []
    codegen = graph.GraphLowering.codegen

    def record(self):
        code = codegen(self)
        sources.append(str(code))
        packed.extend(map(weakref.ref, self.constants.values()))
        return code

    monkeypatch.setattr(graph.GraphLowering, "codegen", record)
    modules, known = set(sys.modules), list(PyCodeCache.modules)
    with torch._inductor.config.patch(fx_graph_cache=False):
        program = compile_program(copy.deepcopy(network), images(2), OPTIONS["cpu"])
    some = images(5)
    torch.testing.assert_close(program(some), network(some))
    (source,) = sources
    assert "mkldnn" in source
    assert "extern_kernels.convolution" not in source
    assert len([each for each in packed if each() is not None]) >= 3
    assert PyCodeCache.modules == known
    assert not [name for name in set(sys.modules) - modules if "torch._inductor.runtime.compile_tasks" in name]
    del program, record
    gc.collect()
    assert [each() for each in packed if each() is not None] == []


def test_one_program_serves_all_batches(network):
    program = compile_program(network, images(3), OPTIONS["cpu"])
    for batch in (2, 3, 15, 16, 17, 40):
        some = images(batch)
        torch.testing.assert_close(program(some), network(some))


def test_a_program_refuses_what_it_was_not_compiled_for(network):
    """No guards are left to do so: `Compiled` never gives it anything else, and this is the second line."""
    program = compile_program(network, images(1), OPTIONS["cpu"])
    for other in (images(1, 64, 32), images(1).contiguous()):
        with pytest.raises((AssertionError, RuntimeError)):
            program(other)


@pytest.fixture
def shapes(monkeypatch):
    """The shape of the images of each compilation; programs are not compiled, but run by torch's operators."""
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: graph)
    real, shapes = inductor.compile_program, []

    def compile_program(network, images, options):
        shapes.append(tuple(images.shape))
        return real(network, images, options)

    monkeypatch.setattr(inductor, "compile_program", compile_program)
    return shapes


def test_batches_share_programs_and_sizes_do_not(network, shapes):
    compiled = Compiled(network, torch.float32, 1e-5)
    for batch, side in ((1, 32), (2, 32), (7, 32), (1, 32), (16, 32), (1, 64), (3, 64), (40, 64)):
        some = torch.randn(batch, 3, 32, side)
        torch.testing.assert_close(compiled(some), (network(some),))
    assert shapes == [(1, 3, 32, 32), (2, 3, 32, 32), (1, 3, 32, 64), (3, 3, 32, 64)]


def test_who_has_a_program_waits_for_no_other_s(network, shapes):
    compiled, some = Compiled(network, torch.float32, 1e-5), torch.randn(1, 3, 32, 32)
    compiled(some)
    with ThreadPoolExecutor(1) as pool, compiled._lock:
        found = pool.submit(compiled, some).result(timeout=10)
    torch.testing.assert_close(found, (network(some),))


def test_each_program_is_compared_with_the_network(network, shapes, monkeypatch):
    compiled = Compiled(network, torch.float32, 1e-5)
    compiled(torch.randn(1, 3, 32, 32))
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: lambda x: 1.001 * graph(x))
    compiled(torch.randn(1, 3, 32, 32))
    with pytest.raises(RuntimeError, match=r"differs from the network by 1\.0e-03"):
        compiled(torch.randn(2, 3, 32, 32))


def test_with_tf32_what_runs_is_compiled_with_it_and_verified_without(network, monkeypatch):
    """Simulated, for a CPU has no TF32: where it is allowed, the program errs as an A100 would."""

    def compile_graph(graph, inputs, options):
        error = 4.7e-4 if torch.backends.cudnn.conv.fp32_precision == "tf32" else 0
        return lambda images: (1 + error) * graph(images)

    monkeypatch.setattr(torch._inductor, "compile", compile_graph)
    monkeypatch.setattr(inductor, "computes_in_tf32", lambda images: torch.backends.cudnn.conv.fp32_precision == "tf32")
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"  # torch's default
    some = images(2)
    (output,) = Compiled(network, torch.float32, 1e-4)(some)
    torch.testing.assert_close(output, (1 + 4.7e-4) * network(some))
