"""Semantic segmentation: the paper's network, exact metrics, whole images and windows, and a demo that learns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastvit import fusion_error, reparameterize_model
from fastvit.deploy import export, load
from fastvit.errors import DataError, RecipeError
from fastvit.models import semantic_fpn
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.segmentation.inference import Window, predict
from fastvit.tasks.segmentation.masks import UNLABELLED
from fastvit.tasks.segmentation.metrics import SegmentationMetrics
from fastvit.tasks.segmentation.picture import class_colors, overlay
from fastvit.tasks.segmentation.task import Segmentation
from fastvit.trained import find_trained
from fastvit.training.engine import train
from reference import randomize, relative_error

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "configs" / "quickstart" / "segmentation_digits.yaml"


def task(*overrides: str) -> Segmentation:
    return make_task(load_recipe(DEMO, overrides))


# ---- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gmacs", "parameters"),
    [  # of Table 9: 29, 37, 44, 53 G; 14.1, 23.8, 33.6, 45.7 M
        ("fastvit_sa12", 29.3, 14.62e6),
        ("fastvit_sa24", 36.7, 24.57e6),
        ("fastvit_sa36", 44.1, 34.52e6),
        ("fastvit_ma36", 53.1, 46.84e6),
    ],
)
def test_the_cost_is_table_9_s(name: str, gmacs: float, parameters: float):
    with torch.device("meta"):
        fused = reparameterize_model(semantic_fpn(name, num_classes=150))
        image = torch.empty(1, 3, 512, 512)
    with FlopCounterMode(display=False) as counter:
        assert fused(image).shape == (1, 150, 512, 512)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.05)
    assert sum(parameter.numel() for parameter in fused.parameters()) == pytest.approx(parameters, rel=1e-3)


def test_the_head_is_the_sum_of_upsampled_levels():
    """Each step written out for one level at a time, on sizes where nothing has to be resized."""
    model = randomize(semantic_fpn("fastvit_t8", num_classes=5)).eval()
    image = torch.randn(1, 3, 64, 96)
    levels = model.backbone(image)
    total = 0
    for i, name in enumerate("0123"):
        x = levels[name]
        convs = [module for module in model.scale_heads[i] if hasattr(module, "bn")]
        assert len(convs) == max(1, i)
        for conv in convs:
            x = conv(x).relu()
            if i:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + x
    expected = F.interpolate(model.classifier(total), (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(image), expected)


@pytest.mark.parametrize("size", [(64, 64), (97, 70)])
def test_fusing_leaves_no_batch_norm_and_the_same_output(size: tuple[int, int]):
    model = randomize(semantic_fpn("fastvit_sa12", num_classes=5))
    fused = reparameterize_model(model)
    assert fusion_error(model, fused, (3, *size)) < 1e-5
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    assert fused(torch.randn(1, 3, *size)).shape == (1, 5, *size)


def test_every_parameter_has_a_gradient_even_without_a_label():
    configured = task()
    model = configured.build_model()
    images, labels = torch.randn(2, 3, 64, 64), torch.full((2, 64, 64), UNLABELLED, dtype=torch.uint8)
    losses = configured.losses(model, (images, labels))
    assert losses["cross_entropy"] == 0
    losses["cross_entropy"].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_loss_is_the_mean_over_labelled_pixels():
    logits, labels = torch.randn(2, 11, 8, 8), torch.randint(11, (2, 8, 8), dtype=torch.uint8)
    labels[0, :5] = UNLABELLED
    (loss,) = task().losses(lambda images: logits, (None, labels)).values()
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels.long(), ignore_index=UNLABELLED))


@pytest.mark.slow
def test_the_network_exports_with_any_height_and_width(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    model = randomize(semantic_fpn("fastvit_sa12", num_classes=7)).eval()
    path = tmp_path / "segmenter.onnx"
    export(model, path, torch.randn(2, 3, 96, 64), dynamic=("batch", "size"))
    segmenter = load(path)
    for shape in ((1, 3, 64, 128), (3, 3, 160, 96)):
        images = torch.randn(shape)
        assert relative_error(segmenter(images), model(images)) < 1e-5


# ---- inference -------------------------------------------------------------------------------------------------------


class Mean(nn.Module):
    """Of each window the mean, as the logits of two classes everywhere in it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :2].mean((2, 3), keepdim=True).expand(-1, -1, *images.shape[-2:])


def test_windows_are_averaged_where_they_overlap():
    images = torch.randn(2, 3, 10, 7)
    logits = predict(Mean(), images, (10, 7), Window(4, 3))
    tops, lefts = (0, 3, 6), (0, 3)
    for y, x in ((0, 0), (3, 3), (5, 6), (9, 0)):
        covering = [
            images[:, :2, top : top + 4, left : left + 4].mean((2, 3))
            for top in tops
            for left in lefts
            if top <= y < top + 4 and left <= x < left + 4
        ]
        torch.testing.assert_close(logits[..., y, x], torch.stack(covering).mean(0))


def test_one_window_is_the_whole_image():
    model = semantic_fpn("fastvit_t8", num_classes=5).eval()
    image = torch.randn(1, 3, 64, 80)
    torch.testing.assert_close(predict(model, image, (64, 80), Window(96, 32)), model(image))


def test_logits_are_resized_to_the_original():
    image = torch.randn(1, 3, 12, 8)
    resized = predict(nn.Identity(), image, (30, 20))
    torch.testing.assert_close(resized, F.interpolate(image, (30, 20), mode="bilinear", align_corners=False))


