"""What predict makes of files in any shape and by any name: none is replaced, and none ends the work of the others."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from fastvit.data.preprocessing import Preprocessing
from fastvit.data.reading import UnreadableImage
from fastvit.prediction import Predicted, Table, draw, picture_names
from fastvit.predictor import Shown
from launch import complaint, script
from photographs import of_no_text, photographs

predict = script("predict")
COLORS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        photographs()["smaller than the crop"].save(folder / name)
    return folder


@pytest.mark.parametrize("option", ["--pictures", "--masks", "--explain"])
def test_an_image_is_never_replaced_by_what_is_drawn_of_it(option, random_run, photos, tmp_path, capsys):
    before = {path: path.read_bytes() for path in photos.iterdir()}
    (tmp_path / "link").symlink_to(photos)
    for folder in (photos, tmp_path / "link"):
        arguments = [str(photos), "--model", str(random_run), option, str(folder), "--overwrite"]
        said = complaint(predict, arguments, capsys)
        replaced = f"what goes to {folder / 'a.png'} would replace the image {photos / 'a.png'}: name another place"
        assert said == replaced
    assert {path: path.read_bytes() for path in photos.iterdir()} == before


def test_pictures_that_are_there_are_replaced_where_they_are_no_images(random_run, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"an older picture")
    (photos / "gone.png").symlink_to("nowhere")  # is skipped
    predict([str(photos), "--model", str(random_run), "--pictures", str(tmp_path / "out"), "--overwrite"])
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.height == 256


def test_an_image_of_an_odd_shape_stops_nothing(random_run, tmp_path, capsys):
    """One far wider than high is drawn as JPEG can hold it; one that resizing would make huge is skipped."""
    (tmp_path / "odd").mkdir()
    Image.new("RGB", (500, 1)).save(tmp_path / "odd" / "divider.gif")
    Image.new("RGB", (1, 100_000)).save(tmp_path / "odd" / "thread.png")
    photographs()["smaller than the crop"].save(tmp_path / "odd" / "usual.png")
    predict([str(tmp_path / "odd"), "--model", str(random_run), "--pictures", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert "2 images in" in said
    why = "it is too far from square: 1 x 100000 px become 32 x 3200000"
    assert f"1 skipped: {tmp_path / 'odd' / 'thread.png'} ({why})" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"divider.gif.jpg", "usual.png"}


def test_a_picture_that_is_longer_than_jpeg_takes_is_reduced(tmp_path):
    Image.new("RGB", (70_000, 2)).save(tmp_path / "long.png")
    as_it_is = SimpleNamespace(draw=lambda image, shown: image)
    draw(Predicted(tmp_path / "long.png", as_it_is), tmp_path / "long.jpg", Shown())
    with Image.open(tmp_path / "long.jpg") as picture:
        assert picture.width == 65_500


@pytest.mark.parametrize(
    ("shape", "mode", "size", "become"),
    [
        ((256, 256), "center", (1, 30_000), "284 x 8520000"),
        ((256, 128), "center", (30_000, 1), "8520000 x 284"),
        ((256, 256), "border", (1, 30_000), "0 x 284"),
    ],
)
def test_an_image_too_far_from_square_to_be_resized_is_unreadable(shape, mode, size, become):
    preprocessing = Preprocessing(*shape, 0.9, "bicubic", *COLORS, mode)
    for made in (preprocessing.crop, preprocessing.transform()):  # to predict and embed; to evaluate and calibrate
        with pytest.raises(UnreadableImage, match=f"{size[0]} x {size[1]} px become {become}") as caught:
            made(Image.new("RGB", size))
        assert "\n" not in str(caught.value)


def test_who_reads_larger_images_resizes_to_larger_ones(monkeypatch):
    """By Pillow's own limit; and what is squashed is never too large."""
    thread, shape = Image.new("RGB", (1, 2_000)), (3, 32, 32)
    preprocessing = Preprocessing(32, 32, 1.0, "bilinear", *COLORS)
    for most, fits in ((32 * 64_000, True), (32 * 64_000 - 1, False), (None, True)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        if fits:
            assert preprocessing.crop(thread).shape == shape
        else:
            with pytest.raises(UnreadableImage):
                preprocessing.crop(thread)
            assert Preprocessing(32, 32, 1.0, "bilinear", *COLORS, "squash").crop(thread).shape == shape


def test_a_long_name_is_shortened_and_stays_one_of_its_own(tmp_path):
    """Chinese letters have three bytes each, and the folders are part of the name of a picture."""
    folder = Path("照片" * 40)
    paths = [folder / "一" / "c.png", folder / "二" / "c.png", folder / "二" / "d.webp", Path("short.png")]
    names = picture_names(paths)
    assert len(set(names.values())) == 4
    assert names[paths[3]] == "short.png"
    for path, suffix in zip(paths, ("一-c.png", "二-c.png", "二-d.webp.jpg"), strict=False):
        assert names[path].endswith(suffix)
        assert len(names[path].encode()) <= 240
        (tmp_path / names[path]).write_bytes(b"")


def test_a_name_that_is_no_text_is_in_the_tables_and_on_the_terminal(random_run, tmp_path, capsys):
    path = of_no_text(tmp_path)
    predict([str(path), "--model", str(random_run), "--pictures", str(tmp_path / "out")])
    assert "caf\\udce9.png: " in capsys.readouterr().out
    assert [each.name for each in (tmp_path / "out").iterdir()] == [path.name]
    said = SimpleNamespace(rows=lambda shown: [("hôtel",)], to_dict=lambda shown: {"label": "hôtel"})
    for name in ("p.csv", "p.jsonl"):
        with Table(tmp_path / name, ("label",), Shown()) as table:
            table.write(Predicted(path, said))
    with (tmp_path / "p.csv").open(encoding="utf-8", errors="surrogateescape") as file:
        assert list(csv.DictReader(file)) == [{"image": str(path), "label": "hôtel"}]
    (line,) = (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()  # the whole is UTF-8
    assert json.loads(line) == {"image": str(path), "label": "hôtel"}
    assert "hôtel" in line
