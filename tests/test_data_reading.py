"""The same picture from whatever file it is in, and a sentence where there is none."""

import json
import warnings
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin, features
from torchvision.transforms import v2

from fastvit.data.folder import LabelledImages
from fastvit.data.images import TransformedImages
from fastvit.data.preprocessing import Preprocessing
from fastvit.data.reading import UnreadableImage, annotated_size, as_rgb, is_left_out, read_annotated, read_image
from fastvit.data.sources import open_source
from fastvit.prediction import find_images, predict_files
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.classification.prediction import Classifier
from fastvit.tasks.detection.coco import CocoImages
from fastvit.tasks.segmentation.masks import open_mask_folder

PACKAGE = Path(__file__).parents[1] / "fastvit"
ORIENTATION = 0x0112  # the tag of EXIF
# How the standard says an upright picture (H, W, 3) is stored: where its first row and column are in the picture.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],  # row 0 is the top, column 0 the right side
    3: lambda upright: upright[::-1, ::-1],  # the bottom, the right side
    4: lambda upright: upright[::-1],  # the bottom, the left side
    5: lambda upright: upright.swapaxes(0, 1),  # the left side, the top
    6: lambda upright: upright.swapaxes(0, 1)[::-1],  # the right side, the top
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],  # the right side, the bottom
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],  # the left side, the bottom
}
TURNED = sorted(set(STORED) - {1})


def pixels(height: int = 30, width: int = 44) -> np.ndarray:
    """Smooth, so that JPEG keeps it, and with no symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([5 * x, 8 * y, 100 + 2 * x - 3 * y], -1).clip(0, 255).astype(np.uint8)


def save(path: Path, array: np.ndarray, orientation: int | None = None, **options) -> Path:
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(array)).save(path, exif=exif, **options)
    return path


def turned(path: Path, orientation: int, array: np.ndarray, **options) -> Path:
    """A file of a picture, stored as a camera that was held so stores it."""
    return save(path, STORED[orientation](array), orientation, **options)


# ---- which side is up ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "jpg", "avif"])
@pytest.mark.parametrize("orientation", sorted(STORED))
def test_a_photograph_is_upright_however_the_camera_was_held(orientation: int, kind: str, tmp_path: Path):
    if kind == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95}, "avif": {"quality": 100}}.get(kind, {})
    image = read_image(turned(tmp_path / f"photo.{kind}", orientation, pixels(), **options))
    assert (image.mode, image.size) == ("RGB", (44, 30))
    exact = kind in ("png", "webp", "tiff")
    np.testing.assert_allclose(np.asarray(image).astype(int), pixels(), atol=0 if exact else 12)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_opened_image_is_turned_once(orientation: int, tmp_path: Path):
    opened = Image.open(turned(tmp_path / "photo.png", orientation, pixels()))
    once = as_rgb(opened, upright=True)
    np.testing.assert_array_equal(once, pixels())
    np.testing.assert_array_equal(as_rgb(once, upright=True), pixels())
    np.testing.assert_array_equal(as_rgb(opened, upright=False), STORED[orientation](pixels()))


def test_damaged_exif_costs_the_orientation_and_not_the_picture(tmp_path: Path):
    damaged = PngImagePlugin.PngInfo()
    damaged.add_text("Raw profile type exif", "\nexif\n  8\nno hexadecimal number")  # where ImageMagick keeps it
    Image.fromarray(pixels()).save(tmp_path / "a.png", pnginfo=damaged)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels())


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A class for each orientation with the same photograph, and the upright twins beside it."""
    for orientation in STORED:
        for split in ("train", "val"):
            turned(tmp_path / split / f"c{orientation}" / "photo.png", orientation, pixels())
    return tmp_path


@pytest.mark.parametrize("dataset", ["folder", "torch/image_folder"])
def test_every_orientation_gives_the_tensor_of_the_upright_twin(dataset: str, folders: Path):
    """By the task of a recipe as it is used, also through torchvision's own folders."""
    overrides = [f"data.dataset={dataset}", f"data.root={folders}", "data.num_classes=8", "data.val_split=val"]
    task = make_task(load_recipe("classification/finetune", [*overrides, "data.image_size=32"]))
    upright, *others = (task.open_data("val").samples[index][0] for index in range(8))
    assert all(torch.equal(upright, other) for other in others)
    as_stored = make_task(load_recipe("classification/finetune", [*overrides, "data.exif_orientation=false"]))
    upright, *others = (as_stored.open_data("val").samples[index][0] for index in range(8))
    assert not any(torch.equal(upright, other) for other in others)


def test_calibration_images_are_upright(folders: Path):
    images = LabelledImages(folders / "val", v2.PILToTensor(), [f"c{orientation}" for orientation in STORED])
    assert [label for _, label in images] == list(range(8))
    assert all(torch.equal(image, images[0][0]) for image, _ in images)


