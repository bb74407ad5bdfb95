"""A folder for timm, transformers and the hub, read back where this package is not."""

import json
import os
import re
import subprocess
import sys

import pytest
import timm
import timm.models.fastvit as builtin
import torch
import yaml

import fastvit
from deployment import LABELS, PREPROCESSING, small_network
from fastvit.deploy import Card, export, load
from fastvit.deploy.formats.timm_folder import TimmFolder, require_in_timm
from fastvit.deploy.sidecar import sidecar_path
from fastvit.errors import ExportError
from fastvit.model_card import model_card
from fastvit.recipes import load_recipe
from fastvit.trained import Options, find_trained, load_trained
from hub import TOKEN, running
from launch import QUICKSTART, complaint, script

ARCHITECTURE = {"name": "fastvit_t8", "options": {"num_classes": len(LABELS)}}


@pytest.fixture(scope="module")
def folder(random_run, tmp_path_factory):
    output = tmp_path_factory.mktemp("exports")
    script("export")([str(random_run), "--format", "timm", "--output", str(output)])
    return output / "digits.timm"


@pytest.fixture(scope="module")
def trained(random_run):
    return load_trained(random_run)


def header(card):
    return yaml.safe_load(card.split("---")[1])


def test_it_says_all_that_timm_asks(folder, trained):
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "fused.safetensors",
        "README.md",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "fastvit_t8"
    assert config["label_names"] == list(trained.labels)
    said = config["pretrained_cfg"]
    assert said["input_size"] == [3, 32, 32]
    assert (said["crop_pct"], said["interpolation"]) == (trained.preprocessing.crop_pct, "bicubic")
    assert tuple(said["mean"]) == trained.preprocessing.mean
    assert "hf_hub_id" not in said  # of the pretraining, which these weights are not


def test_the_fused_weights_lie_beside(folder, trained):
    fused = timm.create_model("fastvit_t8", num_classes=10, fused=True).eval()
    fastvit.load_checkpoint(fused, folder / "fused.safetensors")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(fused(images), trained.network(images), rtol=1e-3, atol=1e-3)


def test_of_another_network_nothing_is_fused(tmp_path):
    trained = load_trained("test_resnet", random_weights=True, num_classes=3, image_size=(64, 64))
    card = model_card(trained, title="Mine")
    path, images = tmp_path / "a.timm", torch.randn(1, 3, 64, 64)
    export(trained.module, path, images, format=TimmFolder(card), card=trained.card)
    assert {each.name for each in path.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert "FastViT" not in card
    assert "fused" not in card
    with torch.no_grad():
        torch.testing.assert_close(load(path)(images), trained.module(images), rtol=1e-4, atol=1e-4)


def test_names_of_classes_that_are_given_are_in_the_card(random_run, tmp_path):
    names = [f"class {letter}" for letter in "abcdefghij"]
    (tmp_path / "names.txt").write_text("\n".join(names))
    arguments = [str(random_run), "--format", "timm", "--labels", str(tmp_path / "names.txt")]
    script("export")([*arguments, "--output", str(tmp_path)])
    assert "pixels: class a, class b, " in (tmp_path / "digits.timm" / "README.md").read_text()
    assert json.loads((tmp_path / "digits.timm" / "config.json").read_text())["label_names"] == names


def test_a_folder_of_a_fused_network_is_exported_as_that(tmp_path):
    options = {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64), "num_classes": 5}
    fused = timm.create_model("fastvit_t8", fused=True, **options).eval()
    timm.models.save_for_hf(fused, tmp_path / "fused")
    trained = find_trained(f"local-dir:{tmp_path / 'fused'}", Options())
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(ExportError, match="holds the network in train form, and this one is fused"):
        export(trained.module, tmp_path / "a.timm", images, format="timm", card=trained.card)
    image = torch.randn(1, 3, 256, 256)
    script("export")([trained.source, "--format", "safetensors", "--output", str(tmp_path)])
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "fused.safetensors")(image), fused(image))


