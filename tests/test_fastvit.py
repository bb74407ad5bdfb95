import re

import pytest
import timm
import timm.models.fastvit as builtin
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch.utils.flop_counter import FlopCounterMode

import fastvit
from fastvit import fusion_error, load_checkpoint, reparameterize_model
from fastvit.weights import convert_published
from reference import (
    ENCODERS,
    KINDS,
    VARIANTS,
    golden_image,
    golden_outputs,
    golden_weights,
    randomize,
    relative_error,
    small,
)

GOLDEN_VARIANTS = ("fastvit_t8", "fastvit_sa12", pytest.param("fastvit_ma36", marks=pytest.mark.slow))
GOLDEN_ENCODERS = {"fastvit_mci0": "mobileclip_mci0", "fastvithd": "fastvithd"}
TIMM_VARIANTS = VARIANTS + ENCODERS[:-1]


def published(variant, golden=None):
    """Our network in float64 with the golden weights, and what the published code computed with them."""
    model = timm.create_model(variant)
    load_checkpoint(model, golden_weights(golden or variant, "unfused"))
    return model.double(), golden_outputs(golden or variant)


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


@pytest.mark.parametrize("variant", ["fastvit_mci0", pytest.param("fastvithd", marks=pytest.mark.slow)])
def test_encoders_equal_the_published_code(variant):
    """In train form, and for a published fused checkpoint in both fused forms."""
    model, golden = published(variant, GOLDEN_ENCODERS[variant])
    image = golden_image(2, 256, 256)
    with torch.no_grad():
        tokens = model.eval().forward_intermediates(image, intermediates_only=True)[-1]
        features = model.forward_features(image)
        logits, wide = model.forward_head(features), model(golden_image(1, 320, 256))
    assert relative_error(logits, torch.from_numpy(golden["logits_256"])) < 1e-8
    assert relative_error(wide, torch.from_numpy(golden["logits_320x256"])) < 1e-8
    for name, tensor in {"tokens": tokens, "features": features}.items():
        assert tuple(tensor.shape) == tuple(golden[f"{name}_shape"])
        assert relative_error(tensor[0, :8, :4, :4], torch.from_numpy(golden[f"{name}_slice"])) < 1e-8
    bias = model.head.fc.bias.numel()  # Apple's projection has none
    assert sum(p.numel() for p in model.parameters()) - bias == golden["parameters"]

    for form, bound in ({"fused": True}, 1e-6), ({"inference_mode": True}, 1e-8):
        fused = timm.create_model(variant, **form)
        load_checkpoint(fused, golden_weights(GOLDEN_ENCODERS[variant], "fused"))
        with torch.no_grad():
            error = relative_error(fused.double()(image), torch.from_numpy(golden["fused_logits_256"]))
        assert error < bound


@pytest.mark.parametrize("variant", GOLDEN_VARIANTS)
def test_training_equals_the_published_code(variant):
    model, golden = published(variant)
    model.train()
    loss = F.cross_entropy(model(golden_image(4, 128, 128)), torch.tensor([1, 10, 100, 999]))
    loss.backward()
    assert loss.item() == pytest.approx(golden["train_loss"].item(), rel=1e-8)

    apple = golden_weights(variant, "unfused")
    names = {id(tensor): name for name, tensor in apple.items()}
    names = {name: names[id(tensor)] for name, tensor in convert_published(apple, model).items()}
    gradients = {f"grad_norm/{names[name]}": p.grad.norm() for name, p in model.named_parameters()}
    assert gradients.keys() == {key for key in golden if key.startswith("grad_norm/")}
    for key, gradient in gradients.items():  # some are exactly zero: a bias before a batch norm
        assert gradient.item() == pytest.approx(golden[key].item(), rel=1e-8, abs=1e-14), key

    statistics = {f"after_step/{names[name]}": buffer for name, buffer in model.named_buffers()}
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


@pytest.mark.parametrize("variant", KINDS)
def test_names_and_shapes_are_timms(variant):
    """In train form and, with timm's `inference_mode`, in the form that timm fuses to; in the same order."""
    size = small(variant)
    for options in ({}, {"inference_mode": True}):
        ours = timm.create_model(variant, device="meta", num_classes=10, **size, **options).state_dict()
        with torch.device("meta"):
            network = getattr(builtin, variant)
            timms = network(layers=size["depths"], embed_dims=size["dims"], num_classes=10, **options).state_dict()
        assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in timms.items()}
        assert options or list(ours) == list(timms)


SMALL = [pytest.param(name, small(name), id=name) for name in KINDS]
REAL = [pytest.param(name, {}, id=f"{name} at its depth", marks=pytest.mark.slow) for name in ENCODERS[:-1]]


