"""Labels and masks of the robustness sets, by hand and against timm."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import RealLabelsImagenet, create_dataset, create_loader, create_transform
from torchvision.datasets import ImageFolder

from colors import CODE, PLAIN, ColorClassifier, ReadsColors, config, draw, meter, top1_of
from fastvit.errors import DataError
from fastvit.robustness.sets import ClassFolders, FileReader, Part, RealLabels, class_indices, subset_of_imagenet


@pytest.mark.parametrize("kind", ["imagenet_a", "imagenet_r"])
def test_the_two_hundred_classes_are_those_of_timm_in_the_order_of_folders(kind):
    names, indices = subset_of_imagenet(kind)
    assert names == sorted(names)
    assert len(set(names)) == 200
    of_timm = (Path(timm.__file__).parent / "data" / "_info" / f"{kind}_indices.txt").read_text().split()
    assert indices.tolist() == [int(index) for index in of_timm]
    assert [class_indices()[name] for name in names] == indices.tolist()


@pytest.fixture(scope="module")
def subset(tmp_path_factory):
    """Of each class of ImageNet-A an image: 150 right, 30 that look like a class outside, 20 like another inside."""
    folder = tmp_path_factory.mktemp("imagenet-a")
    names, indices = subset_of_imagenet("imagenet_a")
    outside = sorted(set(range(1000)) - set(indices.tolist()))
    for label, (name, index) in enumerate(zip(names, indices.tolist(), strict=True)):
        shown = index if label < 150 else outside[4 * label - 600] if label < 180 else int(indices[label - 100])
        draw(folder / name / "image.png", shown)
    return folder


def test_masked_top1_is_that_of_timm_s_validation(subset):
    """timm's dataset, transform and loader, with the logits masked as its validation script does."""
    _, indices = subset_of_imagenet("imagenet_a")
    loader = create_loader(
        create_dataset("", root=str(subset)),
        input_size=(3, 32, 32),
        batch_size=7,
        use_prefetcher=False,
        **{name: PLAIN[name] for name in ("mean", "std", "interpolation", "crop_pct")},
    )
    hits = 0
    for images, labels in loader:
        hits += int((ReadsColors()(images)[:, indices].argmax(1) == labels).sum())
    (masked,) = top1_of("imagenet_a", subset)
    assert masked == 100 * hits / 200
    assert 75 <= masked < 90  # the 150 and, by the mask, some of those that look like a class outside


def test_masking_is_by_distance_within_the_subset(subset):
    """Brute force over every image and class."""
    names, indices = subset_of_imagenet("imagenet_a")
    hits = 0
    for label, name in enumerate(names):
        color = np.asarray(Image.open(subset / name / "image.png"))[0, 0] / 255
        distances = [np.linalg.norm(color - CODE[index].numpy()) for index in indices]
        hits += int(np.argmin(distances)) == label
    assert top1_of("imagenet_a", subset) == [100 * hits / 200]


def test_missing_and_foreign_class_folders_are_named(subset, tmp_path):
    with pytest.raises(DataError, match="must have 1000 class folders: there are 800 missing, such as n01440764"):
        ClassFolders(subset, class_indices()).check()
    names, _ = subset_of_imagenet("imagenet_a")
    for name in [*names[1:], "dog"]:
        draw(tmp_path / name / "image.png", 0)
    folders = ClassFolders(tmp_path, dict.fromkeys(names, 0))
    with pytest.raises(DataError, match=f"1 missing, such as {names[0]}, and 1 that do not belong there, such as dog"):
        folders.check()
    (tmp_path / "dog").rename(tmp_path / names[0])
    folders.check()
    (tmp_path / names[0] / "image.png").unlink()
    with pytest.raises(DataError, match=f"{names[0]} has no images"):
        folders.check()


@pytest.fixture(scope="module")
def version_2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet-v2")
    for index in range(1000):
        draw(folder / str(index) / "image.png", index)
    return folder


def test_the_numbered_folders_of_version_2_are_numbers_not_words(version_2):
    assert ImageFolder(str(version_2)).class_to_idx["10"] == 2  # the trap: "10" sorts before "2"
    assert top1_of("imagenet_v2", version_2) == [100.0]


