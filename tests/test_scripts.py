"""The scripts from end to end, and what they say to a user who made a mistake."""

import csv
import itertools
import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform

from fastvit import load_checkpoint
from fastvit.data.digits import Digits
from fastvit.trained import open_run
from launch import complaint, script

ROOT = Path(__file__).parent.parent
QUICKSTART = str(ROOT / "configs" / "quickstart" / "digits.yaml")
SHORT = ("schedule.epochs=1", "schedule.warmup_epochs=0")


train, evaluate = script("train"), script("evaluate")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    train([QUICKSTART, f"output={folder}", *SHORT])
    return folder


def test_evaluate_a_run(run: Path, capsys: pytest.CaptureFixture[str]):
    evaluate([str(run)])
    printed = capsys.readouterr().out
    for row in ("top1", "parameters", "latency", "same predictions", "fusion error", "speed-up"):
        assert row in printed
    result = json.loads((run / "evaluation.json").read_text())
    assert result["unfused"]["samples"] == result["fused"]["samples"] == result["same_predictions"] == 540
    assert result["unfused"]["top1"] == torch.load(run / "best.pt")["metrics"]["val_top1"]
    assert result["fusion_error"] < 1e-5
    assert result["fused"]["parameters"] < result["unfused"]["parameters"]
    assert (run / "predictions.png").stat().st_size > 10_000


def test_evaluate_weights_by_a_recipe(run: Path, tmp_path: Path):
    evaluate([QUICKSTART, "--checkpoint", str(run / "best.pt"), f"output={tmp_path / 'new'}"])
    evaluate([str(run / "best.pt")])
    of_recipe, of_run = (json.loads((f / "evaluation.json").read_text()) for f in (tmp_path / "new", run))
    assert of_recipe["unfused"]["top1"] == of_run["unfused"]["top1"]


def test_a_checkpoint_knows_the_names_of_its_classes_without_the_data(run: Path):
    assert open_run(run).class_names == tuple("0123456789")


def test_results_by_other_settings_do_not_replace_those_of_the_run(run: Path):
    evaluate([str(run)])
    before = (run / "evaluation.json").read_bytes()
    evaluate([str(run), "data.image_size=48", "--form", "fused"])
    assert (run / "evaluation.json").read_bytes() == before
    other = json.loads((run / "data.image_size=48" / "evaluation.json").read_text())
    assert other["input_size"] == [3, 48, 48]
    assert "unfused" not in other


def test_details_agree_with_the_report(run: Path, tmp_path: Path):
    evaluate([str(run), "--output", str(tmp_path)])
    report = json.loads((tmp_path / "evaluation.json").read_text())["fused"]
    with (tmp_path / "predictions.csv").open() as file:
        images = list(csv.DictReader(file))
    with (tmp_path / "classes.csv").open() as file:
        classes = list(csv.DictReader(file))
    hits = [image["label"] == image["predicted_1"] for image in images]
    assert len(hits) == report["samples"] == sum(int(each["images"]) for each in classes)
    assert 100 * sum(hits) / len(hits) == pytest.approx(report["top1"])
    recalls = [float(each["recall"]) * int(each["images"]) for each in classes]
    assert sum(recalls) / len(hits) == pytest.approx(report["top1"], abs=0.01)
    assert (tmp_path / "confusion.png").stat().st_size > 5000


def test_a_model_by_its_name_with_a_checkpoint(run: Path, tmp_path: Path):
    digits = Digits(train=False, image_size=32)
    for split, index in itertools.product(("train", "val"), range(40)):
        image, label = digits[index]
        folder = tmp_path / "digits" / split / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index}.png")
    data = [f"data.root={tmp_path / 'digits'}", "data.num_classes=10", "data.image_size=32", "data.crop_pct=1.0"]
    checkpoint = ["--checkpoint", str(run / "best.pt"), "--output", str(tmp_path / "result")]
    evaluate(["fastvit_t8", *checkpoint, *data])
    report = json.loads((tmp_path / "result" / "evaluation.json").read_text())["fused"]
    model = timm.create_model("fastvit_t8", num_classes=10)
    load_checkpoint(model, run / "best.pt")
    transform = create_transform(32, crop_pct=1.0)  # ImageNet's mean and standard deviation
    with torch.no_grad():
        logits = model.eval()(torch.stack([transform(digits[index][0]) for index in range(40)]))
    hits = logits.argmax(1) == torch.tensor(digits.labels[:40])
    assert report["top1"] == pytest.approx(100 * hits.float().mean().item())


