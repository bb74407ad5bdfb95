"""fastvit predict: the same answers from a network in every form."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from deployment import need
from fastvit.data.digits import Digits
from fastvit.deploy import FORMATS
from fastvit.tasks import load_recipe, make_task
from launch import ROOT, complaint, script
from reference import randomize

SLOW = pytest.mark.slow
predict, export = script("predict"), script("export")
QUICKSTART = ROOT / "configs" / "quickstart" / "digits.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The checkpoint of a run with random weights, which give each image another answer."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    folder.mkdir()
    recipe = load_recipe(QUICKSTART)
    torch.manual_seed(0)
    model = randomize(make_task(recipe).build_model())
    torch.save({"state_dict": model.state_dict(), "recipe": recipe.to_dict()}, folder / "best.pt")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Nine images, also wide, gray and transparent ones."""
    folder = tmp_path_factory.mktemp("images")
    digits = Digits(train=False, image_size=48)
    for i in range(5):
        digits[i][0].resize((48 + 8 * i, 48)).save(folder / f"{i}.png")
    digits[5][0].convert("L").save(folder / "gray.png")
    digits[6][0].convert("RGBA").save(folder / "transparent.png")
    (folder / "inside").mkdir()
    digits[7][0].save(folder / "inside" / "photo.jpg")
    digits[8][0].save(folder / "inside" / "PHOTO.JPEG")
    return folder


def answers(model, images, capsys, *options):
    """image -> (labels, probabilities)"""
    capsys.readouterr()
    predict([str(images), "--model", str(model), "--no-picture", *options])
    found, image = {}, ""
    for line in capsys.readouterr().out.splitlines():
        if match := re.fullmatch(r" +([\d.]+)%  (.*)", line):
            found[image][0].append(match[2])
            found[image][1].append(float(match[1]))
        else:
            image = line
            found[image] = ([], [])
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("safetensors", ()),
        ("torch_export", ()),
        ("onnx", ("--batch", "4")),
        ("openvino", ("--dynamic", "batch")),
        pytest.param("aot_inductor", (), marks=SLOW),
        pytest.param("executorch", (), marks=SLOW),
    ],
)
def test_the_same_top_5_as_the_run(run, images, tmp_path, capsys, name, options):
    need(name)
    export([str(run), "--format", name, "--output", str(tmp_path), *options])
    right = answers(run, images, capsys)
    assert len(right) == 9
    assert len({labels[0] for labels, _ in right.values()}) > 1  # not the same answer to everything
    exported = answers(tmp_path / f"digits{FORMATS[name].suffix}", images, capsys)
    assert exported.keys() == right.keys()
    for image, (labels, probabilities) in right.items():
        assert len(labels) == 5
        assert exported[image][0] == labels
        assert exported[image][1] == pytest.approx(probabilities, abs=0.02)  # they are printed with two decimals


def test_predictions_are_those_of_the_task(run, capsys, tmp_path):
    """The validation transform of training and the preprocessing of predict are one."""
    task = make_task(load_recipe(QUICKSTART))
    model = task.build_model(initial_weights=False).eval()
    model.load_state_dict(torch.load(run / "best.pt")["state_dict"])
    val = task.open_data("val").samples
    for i in range(6):
        Digits(train=False, image_size=32)[i][0].save(tmp_path / f"{i}.png")
    found = answers(run, tmp_path, capsys, "--top", "1")
    with torch.no_grad():
        expected = [str(model(val[i][0][None]).argmax().item()) for i in range(6)]
    assert [labels[0] for labels, _ in found.values()] == expected


def test_it_draws_a_picture(run, images, tmp_path):
    predict([str(images / "0.png"), str(images / "inside"), "--model", str(run), "--picture", str(tmp_path / "p.png")])
    with Image.open(tmp_path / "p.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**6)) > 50


@pytest.mark.parametrize(
    ("image", "model", "message"),
    [
        ("missing.png", "run", "there is no image or folder"),
        (".", "fastvit_t9", "no network of that name"),
        (".", "fastvit_t8", "say which weights"),
        (".", "missing.onnx", "there is no exported network"),
        ("broken.png", "run", "cannot be read"),
        ("empty", "run", "there are no images in"),
    ],
)
def test_bad_input_gets_a_sentence(run, images, tmp_path, capsys, image, model, message):
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    image = tmp_path / image if image != "." else images
    picture = tmp_path / "p.png"
    arguments = [str(image), "--model", str(run) if model == "run" else model, "--picture", str(picture)]
    said = complaint(predict, arguments, capsys)
    assert message in said
    assert "\n" not in said
    assert not picture.exists()


def test_a_feature_backbone_is_no_classifier(images, tmp_path, capsys):
    options = ["--random-weights", "--features", "--image-size", "64", "--output", str(tmp_path)]
    export(["fastvit_t8", *options, "--format", "torch_export"])
    said = complaint(predict, [str(images), "--model", str(tmp_path / "fastvit_t8.exported.pt2")], capsys)
    assert "was exported without labels" in said
    assert Path("predictions.png").exists() is False
