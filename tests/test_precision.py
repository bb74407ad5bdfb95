"""The settings of precision, which are those of the process. What they do is seen on GPUs only."""

import pytest
import torch

from fastvit import FastViT, fusion_error, reparameterize_model
from fastvit.precision import exact_float32

BACKENDS = torch.backends


def settings():
    """As both of torch's interfaces tell them; the old one refuses where the new one was used."""
    new = (BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.mkldnn.conv, BACKENDS.mkldnn.matmul)
    try:
        old = (torch.get_float32_matmul_precision(), BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32)
    except RuntimeError:
        old = None
    return [each.fp32_precision for each in new], old


def by_the_old_names():
    torch.set_float32_matmul_precision("medium")


def by_the_new_names():
    BACKENDS.mkldnn.conv.fp32_precision = "bf16"
    BACKENDS.cudnn.conv.fp32_precision = BACKENDS.cudnn.rnn.fp32_precision = "ieee"


@pytest.fixture(params=[lambda: None, by_the_old_names, by_the_new_names], ids=["default", "old", "new"])
def users_choice(request):
    request.param()
    yield settings()
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    BACKENDS.mkldnn.conv.fp32_precision = "none"


def test_float32_is_exact_inside_and_as_the_user_wants_it_outside(users_choice):
    with exact_float32():
        new, old = settings()
    assert not {"tf32", "bf16"} & set(new)
    assert old == ("highest", False, False)
    new, old = settings()
    assert new == users_choice[0]
    assert users_choice[1] in (old, None)


def test_fusion_is_judged_in_exact_float32():
    allowed = []
    model = FastViT((1,), (32,), 2, (False,), num_classes=3)
    fused = reparameterize_model(model)
    for each in (model, fused):
        each.register_forward_hook(lambda *_: allowed.append(BACKENDS.cudnn.allow_tf32))
    fusion_error(model, fused, (3, 32, 32))
    assert allowed == [False, False]
    assert BACKENDS.cudnn.allow_tf32
    with torch.autocast("cpu", torch.bfloat16):
        assert fusion_error(model, fused, (3, 32, 32)) < 1e-5
