import pytest
import timm
import timm.models.fastvit as builtin
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import fastvit
from fastvit import fusion_error, load_checkpoint, reparameterize_model, to_timm
from fastvit.weights import _apple_names, _timm_names
from reference import VARIANTS, golden_image, golden_outputs, golden_weights, randomize, relative_error

GOLDEN_VARIANTS = ("fastvit_t8", "fastvit_sa12", "fastvit_ma36")


def published(variant):
    """Our network in float64 with the golden weights, and what the published code computed with them."""
    model = timm.create_model(variant)
    load_checkpoint(model, golden_weights(variant, "unfused"))
    return model.double(), golden_outputs(variant)


@pytest.mark.parametrize("variant", GOLDEN_VARIANTS)
def test_eval_equals_the_published_code(variant):
    model, golden = published(variant)
    model.eval()
    with torch.no_grad():
        logits, wide = model(golden_image(2, 256, 256)), model(golden_image(1, 288, 224))
        stages = model.forward_intermediates(golden_image(2, 256, 256), intermediates_only=True)
    assert relative_error(logits, torch.from_numpy(golden["logits_256"])) < 1e-8
    assert relative_error(wide, torch.from_numpy(golden["logits_288x224"])) < 1e-8
    assert len(stages) == 4
    for i, stage in enumerate(stages):
        assert tuple(stage.shape) == tuple(golden[f"stage{i}_shape"])
        assert relative_error(stage[0, :8, :4, :4], torch.from_numpy(golden[f"stage{i}_slice"])) < 1e-8
        assert stage.mean().item() == pytest.approx(golden[f"stage{i}_mean"].item(), rel=1e-8)
        assert stage.std().item() == pytest.approx(golden[f"stage{i}_std"].item(), rel=1e-5)


@pytest.mark.parametrize("variant", GOLDEN_VARIANTS)
def test_training_equals_the_published_code(variant):
    model, golden = published(variant)
    model.train()
    loss = F.cross_entropy(model(golden_image(4, 128, 128)), torch.tensor([1, 10, 100, 999]))
    loss.backward()
    assert loss.item() == pytest.approx(golden["train_loss"].item(), rel=1e-8)

    names = _timm_names(model.state_dict())
    apple = _apple_names(names.values())
    gradients = {f"grad_norm/{apple[names[name]]}": p.grad.norm() for name, p in model.named_parameters()}
    assert gradients.keys() == {key for key in golden if key.startswith("grad_norm/")}
    for key, gradient in gradients.items():  # some are exactly zero: a bias before a batch norm
        assert gradient.item() == pytest.approx(golden[key].item(), rel=1e-8, abs=1e-14), key

    statistics = {f"after_step/{apple[names[name]]}": buffer for name, buffer in model.named_buffers()}
    recorded = [key for key in golden if key.startswith("after_step/")]
    assert len(recorded) >= 140
    for key in recorded:
        assert statistics[key].double().norm().item() == pytest.approx(golden[key].item(), rel=1e-8), key


@pytest.mark.parametrize("variant", GOLDEN_VARIANTS)
def test_fused_checkpoint_equals_the_published_code(variant):
    model = timm.create_model(variant, fused=True)
    load_checkpoint(model, golden_weights(variant, "fused"))
    expected = torch.from_numpy(golden_outputs(variant)["fused_logits_256"])
    with torch.no_grad():
        assert relative_error(model.double()(golden_image(2, 256, 256)), expected) < 1e-6


