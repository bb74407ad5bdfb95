"""Images with masks: what is wrong with them is said; the transforms keep image and mask together."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastvit.data.normalization import Normalization
from fastvit.data.whole_image import ResizeBox
from fastvit.errors import DataError
from fastvit.tasks.segmentation.masks import (
    UNLABELLED,
    MaskedImages,
    ade20k_class_names,
    open_ade20k,
    open_mask_folder,
)

PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
ANY_SIZE = ResizeBox(None, 2048)


def save_pair(image: Path, mask: Path, labels: np.ndarray, mode: str = "L") -> None:
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", labels.shape[::-1], "green").save(image)
    Image.fromarray(labels.astype(np.uint8)).convert(mode).save(mask)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pairs to train on and one to validate on, 30x20, with the classes 0, 1, 2 and no label in a corner."""
    labels = np.arange(600).reshape(20, 30) % 3
    labels[0, 0] = UNLABELLED
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        save_pair(tmp_path / split / "images" / f"{name}.jpg", tmp_path / split / "masks" / f"{name}.png", labels)
    return tmp_path


def sentence_about(images: MaskedImages) -> str:
    """What `check` says, which is what reading the sample says."""
    with pytest.raises(DataError) as checked:
        images.check()
    with pytest.raises(DataError) as read:
        [images[i] for i in range(len(images))]
    assert str(checked.value) == str(read.value)
    return str(checked.value)


def test_a_folder_gives_images_and_labels(root: Path):
    train, val = (open_mask_folder(root, split, 3) for split in ("train", "val"))
    train.check()
    assert (len(train), len(val)) == (2, 1)
    image, mask = val[0]
    assert (image.mode, image.size) == ("RGB", (30, 20))
    assert np.array_equal(np.asarray(mask).ravel()[:4], [UNLABELLED, 1, 2, 0])


def test_palette_masks_hold_indices(root: Path):
    indexed = Image.fromarray(np.full((20, 30), 2, dtype=np.uint8), "L")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert indexed.mode == "P"
    indexed.save(root / "val" / "masks" / "c.png")
    assert np.unique(open_mask_folder(root, "val", 3)[0][1]).tolist() == [2]


def test_ade20k_s_zero_is_no_label(tmp_path: Path):
    labels = np.array([[0, 1, 2, 150, 255]])
    base = tmp_path / "ADEChallengeData2016"
    for split in ("training", "validation"):
        save_pair(base / "images" / split / "ADE_1.jpg", base / "annotations" / split / "ADE_1.png", labels)
    rows = ("Idx Ratio Train Val Stuff Name", "1 .1 2 3 1 wall", "2 .1 2 3 1 building,edifice")
    (base / "objectInfo150.txt").write_text("".join(row.replace(" ", "\t") + "\n" for row in rows))
    images = open_ade20k(base, "train")
    images.check()
    assert np.asarray(images[0][1]).tolist() == [[255, 0, 1, 149, 255]]
    assert ade20k_class_names(base) == ["wall", "building"]
    assert ade20k_class_names(tmp_path) is None


@pytest.mark.parametrize(("zero_is_unlabelled", "value", "says"), [(False, 3, "0 to 2"), (True, 4, "1 to 3")])
def test_a_value_out_of_range_is_named_with_its_file(root: Path, zero_is_unlabelled: bool, value: int, says: str):
    labels = np.ones((20, 30))
    labels[3:5, 2:4] = value
    save_pair(root / "train" / "images" / "b.jpg", root / "train" / "masks" / "b.png", labels)
    said = sentence_about(open_mask_folder(root, "train", 3, zero_is_unlabelled=zero_is_unlabelled))
    assert said.startswith(
        f"mask {root / 'train' / 'masks' / 'b.png'} has the value {value} (4 pixels above {value - 1})"
    )
    assert f"the 3 classes are {says}" in said
    open_mask_folder(root, "train", value + 1).check()


def test_a_mask_of_another_size_than_its_image(root: Path):
    path = root / "train" / "masks" / "b.png"
    Image.new("L", (30, 21)).save(path)
    said = sentence_about(open_mask_folder(root, "train", 3))
    assert said.startswith(f"mask {path} is 30x21 pixels, but its image b.jpg is 30x20: a mask must have")


def test_a_colored_mask(root: Path):
    Image.new("RGB", (30, 20)).save(root / "train" / "masks" / "b.png")
    assert "b.png is a color picture (mode RGB)" in sentence_about(open_mask_folder(root, "train", 3))


def test_a_mask_that_cannot_be_read(root: Path):
    path = root / "train" / "masks" / "a.png"
    path.write_bytes(path.read_bytes()[:60])
    assert f"image {path} cannot be read (" in sentence_about(open_mask_folder(root, "train", 3))


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("train/masks/b.png", "has images without mask: b.jpg; expected <root>/"),
        ("train/images/a.jpg", "has masks without image: a.png; expected <root>/"),
        ("train/images", "images is not a folder; expected <root>/"),
        ("train/masks", "masks is not a folder; expected <root>/"),
        ("", "data.root .* is not a folder; expected <root>/"),
    ],
)
def test_missing_files_are_named_with_the_layout(root: Path, gone: str, message: str):
    path = root / gone if gone else root
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(DataError, match=message):
        open_mask_folder(root, "train", 3)


def test_no_images_at_all(root: Path):
    for path in (*(root / "val" / "images").iterdir(), *(root / "val" / "masks").iterdir()):
        path.unlink()
    with pytest.raises(DataError, match="images has no images"):
        open_mask_folder(root, "val", 3)