def test_nothing_that_is_passed_on_names_a_folder_of_this_machine(random_run, tmp_path):
    """Of weights in a file, in a folder for timm, and in a run."""
    secret = tmp_path / "secret"
    secret.mkdir()
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), secret / "weights.pt")
    trained = load_trained("test_resnet", checkpoint=secret / "weights.pt", num_classes=3, image_size=(64, 64))
    for name, origin in (("first", "weights.pt"), ("second", "local-dir:first.timm")):
        path, images = secret / f"{name}.timm", torch.zeros(1, 3, 64, 64)
        export(trained.module, path, images, format=TimmFolder(model_card(trained, title="Mine")), card=trained.card)
        said = [(path / "README.md").read_text(), sidecar_path(path).read_text()]
        assert all(re.search(rf"[ \"]{origin}, sha256 [0-9a-f]{{64}}", each) for each in said)
        assert "secret" not in "".join(said)
        trained = load_trained(f"local-dir:{path}")
    run = find_trained(str(random_run))
    assert re.fullmatch("digits/best.pt, sha256 [0-9a-f]{64}", run.weights)
    assert str(random_run.parent) not in json.dumps(run.card.to_dict()) + model_card(run, title="Digits")


def test_the_card_of_a_run_says_what_was_measured_on_what(short_run):
    card = model_card(load_trained(short_run), title="Digits", repository="jane/digits")
    assert header(card) == {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "transformers", "fastvit"],
    }
    metrics = torch.load(short_run / "best.pt")["metrics"]
    assert f"| top-1 | {metrics['val_top1']:.4g} % |" in card
    assert "On 540 images of the split `validation`" in card
    assert "resized to 32 pixels (bicubic), and the center of 32x32 taken" in card
    assert 'timm.create_model("hf-hub:jane/digits", pretrained=True)' in card


def test_only_the_best_weights_are_called_so(short_run, tmp_path):
    """And those saved within an epoch were not measured."""
    last = torch.load(short_run / "last.pt")
    said = {"recipe": last["recipe"], "metrics": last["metrics"], "state_dict": {}}
    steps = {"best.pt": {}, "last.pt": {"step": last["step"]}, "within.pt": {"step": last["step"] + 1}}
    cards = {}
    for name, step in steps.items():
        torch.save(said | step, tmp_path / name)
        cards[name] = model_card(find_trained(str(tmp_path / name)), title="Digits")
    assert "by the weights of epoch 1, chosen as the best one on them. The shorter side" in cards["best.pt"]
    assert "by the weights of epoch 1. The shorter side" in cards["last.pt"]
    assert "How good" not in cards["within.pt"]


def test_the_licence_of_the_starting_weights_goes_on(random_run):
    start = ("model.name=fastvit_t8.apple_dist_in1k", "model.pretrained=true")
    card = model_card(load_trained(random_run, overrides=start), title="Digits")
    address = "https://huggingface.co/timm/fastvit_t8.apple_dist_in1k"
    assert header(card)["license"] == "other"
    assert header(card)["license_name"] == "fastvit-license"
    assert header(card)["license_link"] == address
    assert f"Fine-tuned from [fastvit_t8.apple_dist_in1k]({address})" in card


@pytest.mark.parametrize(
    ("start", "link"),
    [
        (("model.name=fastvit_mci0", "model.checkpoint=/secret/mobileclip_s0.pt"), None),
        (("model.name=fastvit_mci0", "model.pretrained=true"), "https://huggingface.co/apple/mobileclip_s0_timm"),
    ],
)
def test_apple_s_licence_goes_on_also_from_a_file(random_run, start, link):
    card = model_card(find_trained(str(random_run), Options(overrides=start)), title="Digits")
    assert (header(card)["license"], header(card)["license_name"]) == ("other", "apple-amlr")
    assert header(card).get("license_link") == link
    told = "Fine-tuned from the file `mobileclip_s0.pt`, whose licence applies to these weights, too. Apple's"
    assert link or f"{told} weights of this network have apple-amlr: for research only, " in card
    assert "secret" not in card


def test_of_weights_that_nobody_trained_here_no_training_is_told():
    card = model_card(load_trained("fastvit_t8", random_weights=True), title="Mine")
    assert "Trained" not in card
    assert "Weights: random" in card
    assert "These weights come from elsewhere: read their licence there" in card
    card = model_card(find_trained("fastvit_t8.apple_in1k"), title="Apple's")
    assert header(card)["license_name"] == "fastvit-license"
    assert "read their licence (fastvit-license) there" in card