@pytest.mark.parametrize("variant", GOLDEN_VARIANTS)
def test_golden_network_fuses_in_float64(variant):
    model, _ = published(variant)
    assert fusion_error(model, reparameterize_model(model), (3, 64, 96)) < 1e-12


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_timms_built_in_network(variant):
    """Same weights, same outputs in eval and train mode, for all seven."""
    ours = randomize(timm.create_model(variant, num_classes=10)).double()
    timms = getattr(builtin, variant)(num_classes=10).double()
    timms.load_state_dict(to_timm(ours.state_dict()), strict=True)
    x = torch.randn(2, 3, 64, 96).double()
    with torch.no_grad():
        assert relative_error(ours.eval()(x), timms.eval()(x)) < 1e-11
        for a, b in zip(
            ours.forward_intermediates(x, intermediates_only=True),
            timms.forward_intermediates(x, intermediates_only=True),
            strict=True,
        ):
            assert relative_error(a, b) < 1e-11
        assert relative_error(ours.train()(x), timms.train()(x)) < 1e-11


# millions of parameters and GMACs at 256 px of the released code (timm's measurements; it counts batch norms as MACs)
PUBLISHED = {
    "fastvit_t8": (4.03, 4.00, 0.69),
    "fastvit_t12": (7.55, 7.51, 1.39),
    "fastvit_s12": (9.47, 9.43, 1.80),
    "fastvit_sa12": (11.58, 11.55, 1.94),
    "fastvit_sa24": (21.55, 21.50, 3.77),
    "fastvit_sa36": (31.53, 31.46, 5.59),
    "fastvit_ma36": (44.07, 43.98, 7.82),
}


def macs(model):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 3, 256, 256, device="meta"))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_macs_are_the_published_ones(variant):
    train_form, fused_form, gmacs = PUBLISHED[variant]
    model = timm.create_model(variant, device="meta").eval()
    fused = reparameterize_model(model)
    count = sum(p.numel() for p in model.parameters())
    assert round(count / 1e6, 2) == train_form

    # The published fusing leaves a batch norm (2 C in place of a bias, C) and a layer scale (C) in each FFN. In the
    # attention it leaves as many, 2 C + C, as folding adds: the 3 C biases of queries, keys and values.
    left = sum(2 * block.ffn.conv.conv.out_channels for stage in model.stages for block in stage.blocks)
    assert round((sum(p.numel() for p in fused.parameters()) + left) / 1e6, 2) == fused_form
    assert macs(fused) / 1e9 == pytest.approx(gmacs, rel=0.01)
    with torch.device("meta"):
        assert macs(model) == macs(getattr(builtin, variant)().eval())


@pytest.mark.parametrize(("variant", "value"), [("fastvit_sa24", 1e-5), ("fastvit_sa36", 1e-6), ("fastvit_ma36", 1e-6)])
def test_layer_scale_starts_as_published(variant, value):
    model = timm.create_model(variant)
    gammas = [module.gamma for module in model.modules() if isinstance(module, fastvit.LayerScale)]
    assert len(gammas) == 2 * sum(len(stage.blocks) for stage in model.stages)
    assert all(bool((gamma == value).all()) for gamma in gammas)


def test_drop_path_rises_linearly_over_the_blocks():
    model = timm.create_model("fastvit_sa24", drop_path_rate=0.23, device="meta")
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.23 * i / 23 for i in range(24)])


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (32, 224), (127, 65)])
def test_any_size_from_32_up(size):
    model = randomize(timm.create_model("fastvit_sa12", num_classes=5)).eval()
    x = torch.randn(1, 3, *size)
    assert model.forward_features(x).shape[-2:] == tuple(-(-side // 32) for side in size)
    assert model(x).isfinite().all()
    assert fusion_error(model, reparameterize_model(model), (3, *size)) < 1e-5


def test_last_feature_has_seen_every_attention_block():
    """Apple's dense features leave the last stage out (traps of the published code)."""
    model = timm.create_model("fastvit_sa12", features_only=True)
    sum(feature.square().mean() for feature in model(torch.randn(2, 3, 64, 64))).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_rows_of_different_length_are_rejected():
    with pytest.raises(ValueError, match="must have an entry for each stage"):
        fastvit.FastViT((1, 1), (8, 16, 32), attention=(False, False))
