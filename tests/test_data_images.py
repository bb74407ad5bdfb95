"""Folders of images: what is wrong with them is said; what cannot be read is handled as the recipe says."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from fastvit.data.folder import open_folder
from fastvit.data.images import NO_LABEL, TransformedImages
from fastvit.data.packed import Packed
from fastvit.data.sources import ReaderImages, open_source
from fastvit.errors import DataError
from fastvit.prediction import find_images
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.classification.recipe import ClassificationRecipe
from fastvit.trained.of_timm import _labels
from fastvit.training.task import Part, open_train_and_val

TRANSFORM = v2.Compose([v2.ToImage(), v2.Resize((8, 8)), v2.ToDtype(torch.float32, scale=True)])


def save_image(path: Path, seed: int = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, three training images and one validation image of each."""
    for label in ("ant", "bee"):
        for i in range(3):
            save_image(tmp_path / "train" / label / f"{i}.jpg", seed=i)
        save_image(tmp_path / "val" / label / "0.png", mode="L")
    return tmp_path


def open_one(name: str, root: Path, split: str, num_classes: int = 2):
    options = {"training": split == "train", "num_classes": num_classes, "image_size": 32}
    return open_source(name, root, split, **options)


def open_root(root: Path, num_classes: int = 2):
    return [open_one("folder", root, split, num_classes) for split in ("train", "val")]


def spoil(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


def test_a_folder_gives_rgb_images_and_labels_by_sorted_names(root: Path):
    train, val = open_root(root)
    assert (len(train), len(val)) == (6, 2)
    image, label = val[1]  # a gray file
    assert (image.mode, label) == ("RGB", 1)


def test_the_validation_folder_may_be_called_validation(root: Path):
    (root / "val").rename(root / "validation")
    assert len(open_folder(root, "val")) == 2


@pytest.mark.parametrize("missing", ["", "train", "val"])
def test_a_missing_folder_is_named_with_the_layout(missing: str, root: Path):
    for path in [root / missing] if missing else [root]:
        path.rename(path.with_name("gone"))
    with pytest.raises(DataError, match=rf"{missing or 'not a folder'}; expected <root>/train/<class>/"):
        open_root(root)


def test_an_empty_class_folder_is_named(root: Path):
    (root / "train" / "cat").mkdir()
    with pytest.raises(DataError, match="class folders without images: cat; fill or remove"):
        open_root(root)


def test_what_macos_puts_beside_images_is_none(root: Path):
    """On disks of other systems, and, in a folder apart, into zip archives."""
    for folder in ("train/ant", "train/__MACOSX/ant", "val/bee"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "._1.jpg").write_bytes(b"\0\5\x16\7")
    with pytest.raises(DataError, match="has class folders without images: __MACOSX; fill or remove them"):
        open_root(root)
    shutil.rmtree(root / "train" / "__MACOSX")
    train, val = open_root(root)
    assert (len(train), len(val), train.ignored) == (6, 2, [])
    assert len(find_images([str(root)])) == 8


def test_a_folder_without_classes(root: Path):
    for label in ("ant", "bee"):
        (root / "val" / label / "0.png").rename(root / "val" / f"{label}.png")
        (root / "val" / label).rmdir()
    with pytest.raises(DataError, match="has no class folders"):
        open_root(root)


@pytest.mark.parametrize("dataset", ["folder", "torch/image_folder"])
def test_the_files_are_torchvision_s_in_a_list_that_workers_share(dataset: str, root: Path):
    ours, reference = open_one(dataset, root, "train"), ImageFolder(str(root / "train"))
    assert isinstance(ours.samples, Packed)
    assert ours.imgs is ours.samples
    assert list(ours.samples) == reference.samples
    assert torch.equal(ours.targets, torch.tensor(reference.targets))  # and not a list of Python's numbers
    assert ours[4][1] == reference[4][1]


def settings(root: Path, *others: str) -> ClassificationRecipe:
    data = f"data={{dataset: folder, root: {root}, val_split: val, image_size: 32, {', '.join(others)}}}"
    return load_recipe("quickstart/digits", [data]).completed()


def labels(part: Part) -> list[int]:
    return [part.samples[index][1] for index in range(len(part.samples))]


@pytest.mark.parametrize("others", [("num_classes: 2",), ()], ids=["told", "counted"])
@pytest.mark.parametrize("left", ["an empty folder", "nothing"])
def test_a_class_without_validation_images_is_told(others: tuple[str, ...], left: str, root: Path):
    """As it is for a table. Labels stay positions among all classes."""
    (root / "val" / "ant" / "0.png").unlink()
    if left == "nothing":
        (root / "val" / "ant").rmdir()
    _, val = open_train_and_val(make_task(settings(root, *others)))
    assert val.class_names == ("ant", "bee")
    assert val.notices() == [f"{root / 'val'} has no image of 1 of the classes, ant"]
    assert labels(val) == [1]


def test_a_run_s_classes_count_wherever_it_is_evaluated(root: Path):
    recipe = settings(root)
    (root / "train").rename(root / "gone")
    (root / "val" / "ant").rename(root / "ant")
    assert labels(make_task(recipe).open_data("val")) == [1]
    (root / "val" / "cat").mkdir()
    with pytest.raises(DataError, match=r"none of data.classes, cat: remove them, or say data.classes=null"):
        make_task(recipe).open_data("val")


def test_classes_are_in_the_order_that_is_given_and_each_has_images_to_train_on(root: Path):
    train, val = open_train_and_val(make_task(settings(root, "classes: [bee, ant]")))
    assert train.class_names == ("bee", "ant")
    assert labels(val) == [1, 0]
    with pytest.raises(DataError, match="train has no image of 1 of the classes, cat: what has no examples cannot be"):
        settings(root, "classes: [ant, bee, cat]")
    with pytest.raises(DataError, match=r"train has folders that are none of data.classes, bee"):
        settings(root, "classes: [ant]")


def test_imagenet_s_classes_have_the_names_that_pretrained_networks_give_them(tmp_path: Path):
    info = ImageNetInfo("imagenet-1k")
    chosen = [0, 134, 517]  # the tench, and two that are called crane
    numbers = [info.index_to_label_name(label) for label in chosen]
    words = [tuple(info.index_to_description(label).split(", ")) for label in chosen]
    torch.save((dict(zip(numbers, words, strict=True)), []), tmp_path / "meta.bin")  # as torchvision keeps them
    for number in numbers:
        save_image(tmp_path / "train" / number / "0.jpg")
    names = open_one("torch/imagenet", tmp_path, "train", num_classes=3).classes
    assert names == [_labels({}, 1000)[label] for label in chosen]


@pytest.mark.parametrize("dataset", ["folder", "torch/image_folder"])
def test_different_classes_in_training_and_validation(dataset: str, root: Path):
    (root / "val" / "bee").rename(root / "val" / "cat")
    data = f"data={{dataset: {dataset}, root: {root}, val_split: val, num_classes: 2, image_size: 32}}"
    with pytest.raises(DataError, match="only to train on: bee; only to validate on: cat"):
        open_train_and_val(make_task(load_recipe("quickstart/digits", [data])))


def test_the_number_of_classes_must_be_the_recipe_s(root: Path):
    with pytest.raises(
        DataError, match=r"num_classes is 10, but there are 2 classes in .*; set data.num_classes to 2$"
    ):
        open_root(root, num_classes=10)


def test_what_timm_cannot_open_is_said(tmp_path: Path):
    with pytest.raises(DataError, match="split train of dataset torch/cifar10 cannot be opened in"):
        open_one("torch/cifar10", tmp_path, "train", num_classes=10)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])  # torch waits 5 s for the worker
