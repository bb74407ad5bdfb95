"""What timm's users and timm's own model tests expect of a model."""

import copy
import pickle
import subprocess
import sys

import pytest
import timm
import timm.data
import timm.models.fastvit as builtin
import torch
from PIL import Image
from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models import group_parameters, save_for_hf
from timm.optim import create_optimizer_v2
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import fastvit
from checkpoints import equal
from fastvit import load_checkpoint, reparameterize_model
from reference import ENCODERS, VARIANTS, golden_weights, randomize, relative_error, small

TAGS = ("apple_in1k", "apple_dist_in1k")


def test_import_is_silent_and_other_takeovers_still_warn():
    program = """
import fastvit, timm

try:
    @timm.models.register_model
    def fastvit_t8(pretrained=False, **kwargs): pass
except UserWarning as warning:
    print(warning)
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Overwriting fastvit_t8 in registry")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_both_pretrained_tags_are_ours(variant):
    assert timm.model_entrypoint(variant).__module__ == "fastvit.fastvit"
    assert timm.list_models(f"{variant}.*", pretrained=True) == sorted(f"{variant}.{tag}" for tag in TAGS)
    for tag in TAGS:
        cfg = timm.get_pretrained_cfg(f"{variant}.{tag}")
        assert cfg.hf_hub_id == f"timm/{variant}.{tag}"
        assert cfg.crop_pct == (0.95 if variant in ("fastvit_sa36", "fastvit_ma36") else 0.9)
        assert (cfg.input_size, cfg.interpolation, cfg.num_classes) == ((3, 256, 256), "bicubic", 1000)
    assert timm.get_pretrained_cfg(variant).tag == TAGS[0]


@pytest.mark.parametrize("variant", ENCODERS)
def test_encoders_are_ours_with_the_tags_of_timm_and_the_preprocessing_of_apple(variant):
    assert timm.model_entrypoint(variant).__module__ == "fastvit.fastvit"
    theirs = builtin.default_cfgs[variant].cfgs if variant != "fastvithd" else {}
    assert timm.list_models(f"{variant}.*", pretrained=True) == sorted(f"{variant}.{tag}" for tag in theirs)
    for tag in theirs or [""]:
        cfg = timm.get_pretrained_cfg(f"{variant}.{tag}".rstrip("."))
        clip = variant in ("fastvit_mci3", "fastvit_mci4")
        assert (cfg.crop_pct, cfg.interpolation, cfg.license) == (1.0, "bilinear", "apple-amlr")
        assert (cfg.mean, cfg.std) == ((OPENAI_CLIP_MEAN, OPENAI_CLIP_STD) if clip else ((0.0,) * 3, (1.0,) * 3))
        assert cfg.num_classes == (512 if variant[-1] in "012" else 768)
        if tag and theirs[tag].hf_hub_id == "timm/":
            assert cfg.hf_hub_id == f"timm/{variant}.{tag}"


def test_a_square_of_1024_px_around_the_whole_image():
    cfg = timm.data.resolve_data_config(model=timm.create_model("fastvithd", device="meta"))
    image = Image.new("RGB", (512, 256), "white")
    tensor = timm.data.create_transform(**cfg)(image)
    assert tensor.shape == (3, 1024, 1024)
    rows = tensor.mean((0, 2))
    assert (rows == 1).sum() == 512
    assert (rows == 0).sum() == 512, "padded, not cropped"


def test_registered_functions_are_like_any_other():
    for name in (*VARIANTS, *ENCODERS):
        entry = timm.model_entrypoint(name)
        assert entry is getattr(fastvit.fastvit, name)
        assert pickle.loads(pickle.dumps(entry)) is entry
        assert (entry.__name__, entry.__qualname__) == (name, name)
        assert name in timm.list_models(module="fastvit")


@pytest.mark.parametrize("name", ["drop_path_rte", "inference_mod", "img_size"])
def test_unknown_arguments_are_errors_that_name_them(name):
    with pytest.raises(TypeError, match=name):
        timm.create_model("fastvit_t8", device="meta", **{name: 1})


def test_arguments_of_timm_s_own_class_alone_are_errors_that_say_where_they_work():
    with pytest.raises(TypeError, match=r"timm's own class takes act_layer, layer_scale_init_value: create .* before"):
        timm.create_model("fastvit_t8", layer_scale_init_value=1e-6, act_layer=nn.ReLU)
    model = builtin.fastvit_t8(layer_scale_init_value=1e-6, act_layer=nn.ReLU, layers=(1, 1, 1, 1))
    assert type(model) is builtin.FastVit


@pytest.mark.parametrize("variant", VARIANTS + ENCODERS)
def test_config_names_real_tensors(variant):
    model = timm.create_model(variant, device="meta", depths=small(variant)["depths"])
    names = model.state_dict()
    cfg = model.pretrained_cfg
    first = [cfg["first_conv"]] if isinstance(cfg["first_conv"], str) else cfg["first_conv"]
    assert {f"{name}.weight" for name in (*first, cfg["classifier"])} <= names.keys()
    assert (model.num_features, model.head_hidden_size) == (2 * model.feature_info[-1]["num_chs"],) * 2
    stride = model.feature_info[-1]["reduction"]
    assert cfg["pool_size"] == tuple(size // stride for size in cfg["input_size"][1:])


def test_classes_channels_and_pooling():
    model = randomize(timm.create_model("fastvit_t8", num_classes=7, in_chans=1, global_pool="max")).eval()
    x = torch.randn(2, 1, 64, 64)
    features = model.forward_features(x)
    assert model(x).shape == (2, 7)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.amax((2, 3)))
    torch.testing.assert_close(model(x), model.get_classifier()(features.amax((2, 3))))
    assert timm.create_model("fastvit_t8", num_classes=0)(torch.randn(2, 3, 32, 32)).shape == (2, 768)
    assert timm.create_model("fastvit_t8", num_classes=0, global_pool="")(torch.randn(2, 3, 64, 64)).ndim == 4


def test_dropout_rate_reaches_the_head():
    model = timm.create_model("fastvit_t8", drop_rate=1.0, num_classes=3).train()
    assert torch.equal(model(torch.randn(2, 3, 64, 64)), model.head.fc.bias.expand(2, 3))


def test_reset_classifier():
    model = timm.create_model("fastvit_t8").to(torch.float64).eval()
    model.reset_classifier(5)
    assert model.num_classes == 5
    assert model.get_classifier().weight.dtype == torch.float64
    assert model.get_classifier().weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.get_classifier().weight.abs().max() > 0.05, "normal: torch's uniform one happens to be as wide"
    assert not model.get_classifier().bias.any()
    assert model(torch.randn(1, 3, 32, 32).double()).shape == (1, 5)
    model.reset_classifier(0, "max")
    assert model(torch.randn(1, 3, 32, 32).double()).shape == (1, 768)
    assert model.global_pool == "max"
    model.reset_classifier(3)  # the removed classifier cannot tell the dtype any more
    assert model(torch.randn(1, 3, 32, 32).double()).shape == (1, 3)
    assert not any(module.training for module in model.modules())


def test_a_head_of_one_s_own():
    """It is called with the features alone, as by timm's own network."""
    model = timm.create_model("fastvit_t8", **small("fastvit_t8")).eval()
    model.head = nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    for network in (model, reparameterize_model(model)):
        assert torch.equal(network(x), network.forward_features(x))