@pytest.fixture(scope="module")
def corrupted(tmp_path_factory):
    """Two parts of ImageNet-C: fog is seen right at severity 1, and every second class at severity 3."""
    folder = tmp_path_factory.mktemp("imagenet-c")
    for name, index in class_indices().items():
        draw(folder / "fog" / "1" / name / "image.png", index)
        draw(folder / "fog" / "3" / name / "image.png", index if index % 2 else index - index % 100)
    return folder


def test_stored_corruptions(corrupted):
    top1 = top1_of("imagenet_c", corrupted, corruptions=("fog",), severities=(1, 3))
    assert top1 == [100.0, pytest.approx(51.0)]  # and each hundredth, which is the color that was shown


def test_as_stored_crops_the_center_and_resizes_nothing():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    stored = ColorClassifier().transform(config("imagenet_c", resize=False))(image)
    expected = np.asarray(image)[4:36, 4:36].transpose(2, 0, 1) / 255
    assert np.allclose(stored.numpy(), expected, atol=1e-6)
    resized = ColorClassifier().transform(config("imagenet_c"))(image)
    reference = create_transform(32, **{name: PLAIN[name] for name in ("mean", "std", "interpolation", "crop_pct")})
    assert torch.equal(resized, reference(image))


def test_a_crop_is_of_its_set():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8))
    for settings, crop_pct in (({}, 1.0), ({"crop_pct": 0.5}, 0.5)):
        transform = ColorClassifier().transform(config("imagenet_a", **settings))
        reference = create_transform(32, crop_pct=crop_pct, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear")
        assert torch.equal(transform(image), reference(image))
        assert ColorClassifier().geometry(config("imagenet_a", **settings)) == (32, crop_pct)
    assert ColorClassifier().geometry(config("imagenet_c", resize=False, image_size=24)) == (24, None)


def test_an_image_is_seen_whole_where_the_network_s_validation_does():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8))
    classifier = ColorClassifier()
    classifier.preprocessing = replace(classifier.preprocessing, crop_mode="border")
    reference = create_transform(32, crop_mode="border", **PLAIN)
    assert torch.equal(classifier.transform(config("imagenet_a"))(image), reference(image))


NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 50001)]


@pytest.fixture(scope="module")
def validation(tmp_path_factory):
    """ImageNet's validation images by their names, all the same."""
    folder = tmp_path_factory.mktemp("imagenet") / "val"
    draw(folder.parent / "first.png", 0)
    for number, name in enumerate(NAMES):
        path = folder / f"class{number % 7}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(folder.parent / "first.png")
    return folder


@pytest.mark.slow
def test_real_labels_are_timm_s(validation):
    samples = RealLabels(validation).samples()
    expected = {name: labels for name, labels in RealLabelsImagenet(NAMES).real_labels.items() if labels}
    assert {path.name: list(labels) for path, labels in samples} == expected
    assert len(samples) == 46837
    (validation / "class0" / NAMES[0]).unlink()
    with pytest.raises(DataError, match="hold the 50000 validation images: 1 missing, such as ILSVRC2012_val_00000001"):
        RealLabels(validation).check()


def test_any_of_several_labels_is_right(tmp_path):
    """Real files with the labels of ReaL's kind: two right, and one that is neither of its two."""
    labels = {3: (1, 3), 5: (6, 7), 7: (7, 900)}
    for shown in labels:
        draw(tmp_path / f"{shown}.png", shown)

    class Three:
        def samples(self):
            return [(tmp_path / f"{shown}.png", right) for shown, right in labels.items()]

    measure = meter({"set": FileReader(ColorClassifier().transform(config("imagenet_real")))}, batch_size=2)
    assert measure.accuracy("set", Part(None, 0, Three())) == (pytest.approx(200 / 3), 3)


def test_photographs_are_measured_as_they_are_stored(tmp_path):
    """The published figures are; a robustness set is not turned by EXIF."""
    half = np.zeros((32, 32, 3), np.uint8)
    half[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(half).save(tmp_path / "a.png", exif=exif)
    image, label = FileReader(ColorClassifier().transform(config("imagenet_a")))((tmp_path / "a.png", 4))
    assert label == 4
    assert image[:, :16].min() == 1
    assert image[:, 16:].max() == 0
