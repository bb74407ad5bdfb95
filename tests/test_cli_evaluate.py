"""fastvit evaluate from end to end, and what it says to a user who made a mistake."""

import csv
import itertools
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform

from fastvit import load_checkpoint
from fastvit.cli.evaluate import folder_of
from fastvit.data.digits import Digits
from fastvit.errors import DataError, RunError
from fastvit.evaluation import _require_same_classes, task_of
from fastvit.predictor import IMAGE_CLASSIFICATION
from fastvit.trained import Kind, Options, find_trained
from fastvit.trained.of_timm import imagenet_classes
from launch import QUICKSTART, complaint, script

ORIENTATION = 0x0112  # of EXIF

evaluate, export = script("evaluate"), script("export")


@pytest.fixture(scope="module")
def evaluated(short_run, tmp_path_factory):
    """The results for a run, in a folder, with what was printed."""
    folder = tmp_path_factory.mktemp("evaluated")
    evaluate([str(short_run), "--output", str(folder), "loop.precision=bfloat16"])
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Held-out digits in class folders, 40 in `val` and the next 10 in `test`, on their side as phones store them."""
    root = tmp_path_factory.mktemp("photos")
    digits = Digits(train=False, image_size=32)
    for index in range(50):
        image, label = digits[index]
        folder = root / ("val" if index < 40 else "test") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[ORIENTATION] = 6  # to be turned clockwise
        image.transpose(Image.Transpose.ROTATE_90).save(folder / f"{index}.png", exif=exif)
    for split, label in itertools.product(("val", "test"), range(10)):
        if not (root / split / str(label)).exists():  # each class has an image
            (root / split / str(label)).mkdir()
            digits[digits.labels.index(label)][0].save(root / split / str(label) / "one.png")
    return root


def result(folder):
    return json.loads((folder / "evaluation.json").read_text())


def test_both_forms_side_by_side(evaluated, short_run):
    report = result(evaluated)
    assert report["unfused"]["samples"] == report["fused"]["samples"] == 540
    assert report["same_predictions"] >= 535  # in bfloat16 the two forms round otherwise
    assert report["fusion_error"] < 1e-5
    assert report["fused"]["parameters"] < report["unfused"]["parameters"]
    assert report["weights"].startswith("short/best.pt, epoch 1 of 1, sha256 ")
    assert (evaluated / "predictions.png").stat().st_size > 10_000


def test_the_precision_is_the_one_that_was_asked_for(evaluated, short_run, tmp_path, capsys):
    """What training has measured in its own precision comes out here, too, and something else in another precision."""
    evaluate([str(short_run), "--output", str(tmp_path), "--form", "unfused"])
    printed = capsys.readouterr().out
    for row in ("epoch 1 of 1", "top1", "parameters", "latency", "(in float32; "):
        assert row in printed
    full, half = result(tmp_path), result(evaluated)
    trained = torch.load(short_run / "best.pt")["metrics"]
    assert full["unfused"]["top1"] == trained["val_top1"]
    assert full["unfused"]["loss"] == pytest.approx(trained["val_loss"], rel=1e-6)
    assert half["precision"] == "bfloat16"
    assert half["unfused"]["loss"] != pytest.approx(trained["val_loss"], rel=1e-6)
    assert half["unfused"]["loss"] == pytest.approx(trained["val_loss"], rel=0.05)


def test_details_agree_with_the_report(evaluated):
    report = result(evaluated)["fused"]
    with (evaluated / "predictions.csv").open() as file:
        images = list(csv.DictReader(file))
    with (evaluated / "classes.csv").open() as file:
        classes = list(csv.DictReader(file))
    hits = [image["label"] == image["predicted_1"] for image in images]
    assert len(hits) == report["samples"] == sum(int(each["images"]) for each in classes)
    assert 100 * sum(hits) / len(hits) == pytest.approx(report["top1"])
    recalls = [float(each["recall"]) * int(each["images"]) for each in classes]
    assert sum(recalls) / len(hits) == pytest.approx(report["top1"], abs=0.01)
    assert (evaluated / "confusion.png").exists()


def test_a_network_by_its_name_with_a_file_of_weights(short_run, photos, tmp_path):
    """ImageNet's mean and standard deviation, as the name says; compared with timm's own transform and network."""
    weights = tmp_path / "weights.pt"
    torch.save(torch.load(short_run / "best.pt")["state_dict"], weights)  # of no run: the tensors alone
    data = [f"data.root={photos}", "data.image_size=32", "data.crop_pct=1.0", "data.workers=0"]
    arguments = ["fastvit_t8", "--checkpoint", str(weights), "--num-classes", "10", "--form", "fused"]
    model = timm.create_model("fastvit_t8", num_classes=10).eval()
    load_checkpoint(model, weights)
    transform, digits = create_transform(32, crop_pct=1.0), Digits(train=False, image_size=32)
    for split, some in (("val", range(40)), ("test", range(40, 50))):
        evaluate([*arguments, "--output", str(tmp_path / split), f"data.val_split={split}", *data])
        with torch.no_grad():
            predicted = model(torch.stack([transform(digits[index][0]) for index in some])).argmax(1)
        with (tmp_path / split / "predictions.csv").open() as file:
            rows = {row["image"].rpartition("/")[2]: row["predicted_1"] for row in csv.DictReader(file)}
        assert [rows[f"{index}.png"] for index in some] == [str(label) for label in predicted.tolist()]


def test_an_exported_file_is_as_good_as_its_run(short_run, photos, tmp_path, capsys):
    """And so is a folder for timm's `local-dir:`."""
    export([str(short_run), "--format", "safetensors", "timm", "--output", str(tmp_path)])
    data = [f"data.root={photos}", "data.workers=0"]
    evaluate([str(tmp_path / "short.safetensors"), *data, "--output", str(tmp_path / "file")])
    assert "exported" in capsys.readouterr().out
    evaluate([str(short_run), *data, "data.dataset=folder", "--form", "fused", "--output", str(tmp_path / "run")])
    folder = f"local-dir:{tmp_path / 'short.timm'}"
    evaluate([folder, *data, "--form", "fused", "--output", str(tmp_path / "folder")])
    of_run = result(tmp_path / "run")["fused"]
    for other in (result(tmp_path / "file")["exported"], result(tmp_path / "folder")["fused"]):
        assert other["samples"] == of_run["samples"] >= 40
        assert other["top1"] == of_run["top1"]
        assert other["loss"] == pytest.approx(of_run["loss"], rel=1e-4)