def test_features_only():
    classifier = randomize(timm.create_model("fastvit_sa12")).eval()
    x = torch.randn(1, 3, 70, 96)
    expected = classifier.forward_intermediates(x, intermediates_only=True)
    for extra in ({}, {"feature_cls": "getter"}):
        backbone = timm.create_model("fastvit_sa12", features_only=True, **extra).eval()
        load_checkpoint(backbone, classifier.state_dict())
        assert backbone.feature_info.channels() == [64, 128, 256, 512]
        assert backbone.feature_info.reduction() == [4, 8, 16, 32]
        assert all(torch.equal(a, b) for a, b in zip(backbone(x), expected, strict=True))
    some = timm.create_model("fastvit_sa12", features_only=True, out_indices=(1, 2)).eval()
    load_checkpoint(some, classifier.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(some(x), expected[1:3], strict=True))


@pytest.mark.parametrize("variant", ["fastvit_mci3", "fastvithd"])
def test_every_stage_is_a_feature(variant):
    """timm's own leaves the one of stride 64 out."""
    backbone = timm.create_model(variant, features_only=True, **small(variant))
    assert backbone.feature_info.reduction() == [4, 8, 16, 32, 64]
    sizes = [feature.shape[-1] for feature in backbone(torch.randn(1, 3, 128, 128))]
    assert sizes == [32, 16, 8, 4, 2]


