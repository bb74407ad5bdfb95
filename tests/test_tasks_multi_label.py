"""Several labels an image: the loss, the mixing, the measures and the predictions, and that it learns."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score, precision_recall_fscore_support
from torch import Tensor

from deployment import need
from fastvit.cli.main import main
from fastvit.data.images import NO_LABEL
from fastvit.errors import DataError, RecipeError
from fastvit.predictor import Shown
from fastvit.recipes import load_recipe, make_task
from fastvit.tasks.multi_label.details import write_details
from fastvit.tasks.multi_label.digits import LabelledScenes
from fastvit.tasks.multi_label.metrics import MultiLabelMetrics, average_precisions
from fastvit.tasks.multi_label.mistakes import surest_mistakes
from fastvit.tasks.multi_label.task import MultiLabel
from fastvit.trained import load_trained
from fastvit.training.engine import train
from fastvit.training.task import Part, open_train_and_val
from launch import complaint, script
from reference import randomize, tell_apart

RECIPE = "quickstart/multi_label_digits"


def task(*overrides: str) -> MultiLabel:
    return make_task(load_recipe(RECIPE, overrides))


def measured(logits: Tensor, labels: Tensor) -> MultiLabelMetrics:
    metrics = MultiLabelMetrics()
    metrics.update(logits, (None, labels))
    return metrics


# ---- how good it is --------------------------------------------------------------------------------------------------


def by_definition(scores: list[float], true: list[int]) -> float:
    """The mean over the images that have the label of the precision among those with at least their score."""
    return np.mean([np.mean([t for s, t in zip(scores, true, strict=True) if s >= own]) for own, t in
                    zip(scores, true, strict=True) if t])  # fmt: skip


def test_average_precision_by_its_definition():
    logits = torch.randn(40, 6).mul(2).round().div(2)  # with ties
    labels = (torch.rand(40, 6) < 0.3).double()
    labels[:, 5] = 0
    found = average_precisions(logits, labels)
    expected = [by_definition(logits[:, i].tolist(), labels[:, i].tolist()) for i in range(5)]
    np.testing.assert_allclose(found[:5], expected, rtol=1e-9)
    assert np.isnan(found[5])
    assert average_precisions(torch.tensor([[3.0], [2], [1]]), torch.tensor([[1.0], [0], [1]])) == [(1 + 2 / 3) / 2]


def test_the_report_by_hand_over_uneven_batches():
    """Of 3 labels one is on no image; an image that cannot be read does not count."""
    logits = torch.tensor([[2.0, -1, -1], [1, 1, -1], [-1, 3, -1], [9, 9, 9]])
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0], [NO_LABEL] * 3])
    metrics = measured(logits[:1], labels[:1])
    metrics.merge(measured(logits[1:], labels[1:]))
    report = metrics.report()
    # The first label: found 1 of 2, with 1 mistake; the second: 2 of 2.
    assert report["f1_micro"] == pytest.approx(100 * 6 / 8)
    assert report["f1_macro"] == pytest.approx(100 * (2 / 4 + 1) / 2)
    assert report["mAP"] == pytest.approx(100 * ((1 + 2 / 3) / 2 + 1) / 2)
    probabilities = logits[:3].sigmoid()
    costs = -torch.where(labels[:3] == 1, probabilities, 1 - probabilities).log()
    assert report["loss"] == pytest.approx(costs.mean().item(), rel=1e-5)
    assert report["samples"] == 3
    assert metrics.same_predictions(measured(logits * torch.tensor([1.0, 1, -1]), labels)) == 0
    assert metrics.same_predictions(measured(2 * logits, labels)) == 3


@pytest.mark.parametrize("classes", [2, 5])
def test_f1_and_its_parts_are_scikit_learn_s(classes: int, tmp_path: Path):
    logits, labels = torch.randn(40, classes), (torch.rand(40, classes) < 0.3).float()
    logits[:, 0] = -1  # never said
    metrics = measured(logits, labels)
    report, said = metrics.report(), logits >= 0
    for average in ("micro", "macro"):
        assert report[f"f1_{average}"] == pytest.approx(100 * f1_score(labels, said, average=average), rel=1e-12)
    _, path = write_details(metrics, Part([], tuple("abcde"[:classes])), tmp_path)
    expected = precision_recall_fscore_support(labels, said, average=None, zero_division=np.nan)
    for row, figures in zip(csv.DictReader(path.open()), zip(*expected, strict=True), strict=True):
        found = [float(row[name] or "nan") for name in ("precision", "recall", "f1")]
        np.testing.assert_allclose(found, [100 * each for each in figures[:3]], atol=0.005)
        assert int(row["images"]) == figures[3]


def test_one_label_is_measured_too(tmp_path: Path):
    """A table of which each image has it or not: found on 1 of 2, with 2 mistakes."""
    metrics = measured(torch.tensor([[2.0], [1], [3], [-1]]), torch.tensor([[1.0], [0], [0], [1]]))
    report = metrics.report()
    assert report["f1_micro"] == report["f1_macro"] == pytest.approx(100 * 2 / 5)
    assert report["mAP"] == pytest.approx(100 * (1 / 2 + 2 / 4) / 2)
    _, path = write_details(metrics, Part([], ("sun",)), tmp_path)
    assert path.read_text().splitlines()[1] == "sun,2,50.00,50.00,33.33,40.00"


def test_what_cannot_be_measured():
    with pytest.raises(DataError, match="none of the validation images can be read"):
        measured(torch.zeros(2, 3), torch.full((2, 3), float(NO_LABEL))).report()
    with pytest.raises(DataError, match="no validation image has a label"):
        measured(torch.zeros(2, 3), torch.zeros(2, 3)).report()


def test_the_tables_of_images_and_of_labels(tmp_path: Path):
    logits = torch.tensor([[2.0, -1, -1], [1, 1, -1], [-1, 3, -1]])
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [NO_LABEL] * 3])
    files = write_details(measured(logits, labels), Part([], ("sea", "sun", "moon"), lambda i: f"{i}.jpg"), tmp_path)
    images, classes = (list(csv.reader(path.open(encoding="utf-8"))) for path in files)
    assert images[0] == ["image", "labels", "predicted", "sea", "sun", "moon"]
    assert [",".join(row[:3]) for row in images[1:]] == ["0.jpg,sea,sea", "1.jpg,sun,sea|sun", "2.jpg,,sun"]
    assert images[1][3] == f"{1 / (1 + np.exp(-2)):.4f}"
    assert classes[1:] == [
        ["sea", "1", "100.00", "100.00", "50.00", "66.67"],
        ["sun", "1", "100.00", "100.00", "100.00", "100.00"],
        ["moon", "0", "", "", "", ""],
    ]


def test_the_surest_mistakes_are_labels_that_are_not_there_or_that_were_missed():
    logits = torch.tensor([[2.0, -1, -1], [1, 1, -1], [-1, 3, -1], [9, 9, 9]])
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [NO_LABEL] * 3])
    metrics = measured(logits[:1], labels[:1])
    metrics.merge(measured(logits[1:], labels[1:]))
    data = Part([(torch.rand(3, 8, 8), each) for each in labels], ("sea", "sun", "moon"))
    figure = task().draw_mistakes(metrics, data, explain_with=None)
    said = [axes.get_title() for axes in figure.axes]
    assert said == ["sun 95%\nis not there", "sea 73%\nis not there", "sea 27%\nis there"]
    assert [each.index for each in surest_mistakes(metrics, 2)] == [2, 1]


# ---- what it learns --------------------------------------------------------------------------------------------------


def test_the_loss_by_its_formula():
    """Smoothing moves a label towards one half; a weight is the cost of missing one."""
    configured = task("augmentation.smoothing=0.2")
    logits, labels = torch.randn(5, 10), (torch.rand(5, 10) < 0.3).float()
    configured.class_weights = torch.rand(10) + 1
    yes, no = logits.sigmoid().log(), (-logits).sigmoid().log()
    smooth = labels * 0.8 + 0.1
    expected = -(configured.class_weights * smooth * yes + (1 - smooth) * no).mean()
    (loss,) = configured.losses(lambda images: logits, (torch.zeros(5, 3, 64, 64, dtype=torch.uint8), labels)).values()
    torch.testing.assert_close(loss, expected)


def test_weights_balance_each_label():
    counts = torch.tensor([10, 80, 100])
    weights = task().weights_of(counts, images=100)
    torch.testing.assert_close(weights * counts, torch.tensor([90.0, 20, 1]))  # what is on all images keeps a weight


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_labels_are_mixed_as_their_images_are(kind: str):
    """Of images in one color each, a label for each color: what is seen is what is said. The loss smooths, once."""
    configured = task(f"augmentation.{kind}=1.0", "augmentation.smoothing=0.2")
    colors = torch.tensor([0, 255, 0, 255], dtype=torch.uint8)
    images = colors.view(4, 1, 1, 1).expand(4, 3, 64, 64).contiguous()
    labels = torch.zeros(4, 10)
    labels[[1, 3], 7] = 1
    labels[:, 2] = 1
    seen, said = configured.augment(images, labels)
    brightness = configured.normalization.undo(seen).mean((1, 2, 3))
    torch.testing.assert_close(said[:, 7], brightness, rtol=0, atol=1e-3)
    assert 0.01 < said[0, 7] < 0.99
    torch.testing.assert_close(said[:, 2], torch.ones(4))


def test_the_labels_of_a_scene_are_its_digits():
    images = LabelledScenes(train=False, count=20, size=64)
    for index in range(20):
        assert images[index][1].nonzero().flatten().tolist() == sorted(set(images.scenes[index].digits.tolist()))


def test_batches_with_an_image_that_cannot_be_read(tmp_path: Path):
    """From a table; the picture leaves it out."""
    for name in ("a", "b", "c"):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    (tmp_path / "t.csv").write_text("path,labels,split\na.png,sea|sun,train\nb.png,,val\nc.png,sun,val\n")
    data = f"data={{dataset: folder, table: {tmp_path / 't.csv'}, image_size: 32, on_bad_image: skip}}"
    recipe = load_recipe(RECIPE, [data]).completed()
    assert recipe.data.classes == ("sea", "sun")
    configured = make_task(recipe)
    train_data, val = open_train_and_val(configured)
    _, labels = configured.collate([val.samples[0], val.samples[1]])
    assert labels.tolist() == [[0, 0], [NO_LABEL, NO_LABEL]]
    assert train_data.samples[0][1].tolist() == [1, 1]
    outputs = torch.tensor([[1.0, -1]])
    samples = [val.samples[index] for index in (0, 1)]
    figure = configured.draw(lambda images: outputs.expand(len(images), 2), samples, ("sea", "sun"))
    assert figure.axes[0].get_title() == "sea\nis none"


def test_the_recipe_for_fine_tuning_serves_both():
    recipe = load_recipe("classification/finetune", ["task=multi_label", "data.table=a.csv", "data.num_classes=3"])
    assert isinstance(make_task(recipe), MultiLabel)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data={dataset: folder, image_size: 32, root: .}"], "data: table is missing: several labels an image come"),
        (["distillation={teacher: {name: fastvit_t8.apple_in1k}}"], "distillation is for one label an image"),
        (["data.dataset=torch/cifar10"], "data.dataset: should be 'folder' or 'digits'"),
    ],
)
def test_recipes_that_mean_nothing(overrides: list[str], message: str):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(RECIPE, overrides)


# ---- what it says ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a run, with random weights."""
    folder = tmp_path_factory.mktemp("runs") / "scenes"
    folder.mkdir()
    recipe = load_recipe(RECIPE, ["model.name=test_byobnet"])  # small, and so quick to export
    task = make_task(recipe)
    torch.manual_seed(0)
    scenes = task.open_data("val").samples
    model = tell_apart(randomize(task.build_model()), torch.stack([scenes[i][0] for i in range(16)]))
    names = [f"digit {name}" for name in range(10)]
    torch.save({"state_dict": model.state_dict(), "recipe": recipe.to_dict(), "class_names": names}, folder / "best.pt")
    return folder


