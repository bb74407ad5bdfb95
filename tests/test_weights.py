"""What loads, from whom, into what."""

import copy
import logging

import pytest
import safetensors.torch
import timm
import timm.models.fastvit as builtin
import torch
from timm.utils.model import freeze_batch_norm_2d
from torch import nn

from checkpoints import equal, fresh
from fastvit import CheckpointError, load_checkpoint, reparameterize_model
from reference import golden_shapes, golden_weights, randomize, relative_error, small


@pytest.fixture(scope="module")
def source():
    """In train form, of every kind of layer."""
    torch.manual_seed(0)
    return randomize(fresh())


@pytest.mark.parametrize("variant", ["fastvit_t8", "fastvit_sa12", "fastvit_mci2", "fastvit_mci4"])
def test_fused_checkpoints_of_timm(variant):
    """timm's own fusing of its built-in network leaves batch norms and layer scales; loading folds them."""
    options = small(variant)
    model = randomize(timm.create_model(variant, num_classes=5, **options)).eval()
    timms = getattr(builtin, variant)(num_classes=5, layers=options["depths"], embed_dims=options["dims"]).eval()
    timms.load_state_dict(model.state_dict())
    state = timm.utils.reparameterize_model(timms).state_dict()
    x = torch.randn(1, 3, 64, 64)
    for form in ("fused", "inference_mode"):
        fused = fresh(variant, **options, **{form: True})
        load_checkpoint(fused, state)
        with torch.no_grad():
            assert relative_error(fused(x), model(x)) < 1e-5
    fused.load_state_dict(state, strict=True)


def apples_clip(name, form, prefix):
    """As Apple's files: the image tower under a prefix, its projection a matrix, and something else beside it."""
    state = {f"{prefix}{key}": tensor for key, tensor in golden_weights(name, form).items()}
    return state | {"text_encoder.embedding_layer.weight": torch.zeros(3, 2), "logit_scale": torch.zeros(())}


def test_mobileclips_files(tmp_path):
    """Apple's names under `image_encoder.model.`, open_clip's and a DDP's under `visual.trunk.`, timm's alone."""
    apple = apples_clip("mobileclip_mci0", "unfused", "image_encoder.model.")
    model = fresh("fastvit_mci0", num_classes=512)
    load_checkpoint(model, apple)
    assert torch.equal(model.head.fc.weight, apple["image_encoder.model.head.proj"].T)
    assert not model.head.fc.bias.any()
    expected = model.state_dict()
    for prefix in ("visual.trunk.", "module.visual.trunk.", ""):
        state = {f"{prefix}{name}": tensor for name, tensor in expected.items()}
        torch.save(state | ({"text.positional_embedding": torch.zeros(2)} if prefix else {}), tmp_path / "clip.pt")
        again = fresh("fastvit_mci0", num_classes=512)
        load_checkpoint(again, tmp_path / "clip.pt")
        assert equal(again.state_dict(), expected)


def to_apple(state):
    """timm's names -> Apple's, by hand: `network` counts patch embeddings, encodings and stages in one row."""
    words = {"stem": "patch_embed", "final_conv": "conv_exp", "conv_kxk": "rbr_conv", "conv_scale": "rbr_scale"}
    words |= {"identity": "rbr_skip", "large_conv": "lkb_origin", "mlp": "convffn", "pos_enc": "pe"}
    kinds = ["downsample", "pos_emb", "blocks"]  # in a stage
    parts = {(int(name.split(".")[1]), kinds.index(name.split(".")[2])) for name in state if name.startswith("stages")}
    place = {part: index for index, part in enumerate(sorted(parts))}
    apple = {"head.proj": state["head.fc.weight"].T}
    for name, tensor in state.items():
        first, *rest = name.removesuffix(".gamma").split(".")
        if first == "head":
            continue
        if first == "stages":
            index = place[int(rest[0]), kinds.index(rest[1])]
            rest = [str(index), *rest[2:]]
        found = ".".join(words.get(word, word) for word in (first.replace("stages", "network"), *rest))
        if first == "final_conv":
            found = found.replace("se.fc1", "se.reduce").replace("se.fc2", "se.expand")
        apple[found] = tensor
    return apple


@pytest.mark.slow
def test_mobileclip_s2s_file():
    """Its names are derived, for there is no list of them here; those of S0, derived alike, are the published ones."""
    s0 = to_apple(fresh("fastvit_mci0", num_classes=512, device="meta").state_dict())
    assert {name: tuple(tensor.shape) for name, tensor in s0.items()} == golden_shapes("mobileclip_mci0", "unfused")
    model = randomize(fresh("fastvit_mci2", num_classes=512))
    apple = to_apple(model.state_dict())
    loaded = fresh("fastvit_mci2", num_classes=512)
    load_checkpoint(loaded, {f"image_encoder.model.{name}": tensor for name, tensor in apple.items()})
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_llavas_fastvlm():
    """Apple's names, fused the published way, deep inside; on the meta device, for it is large."""
    manifest = golden_shapes("fastvithd", "fused")
    prefix = "model.vision_tower.vision_tower.model."
    state = {f"{prefix}{name}": torch.zeros(shape, device="meta") for name, shape in manifest.items()}
    state["model.layers.0.mlp.gate_proj.weight"] = torch.zeros(2, 2)
    load_checkpoint(fresh("fastvithd", num_classes=768, fused=True, device="meta"), state)
    with pytest.raises(CheckpointError, match="holds a fastvit_mci3 or fastvithd, but the model is a fastvit_mci0"):
        load_checkpoint(fresh("fastvit_mci0", fused=True, device="meta"), state)