def test_forward_intermediates():
    model = randomize(timm.create_model("fastvit_t8")).eval()
    x = torch.randn(1, 3, 64, 64)
    final, stages = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    assert [stage.shape[1] for stage in stages] == [48, 96, 192, 384]
    last, two = model.forward_intermediates(x, indices=[0, -3], stop_early=True)
    assert torch.equal(last, stages[1])
    assert all(torch.equal(a, b) for a, b in zip(two, stages[:2], strict=True))
    torch.testing.assert_close(model.forward_intermediates(x, indices=[3], stop_early=True)[0], final)
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")


@pytest.mark.parametrize("last", [0, 2, 3])
def test_pruned_backbone_has_no_unused_parameter(last):
    model = timm.create_model("fastvit_sa12", **small("fastvit_sa12"))
    x = torch.randn(2, 3, 64, 64)
    expected = model.eval().forward_intermediates(x, indices=[last], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([last]) == [last]
    torch.testing.assert_close(model.forward_features(x), expected)
    assert model.num_features == expected.shape[1]
    model.train().forward_intermediates(x, intermediates_only=True)[-1].sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_pruning_may_keep_the_head():
    model = timm.create_model("fastvit_t8").eval()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)
    model.prune_intermediate_layers([3], prune_head=False)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("variant", ["fastvit_t8", "fastvit_sa12"])
def test_layer_wise_lr_decay_follows_the_depth(variant):
    model = timm.create_model(variant, device="meta")
    groups = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    assert groups.keys() == dict(model.named_parameters()).keys()
    order = [groups[name] for name, _ in model.named_parameters()]
    assert order == sorted(order)
    assert len(set(order)) == 1 + sum(len(stage.blocks) for stage in model.stages) + 1, "stem, each block, head"
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert scale[id(model.head.fc.weight)] == 1.0 > scale[id(model.stages[0].blocks[0].mlp.fc1.weight)]


def test_layer_scale_is_decayed_as_published():
    model = timm.create_model("fastvit_t8", device="meta")
    assert model.no_weight_decay() == set()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    block = model.stages[0].blocks[0]
    assert decay[id(block.layer_scale.gamma)] == 0.05
    assert decay[id(block.mlp.fc2.bias)] == decay[id(block.token_mixer.norm.identity.weight)] == 0.0