# ---- metrics ---------------------------------------------------------------------------------------------------------


def by_hand(labels: list[np.ndarray], predictions: list[np.ndarray], num_classes: int) -> dict[str, float]:
    """Mean IoU and accuracies, class by class over sets of pixels."""
    truth = {(i, *p): c for i, image in enumerate(labels) for p, c in np.ndenumerate(image) if c != UNLABELLED}
    guess = {(i, *p): c for i, image in enumerate(predictions) for p, c in np.ndenumerate(image) if (i, *p) in truth}
    ious, accuracies = [], []
    for label in range(num_classes):
        true, predicted = ({p for p, c in pixels.items() if c == label} for pixels in (truth, guess))
        if true | predicted:
            ious.append(len(true & predicted) / len(true | predicted))
        if true:
            accuracies.append(len(true & predicted) / len(true))
    right = sum(guess[p] == c for p, c in truth.items()) / len(truth)
    return {"miou": 100 * np.mean(ious), "mean_accuracy": 100 * np.mean(accuracies), "pixel_accuracy": 100 * right}


def uneven_batches():
    """Two batches: one of equal sizes, one of different ones; class 4 is nowhere, class 3 only predicted."""
    generator = torch.Generator().manual_seed(1)

    def sample(*shape: int):
        labels = torch.randint(3, shape, generator=generator).to(torch.uint8)
        labels[torch.rand(shape, generator=generator) < 0.2] = UNLABELLED
        logits = torch.randn(5, *shape, generator=generator)
        logits[4] = -100
        return logits, labels

    logits, labels = zip(sample(6, 7), sample(6, 7), strict=True)
    return [(torch.stack(logits), torch.stack(labels)), tuple(map(list, zip(sample(5, 9), sample(8, 4), strict=True)))]


def label_maps(batch):
    """What a network that outputs its inputs predicts."""
    return task().predict(nn.Identity(), batch)


def test_metrics_equal_brute_force_over_batches_of_different_sizes():
    metrics, labels, predictions = SegmentationMetrics(5), [], []
    for batch in uneven_batches():
        metrics.update(label_maps(batch), batch)
        labels += [each.numpy() for each in batch[1]]
        predictions += [each.argmax(0).numpy() for each in batch[0]]
    report = metrics.report()
    assert report.pop("samples") == 4
    assert report == pytest.approx(by_hand(labels, predictions, 5))
    assert metrics.class_iou()[4].isnan()
    assert metrics.class_iou()[3] == 0


def test_metrics_merge_into_those_of_all_samples():
    whole, parts = SegmentationMetrics(5), [SegmentationMetrics(5), SegmentationMetrics(5)]
    for part, batch in zip(parts, uneven_batches(), strict=True):
        part.update(label_maps(batch), batch)
        whole.update(label_maps(batch), batch)
    parts[0].merge(parts[1])
    assert parts[0].report() == whole.report()


def test_no_label_at_all_is_an_error():
    with pytest.raises(DataError, match="no pixel of the validation masks has a label"):
        SegmentationMetrics(5).report()


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_the_overlay_colors_labels_and_leaves_the_rest():
    image, labels = torch.rand(3, 4, 4), torch.zeros(4, 4, dtype=torch.uint8)
    labels[0] = UNLABELLED
    labels[1] = 2
    colors = class_colors(3)
    painted = overlay(image, labels, colors)
    torch.testing.assert_close(painted[0], image[:, 0].T)
    torch.testing.assert_close(painted[1], 0.4 * image[:, 1].T + 0.6 * colors[2])


def test_colors_of_150_classes_differ():
    colors = class_colors(150)
    assert torch.pdist(colors).min() > 0.01


# ---- the task --------------------------------------------------------------------------------------------------------


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


def test_a_folder_is_trained_on_stopped_resumed_and_evaluated(folder: Path, capsys: pytest.CaptureFixture[str]):
    from launch import script

    run = folder / "run"
    sliding = ["evaluation={window: 48, stride: 32}", "augmentation.scale=[0.5, 2.0]", f"output={run}"]
    script("train")([str(DEMO), *folder_overrides(folder), *sliding])
    script("train")(["--resume", str(run)])
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
    assert "for segmentation there are no weights but those of runs" in said


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
    figure = configured.draw(configured.build_model().eval(), [val.samples[i] for i in range(3)], val.class_names)
    assert len(figure.axes) == 9
    assert {text.get_text() for text in figure.legends[0].get_texts()} <= {"background", *"0123456789"}


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "segmentation").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_build_their_networks(path: Path):
    header = " ".join(line.strip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    for promise in (f"segmentation/{path.stem}", "Paper row: ", "Hardware: ", "Expected: ", "Not reproduced."):
        assert promise in header
    configured = make_task(load_recipe(path))
    assert configured.input_size == (3, 512, 512)
    with torch.device("meta"):
        model = configured.build_model(initial_weights=False)
    assert path.stem.removesuffix("_ade20k") == configured.recipe.model.name.split(".")[0]
    assert model.classifier.out_channels == 150


@pytest.mark.slow
def test_the_demo_learns(tmp_path: Path):
    """Its first 120 steps: where the digits are. Which is which takes the whole demo."""
    recipe = load_recipe(
        DEMO, [f"output={tmp_path}", "data.train_scenes=320", "data.val_scenes=40", "schedule.epochs=3"]
    )
    history = train(make_task(recipe), recipe).history
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert history[-1]["val_miou"] > 100 / 11
