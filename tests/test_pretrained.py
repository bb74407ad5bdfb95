"""Weights of the hub, without a hub: found where they were downloaded before, or missed in seconds and one sentence."""

import json
import socket
import threading
import time

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform
from timm.utils.model import freeze_batch_norm_2d
from torch import nn

import fastvit
from fastvit.cli.main import main
from fastvit.errors import UserError
from fastvit.pretrained import create_pretrained, load_weights, read_config
from reference import small

REVISION = "0" * 40
ADVICE = "give a file"
SEEN = {"input_size": (3, 64, 64), "crop_pct": 0.8, "interpolation": "bilinear", "mean": (0.4,) * 3, "std": (0.2,) * 3}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a hub whose address no one answers at."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    return tmp_path / "cache"


def put(cache, repository, **files):
    """As the hub's client keeps files."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(REVISION)
    for name, write in files.items():
        write(snapshot / name.replace("__", "."))


@pytest.mark.parametrize("name", ["fastvit_t8.apple_in1k", "fastvit_t8", "hf-hub:me/mine"])
def test_nothing_answers(cache, name, capfd):
    start = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be downloaded: the hub does not answer .*; give a file$") as caught:
        create_pretrained(name, advice=ADVICE)
    assert name in str(caught.value)
    assert time.monotonic() - start < 5
    assert capfd.readouterr() == ("", "")  # and no line for each retry


def test_something_takes_the_call_and_says_nothing(cache, monkeypatch):
    """A firewall that drops what it does not like."""
    monkeypatch.setattr("fastvit.pretrained.SECONDS_TO_ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        monkeypatch.setattr("fastvit.pretrained.hf_hub_url", lambda *_, **__: address)
        held = []  # else the connection is closed
        threading.Thread(target=lambda: held.append(server.accept()), daemon=True).start()
        start = time.monotonic()
        with pytest.raises(UserError, match="the hub does not answer"):
            create_pretrained("fastvit_t8.apple_in1k", advice=ADVICE)
        assert 0.4 < time.monotonic() - start < 5


def test_weights_that_were_downloaded_before(cache):
    weights = timm.create_model("test_resnet").state_dict()
    repository = timm.get_pretrained_cfg("test_resnet.r160_in1k").hf_hub_id
    put(cache, repository, model__safetensors=lambda path: save_file(weights, path))
    model = create_pretrained("test_resnet.r160_in1k", advice=ADVICE)
    torch.testing.assert_close(model.state_dict(), weights)


@pytest.fixture
def mine(cache):
    """The weights of a repository me/mine in the cache, whose classes are a, b and c."""
    weights = timm.create_model("test_resnet", num_classes=3).state_dict()
    config = {"architecture": "test_resnet", "num_classes": 3, "label_names": ["a", "b", "c"], "pretrained_cfg": SEEN}
    put(
        cache,
        "me/mine",
        model__safetensors=lambda path: save_file(weights, path),
        config__json=lambda path: path.write_text(json.dumps(config)),
    )
    return weights


def test_a_repository_that_was_downloaded_before(mine):
    torch.testing.assert_close(create_pretrained("hf-hub:me/mine", advice=ADVICE).state_dict(), mine)
    trained = fastvit.load_trained("hf-hub:me/mine")
    assert trained.labels == ("a", "b", "c")
    assert trained.name == "mine"


def test_a_repository_is_evaluated_by_its_name(mine, tmp_path):
    """On a folder of images, by timm's transform of what its configuration says."""
    model, rng = timm.create_model("test_resnet", num_classes=3).eval(), np.random.default_rng(0)
    model.load_state_dict(mine)
    transform = create_transform(**SEEN)
    logits, labels = [], []
    for label, name in enumerate("abc"):
        (tmp_path / "val" / name).mkdir(parents=True)
        for i in range(4):
            image = Image.fromarray(rng.integers(256, size=(80, 96, 3), dtype=np.uint8))
            image.save(tmp_path / "val" / name / f"{i}.png")
            with torch.no_grad():
                logits.append(model(transform(image)[None])[0])
            labels.append(label)
    expected = torch.nn.functional.cross_entropy(torch.stack(logits), torch.tensor(labels))
    folder = tmp_path / "result"
    options = ["--form", "unfused", "--output", str(folder), f"data.root={tmp_path}", "data.workers=0"]
    main(["evaluate", "hf-hub:me/mine", *options])
    result = json.loads((folder / "evaluation.json").read_text())
    assert result["unfused"]["samples"] == 12
    assert result["unfused"]["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert "hf-hub:me/mine" in (result["source"], result["weights"])


def test_an_architecture_that_timm_does_not_know(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "resnet0", "pretrained_cfg": {}}')
    with pytest.raises(UserError, match="is a resnet0, which timm does not know"):
        read_config(f"local-dir:{tmp_path}", advice=ADVICE)


def test_a_configuration_that_timm_does_not_understand(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "pretrained_cfg": {"height": 32}}')
    with pytest.raises(UserError, match=r"is no network that timm can read .*'height'"):
        read_config(f"local-dir:{tmp_path}", advice=ADVICE)


def test_a_configuration_with_arguments_that_our_network_does_not_take(tmp_path):
    """As timm writes it beside a network of its own class that was made with them."""
    stated = {"architecture": "fastvit_t8", "num_classes": 3, "pretrained_cfg": {}}
    for argument, sentence in (("layer_scale_init_value", "only timm's own class takes"), ("another", "argument 'ano")):
        (tmp_path / "config.json").write_text(json.dumps(stated | {"model_args": {argument: 1e-6}}))
        with pytest.raises(UserError, match=rf"^the network of local-dir:{tmp_path} cannot be made: .*{sentence}"):
            fastvit.load_trained(f"local-dir:{tmp_path}")


def test_a_file_is_loaded_completely_or_not_at_all(tmp_path):
    model = timm.create_model("test_resnet", num_classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = timm.create_model("test_resnet", num_classes=5).state_dict()
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"it has fc.weight of shape \(5, .*\) where the model has \(3, "):
        load_weights(model, tmp_path / "other.pt")
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    load_weights(model, tmp_path / "other.pt", reset_head=True)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name] if name.startswith("fc.") else other[name], rtol=0, atol=0)
    torch.save({name: tensor for name, tensor in other.items() if not name.startswith("fc.")}, tmp_path / "headless.pt")
    load_weights(model, tmp_path / "headless.pt", reset_head=True)
    torch.testing.assert_close(model.fc.weight, before["fc.weight"], rtol=0, atol=0)