def test_a_dry_run_shows_and_does_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "run"
    train([QUICKSTART, f"output={output}", "augmentation.mixup=0.8", "optimizer.layer_decay=0.5", "--dry-run"])
    printed = capsys.readouterr().out
    assert "mixup: 0.8" in printed
    assert "stem.0.conv.conv.weight" in printed
    assert "19 steps per epoch, 228 in all" in printed
    assert not output.exists()
    assert sorted(path.name for path in (tmp_path / "run-dry-run").iterdir()) == ["batch.png", "schedule.png"]


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(run: Path, capsys: pytest.CaptureFixture[str]):
    before = torch.load(run / "last.pt")["state_dict"]
    train(["--resume", str(run), "data.workers=1"])
    assert "19 steps in all, 19 done" in capsys.readouterr().out
    torch.testing.assert_close(torch.load(run / "last.pt")["state_dict"], before, rtol=0, atol=0)


def test_resuming_with_another_recipe_is_refused(run: Path, capsys: pytest.CaptureFixture[str]):
    message = complaint(train, ["--resume", str(run), "optimizer.lr=1e-4"], capsys)
    assert message.endswith("another recipe; these keys differ: optimizer.lr: 0.003 -> 0.0001")


def test_training_into_another_run_is_refused(run: Path, capsys: pytest.CaptureFixture[str]):
    assert "already holds a run" in complaint(train, [QUICKSTART, f"output={run}"], capsys)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.epoch=3", "unknown key schedule.epoch; did you mean epochs?"),
        ("model.name=fastvit_t9", "did you mean fastvit_t8?"),
        ("data={dataset: folder, root: nowhere, num_classes: 2, image_size: 32}", "data.root nowhere is not a folder"),
        ("data.num_classes=9", "data.num_classes is 9, but there are 10 classes in digits; set data.num_classes to 10"),
        ("loop.batch_size=2000", "loop.batch_size (2000) is more than the 1257 training samples"),
        ("model.checkpoint=nowhere.pt", "there is no checkpoint file nowhere.pt"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    override: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    printed = complaint(train, [QUICKSTART, f"output={tmp_path / 'run'}", override], capsys)
    assert message in printed
    assert "\n" not in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_an_unreadable_image(policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for split, label, i in itertools.product(("train", "val"), ("dark", "bright"), range(4)):
        folder = tmp_path / "images" / split / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40), 200 if label == "bright" else 50).save(folder / f"{i}.png")
    bad = tmp_path / "images" / "train" / "dark" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    data = {"dataset": "folder", "root": str(tmp_path / "images"), "num_classes": 2, "image_size": 32, "workers": 0}
    run = tmp_path / "run"
    arguments = [QUICKSTART, f"output={run}", *SHORT, "loop.batch_size=4"]
    arguments.append(f"data={json.dumps({**data, 'on_bad_image': policy})}")
    if policy == "error":
        assert f"image {bad} cannot be read" in complaint(train, arguments, capsys)
        assert not run.exists()
    else:
        train(arguments)
        assert f"left out: 1, such as {bad}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run, no recipe and no model of timm's that is called nowhere"),
        (["fastvit_t9.apple"], "that is called fastvit_t9.apple; did you mean fastvit_t8?"),
        (["nowhere.pt"], "there is no checkpoint nowhere.pt"),
        (["runs/nowhere"], "there is no checkpoint runs/nowhere"),
        (["fastvit_t8.apple_in1k"], "data: root is missing: the folder of dataset folder"),
        ([QUICKSTART], "add --checkpoint or --pretrained"),
        (["nowhere.yaml", "--pretrained"], "there is no recipe nowhere.yaml"),
        (["runs/nowhere", "--pretrained"], "--checkpoint and --pretrained are for recipes"),
    ],
)
def test_mistakes_in_evaluating(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert message in complaint(evaluate, arguments, capsys)


def test_a_run_s_weights_do_not_fit_another_model(run: Path, capsys: pytest.CaptureFixture[str]):
    assert "do not fit the model" in complaint(evaluate, [str(run), "data.num_classes=4"], capsys)


def test_train_wants_something_to_train(capsys: pytest.CaptureFixture[str]):
    assert "or the folder of a run to --resume" in complaint(train, [], capsys)