def test_gradient_checkpointing_runs_the_blocks_twice_and_changes_nothing():
    original = randomize(timm.create_model("fastvit_t8", num_classes=3, **small("fastvit_t8"))).double().train()
    x = torch.randn(2, 3, 64, 64).double()
    results, runs = [], []
    for enable in (False, True):
        model = copy.deepcopy(original)
        model.set_grad_checkpointing(enable)
        model.stages[3].blocks[0].register_forward_pre_hook(lambda *_, enable=enable: runs.append(enable))
        model(x).square().sum().backward()
        results.append([*(p.grad for p in model.parameters()), *model.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert runs == [False, True, True]


@pytest.mark.parametrize("variant", ["fastvit_sa12", "fastvit_mci0", "fastvit_mci3"])
@pytest.mark.parametrize("fused", [False, True])
def test_scripts_and_traces(variant, fused):
    model = randomize(timm.create_model(variant, num_classes=5, **small(variant))).eval()
    model = reparameterize_model(model) if fused else model
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.jit.script(model)(x), expected)
        last = get_graph_node_names(model)[1][-1]
        torch.testing.assert_close(create_feature_extractor(model, [last])(x)[last], expected)


def test_device_and_dtype():
    model = timm.create_model("fastvit_t8", device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    with torch.device("meta"):
        model = timm.create_model("fastvit_t8", fused=True)
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize("form", ["fused", "inference_mode"])
def test_what_is_made_fused_is_rounded_once(form):
    states = []
    for dtype in (torch.bfloat16, None):
        torch.manual_seed(0)
        model = timm.create_model("fastvit_t8", dtype=dtype, **{form: True}, **small("fastvit_t8"))
        states.append(model.to(torch.bfloat16).state_dict())
    assert equal(*states)


@pytest.mark.parametrize("form", ["fused", "inference_mode"])
def test_a_fused_network_comes_back_from_its_folder(form, tmp_path):
    model = timm.create_model("fastvit_t8", num_classes=5, **{form: True}, **small("fastvit_t8"))
    save_for_hf(model, tmp_path)  # its configuration says how it was made
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert equal(again.state_dict(), model.state_dict())
    stages = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(stages.eval()(x)[-1], model.forward_intermediates(x, intermediates_only=True)[-1])


@pytest.mark.parametrize("form", ["apple", "timm"])
def test_pretrained_goes_through_the_conversion(tmp_path, form):
    """timm's `pretrained=True` with a file in place of the hub: other classes and channels, fused, features."""
    apple = golden_weights("fastvit_t8", "unfused")
    reference = timm.create_model("fastvit_t8").eval()
    load_checkpoint(reference, apple)
    path = tmp_path / "model.pth"
    torch.save({"state_dict": apple} if form == "apple" else reference.state_dict(), path)

    def pretrained(**kwargs):
        overlay = {"file": str(path)}
        return timm.create_model("fastvit_t8", pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()

    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference(x)
        assert torch.equal(pretrained()(x), expected)
        assert relative_error(pretrained(fused=True)(x), expected) < 1e-5
        assert relative_error(pretrained(inference_mode=True)(x), expected) < 1e-5
        few = pretrained(num_classes=4)
        torch.testing.assert_close(few.forward_features(x), reference.forward_features(x))
        assert few(x).shape == (1, 4)
        assert pretrained(in_chans=1)(x[:, :1]).shape == (1, 1000)
        stages = pretrained(features_only=True)(x)
        assert torch.equal(stages[-1], reference.forward_intermediates(x, intermediates_only=True)[-1])


NOT_FITTING = {
    "is a fastvit_t8: load it into": lambda: timm.create_model("fastvit_t12").state_dict(),
    "but the model is in train form": lambda: timm.create_model("fastvit_t8", fused=True).state_dict(),
    "lacks final_conv": lambda: {
        name: tensor
        for name, tensor in timm.create_model("fastvit_t8").state_dict().items()
        if not name.startswith("final_conv")
    },
}


@pytest.mark.parametrize("options", [{"num_classes": 3}, {"features_only": True}], ids=str)
@pytest.mark.parametrize("sentence", NOT_FITTING)
def test_pretrained_refuses_what_does_not_fit(sentence, options, tmp_path):
    """timm itself, where the classifier is a new one, takes what fits and leaves the rest as initialised."""
    overlay = {"file": str(tmp_path / "model.pth")}
    torch.save(NOT_FITTING[sentence](), overlay["file"])
    with pytest.raises(fastvit.CheckpointError, match=sentence):
        timm.create_model("fastvit_t8", pretrained=True, pretrained_cfg_overlay=overlay, **options)


def test_the_blocks_are_importable_and_named():
    names = ("RepMixer", "RepConv", "ConvFFN", "PatchEmbed", "ConditionalPositionalEncoding", "Attention", "LayerScale")
    names += ("RepMixerBlock", "AttentionBlock")
    assert all(issubclass(getattr(fastvit, name), nn.Module) for name in names)
    assert set(names) <= set(fastvit.__all__)