def test_predictions_are_of_upright_photographs(folders: Path):
    preprocessing = Preprocessing(32, 32, 1.0, "bilinear", (0.5,) * 3, (0.25,) * 3)
    classifier = Classifier(
        lambda images: images.mean(1)[:, 3, :9],
        device=torch.device("cpu"),
        preprocessing=preprocessing,
        labels=tuple("abcdefghi"),
    )
    paths = find_images([folders / "val"])
    assert len(paths) == 8
    first, *others = (each.prediction.probabilities for each in predict_files(classifier, paths))
    assert all(torch.equal(each, first) for each in others)


def test_recipes_of_published_figures_leave_photographs_as_they_are_stored():
    for name in ("classification/fastvit_t8", "ablation/imagenet"):
        assert not load_recipe(name).data.exif_orientation
    assert load_recipe("classification/finetune", ["data.root=x", "data.num_classes=2"]).data.exif_orientation


@pytest.mark.parametrize("orientation", sorted(STORED))
def test_a_photograph_is_turned_as_its_annotations_were_drawn(orientation: int, tmp_path: Path):
    path = turned(tmp_path / "photo.png", orientation, pixels())
    assert annotated_size(path, (44, 30)) == (44, 30)
    np.testing.assert_array_equal(read_annotated(path, (44, 30)), pixels())
    stored = STORED[orientation](pixels())
    if orientation >= 5:  # drawn by a program that knows nothing of EXIF; below 5 the size does not tell
        assert annotated_size(path, (30, 44)) == (30, 44)
        np.testing.assert_array_equal(read_annotated(path, (30, 44)), stored)
    assert annotated_size(path, (7, 9)) == read_annotated(path, (7, 9)).size == (44, 30)  # the caller refuses it


def test_masks_and_boxes_lie_on_their_photographs(tmp_path: Path):
    """A bright object, drawn in the picture as one sees it, and in another file in the pixels as they are stored."""
    upright, inside = np.zeros((30, 44, 3), np.uint8), (slice(4, 10), slice(20, 35))
    upright[inside] = 200
    images, masks = tmp_path / "train" / "images", tmp_path / "train" / "masks"
    entries, boxes = [], {}
    for name, mask in (("seen", upright[..., 0]), ("stored", STORED[6](upright)[..., 0])):
        turned(images / f"{name}.png", 6, upright)
        save(masks / f"{name}.png", (mask > 0).astype(np.uint8))
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        entries.append({"id": name, "file_name": f"{name}.png", "width": mask.shape[1], "height": mask.shape[0]})
        boxes[name] = {"id": len(boxes) + 1, "image_id": name, "category_id": 1, "bbox": [int(each) for each in box]}
    content = {"images": entries, "categories": [{"id": 1, "name": "thing"}], "annotations": list(boxes.values())}
    (tmp_path / "boxes.json").write_text(json.dumps(content))

    masked = open_mask_folder(tmp_path, "train", 2)
    detected = CocoImages(images, tmp_path / "boxes.json", masks=False)
    for data in (masked, detected):
        data.check()
    for index in range(2):
        image, mask = masked[index]
        np.testing.assert_array_equal(np.asarray(image)[..., 0] > 0, np.asarray(mask))
        image, [annotation] = detected[index]
        x, y, width, height = map(int, annotation["bbox"])
        bright = np.asarray(image)[..., 0] > 0
        assert bright[y : y + height, x : x + width].all()
        assert bright.sum() == width * height


# ---- pixels of other kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gray.png", "gray.tif", "gray.pgm"])
def test_sixteen_bits_are_what_opencv_makes_of_them(name: str, tmp_path: Path):
    gray = np.random.default_rng(0).integers(2**16, size=(20, 30), dtype=np.uint16)
    Image.fromarray(gray).save(tmp_path / name)
    reference = cv2.imread(str(tmp_path / name), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read_image(tmp_path / name), reference)


@pytest.mark.parametrize("factor", [256, 257])  # both are used to store 8 bits in 16
def test_eight_bits_survive_sixteen(factor: int, tmp_path: Path):
    gray = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(factor * gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "gray.png"))[..., 1], gray)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_without_a_known_white_are_refused(dtype: type, tmp_path: Path):
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "depth.tif")
    with pytest.raises(UnreadableImage, match=r"depth.tif cannot be read \(its pixels are numbers of 32 bits"):
        read_image(tmp_path / "depth.tif")


def odd_images() -> dict[str, tuple[Image.Image, dict]]:
    rgb = Image.fromarray(pixels())
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    clear = rgb.convert("RGBA")
    clear.putalpha(Image.fromarray(pixels()[..., 0]))
    return {
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "palette.png": (palette, {"transparency": bytes(range(256))}),
        "transparent.png": (clear, {}),
        "gray and alpha.png": (clear.convert("LA"), {}),
        "one bit.png": (rgb.convert("1"), {}),
        "sixteen.png": (Image.fromarray(257 * pixels()[..., 0].astype(np.uint16)), {}),
        "animated.gif": (palette, {"save_all": True, "append_images": [Image.new("P", rgb.size)]}),
        "animated.webp": (rgb, {"save_all": True, "append_images": [Image.new("RGB", rgb.size)], "lossless": True}),
        "panorama.jpg": (rgb.resize((6000, 40)), {}),
        "one pixel.png": (rgb.crop((3, 3, 4, 4)), {}),
        "名前 の 写真.png": (rgb, {}),
        "Ünïcødé #1 %20.JPEG": (rgb, {}),
    }