@pytest.mark.parametrize(("variant", "options"), [*SMALL, *REAL])
def test_equals_timms_built_in_network(variant, options):
    """Same weights, same outputs and stages, same loss and gradients, in eval and train mode."""
    ours = randomize(timm.create_model(variant, num_classes=10, **options)).double()
    size = {"layers": options["depths"], "embed_dims": options["dims"]} if options else {}
    timms = getattr(builtin, variant)(num_classes=10, **size).double()
    timms.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 96).double()
    with torch.no_grad():
        assert relative_error(ours.eval()(x), timms.eval()(x)) < 1e-11
        for a, b in zip(
            ours.forward_intermediates(x, intermediates_only=True),
            timms.forward_intermediates(x, intermediates_only=True),
            strict=True,
        ):
            assert relative_error(a, b) < 1e-11
    losses = [F.cross_entropy(network.train()(x), torch.tensor([1, 2])) for network in (ours, timms)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-11)
    for loss in losses:
        loss.backward()
    theirs = dict(timms.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = theirs[name].grad.norm()  # exactly zero for a bias before a batch norm
        assert (parameter.grad - theirs[name].grad).norm() <= 1e-9 * scale + 1e-13, name


@pytest.mark.slow
@pytest.mark.parametrize("variant", TIMM_VARIANTS)
def test_every_network_equals_timms_at_full_size(variant):
    """Of strict names and shapes, too; and completely fused."""
    ours = randomize(timm.create_model(variant, num_classes=10)).double().eval()
    timms = getattr(builtin, variant)(num_classes=10).double().eval()
    timms.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 96).double()
    with torch.no_grad():
        expected = timms(x)
        assert relative_error(ours(x), expected) < 1e-11
        for model in (ours, timms):
            assert relative_error(reparameterize_model(model)(x), expected) < 1e-11


# millions of parameters, fused the published way, and GMACs at 256 px of the released code (timm's measurements; it
# counts batch norms as MACs)
PUBLISHED = {
    "fastvit_t8": (4.03, 4.00, 0.69),
    "fastvit_t12": (7.55, 7.51, 1.39),
    "fastvit_s12": (9.47, 9.43, 1.80),
    "fastvit_sa12": (11.58, 11.55, 1.94),
    "fastvit_sa24": (21.55, 21.50, 3.77),
    "fastvit_sa36": (31.53, 31.46, 5.59),
    "fastvit_ma36": (44.07, 43.98, 7.82),
}


def macs(model, size=256):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 3, size, size, device="meta"))
    return counter.get_total_flops() / 2


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_macs_are_the_published_ones(variant):
    train_form, fused_form, gmacs = PUBLISHED[variant]
    fused = timm.create_model(variant, inference_mode=True, device="meta")
    millions = parameters(timm.create_model(variant, device="meta")) / 1e6
    assert round(millions, 2) == train_form
    assert round(parameters(fused) / 1e6, 2) == fused_form
    assert macs(fused) == pytest.approx(gmacs * 1e9, rel=0.01)
    doc = timm.model_entrypoint(variant).__doc__
    assert doc == f"{variant}: {millions:.1f} M parameters, {gmacs:.1f} GMACs at 256 px."


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ENCODERS if name not in ("fastvit_mci0", "fastvithd")]


@pytest.mark.parametrize("variant", ["fastvit_mci0", "fastvithd", *LARGE])
def test_docstrings_say_the_size(variant):
    model = timm.create_model(variant, device="meta").eval()
    doc = timm.model_entrypoint(variant).__doc__
    millions, gmacs, size = re.search(r"([\d.]+) M parameters, ([\d.]+) GMACs at (\d+) px", doc).groups()
    assert parameters(model) / 1e6 == pytest.approx(float(millions), abs=0.06 if "." in millions else 0.5)
    assert macs(model, int(size)) / 1e9 == pytest.approx(float(gmacs), abs=0.06 if "." in gmacs else 0.6)


@pytest.mark.parametrize(("variant", "value"), [("fastvit_sa24", 1e-5), ("fastvit_sa36", 1e-6), ("fastvit_ma36", 1e-6)])
def test_layer_scale_starts_as_published(variant, value):
    model = timm.create_model(variant, depths=(1, 2, 1, 1))
    gammas = [module.gamma for module in model.modules() if isinstance(module, fastvit.LayerScale)]
    assert len(gammas) == 2 * sum(len(stage.blocks) for stage in model.stages)
    assert all(bool((gamma == value).all()) for gamma in gammas)


def test_drop_path_rises_linearly_over_the_blocks():
    model = timm.create_model("fastvit_sa24", drop_path_rate=0.23, device="meta")
    blocks = [block for stage in model.stages for block in stage.blocks]
    rates = [{m.drop_prob for m in block.modules() if isinstance(m, DropPath)} for block in blocks]
    assert [rate for (rate,) in rates] == pytest.approx([0.23 * i / 23 for i in range(24)])


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (32, 224), (127, 65)])
def test_any_size_from_32_up(size):
    model = randomize(timm.create_model("fastvit_sa12", num_classes=5, **small("fastvit_sa12"))).eval()
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


def test_five_stages_are_described_as_such():
    model = timm.create_model("fastvithd", device="meta")
    assert [info["reduction"] for info in model.feature_info] == [4, 8, 16, 32, 64]
    features = model.forward_features(torch.randn(1, 3, 1024, 1024, device="meta"))
    assert features.shape == (1, 3072, 16, 16), "256 tokens for the language model"


def test_a_patch_embedding_for_each_stage_but_the_first():
    with pytest.raises(ValueError, match="patch_embeds for each but the first"):
        fastvit.FastViT((1, 1), (8, 16), attention=(False, False), patch_embeds=(fastvit.PatchEmbed,) * 2)