def test_photographs_are_upright_except_in_imagenet_s_figures():
    """Which are published of images as they are stored."""
    names = list(imagenet_classes(1000).values())
    for options, labels, upright in (
        (Options(random_weights=True), names, False),
        (Options(random_weights=True), list(imagenet_classes(1000)), False),
        (Options(random_weights=True), [f"my {name}" for name in names], True),
        (Options(random_weights=True, num_classes=10), [str(number) for number in range(10)], True),
    ):
        trained = replace(find_trained("fastvit_t8", options), labels=tuple(labels))
        assert task_of(trained, ["data.root=x"]).recipe.data.exif_orientation is upright


def test_a_class_without_an_image_changes_nothing_for_the_others(short_run, photos, tmp_path, capsys):
    """Whose labels are told by their names. A run and its file take the same folder."""
    shutil.copytree(photos / "val", tmp_path / "photos" / "val")
    shutil.rmtree(tmp_path / "photos" / "val" / "4")
    export([str(short_run), "--format", "safetensors", "--output", str(tmp_path)])
    data = [f"data.root={tmp_path / 'photos'}", "data.workers=0"]
    evaluate([str(tmp_path / "short.safetensors"), *data, "--output", str(tmp_path / "file")])
    assert "has no image of 1 of the classes, 4" in capsys.readouterr().out
    of_run = [str(short_run), *data, "data.dataset=folder", "--form", "fused", "--output", str(tmp_path / "run")]
    assert complaint(evaluate, of_run, capsys).endswith(
        "or data.classes to all names in order, if some have no image here"
    )
    evaluate([*of_run, f"data.classes=[{', '.join(map(repr, '0123456789'))}]"])
    of_file, of_run = result(tmp_path / "file")["exported"], result(tmp_path / "run")["fused"]
    assert (of_file["samples"], of_file["top1"]) == (of_run["samples"], of_run["top1"])
    assert of_file["loss"] == pytest.approx(of_run["loss"], rel=1e-4)


def test_numbers_that_nobody_gave_as_names_are_not_taken_for_the_folders(tmp_path):
    """Of a checkpoint that learned sorted folders, 0, 1, 10, 11, 2, ..."""
    for label in range(12):
        (tmp_path / "val" / str(label)).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / str(label) / "a.png")
    trained = find_trained("fastvit_t8", Options(random_weights=True, num_classes=12))
    assert task_of(trained, [f"data.root={tmp_path}"]).open_data("val").class_names[:3] == ("0", "1", "10")
    in_order = sorted(map(str, range(12)))
    with pytest.raises(DataError, match=r"2 is 10, .*; name the folders in the network's order: data\.classes="):
        _require_same_classes(trained, in_order, stated=False)
    _require_same_classes(trained, in_order, stated=True)
    named = replace(trained, labels=("11", *map(str, range(11))))
    assert task_of(named, [f"data.root={tmp_path}"]).open_data("val").class_names[:3] == ("11", "0", "1")


def test_a_file_that_prepares_images_itself_has_its_own_sentence():
    trained = SimpleNamespace(task=None, recipe=None, does=IMAGE_CLASSIFICATION, source="a.onnx")
    with pytest.raises(RunError, match=r"a\.onnx takes one image as it is: evaluate its run"):
        task_of(trained)


def test_results_by_other_settings_do_not_replace_those_of_the_run(random_run, photos):
    """They go into a folder of the run that is named after the settings."""
    evaluate([str(random_run), "data.dataset=folder", f"data.root={photos}", "data.workers=0", "--form", "fused"])
    (folder,) = (path for path in random_run.iterdir() if path.is_dir())
    assert folder.name.startswith("data.dataset=folder,data.root=")
    assert result(folder)["fused"]["samples"] >= 40
    assert not (random_run / "evaluation.json").exists()