@pytest.mark.parametrize("name", odd_images())
def test_odd_photographs_go_all_the_way(name: str, tmp_path: Path):
    """Into training and validation of a folder, without a warning."""
    image, options = odd_images()[name]
    for split in ("train", "val"):
        for label in ("a", "b"):
            path = tmp_path / split / label / name
            path.parent.mkdir(parents=True)
            image.save(path, **options)
    overrides = [f"data.root={tmp_path}", "data.num_classes=2", "data.image_size=32"]
    task = make_task(load_recipe("classification/finetune", overrides))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensors = [task.open_data(part).samples[0][0] for part in ("train", "val")]
        read = read_image(path)
    assert all(tensor.shape == (3, 32, 32) and tensor.isfinite().all() for tensor in tensors)
    assert (read.mode, read.size) == ("RGB", image.size)
    if path.suffix.lower() != ".gif":  # whose colors Pillow may put in another order: they are compared below
        image.load()
        tolerance = 12 if path.suffix.lower() in (".jpg", ".jpeg") else 0
        expected = Image.fromarray(pixels()[..., 0]) if image.mode == "I;16" else image
        np.testing.assert_allclose(np.asarray(read).astype(int), expected.convert("RGB"), atol=tolerance)


def test_an_animation_is_its_first_frame(tmp_path: Path):
    frames = [Image.new("RGB", (9, 7), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").getcolors() == [(63, (255, 0, 0))]


def test_images_that_a_library_has_opened_are_read_alike():
    white = Image.fromarray(np.full((4, 4), 65535, np.uint16))
    assert as_rgb(white, upright=False).getcolors() == [(16, (255, 255, 255))]
    dark = Image.fromarray(np.full((4, 4), 2570, np.uint16))
    assert as_rgb(dark, upright=False).getcolors() == [(16, (10, 10, 10))]


# ---- what is no picture ----------------------------------------------------------------------------------------------


def no_images() -> dict[str, bytes]:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    return {"photo.heic": heic, "empty.jpg": b"", "page.png": b"<html>please log in</html>"}


@pytest.mark.parametrize("name", no_images())
def test_what_pillow_does_not_know_is_said(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(no_images()[name])
    with pytest.raises(UnreadableImage) as caught:
        read_image(tmp_path / name)
    expected = f"image {tmp_path / name} cannot be read (Pillow knows no such kind of image); repair it or leave it out"
    assert caught.value.sentence() == expected


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged heads
@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "webp", "tif", "bmp", "ppm"])
def test_a_damaged_file_raises_nothing_else(kind: str, tmp_path: Path):
    """Cut off, and with bytes that were changed at random."""
    good = save(tmp_path / f"good.{kind}", np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8))
    data, bad = good.read_bytes(), tmp_path / f"bad.{kind}"
    bad.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImage, match=f"bad.{kind} cannot be read"):
        read_image(bad)
    rng = np.random.default_rng(1)
    for _ in range(40):
        changed = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(min(len(changed), 200), size=3)
        changed[places] = rng.integers(256, size=3)
        bad.write_bytes(changed.tobytes())
        with suppress(UnreadableImage):
            assert read_image(bad).mode == "RGB"


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path / "huge.png", pixels())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImage, match=r"huge.png cannot be read \(Image size \(1320 pixels\) exceeds limit"):
        read_image(tmp_path / "huge.png")


def test_skipped_files_include_those_that_pillow_raises_odd_errors_about(tmp_path: Path):
    for label in ("a", "b"):
        save(tmp_path / "train" / label / "0.ppm", pixels())
    (tmp_path / "train" / "b" / "0.ppm").write_bytes(b"P6 30 4x 255\n")  # a ValueError of Pillow's
    options = {"training": True, "num_classes": 2, "image_size": 32}
    source = open_source("folder", tmp_path, "train", **options)
    images = TransformedImages(source, v2.PILToTensor(), on_bad_image="skip", training=True)
    assert torch.equal(images[1][0], images[0][0])
    assert images.skipped() == [str(tmp_path / "train" / "b" / "0.ppm")]


def test_the_file_system_is_asked_about_no_image(monkeypatch: pytest.MonkeyPatch):
    """Of which there may be a million, on a slow disk."""
    asked = []
    monkeypatch.setattr(Path, "is_file", lambda path: asked.append(path.name) or True)
    names = ("a.jpg", "b.JPEG", "notes.txt", ".hidden", "Thumbs.db")
    assert [name for name in names if is_left_out(Path(name))] == asked == ["notes.txt"]


def test_nothing_else_opens_image_files():
    """So that what is said here holds for all of the package."""
    openers = ("Image.open", "default_loader", "decode_image", "imread")
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "data" / "reading.py"]
    assert len(files) > 100
    assert not [(path, name) for path in files for name in openers if name in path.read_text(encoding="utf-8")]