def test_each_probability_is_for_itself(run: Path):
    trained = load_trained(run)
    image = LabelledScenes(train=False, count=1, size=64)[0][0]
    said = trained(image)
    with torch.no_grad():
        expected = trained.module(trained.preprocessing.transform()(image)[None])[0].sigmoid()
    torch.testing.assert_close(said.probabilities, expected, rtol=1e-3, atol=1e-5)
    assert (expected[expected >= 0.3].diff().abs() > 1e-3).all()
    names = [f"digit {i}" for i in expected.argsort(descending=True).tolist() if expected[i] >= 0.3]
    assert 0 < len(names) < 10
    assert said.above(0.3) == names
    ((joined, best, *_),) = said.rows(Shown(score=0.3))
    assert (joined, best) == ("|".join(names), names[0])
    assert said.to_dict(Shown(score=0.3))["labels"] == names
    assert said.summary(Shown(score=1.0)).startswith("no label (digit ")
    assert said.draw(image, Shown()).size == (256 + 320, 256)


def test_the_weights_by_the_network_s_name_say_the_same(run: Path):
    image = LabelledScenes(train=False, count=1, size=64)[0][0]
    said = load_trained("test_byobnet", checkpoint=run / "best.pt")(image)
    torch.testing.assert_close(said.probabilities, load_trained(run)(image).probabilities)


