import copy

import pytest
import timm
import torch

from fastvit import FastViT, reparameterize_model
from fastvit.deploy import compile, compile_for_inference
from reference import randomize, relative_error


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomize(FastViT((1, 1, 1), (32, 32, 64), 2, (False, False, True), num_classes=7))


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), (torch.bfloat16, 0.03)])
def test_equals_the_eager_network_for_any_batch(model, dtype, tolerance):
    before = copy.deepcopy(model.train())
    infer = compile_for_inference(model, torch.randn(2, 3, 64, 64), dtype)
    before.eval()
    for batch in (2, 1, 3):
        images = torch.randn(batch, 3, 64, 64)
        output = infer(images)
        assert output.dtype == (dtype or torch.float32)
        assert not output.requires_grad
        assert relative_error(output, before(images)) < tolerance
    assert model.training
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )


@pytest.fixture
def compilations(monkeypatch) -> list[torch.Size]:
    """The shape of the images of each compilation. Graphs are made as ever, but run by torch's operators: no C++."""
    torch.compiler.reset()
    real, shapes = torch.compile, []

    def backend(graph, inputs):
        nodes = [node for node in graph.graph.find_nodes(op="placeholder") if "images" in node.name]
        shapes.extend(node.meta["example_value"].shape for node in nodes)
        return graph.forward

    def compile_graphs(function, fullgraph, options):
        assert options.pop("freezing")
        return real(function, fullgraph=fullgraph, options=options, backend=backend)

    monkeypatch.setattr(compile.torch, "compile", compile_graphs)
    return shapes


def test_batch_sizes_share_compilations(model, compilations):
    """One for batches of 1, one for 2 to 15, one for more, in whatever order they come, and however often."""
    infer = compile_for_inference(model, torch.randn(1, 3, 64, 64))
    assert len(compilations) == 1
    for batch in (2, 3, 7, 15, 1, 3, 1):
        images = torch.randn(batch, 3, 64, 64)
        assert relative_error(infer(images), model.eval()(images)) < 1e-5
    assert len(compilations) == 2
    for batch in (40, 16, 3, 40, 1, 17):
        infer(torch.randn(batch, 3, 64, 64))
    assert len(compilations) == 3


def test_each_image_size_is_compiled_as_such(model, compilations):
    """torch alone would compile for any size from the second on, also of another network: much slower."""
    sizes = [(side, 64) for side in range(32, 320, 32)]  # nine: torch stops at eight of one function
    infer = compile_for_inference(model, torch.randn(2, 3, 32, 64))
    for size in (*sizes, *sizes):
        images = torch.randn(3, 3, *size)
        assert relative_error(infer(images), model.eval()(images)) < 1e-5
    compile_for_inference(model, torch.randn(2, 3, 64, 32))
    assert [shape[1:] for shape in compilations] == [(3, *size) for size in (*sizes, (64, 32))]
    assert all(type(side) is int for shape in compilations for side in shape[1:])


def test_weights_are_frozen_into_the_code(model, monkeypatch):
    """Packed for oneDNN: torch.compile(options={"freezing": True}) alone does not do it, and is much slower."""
    from torch._inductor import graph

    sources = []
    run = graph.GraphLowering.codegen

    def codegen(self):
        code = run(self)
        sources.append(str(code))
        return code

    monkeypatch.setattr(graph.GraphLowering, "codegen", codegen)
    torch.compiler.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        compile_for_inference(model, torch.randn(2, 3, 96, 96))
    (source,) = sources
    assert "mkldnn" in source
    assert "extern_kernels.convolution" not in source


def test_the_ninth_network_of_a_process_is_compiled_too(compilations):
    """torch counts compilations by code object, to a limit of 8, and would refuse the ninth network."""
    for seed in range(9):
        network = randomize(FastViT((1,), (32,), 2, (False,), num_classes=3), seed)
        compile_for_inference(network, torch.randn(2, 3, 32, 32))
    assert len(compilations) == 9


def test_the_caller_s_images_stay_as_they_are(model):
    infer = compile_for_inference(model, torch.randn(2, 3, 64, 64))
    images = torch.randn(3, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    before = set(dir(images))
    infer(images)
    assert set(dir(images)) == before


@pytest.mark.parametrize(("kernel", "stride", "bias"), [(7, 2, True), (3, 1, False)])
def test_repeated_channels_give_the_same_convolution(kernel, stride, bias):
    conv = torch.nn.Conv2d(6, 18, kernel, stride, kernel // 2, groups=6, bias=bias)
    images = torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(compile.RepeatedDepthwise(conv)(images), conv(images))


def test_only_convolutions_with_several_outputs_for_a_channel_are_rewritten():
    model = reparameterize_model(FastViT((1, 1), (32, 64), 2, (False, False), num_classes=7))
    dense = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Conv2d(8, 16, 3, groups=8, dilation=2))
    for each in (model, dense):
        compile._make_depthwise(each)
    rewritten = [name for name, module in model.named_modules() if isinstance(module, compile.RepeatedDepthwise)]
    assert rewritten == ["stages.1.downsample.proj.0", "final_conv.0"]
    assert all(type(module) is torch.nn.Conv2d for module in dense)


def test_a_warning_points_to_the_caller(model):
    hooked = copy.deepcopy(model)
    hooked.stem[0].register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"stem\.0 .* is left unfused") as caught:
        compile_for_inference(hooked, torch.randn(2, 3, 64, 64))
    (warning,) = (w for w in caught if "left unfused" in str(w.message))
    assert warning.filename == __file__


def test_a_wrong_result_is_refused(model, monkeypatch):
    monkeypatch.setattr(compile.torch, "compile", lambda network, **_: lambda x: 1.01 * network(x))
    with pytest.raises(RuntimeError, match=r"differs from the eager one by 1\.0e-02"):
        compile_for_inference(model, torch.randn(1, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fastvit_t8", "fastvit_sa12"])
def test_real_networks(variant):
    model = randomize(timm.create_model(variant)).eval()
    images = torch.randn(1, 3, 256, 256)
    infer = compile_for_inference(model, images)
    assert relative_error(infer(images), model(images)) < 1e-5
