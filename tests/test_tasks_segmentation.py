"""Semantic segmentation: the paper's network, exact metrics, whole images and windows, and a demo that learns."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fastvit.data.digit_scenes import CLASSES
from fastvit.errors import DataError, RecipeError
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.segmentation.digits import DigitLabelMaps
from fastvit.tasks.segmentation.masks import UNLABELLED
from fastvit.tasks.segmentation.metrics import SegmentationMetrics
from fastvit.tasks.segmentation.picture import class_colors, overlay
from fastvit.tasks.segmentation.prediction import Segmenter
from fastvit.tasks.segmentation.task import Segmentation
from fastvit.trained import find_trained
from fastvit.training.engine import train

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "configs" / "quickstart" / "segmentation_digits.yaml"


def task(*overrides: str) -> Segmentation:
    return make_task(load_recipe(DEMO, overrides))


def test_every_parameter_has_a_gradient_even_without_a_label():
    configured = task()
    model = configured.build_model()
    images, labels = torch.randn(2, 3, 64, 64), torch.full((2, 64, 64), UNLABELLED, dtype=torch.uint8)
    losses = configured.losses(model, (images, labels))
    assert losses["cross_entropy"] == 0
    losses["cross_entropy"].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_loss_is_that_of_mmsegmentation_and_of_two_halves_the_mean():
    """It takes the mean of the costs of all pixels, which are 0 where there is no label."""
    configured = task()
    logits, labels = torch.randn(4, 11, 8, 8), torch.randint(11, (4, 8, 8), dtype=torch.uint8)
    labels[0, :5] = labels[1] = UNLABELLED
    whole, *halves = (
        configured.losses(lambda images: logits[images], (part, labels[part]))["cross_entropy"]
        for part in (slice(0, 4), slice(0, 2), slice(2, 4))
    )
    costs = -logits.log_softmax(1).gather(1, labels.long().clamp(max=10)[:, None])[:, 0]
    torch.testing.assert_close(whole, costs.where(labels != UNLABELLED, 0.0).mean())
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_images_of_different_sizes_make_a_batch_of_lists():
    configured = task()
    small, large = ((torch.zeros(3, s, s), torch.zeros(s, s, dtype=torch.uint8)) for s in (32, 48))
    images, labels = configured.collate([small, large])
    assert ([*map(len, (images, labels))], type(images)) == ([2, 2], list)
    assert configured.collate([small, small])[0].shape == (2, 3, 32, 32)


def save_folder(root: Path) -> None:
    """Rectangles to find, in images of different sizes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for i in range(count):
            height, width = rng.integers(60, 90, 2)
            labels = np.zeros((height, width), dtype=np.uint8)
            labels[10:40, 20:50] = 1 + i % 2
            pixels = rng.integers(0, 60, (height, width, 3)) + 80 * labels[..., None]
            for kind, suffix, array in (("images", "jpg", pixels), ("masks", "png", labels)):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).save(root / split / kind / f"{i}.{suffix}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_folder(tmp_path / "images")
    return tmp_path


def folder_overrides(folder: Path, **data) -> list[str]:
    values = {"dataset": "folder", "root": str(folder / "images"), "num_classes": 3, "crop_size": 64, "workers": 0}
    return [f"data={json.dumps({**values, **data})}", "loop.batch_size=4", "schedule.epochs=1"]


def test_a_folder_is_trained_on_stopped_resumed_and_evaluated(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Evaluation needs no training data, and its measured time is not asked for here."""
    from launch import script

    monkeypatch.setattr("fastvit.evaluation.interleaved_latency", lambda calls: {form: [0.001] for form in calls})

    run = folder / "run"
    sliding = ["evaluation={window: 48, stride: 32}", "augmentation.scale=[0.5, 2.0]", f"output={run}"]
    script("train")([str(DEMO), *folder_overrides(folder), *sliding])
    script("train")(["--resume", str(run)])
    shutil.rmtree(folder / "images" / "train")
    script("evaluate")([str(run)])
    result = json.loads((run / "evaluation.json").read_text())
    assert result["fusion_error"] < 1e-5
    assert result["fused"]["miou"] == pytest.approx(result["unfused"]["miou"], abs=0.5)
    assert result["fused"]["samples"] == 3
    assert result["fused"]["parameters"] < result["unfused"]["parameters"]
    assert (run / "predictions.png").stat().st_size > 10_000
    rows = (run / "classes.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["class", "0", "1", "2"]
    assert "miou" in capsys.readouterr().out
    stated = find_trained(str(run)).preprocessing  # what an export of it says
    assert stated.mean == task().normalization.mean
    assert stated.crop_pct is None
    with pytest.raises(ValueError, match="in their task's own way"):
        stated.transform()


def test_what_is_wrong_with_the_data_is_said_before_training(folder: Path):
    path = folder / "images" / "train" / "masks" / "5.png"
    with pytest.raises(DataError, match=r"mask .* has the value 2"):
        task(*folder_overrides(folder, num_classes=2)).open_data("train")
    task(*folder_overrides(folder, num_classes=2, check_masks=False)).open_data("train")
    path.unlink()
    with pytest.raises(DataError, match=r"images without mask: 5\.jpg"):
        task(*folder_overrides(folder)).open_data("train")


def test_a_recipe_has_no_weights_of_a_whole_segmenter(capsys: pytest.CaptureFixture[str]):
    from launch import complaint, script

    said = complaint(script("evaluate"), [str(DEMO), "--pretrained"], capsys)
    assert "the hub has no weights for segmentation" in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.dataset=ade20k"], "root is missing: the folder of dataset ade20k"),
        (["data.class_names=[a, b]"], "class_names are 2, but num_classes is 11"),
        (["data.zero_is_unlabelled=true"], "zero_is_unlabelled is about dataset: folder"),
        (["evaluation.window=64"], "window and stride belong together"),
        (["evaluation={window: 64, stride: 65}"], "or pixels are left out"),
        (["augmentation.scale=[2.0, 0.5]"], "scale must be"),
        (["model.batch_norm=frozen"], "frozen is for weights that were trained"),
    ],
)
def test_a_contradiction_in_the_recipe_is_one_sentence(overrides: list[str], message: str):
    with pytest.raises(RecipeError, match=message):
        task(*overrides)


def test_the_digits_are_eleven_classes():
    with pytest.raises(RecipeError, match=r"data\.num_classes is 10, but the digits are 11 classes"):
        task("data.num_classes=10").open_data("val")


def test_the_picture_shows_image_truth_and_prediction():
    configured = task("data.val_scenes=3")
    val = configured.open_data("val")
    samples, colors = [val.samples[i] for i in range(3)], class_colors(len(CLASSES))
    three = CLASSES.index("3")

    def threes(images):
        """Sees them everywhere."""
        return F.one_hot(torch.full((len(images), *images.shape[2:]), three), len(CLASSES)).movedim(-1, 1).float()

    figure = configured.draw(threes, samples, val.class_names)
    pictures = [torch.from_numpy(np.array(axes.images[0].get_array())) for axes in figure.axes]
    seen = {three}
    for i, (image, labels) in enumerate(samples):
        shown = configured.normalization.undo(image)
        torch.testing.assert_close(pictures[3 * i], shown.permute(1, 2, 0))
        torch.testing.assert_close(pictures[3 * i + 1], overlay(shown, labels, colors))
        torch.testing.assert_close(pictures[3 * i + 2], overlay(shown, torch.full_like(labels, three), colors))
        seen |= set(labels.unique().tolist()) - {UNLABELLED}
    assert len(figure.axes) == 9
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [CLASSES[each] for each in sorted(seen)]


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "segmentation").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_build_their_networks(path: Path):
    header = " ".join(line.strip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    for promise in (
        f"segmentation/{path.stem}",
        "Paper row: ",
        "Hardware: ",
        "Expected: ",
        "Not reproduced.",
        "last.pt",
    ):
        assert promise in header
    configured = make_task(load_recipe(path))
    assert configured.input_size == (3, 512, 512)
    with torch.device("meta"):
        model = configured.build_model(initial_weights=False)
    assert path.stem.removesuffix("_ade20k") == configured.recipe.model.name.split(".")[0]
    assert model.classifier.out_channels == 150


@pytest.mark.slow
def test_the_demo_learns_and_predicts_about_pictures_of_another_size(tmp_path: Path):
    """Its first 240 steps: where the digits are. Which is which takes the whole demo."""
    recipe = load_recipe(
        DEMO, [f"output={tmp_path}", "data.train_scenes=640", "data.val_scenes=40", "schedule.epochs=3"]
    )
    configured = make_task(recipe)
    trainer = train(configured, recipe)
    history = trainer.history
    assert history[-1]["train_loss"] < 0.6 * history[0]["train_loss"]  # 0.44 from 0.84
    assert history[-1]["val_miou"] > 150 / 11

    known = {"preprocessing": configured.preprocessing, "labels": CLASSES, "settings": configured.prediction_settings}
    segmenter = Segmenter(trainer.learner.eval_model.eval(), device=torch.device("cpu"), **known)
    metrics = SegmentationMetrics(11)
    for image, mask in DigitLabelMaps(train=False, count=40, size=64):
        (predicted,) = segmenter.predict([segmenter.prepare(image.resize((320, 320)))])
        labels = torch.from_numpy(np.array(mask.resize((320, 320), Image.Resampling.NEAREST)))
        metrics.update([predicted.labels[None]], (predicted.labels[None], labels[None]))
    assert metrics.report()["miou"] == pytest.approx(history[-1]["val_miou"], abs=2)