@pytest.fixture(scope="module", params=["plain", pytest.param("with its preprocessing", marks=pytest.mark.slow)])
def exported(request: pytest.FixtureRequest, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    if request.param == "plain":
        main(["export", str(run), "--format", "torch_export", "--output", str(folder)])
        return folder / "scenes.exported.pt2"
    need("onnx_image")
    main(["export", str(run), "--format", "onnx", "--preprocessing", "inside", "--output", str(folder)])
    return folder / "scenes.onnx"


def test_an_exported_file_gives_the_same_answers(exported: Path, run: Path, tmp_path: Path):
    path = exported
    assert json.loads(path.with_name(f"{path.name}.json").read_text())["task"] == "multi_label"
    image = LabelledScenes(train=False, count=1, size=64)[0][0]
    image.save(tmp_path / "scene.png")
    said, expected = load_trained(path)(image), load_trained(run)(image)
    torch.testing.assert_close(said.probabilities, expected.probabilities, rtol=0, atol=1e-3)
    assert said.above(0.5) == expected.above(0.5)
    table = tmp_path / "out.csv"
    main(["predict", str(tmp_path / "scene.png"), "--model", str(path), "--output", str(table), "--top", "2"])
    (row,) = csv.DictReader(table.open())
    assert list(row) == ["image", "labels", "label", "probability", "label_2", "probability_2"]
    assert row["labels"] == "|".join(expected.above(0.5))


def test_a_page_is_for_one_label(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    need("web")
    said = complaint(script("export"), [str(run), "--format", "web", "--output", str(tmp_path)], capsys)
    assert "a page shows one label of an image" in said


@pytest.mark.parametrize("exported", ["plain"], indirect=True)
def test_evaluating_a_file_on_a_table_with_fewer_labels(exported: Path, run: Path, tmp_path: Path):
    scenes = LabelledScenes(train=False, count=6, size=64)
    rows = ["path,labels"]
    for index in range(6):
        image, labels = scenes[index]
        image.save(tmp_path / f"{index}.png")
        rows.append(f"{index}.png,{'|'.join(f'digit {i}' for i in labels.nonzero().flatten().tolist())}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    options = [f"data.table={tmp_path / 't.csv'}", "data.val_split=all", "--output", str(tmp_path / "result")]
    main(["evaluate", str(exported), *options])
    result = json.loads((tmp_path / "result" / "evaluation.json").read_text())["exported"]
    trained = load_trained(run)
    logits = trained.module(torch.stack([trained.preprocessing.transform()(scenes[i][0]) for i in range(6)]))
    expected = measured(logits.detach(), torch.stack([scenes[i][1] for i in range(6)])).report()
    assert result["mAP"] == pytest.approx(expected["mAP"])
    written = {path.name for path in (tmp_path / "result").iterdir()}
    assert written >= {"classes.csv", "predictions.csv", "predictions.png"}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_demo_learns(tmp_path: Path):
    """As its header says; the figure is printed: pytest -m slow -s."""
    recipe = load_recipe(RECIPE, [f"output={tmp_path / 'run'}"])
    found = train(make_task(recipe), recipe).history[-1]["val_mAP"]
    print(f"\nmAP on held-out scenes: {found:.1f}")
    assert found > 70
