"""What is said about image files: the same by every form of a network, whatever the threads, written as it comes."""

import csv
import json
import ntpath
import os
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from deployment import need
from fastvit.data.digits import Digits
from fastvit.deploy import FORMATS
from fastvit.errors import DataError
from fastvit.prediction import find_images, picture_names, predict_files
from fastvit.predictor import Shown
from fastvit.tasks.classification.prediction import Classes
from fastvit.trained import load_trained
from launch import complaint, script

SLOW = pytest.mark.slow
BY_HALVES = ("--engine", "openvino", "--precision", "bfloat16")
predict, export = script("predict"), script("export")


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


@pytest.fixture(scope="module")
def predictor(random_run):
    return load_trained(random_run).predictor


def answers(predictor, paths, **options):
    """path -> probabilities"""
    return {each.path: each.prediction.probabilities for each in predict_files(predictor, paths, **options)}


def close(some, others):
    assert list(some) == list(others)
    for path, probabilities in some.items():
        torch.testing.assert_close(probabilities, others[path], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("onnx", ("--batch", "4")),
        pytest.param("openvino", ("--dynamic", "batch"), marks=SLOW),
        pytest.param("safetensors", (), marks=SLOW),
        pytest.param("torch_export", (), marks=SLOW),
        pytest.param("aot_inductor", (), marks=SLOW),
        pytest.param("executorch", (), marks=SLOW),
    ],
)
def test_an_exported_file_says_what_its_run_says(random_run, predictor, images, tmp_path, name, options):
    need(name)
    export([str(random_run), "--format", name, "--output", str(tmp_path), *options])
    exported = load_trained(tmp_path / f"digits{FORMATS[name].suffix}").predictor
    paths = find_images([str(images)])
    right = answers(predictor, paths)
    assert len({int(each.argmax()) for each in right.values()}) > 1  # not the same answer to everything
    close(answers(exported, paths), right)


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (2, 3), (16, 2)])
def test_batches_and_threads_change_nothing(predictor, images, batch, threads):
    paths = find_images([str(images)])
    one_by_one = {path: predictor.predict([predictor.prepare(image_of(path))])[0].probabilities for path in paths}
    before = torch.get_num_threads()
    close(answers(predictor, paths, batch=batch, threads=threads), one_by_one)
    assert torch.get_num_threads() == before


