"""fastvit train from end to end, and what it says to a user who made a mistake."""

import errno
import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from launch import QUICKSTART, complaint, script

SHORT = ("schedule.epochs=1", "schedule.warmup_epochs=0")
train = script("train")


def test_a_dry_run_shows_and_does_nothing_else(tmp_path, capsys):
    output = tmp_path / "run"
    train([QUICKSTART, f"output={output}", "augmentation.mixup=0.8", "optimizer.layer_decay=0.5", "--dry-run"])
    printed = capsys.readouterr().out
    assert "mixup: 0.8" in printed
    assert "stem.0.conv_kxk.0.conv.weight" in printed
    assert "19 steps per epoch, 228 in all" in printed
    assert not output.exists()
    assert sorted(path.name for path in (tmp_path / "run-dry-run").iterdir()) == ["batch.png", "schedule.png"]


@pytest.mark.parametrize("recipe", ["segmentation_digits", "detection_digits", "hand_mesh_synthetic"])
def test_a_dry_run_shows_a_batch_of_every_task(recipe, tmp_path):
    batch = ["data.workers=0", "loop.batch_size=2"]
    train([f"quickstart/{recipe}", f"output={tmp_path / 'run'}", *batch, "--dry-run"])
    with Image.open(tmp_path / "run-dry-run" / "batch.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**6)) > 1000


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(short_run, capsys):
    before = torch.load(short_run / "last.pt")["state_dict"]
    train(["--resume", str(short_run), "data.workers=1"])
    assert "19 steps in all, 19 done" in capsys.readouterr().out
    torch.testing.assert_close(torch.load(short_run / "last.pt")["state_dict"], before, rtol=0, atol=0)


def test_resuming_with_another_recipe_is_refused(short_run, capsys):
    message = complaint(train, ["--resume", str(short_run), "optimizer.lr=1e-4"], capsys)
    assert message.endswith("another recipe; these keys differ: optimizer.lr: 0.003 -> 0.0001")


def test_training_into_another_run_is_refused(short_run, capsys):
    assert "already holds a run" in complaint(train, [QUICKSTART, f"output={short_run}"], capsys)


def test_other_images_into_the_output_of_another_run(tmp_path, capsys):
    """The run is what is in the way, not how it has divided its own images. A dry run touches no output."""
    for name in ("ant/0.png", "ant/1.png", "bee/2.png", "bee/3.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "images" / name)
    run = tmp_path / "run"
    run.mkdir()
    (run / "split.csv").write_text("path,label,split\nelk/0.png,elk,train\n")
    (run / "last.pt").touch()
    arguments = ["classification/finetune", f"data.root={tmp_path / 'images'}", f"output={run}"]
    assert complaint(train, arguments, capsys).startswith(f"{run} already holds a run: continue it with --resume")
    said = complaint(train, [*arguments, "--dry-run"], capsys)
    assert f"are not those that {run / 'split.csv'} divides: train into another output" in said


def test_train_wants_something_to_train(capsys):
    assert "or the folder of a run to --resume" in complaint(train, [], capsys)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.epoch=3", "unknown key schedule.epoch; did you mean epochs?"),
        ("model.name=fastvit_t9", "did you mean fastvit_t8?"),
        ("data={dataset: folder, root: nowhere, num_classes: 2, image_size: 32}", "data.root nowhere is not a folder"),
        ("data.num_classes=9", "data.num_classes is 9, but there are 10 classes in digits; set data.num_classes to 10"),
        ("data.val_split=test", "the digits have no split test, but train and validation"),
        ("loop.batch_size=2000", "loop.batch_size (2000) is more than the 1257 training samples"),
        ("model.checkpoint=nowhere.pt", "there is no checkpoint file nowhere.pt"),
        (f"output={__file__}/x", f"output {__file__}/x cannot be written: {__file__} is not a writable folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(override, message, tmp_path, capsys):
    printed = complaint(train, [QUICKSTART, f"output={tmp_path / 'run'}", override], capsys)
    assert message in printed
    assert "\n" not in printed
    assert not (tmp_path / "run").exists()


def test_weights_that_cannot_be_downloaded_are_said_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fastvit.pretrained.hf_hub_url", lambda *_, **__: "http://127.0.0.1:9/nothing")
    monkeypatch.setattr("fastvit.pretrained.try_to_load_from_cache", lambda *_, **__: None)
    said = complaint(train, [QUICKSTART, f"output={tmp_path / 'run'}", "model.pretrained=true"], capsys)
    assert said.startswith("model.pretrained: the weights of fastvit_t8 cannot be downloaded: the hub does not answer")
    assert said.endswith("set model.pretrained=false, and model.checkpoint to a file that you have")
    assert "\n" not in said


def spoilt_images(folder, split):
    """Two classes of four images each, to train and to validate on, and the path of the one that is damaged."""
    for part, label, i in itertools.product(("train", "val"), ("dark", "bright"), range(4)):
        (folder / part / label).mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40), 200 if label == "bright" else 50).save(folder / part / label / f"{i}.png")
    bad = folder / split / "dark" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    return bad


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_an_unreadable_image(policy, tmp_path, capsys):
    bad = spoilt_images(tmp_path / "images", "train")
    (bad.parent / "photo.heic").write_bytes(b"of a phone")
    data = {"dataset": "folder", "root": str(tmp_path / "images"), "num_classes": 2, "image_size": 32, "workers": 0}
    run = tmp_path / "run"
    arguments = [QUICKSTART, f"output={run}", *SHORT, "loop.batch_size=4"]
    arguments.append(f"data={json.dumps({**data, 'on_bad_image': policy})}")
    if policy == "error":
        assert f"image {bad} cannot be read" in complaint(train, arguments, capsys)
        assert not run.exists()
    else:
        train(arguments)
        printed = capsys.readouterr().out
        assert f"left out: 1, such as {bad}" in printed
        assert "8 training samples" in printed
        assert f"not taken for images, by their names: 1, such as {bad.parent / 'photo.heic'}" in printed


def test_a_run_goes_on_without_the_validation_image_that_has_stopped_it(tmp_path, capsys):
    """As the message says; the epoch before it is kept."""
    bad, run = spoilt_images(tmp_path / "images", "val"), tmp_path / "run"
    data = {"dataset": "folder", "root": str(tmp_path / "images"), "num_classes": 2, "image_size": 32, "workers": 0}
    small = ["model.name=test_byobnet", "loop.batch_size=4", f"data={json.dumps(data)}"]
    said = complaint(train, [QUICKSTART, f"output={run}", *SHORT, *small], capsys)
    assert f"image {bad} cannot be read" in said
    assert said.endswith("data.on_bad_image: skip")
    train(["--resume", str(run), "data.on_bad_image=skip"])
    assert f"left out: 1, such as {bad}" in capsys.readouterr().out
    assert torch.load(run / "last.pt")["metrics"]["val_samples"] == 7


def test_a_dry_run_that_cannot_write_its_pictures_says_so_at_once(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    said = complaint(train, [QUICKSTART, f"output={tmp_path / 'file' / 'run'}", "--dry-run"], capsys)
    assert said.startswith(f"output {tmp_path / 'file' / 'run-dry-run'} cannot be written")
    assert "\n" not in said


def test_a_dry_run_of_a_run_in_this_folder_goes_beside_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine-dry-run").write_text("no folder, so that the command ends here")
    monkeypatch.chdir(tmp_path / "mine")
    said = complaint(train, [QUICKSTART, "output=.", "--dry-run"], capsys)
    assert said.startswith(f"output {tmp_path / 'mine-dry-run'} cannot be written")


def test_a_folder_of_somebody_else_is_one_sentence(tmp_path, monkeypatch, capsys):
    """Up to Python 3.13, asking what is in it raises an error; root, who runs tests, may ask."""
    hers, exists = tmp_path / "hers", Path.exists

    def denied(path, **options):
        if hers in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", denied)
    said = complaint(train, [QUICKSTART, f"output={hers / 'run'}"], capsys)
    assert str(hers / "run") in said
    assert "(Permission denied)" in said
    assert "\n" not in said