def test_what_is_no_run_does_not_replace_the_results_of_one():
    for kind, source in ((Kind.FILE, "exports/quickstart.onnx"), (Kind.TIMM, "fastvit_t8.apple_in1k")):
        trained = SimpleNamespace(kind=kind, source=source)
        assert folder_of(trained, ["data.root=x"]) == Path("runs/evaluated") / source.replace("/", "_")
        folders = {folder_of(trained, [], checkpoint) for checkpoint in (None, Path("a/best.pt"), Path("b/best.pt"))}
        assert len(folders) == 3


@pytest.mark.parametrize(
    ("source", "overrides", "folder"),
    [
        ("runs/x/best.pt", [], "runs/x"),
        ("runs/x/last.pt", [], "runs/x/last"),
        ("runs/x/last.pt", ["data.image_size=64"], "runs/x/last/data.image_size=64"),
        ("runs/x/last.pt", ["output=mine"], "mine"),
        ("weights/epoch10", [], "weights/epoch10_evaluated"),
    ],
)
def test_another_checkpoint_than_the_best_does_not_replace_its_results(source, overrides, folder):
    assert folder_of(SimpleNamespace(kind=Kind.RUN, source=source), overrides) == Path(folder)


def test_mistakes_are_pictured_with_where_the_network_looked(random_run, photos, tmp_path, capsys):
    data = ["data.dataset=folder", f"data.root={photos}", "data.workers=0", "--form", "fused"]
    evaluate([str(random_run), *data, "data.image_size=64", "--output", str(tmp_path / "explained"), "--explain"])
    assert str(tmp_path / "explained" / "mistakes.png") in capsys.readouterr().out
    with Image.open(tmp_path / "explained" / "mistakes.png") as picture:
        colors = picture.convert("RGB").getcolors(10**6)
    assert sum(count for count, (red, _, blue) in colors if red > blue + 50) > 10_000  # of gray digits
    said = complaint(evaluate, [str(random_run), *data, "--output", str(tmp_path / "x"), "--explain"], capsys)
    assert said.startswith("Grad-CAM: of an image of 32 x 32 px the last features are a single cell")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run, recipe, exported file or network of timm's that is called nowhere"),
        (["fastvit_t9.apple"], "that is called fastvit_t9.apple; did you mean fastvit_t8?"),
        (["nowhere.pt"], "there is no checkpoint nowhere.pt"),
        (["runs/nowhere"], "there is no checkpoint runs/nowhere"),
        (["fastvit_t8.apple_in1k"], "data.root is missing: the folder of dataset folder"),
        ([QUICKSTART], "has no weights of its own: give --checkpoint FILE, --pretrained for the hub's, or"),
        (["nowhere.yaml", "--pretrained"], "there is no recipe nowhere.yaml"),
        (["runs/nowhere", "--pretrained"], "has weights and classes of its own: leave out --pretrained"),
        (["nowhere.onnx", "data.root=."], "there is no exported network nowhere.onnx"),
    ],
)
def test_mistakes(arguments, message, capsys):
    said = complaint(evaluate, arguments, capsys)
    assert message in said
    assert "\n" not in said


def test_the_two_cranes_of_imagenet_may_have_other_names():
    """Hugging Face has them without their synsets."""
    ours = tuple(imagenet_classes(1000).values())
    theirs = list(ours)
    theirs[134], theirs[517] = "crane", "crane2"
    network = SimpleNamespace(labels=ours, source="a network", task=None)
    _require_same_classes(network, theirs, stated=False)
    swapped = [*ours[:1], ours[2], ours[1], *ours[3:]]
    with pytest.raises(DataError, match="not those of the images: goldfish"):
        _require_same_classes(network, swapped, stated=True)


def test_mistakes_about_a_run(short_run, photos, tmp_path, capsys):
    """Before the evaluation, not after it."""
    run = str(short_run)
    assert "do not fit the model" in complaint(evaluate, [run, "model.name=fastvit_t12"], capsys)
    said = complaint(evaluate, [run, "--output", f"{__file__}/x"], capsys)
    assert f"{__file__} is not a writable folder" in said
    swapped = tmp_path / "val"
    shutil.copytree(photos / "val", swapped)
    (swapped / "9").rename(swapped / "nine")
    said = complaint(evaluate, [run, "data.dataset=folder", f"data.root={tmp_path}"], capsys)
    assert said.endswith("are not those of the images: 9 is nine")


@pytest.mark.parametrize("package", ["pydantic", "matplotlib", "sklearn"])
def test_what_is_needed_at_the_end_is_asked_for_at_the_beginning(package, short_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("fastvit.evaluation.measure", None)  # is not reached
    said = complaint(evaluate, [str(short_run)], capsys)
    assert said == f'evaluating needs {package}: pip install "fastvit[train]"'