def test_a_bad_image_ends_the_run_with_its_name(workers: int, root: Path):
    bad = spoil(root / "train" / "bee" / "1.jpg")
    images = TransformedImages(open_root(root)[0], TRANSFORM, on_bad_image="error", training=True)
    with pytest.raises(DataError) as caught:
        list(DataLoader(images, batch_size=2, num_workers=workers))
    assert caught.value.sentence().startswith(f"image {bad} cannot be read (")
    assert caught.value.sentence().endswith("data.on_bad_image: skip")
    assert "\n" not in caught.value.sentence()


@pytest.mark.parametrize("workers", [0, 2])
def test_in_training_the_next_image_stands_in_for_a_skipped_one(workers: int, root: Path):
    bad = spoil(root / "train" / "bee" / "1.jpg")
    images = TransformedImages(open_root(root)[0], TRANSFORM, on_bad_image="skip", training=True)
    pixels, labels = next(iter(DataLoader(images, batch_size=6, num_workers=workers)))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(pixels[4], pixels[5])
    assert images.skipped() == [str(bad)]


def test_in_validation_a_skipped_image_has_no_label(root: Path):
    spoil(root / "val" / "ant" / "0.png")
    images = TransformedImages(open_root(root)[1], TRANSFORM, on_bad_image="skip", training=False)
    pixels, labels = next(iter(DataLoader(images, batch_size=2)))
    assert labels.tolist() == [NO_LABEL, 1]
    assert pixels.shape == (2, 3, 8, 8)


def test_no_readable_image_at_all(root: Path):
    for path in (root / "train").rglob("*.jpg"):
        spoil(path)
    images = TransformedImages(open_root(root)[0], TRANSFORM, on_bad_image="skip", training=True)
    with pytest.raises(DataError, match="none of the training images can be read"):
        images[0]


def test_images_of_a_timm_reader(tmp_path: Path):
    save_image(tmp_path / "image.png", mode="L")
    good = (tmp_path / "image.png").read_bytes()
    reader = [(io.BytesIO(good), 3), (io.BytesIO(good[:-100]), 4)]
    images = TransformedImages(ReaderImages(reader), TRANSFORM, on_bad_image="error", training=True)
    pixels, label = images[0]
    assert (pixels.shape, label) == ((3, 8, 8), 3)
    with pytest.raises(DataError, match="image number 1 of ReaderImages cannot be read"):
        images[1]