@pytest.mark.slow  # OpenVINO has to compile
def test_many_images_are_predicted_by_openvino_with_the_same_answers(random_run, images, tmp_path, monkeypatch, capsys):
    need("openvino")
    usual, fast, said = tmp_path / "usual.csv", tmp_path / "fast.csv", "making the network ready for OpenVINO"
    predict([str(images), "--model", str(random_run), "--output", str(usual)])
    assert said not in capsys.readouterr().err
    monkeypatch.setattr("fastvit.cli.predict.MANY", 9)
    predict([str(images), "--model", str(random_run), "--output", str(fast)])
    assert said in capsys.readouterr().err
    rows = [list(csv.DictReader(path.open(encoding="utf-8"))) for path in (usual, fast)]
    assert len(rows[0]) == 9
    for one, other in zip(*rows, strict=True):
        assert (one["image"], one["label"]) == (other["image"], other["label"])
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-4)
    predict([str(images), "--model", str(random_run), "--output", str(tmp_path / "eager.csv"), "--engine", "eager"])
    assert said not in capsys.readouterr().err
    half = tmp_path / "half.csv"
    predict([str(images), "--model", str(random_run), "--output", str(half), *BY_HALVES])
    by_halves, exactly = ([float(row["probability"]) for row in csv.DictReader(path.open())] for path in (half, fast))
    assert by_halves != exactly
    assert by_halves == pytest.approx(exactly, abs=0.1)  # of logits with 8 bits
    with monkeypatch.context() as broken:
        broken.setattr("fastvit.deploy.compile._find", lambda name: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # a bug is no reason to compute otherwise
            predict([str(images), "--model", str(random_run)])
    monkeypatch.setattr("fastvit.deploy.compile.output_error", lambda *_: 1.0)
    predict([str(images), "--model", str(random_run)])
    assert "OpenVINO cannot compute it, so PyTorch does: what openvino computes differs" in capsys.readouterr().err


def test_an_engine_that_does_not_compute_what_the_network_does(random_run, images, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("what it computes differs\nand more")

    monkeypatch.setattr("fastvit.deploy.compile.compile_for_inference", fail)
    said = complaint(predict, [str(images), "--model", str(random_run), *BY_HALVES], capsys)
    right = "--engine openvino --precision bfloat16 cannot be used: what it computes differs; or take --engine eager"
    assert said == right


def image_of(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def test_who_stops_listening_stops_the_work(predictor, images):
    """Of many images few more are read than were asked for, and no thread is left."""
    paths = find_images([str(images)]) * 40
    done, threads = [], threading.active_count()
    results = predict_files(predictor, paths, batch=2, threads=2, then=done.append)
    next(results)
    results.close()
    assert len(done) <= 2 * 2 * 2 + 2
    assert threading.active_count() == threads


def test_each_picture_has_a_name_of_its_own():
    names = picture_names([Path("x/a/b.jpg"), Path("x/a-b.jpg"), Path("x/c.jpg"), Path("x/c.png"), Path("x/c.webp")])
    assert list(names.values()) == ["a-b.jpg", "_a-b.jpg", "c.jpg", "c.png", "c.webp.jpg"]
    masks = picture_names([Path("c.jpg"), Path("c.jpg.png")], (".png",))
    assert list(masks.values()) == ["c.jpg.png", "_c.jpg.png"]


def test_pictures_of_two_drives_have_no_folder_in_common(monkeypatch):
    """By what `os.path` is on Windows."""
    monkeypatch.setattr("os.path.commonpath", lambda _: ntpath.commonpath(["C:/a", "D:/b"]))
    with pytest.raises(DataError, match="the files are on several drives"):
        picture_names([Path("a.jpg"), Path("b.jpg")])


def test_names_of_images(images, tmp_path, monkeypatch):
    monkeypatch.chdir(images)
    assert [path.name for path in find_images(["inside"])] == ["PHOTO.JPEG", "photo.jpg"]
    assert [path.name for path in find_images(["[0-2].png", "1.png"])] == ["0.png", "1.png", "2.png"]
    assert len(find_images(["**/*.jpg", "inside/*"])) == 2
    assert len(find_images(["."])) == 9
    assert find_images("inside") == find_images(Path("inside")) == find_images(["inside"])
    for name in ("missing.png", "*.webp"):
        with pytest.raises(DataError, match="there is no image or folder"):
            find_images([name])
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="there are no images in"):
        find_images([str(tmp_path)])
    names = picture_names(find_images(["0.png", "inside"]))
    assert list(names.values()) == ["0.png", "inside-PHOTO.JPEG.jpg", "inside-photo.jpg"]


# ---- the command -----------------------------------------------------------------------------------------------------


def test_one_bad_file_is_skipped_and_counted(random_run, images, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for name in ("0.png", "1.png"):
        os.link(images / name, tmp_path / "photos" / name)
    bad = tmp_path / "photos" / "0bad.png"
    bad.write_bytes(b"no image")
    other = tmp_path / "photos" / "of_a_phone.heic"
    other.write_bytes(b"")
    model = ["--model", str(random_run)]
    for suffix in ("csv", "jsonl"):
        predict([str(tmp_path / "photos"), *model, "--output", str(tmp_path / f"p.{suffix}"), "--top", "2"])
        said = capsys.readouterr()
        assert f"1 skipped: {bad} (" in said.err
        assert f"not taken for images, by their names: 1, such as {other}\n2 images in " in said.err
    with (tmp_path / "p.csv").open() as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["image"] for row in table] == [str(tmp_path / "photos" / name) for name in ("0.png", "1.png")]
    assert list(table[0]) == ["image", "label", "probability", "label_2", "probability_2"]
    assert [line["image"] for line in lines] == [
        str(tmp_path / "photos" / name) for name in ("0.png", "0bad.png", "1.png")
    ]
    assert "knows no such kind" in lines[1]["error"]
    for row, line in zip(table, (lines[0], lines[2]), strict=True):
        assert [row["label"], row["label_2"]] == line["labels"]
        assert [float(row["probability"]), float(row["probability_2"])] == line["probabilities"]


def test_results_are_written_as_they_come(random_run, images, tmp_path, monkeypatch):
    """What came before a failure is there."""
    written = tmp_path / "p.csv"
    rows = Classes.rows

    def fail_at_the_fourth(self, shown):
        if written.read_text().count("\n") == 4:  # the head and three
            raise KeyboardInterrupt
        return rows(self, shown)

    monkeypatch.setattr(Classes, "rows", fail_at_the_fourth)
    with pytest.raises(SystemExit) as stopped:
        predict([str(images), "--model", str(random_run), "--output", str(written)])
    assert stopped.value.code == 130  # as a shell tells of Ctrl-C
    assert written.read_text().count("\n") == 4


def test_pictures_of_all(random_run, images, tmp_path, capsys):
    predict([str(images), "--model", str(random_run), "--pictures", str(tmp_path / "pictures")])
    assert "0.png: " in capsys.readouterr().out  # without --output it is printed
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert len(pictures) == 9
    with Image.open(pictures[0]) as picture:
        assert picture.height == 256
        assert len(picture.convert("RGB").getcolors(10**6)) > 50


def test_a_picture_holds_the_image_and_a_bar_as_long_as_the_probability(predictor, images):
    image = image_of(images / "0.png")
    (prediction,) = predictor.predict([predictor.prepare(image)])
    picture = prediction.draw(image, Shown(top=1))
    assert picture.crop((0, 0, 256, 256)).tobytes() == image.resize((256, 256)).tobytes()
    blue = [picture.getpixel((x, 30)) == (70, 130, 180) for x in range(256, picture.width)]
    (_, probability), *_ = prediction.best(1)
    assert sum(blue) == pytest.approx(300 * probability, abs=2)


def test_a_name_that_no_font_has_is_the_number_of_its_class(images, monkeypatch):
    drawn = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, text, **_: drawn.append(text))
    names = ("cat", chr(0xE123), chr(0xE124))  # for private use: no font of a system has them
    Classes(names, torch.tensor([0.2, 0.1, 0.7])).draw(image_of(images / "0.png"), Shown())
    assert drawn == ["class 2  70.0%", "cat  20.0%", "class 1  10.0%"]


@pytest.mark.parametrize(
    ("image", "arguments", "message"),
    [
        ("missing.png", [], "there is no image or folder"),
        ("empty", [], "there are no images in"),
        ("bad.png", [], "nothing could be said about any of the images"),
        (".", ["--model", "fastvit_t9"], "did you mean fastvit_t8?"),
        (
            ".",
            ["--model", "fastvit_t8"],
            "has no weights of its own: give a tag (fastvit_t8.apple_dist_in1k, fastvit_t8.apple_in1k)",
        ),
        (".", ["--model", "missing.onnx"], "there is no exported network"),
        (".", ["--top", "0"], "--top is 0, and has to be at least 1"),
        (".", ["--top", "-1"], "--top is -1, and has to be at least 1"),
        (".", ["--batch", "0"], "--batch is 0, and has to be at least 1"),
        (".", ["--masks", "masks"], "--masks is for segmentation"),
        (".", ["--score", "50"], "--score is 50.0, and has to be from 0 to 1"),
        (".", ["--engine", "openvin"], "there is no engine 'openvin'"),
        (".", ["--engine", "openvino", "--explain", "seen"], "--explain needs gradients, which only PyTorch has"),
        (".", ["--precision", "bfloat16"], "--precision bfloat16 is of an engine: add --engine openvino, or auto"),
        (".", ["--output", "p.txt"], "has to end in .csv or .jsonl"),
        (".", ["--output", "there.csv"], "there.csv exists already: name another, or say --overwrite"),
        (".", ["--output", "/proc/x.csv"], "/proc/x.csv cannot be written"),
        (".", ["--pictures", "there.csv"], "there.csv exists already"),
        (".", ["--pictures", "a", "--masks", "empty/../a"], "--pictures and --masks are both a, and would replace"),
        (".", ["--masks", "a", "--explain", "a"], "--masks and --explain are both a, and would replace each other"),
    ],
)
def test_bad_input_gets_a_sentence(random_run, images, tmp_path, monkeypatch, capsys, image, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.csv").write_text("mine")
    image = str(images) if image == "." else image
    said = complaint(predict, [image, "--model", str(random_run), *arguments], capsys)
    assert message in said.splitlines()[-1]
    assert len(said.splitlines()) == (1 if image != "bad.png" else 3)  # how many images, what was skipped, and the end
    assert (tmp_path / "there.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("recipe", "columns", "content"),
    [
        ("segmentation_digits", ["label", "share"], {"classes"}),
        ("detection_digits", ["label", "score", "left", "top", "right", "bottom"], {"objects"}),
        ("hand_mesh_synthetic", ["joint", "left", "top", "x", "y", "z"], {"points", "joints", "vertices", "camera"}),
    ],
)
def test_every_task_says_it_its_own_way(recipe, columns, content, images, tmp_path):
    arguments = [str(images / "0.png"), str(images / "4.png"), "--model", f"quickstart/{recipe}", "--random-weights"]
    arguments += ["--score", "0"]
    masks = ["--masks", str(tmp_path / "masks")] if recipe == "segmentation_digits" else []
    predict([*arguments, "--output", str(tmp_path / "p.csv"), "--pictures", str(tmp_path / "pictures"), *masks])
    predict([*arguments, "--output", str(tmp_path / "p.jsonl")])
    with (tmp_path / "p.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["image", *columns]
    assert len({row["image"] for row in table}) == 2
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [set(line) for line in lines] == [{"image", *content}] * 2
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"0.png", "4.png"}
    if masks:
        with Image.open(tmp_path / "masks" / "4.png") as mask:
            assert mask.size == (80, 48)


def test_where_a_classifier_looked_is_drawn_beside_what_it_says(random_run, images, tmp_path, capsys):
    arguments = [str(images / "0.png"), str(images / "gray.png"), "--model", str(random_run)]
    predict([*arguments, "--image-size", "64", "--explain", str(tmp_path / "explained")])
    for name in ("0.png", "gray.png"):
        with Image.open(tmp_path / "explained" / name) as picture:
            colors = picture.convert("RGB").crop((0, 0, 256, 256)).getcolors(10**5)
        assert sum(count for count, (red, _, blue) in colors if red > blue + 50) > 500  # of gray digits
    capsys.readouterr()
    said = complaint(predict, [*arguments, "--explain", str(tmp_path / "x")], capsys)
    assert said.startswith(f"--explain: {random_run}: Grad-CAM: of an image of 32 x 32 px")
    network = ["--model", "quickstart/segmentation_digits", "--random-weights"]
    said = complaint(predict, [*arguments, *network, "--explain", str(tmp_path / "x")], capsys)
    assert said.endswith("only what a classifier says can be explained")


def test_what_is_no_classifier(images, tmp_path, capsys):
    arguments = ["--random-weights", "--features", "--image-size", "64", "--output", str(tmp_path)]
    export(["fastvit_t8", *arguments, "--format", "safetensors"])
    said = complaint(predict, [str(images), "--model", str(tmp_path / "fastvit_t8.safetensors")], capsys)
    assert said.endswith("gives features, which say nothing about an image by themselves: fastvit embed writes them")