def test_frozen_batch_norms_of_any_network_count_no_batches(tmp_path):
    saved, model = freeze_batch_norm_2d(timm.create_model("test_resnet")), timm.create_model("test_resnet")
    torch.save(saved.state_dict(), tmp_path / "frozen.pt")
    load_weights(model, tmp_path / "frozen.pt")
    torch.testing.assert_close(model.state_dict()["fc.weight"], saved.state_dict()["fc.weight"], rtol=0, atol=0)
    torch.save(model.state_dict(), tmp_path / "not.pt")
    load_weights(freeze_batch_norm_2d(timm.create_model("test_resnet")), tmp_path / "not.pt")


def test_what_is_a_fastvit_is_told_by_its_tensors(tmp_path):
    """Its stages alone take the file of a classifier; a network of your own with a stem takes its own."""
    model = timm.create_model("fastvit_t8", num_classes=3, **small("fastvit_t8"))
    for options in ({"features_only": True}, {"num_classes": 0}):
        torch.save(model.state_dict(), tmp_path / "classifier.pt")
        stages = timm.create_model("fastvit_t8", **options, **small("fastvit_t8"))
        load_weights(stages, tmp_path / "classifier.pt")
        for loaded, weights in zip(stages.parameters(), model.parameters(), strict=False):
            assert torch.equal(loaded, weights)
    own, again = (nn.ModuleDict({"stem": fastvit.RepConv(1, 4), "head": nn.Linear(4, 2)}) for _ in range(2))
    torch.save(own.state_dict(), tmp_path / "own.pt")
    load_weights(again, tmp_path / "own.pt")
    torch.testing.assert_close(again.state_dict(), own.state_dict(), rtol=0, atol=0)


def test_a_network_without_a_configuration():
    @timm.models.register_model
    def says_nothing_of_its_images(pretrained=False, **options):
        return nn.Identity()

    for ask in (create_pretrained, read_config):
        with pytest.raises(UserError, match="says_nothing_of_its_images states no mean, std and size of its images"):
            ask("says_nothing_of_its_images", advice=ADVICE)