@pytest.mark.parametrize(
    ("model", "card", "message"),
    [
        (small_network, Card(PREPROCESSING, LABELS), "one of timm's classifiers"),
        (small_network, Card(PREPROCESSING, None, architecture=ARCHITECTURE), "one of timm's classifiers"),
        (
            small_network,
            Card(PREPROCESSING, LABELS, architecture={"name": "fastvithd", "options": {}}),
            "timm itself has no fastvithd, so nobody could load a folder of it",
        ),
        (
            lambda: timm.create_model("fastvit_t8", num_classes=len(LABELS), fused=True),
            Card(PREPROCESSING, LABELS, architecture=ARCHITECTURE),
            "this one is fused: export it before fusing",
        ),
    ],
)
def test_what_is_no_folder_for_timm_gets_a_sentence(tmp_path, model, card, message):
    with pytest.raises(ExportError, match=message):
        export(model(), tmp_path / "a.timm", torch.zeros(1, 3, 64, 64), card=card)
    assert list(tmp_path.iterdir()) == []


def test_features_have_no_model_card(tmp_path, capsys):
    arguments = ["fastvit_t8", "--random-weights", "--features", "--output", str(tmp_path), "--format", "timm"]
    assert "is no classifier" in complaint(script("export"), arguments, capsys)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("fastvithd", ()), ("ablation_repmixer", ("model.registered_in=ablation/networks.py",))],
)
def test_what_nobody_else_could_load_is_refused_before_anything_is_read(tmp_path, monkeypatch, capsys, name, overrides):
    recipe = load_recipe(QUICKSTART, [*overrides, f"model.name={name}"])
    torch.save({"state_dict": {}, "recipe": recipe.to_dict()}, tmp_path / "best.pt")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    exported = ["--format", "timm", "--output", str(tmp_path / "exports")]
    for command, arguments in (("push", ["jane/digits"]), ("export", exported)):
        said = complaint(script(command), [str(tmp_path), *arguments], capsys)
        assert said.startswith(f"timm itself has no {name}, so nobody could load a folder of it: ")


def test_timm_has_all_its_own_networks_and_those_that_fastvit_took_over(monkeypatch):
    entries = timm.models._registry._model_entrypoints
    monkeypatch.setitem(entries, "resnet18", load)  # as a file of yours may register it
    for name in timm.list_models():
        module = timm.models.model_entrypoint(name).__module__
        if module.startswith("timm.") or (module == "fastvit.fastvit" and hasattr(builtin, name)):
            require_in_timm(name)
        else:
            with pytest.raises(ExportError, match=f"^timm itself has no {name}, "):
                require_in_timm(name)


READ_BACK = """
import sys, torch, timm
images, place = torch.load(sys.argv[1]), sys.argv[2]
network = timm.create_model(place, pretrained=True).eval()
logits = [network(images)]
if place.startswith("local-dir:"):
    from transformers import AutoModelForImageClassification
    other = AutoModelForImageClassification.from_pretrained(place.removeprefix("local-dir:")).eval()
    logits.append(other(images).logits)
    assert other.config.id2label[3] == network.pretrained_cfg["label_names"][3] == "3"
assert "fastvit" not in sys.modules
torch.save(logits, sys.argv[1])
"""


def read_back(place, images, tmp_path, **variables):
    """The logits of timm, and of transformers where the folder is on this machine, in a process of their own."""
    torch.save(images, tmp_path / "images.pt")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), **variables}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", READ_BACK, str(tmp_path / "images.pt"), place]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    return torch.load(tmp_path / "images.pt")


@pytest.mark.slow
def test_timm_and_transformers_compute_the_same_without_this_package(folder, trained, tmp_path):
    pytest.importorskip("transformers")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = trained.network(images)
    found = read_back(f"local-dir:{folder}", images, tmp_path)
    assert len(found) == 2
    for logits in found:
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_what_was_pushed_is_read_from_the_hub(random_run, trained, tmp_path, monkeypatch, capsys):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = trained.network(images)
    with running() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        script("push")([str(random_run), "jane/digits", "--message", "Digits"])
        assert capsys.readouterr().out.strip() == f"{hub.address}/jane/digits"
        assert hub.commits == [("jane/digits", "Digits")]
        options = {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"}
        (found,) = read_back("hf-hub:jane/digits", images, tmp_path, **options)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
