"""Classes are counted, weighed and divided by what the recipe leaves to the data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from fastvit.cli.main import main
from fastvit.errors import DataError, RecipeError
from fastvit.recipes import load_recipe, make_task
from fastvit.tasks.classification.balance import balanced, class_counts
from fastvit.training.checkpoint import read_checkpoint
from fastvit.training.engine import Trainer
from launch import QUICKSTART

TINY = (
    "model={name: test_byobnet}",
    "optimizer.layer_decay=null",
    "data.image_size=32",
    "data.workers=0",
    "schedule={epochs: 1}",
    "loop={batch_size: 8}",
    "augmentation.auto_augment=null",
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Undivided and skewed: 44, 8 and 4 images."""
    rng = np.random.default_rng(0)
    for name, count in {"red": 44, "green": 8, "blue": 4}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(256, size=(24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def test_a_folder_of_class_folders_is_all_that_training_needs(photos: Path, tmp_path: Path, capsys):
    """Evaluating later is on the same images, although some have come and the run has moved."""
    run = tmp_path / "run"
    main(["train", "classification/finetune", f"data.root={photos}", f"output={run}", "data.test_share=0.1", *TINY])
    said = capsys.readouterr().out
    assert "divided by seed 0, train 38, validation 12, test 6" in said
    assert said.count("divided by seed") == 1
    assert "the classes are skewed: 31 images to train on have red, 2 have blue" in said
    data = read_checkpoint(run / "best.pt")["recipe"]["data"]
    assert (data["num_classes"], data["classes"]) == (3, ["blue", "green", "red"])

    (photos / "red" / "00.png").write_bytes((photos / "red" / "0.png").read_bytes())
    run = run.rename(tmp_path / "moved")
    capsys.readouterr()
    for split, count in {"validation": 12, "test": 6}.items():
        main(["evaluate", str(run), "--form", "unfused", f"data.val_split={split}"])
        said = capsys.readouterr().out
        assert f"samples{count:>27}" in said
        assert f"since they are not in {run / 'split.csv'}: 1" in said
    main(["evaluate", str(run), "--form", "unfused", f"output={tmp_path / 'elsewhere'}"])
    assert f"since they are not in {run / 'split.csv'}: 1" in capsys.readouterr().out
    assert (tmp_path / "elsewhere" / "evaluation.json").exists()


def test_the_same_from_a_table(photos: Path, tmp_path: Path):
    """And its division is the one of the folder, as it depends on names and labels alone."""
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    (photos / "labels.csv").write_text("\n".join(["path,label", *rows]))
    given = (f"output={tmp_path / 'run'}", *TINY)
    by_table = load_recipe("classification/finetune", [f"data.table={photos / 'labels.csv'}", *given]).completed()
    by_folder = load_recipe("classification/finetune", [f"data.root={photos}", *given]).completed()
    assert by_table.data.classes == by_folder.data.classes == ("blue", "green", "red")
    for part in ("train", "val"):
        parts = [make_task(recipe).open_data(part) for recipe in (by_table, by_folder)]
        one, other = ({each.name_of(index) for index in range(len(each.samples))} for each in parts)
        assert one == other


def test_classes_that_are_not_given_are_counted():
    recipe = load_recipe(QUICKSTART, ["data.num_classes=null"])
    assert recipe.completed().data.num_classes == 10
    with pytest.raises(RecipeError, match=r"data\.num_classes is missing: give it, or let .* completed\(\) count"):
        make_task(recipe)
    with pytest.raises(DataError, match=r"data\.root is missing: the folder of dataset folder"):
        load_recipe("classification/finetune").completed()


def test_balanced_is_scikit_learn_s(photos: Path):
    overrides = [f"data.root={photos}", "loss.class_weights=balanced", "data.num_classes=3", *TINY]
    recipe = load_recipe("classification/finetune", overrides)
    task = make_task(recipe)
    data = task.open_data("train")
    assert task.class_weights is None  # opening the data changes nothing in the task
    assert not any("skewed" in notice for notice in data.notices())
    Trainer(task, recipe, None)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=data.samples.source.targets.numpy())
    np.testing.assert_allclose(task.class_weights, expected, rtol=1e-6)


def test_weights_are_in_the_loss_of_plain_and_of_mixed_labels():
    """By the formula: a mean over the images of the weight of the class times its cross entropy."""
    task = make_task(load_recipe(QUICKSTART, ["augmentation.smoothing=0"]))
    logits, labels = torch.randn(8, 10), torch.randint(10, (8,))
    task.class_weights = torch.rand(10) + 0.5
    logs = logits.log_softmax(1)
    expected = -(task.class_weights[labels] * logs[range(8), labels]).mean()
    torch.testing.assert_close(task.label_loss(logits, labels), expected)
    mixed = torch.rand(8, 10).softmax(1)
    expected = -(task.class_weights * mixed * logs).sum(1).mean()
    torch.testing.assert_close(task.label_loss(logits, mixed), expected)
    task.class_weights = None
    torch.testing.assert_close(task.label_loss(logits, labels), -logs[range(8), labels].mean())


def test_each_class_weighs_the_same_and_an_image_one_on_average():
    counts = torch.tensor([90, 9, 1])
    torch.testing.assert_close(balanced(counts) * counts, torch.full((3,), 100 / 3))


def test_counts_of_what_does_not_say_its_labels(monkeypatch: pytest.MonkeyPatch):
    assert class_counts(object(), 3) is None
    task = make_task(load_recipe(QUICKSTART, ["loss.class_weights=balanced"]))
    monkeypatch.setattr(type(task.recipe), "open_images", lambda recipe, *, training: [("image", 0)])
    with pytest.raises(RecipeError, match=r"loss\.class_weights: dataset digits does not say its labels beforehand"):
        task.open_data("train")
    assert task.open_data("val").class_counts is None
