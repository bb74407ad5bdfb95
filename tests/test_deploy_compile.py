import copy

import pytest
import timm
import torch

from fastvit import FastViT
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