def test_the_projection_without_bias():
    """Apple's and CLIP's has none, timm's has one of zeros."""
    biased = fresh("fastvit_mci0", num_classes=8, **small("fastvit_mci0"))
    plain = copy.deepcopy(biased)
    plain.head.fc = nn.Linear(plain.num_features, 8, bias=False)
    load_checkpoint(biased, plain.state_dict())
    assert not biased.head.fc.bias.any()
    load_checkpoint(plain, biased.state_dict())
    assert torch.equal(plain.head.fc.weight, biased.head.fc.weight)
    biased.head.fc.bias.data += 1
    with pytest.raises(CheckpointError, match=r"has an unknown head\.fc\.bias"):
        load_checkpoint(plain, biased.state_dict())


def test_a_dictionary_is_left_as_it_was():
    state = {"state_dict": golden_weights("fastvit_sa12", "unfused")}
    before = copy.deepcopy(state)
    load_checkpoint(timm.create_model("fastvit_sa12"), state)
    assert equal(state["state_dict"], before["state_dict"])


def test_bare_and_wrapped_files(source, tmp_path):
    """By a path, or its name. All the wrappers, and kinds of files, are in test_checkpoint_files.py."""
    state = source.state_dict()
    last = {f"module.{name}": torch.zeros_like(tensor) for name, tensor in state.items()}
    average = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": last, "state_dict_ema": average, "epoch": 3}, tmp_path / "wrapped.pt")
    safetensors.torch.save_file(state, tmp_path / "bare.safetensors")
    for path in (tmp_path / "wrapped.pt", str(tmp_path / "bare.safetensors")):
        model = fresh()
        load_checkpoint(model, path)
        assert equal(model.state_dict(), state)


def test_fused_checkpoints_of_ours(source, tmp_path):
    fused = reparameterize_model(source)
    torch.save(fused.state_dict(), tmp_path / "fused.pt")
    for target in (fresh(fused=True), fresh(fused=True, device="meta")):
        load_checkpoint(target, tmp_path / "fused.pt")
        assert equal(target.state_dict(), fused.state_dict())


def test_a_backbone_of_ours_into_a_backbone(source):
    for feature_cls in ("list", "getter"):
        saved = fresh(features_only=True, feature_cls=feature_cls)
        load_checkpoint(saved, source.state_dict())
        for other in ("list", "getter"):
            model = fresh(features_only=True, feature_cls=other)
            load_checkpoint(model, saved.state_dict())
            x = torch.randn(1, 3, 64, 64)
            assert torch.equal(model(x)[-1], saved(x)[-1])


def test_a_compiled_model_takes_a_checkpoint(source):
    model = fresh()
    load_checkpoint(torch.compile(model), source.state_dict())
    assert equal(model.state_dict(), source.state_dict())


def test_a_model_on_meta_keeps_its_dtype_and_shares_nothing(source):
    model = fresh(device="meta", dtype=torch.bfloat16)
    state = source.state_dict()
    load_checkpoint(model, state)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model = fresh(device="meta")
    load_checkpoint(model, state)
    assert not {t.data_ptr() for t in model.state_dict().values()} & {t.data_ptr() for t in state.values()}
    with pytest.raises(CheckpointError, match="no classifier of its own to keep"):
        load_checkpoint(fresh(num_classes=3, device="meta"), state, reset_head=True)


def test_other_precision_is_converted(source):
    model = fresh().double()
    halves = {name: tensor.half() for name, tensor in source.state_dict().items()}
    load_checkpoint(model, halves)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert all(torch.equal(tensor, halves[name].to(tensor.dtype)) for name, tensor in model.state_dict().items())


def test_frozen_batch_norms_count_no_batches(source):
    """As those of a run with `model.frozen_stages`: another network starts from it, and it from another network."""

    def frozen(model):
        for part in (model.stem, model.stages[0]):
            freeze_batch_norm_2d(part)
        return model

    saved = frozen(copy.deepcopy(source))
    assert len(saved.state_dict()) < len(source.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for start, model in ((saved, fresh()), (saved, fresh(device="meta")), (source, frozen(fresh()))):
        load_checkpoint(model, start.state_dict())
        assert not any(tensor.is_meta for tensor in model.state_dict().values())
        with torch.no_grad():
            assert relative_error(model(x), source(x)) < 1e-5


def test_head_of_another_size(source, caplog):
    model = fresh(num_classes=3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=r"classifier of 5 classes, but the model one of 3: pass reset_head=True"):
        load_checkpoint(model, source.state_dict())
    assert equal(model.state_dict(), before)
    with caplog.at_level(logging.WARNING):
        load_checkpoint(model, source.state_dict(), reset_head=True)
    assert "everything is loaded but the classifier" in caplog.text
    head = {"head.fc.weight", "head.fc.bias"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (before if name in head else source.state_dict())[name])


def test_a_classifier_of_your_own_is_kept(source):
    model = fresh()
    model.head.fc = nn.Sequential(nn.Dropout(0.1), nn.Linear(model.num_features, 3, bias=False))
    before = copy.deepcopy(model.head.state_dict())
    load_checkpoint(model, source.state_dict(), reset_head=True)
    assert equal(model.head.state_dict(), before)
    assert equal(model.stages.state_dict(), source.stages.state_dict())


def test_models_without_classifier_take_the_rest(source):
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pooled = source.forward_head(source.forward_features(x), pre_logits=True)
        stages = source.forward_intermediates(x, intermediates_only=True)
    backbone, two = fresh(features_only=True), fresh(features_only=True, out_indices=(0, 1))
    for model, expected in ((fresh(num_classes=0), pooled), (backbone, stages), (two, stages[:2])):
        load_checkpoint(model, source.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(model(x), expected)
