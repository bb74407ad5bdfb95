"""Labels, masks and figures of the robustness sets, by hand and against timm."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import RealLabelsImagenet, create_dataset, create_loader, create_transform
from torch import nn
from torchvision.datasets import ImageFolder

from fastvit.errors import DataError, RecipeError
from fastvit.robustness.corruptions import ALEXNET_ERRORS, CORRUPTIONS, corrupt, corruption_errors
from fastvit.robustness.evaluation import Classifier, CorruptedImages, accuracy, measure
from fastvit.robustness.recipe import RobustnessRecipe, SetConfig, read_robustness_recipe
from fastvit.robustness.report import summarize, table, write
from fastvit.robustness.sets import Part, imagenet_classes, parts_of, subset_of_imagenet
from fastvit.runtime.randomness import Purpose, seeded

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "robustness"
PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bilinear", "crop_pct": 1.0, "input_size": (3, 32, 32)}


def color_of(index):
    """A color for each of 1000 classes."""
    return 25 * (index // 100), 25 * (index // 10 % 10), 25 * (index % 10)


CODE = torch.tensor([color_of(index) for index in range(1000)]) / 255


class ReadsColors(nn.Module):
    """A classifier that tells a class by the mean color of the image, and knows which is the nearest."""

    def forward(self, images):
        return -torch.cdist(images.mean((2, 3)), CODE)


class ColorClassifier:
    """In place of a trained model."""

    model, device, num_classes, image_size, input = ReadsColors(), torch.device("cpu"), 1000, 32, PLAIN
    transform = Classifier.transform


def draw(path, index):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), color_of(index)).save(path, "PNG")


def config(kind, **settings):
    return SetConfig(kind=kind, folder="set", **settings)


def top1_of(kind, folder, **settings):
    settings = config(kind, **settings)
    transform = ColorClassifier().transform(settings)
    parts = parts_of(settings, folder, transform)
    return [accuracy(ColorClassifier(), part, batch_size=64, workers=0)[0] for part in parts]


def test_alexnet_has_a_mean_corruption_error_of_100():
    top1 = {name: dict.fromkeys(range(1, 6), 100 * (1 - error)) for name, error in ALEXNET_ERRORS.items()}
    assert corruption_errors(top1) == pytest.approx(dict.fromkeys(CORRUPTIONS, 100.0))


def test_corruption_error_by_hand():
    errors = corruption_errors({"fog": {1: 90.0, 3: 50.0}})  # mean error 0.3
    assert errors == {"fog": pytest.approx(100 * 0.3 / 0.819324)}


@pytest.mark.parametrize("kind", ["imagenet_a", "imagenet_r"])
def test_the_two_hundred_classes_are_those_of_timm_in_the_order_of_folders(kind):
    names, indices = subset_of_imagenet(kind)
    assert names == sorted(names)
    assert len(set(names)) == 200
    of_timm = (Path(timm.__file__).parent / "data" / "_info" / f"{kind}_indices.txt").read_text().split()
    assert indices.tolist() == [int(index) for index in of_timm]
    assert [imagenet_classes()[name] for name in names] == indices.tolist()


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
        list(parts_of(config("imagenet"), subset, None))
    names, _ = subset_of_imagenet("imagenet_a")
    for name in [*names[1:], "dog"]:
        draw(tmp_path / name / "image.png", 0)
    with pytest.raises(DataError, match=f"1 missing, such as {names[0]}, and 1 that do not belong there, such as dog"):
        list(parts_of(config("imagenet_a"), tmp_path, None))
    (tmp_path / "dog").rename(tmp_path / names[0])
    (tmp_path / names[0] / "image.png").unlink(missing_ok=True)
    for path in (tmp_path / names[0]).iterdir():
        path.unlink()
    with pytest.raises(DataError, match=f"{names[0]} has no images"):
        list(parts_of(config("imagenet_a"), tmp_path, None))


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
    for name, index in imagenet_classes().items():
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


def test_real_labels_are_timm_s(tmp_path):
    draw(tmp_path / "first.png", 0)
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 50001)]
    folder = tmp_path / "val"
    for number, name in enumerate(names):
        path = folder / f"class{number % 7}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(tmp_path / "first.png")
    (part,) = parts_of(config("imagenet_real"), folder, None)
    expected = {name: labels for name, labels in RealLabelsImagenet(names).real_labels.items() if labels}
    assert len(part.images.samples) == len(expected) == 46837
    for path, label in part.images.samples[::97]:
        assert label.nonzero().flatten().tolist() == sorted(expected[path.name])
    (folder / "class0" / names[0]).unlink()
    with pytest.raises(DataError, match="hold the 50000 validation images: 1 missing, such as ILSVRC2012_val_00000001"):
        list(parts_of(config("imagenet_real"), folder, None))


def test_any_of_several_labels_is_right():
    images = torch.stack([CODE[index].view(3, 1, 1).expand(3, 4, 4) for index in (3, 5, 7)])
    labels = torch.zeros(3, 1000, dtype=torch.bool)
    labels[0, [1, 3]] = labels[1, 6] = labels[2, [7, 900]] = True
    part = Part(None, 0, list(zip(images, labels, strict=True)))
    assert accuracy(ColorClassifier(), part, batch_size=2, workers=0) == (pytest.approx(200 / 3), 3)


# ---- the recipes and a run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads(path):
    recipe = read_robustness_recipe(path, ["root=/data"])
    assert recipe.sets
    for each in recipe.sets.values():
        assert set(each.expected) <= {f"fastvit_{variant}.{tag}" for variant in VARIANTS for tag in TAGS}


VARIANTS = ("t8", "t12", "s12", "sa12", "sa24", "sa36", "ma36")
TAGS = ("apple_in1k", "apple_dist_in1k")


def test_all_has_every_set():
    sets = set(read_robustness_recipe(CONFIGS / "all.yaml", []).sets)
    single = list(CONFIGS.glob("imagenet_*.yaml"))
    assert sets == {name for path in single for name in read_robustness_recipe(path, []).sets}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "t8.pt"
    torch.save(timm.create_model("fastvit_t8").state_dict(), path)
    return path


def test_what_is_there_is_measured_and_what_is_missing_is_said(subset, checkpoint, tmp_path):
    (tmp_path / "imagenet-a").symlink_to(subset)
    overrides = [f"root={tmp_path}", f"model.checkpoint={checkpoint}", "model.name=fastvit_t8.apple_in1k", "workers=0"]
    recipe = read_robustness_recipe(CONFIGS / "all.yaml", overrides)
    figures, missing = measure(recipe)
    assert [figure.set for figure in figures] == ["ImageNet-A"]
    assert len(missing) == 6
    summary = summarize(recipe, figures, missing)
    assert summary["sets"]["ImageNet-A"]["expected_top1"] == 6.8
    assert "missing: ImageNet-Sketch" in table(summary)
    paths = write(summary, figures, tmp_path / "result")
    assert json.loads(paths[0].read_text())["sets"]["ImageNet-A"]["top1"] == figures[0].top1
    with pytest.raises(DataError, match="sketch is not a folder: there are no images for ImageNet-Sketch"):
        measure(read_robustness_recipe(CONFIGS / "imagenet_sketch.yaml", overrides))


def test_a_model_of_other_classes_is_refused(subset, tmp_path):
    (tmp_path / "imagenet-a").symlink_to(subset)
    weights = tmp_path / "small.pt"
    model = timm.create_model("fastvit_t8", num_classes=10)
    torch.save({"state_dict": model.state_dict()}, weights)
    recipe = read_robustness_recipe(CONFIGS / "imagenet_a.yaml", [f"root={tmp_path}", f"model.checkpoint={weights}"])
    with pytest.raises(RecipeError, match=r"model\.checkpoint"):
        measure(recipe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, "give either run"),
        ({"model": {"run": "a", "checkpoint": "b"}}, "a run has its own weights"),
        ({"sets": {}}, "sets is empty"),
        ({"root": None}, "root is missing"),
        ({"sets": {"x": {"kind": "imagenet"}}}, "folder is for all kinds but"),
        ({"sets": {"x": {"kind": "corrupted_validation"}}}, "give model.run"),
    ],
)
def test_contradictions_are_refused(change, message):
    plain = {
        "task": "robustness",
        "model": {"name": "fastvit_t8"},
        "root": "data",
        "output": "out",
        "sets": {"x": {"kind": "imagenet", "folder": "x"}},
    }
    with pytest.raises(ValueError, match=message):
        RobustnessRecipe.model_validate_json(json.dumps(plain | change))


# ---- corruptions made on the fly -------------------------------------------------------------------------------------


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_each_corruption_damages_more_with_its_severity_and_is_drawn_again(corruption):
    pytest.importorskip("imagecorruptions")
    image = Image.fromarray(load_sample_image("china.jpg")).crop((100, 100, 356, 356)).resize((64, 64))
    source, transform = [(image, 7)], create_transform(64, crop_pct=1.0, mean=(0, 0, 0), std=(1, 1, 1))
    clean = CorruptedImages(source, transform, None, 0, seed=0)[0][0]
    damages = []
    for severity in (1, 5):
        images = CorruptedImages(source, transform, corruption, severity, seed=0)
        (first, label), (again, _) = images[0], images[0]
        assert torch.equal(first, again)
        assert label == 7
        damages.append(float((first - clean).square().mean()))
    assert 0 < damages[0] < damages[1]


def test_seeds_draw_other_noise():
    pytest.importorskip("imagecorruptions")
    image = Image.new("RGB", (32, 32), (100, 100, 100))
    drawn = []
    for seed in (0, 1):
        with seeded(seed, Purpose.SAMPLE, 0):
            drawn.append(np.asarray(corrupt(image, "gaussian_noise", 3)))
    assert not np.array_equal(*drawn)


def test_images_that_are_too_small_are_refused():
    pytest.importorskip("imagecorruptions")
    with pytest.raises(DataError, match="16x40 px is too small to corrupt: 32 px at least"):
        corrupt(Image.new("RGB", (16, 40)), "fog", 1)
