"""Detection: COCO's precision, torchvision's detectors on our stages, and a demo that learns."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import area as mask_area
from torchvision.ops import box_iou

from coco_files import HEIGHT, WIDTH, save_coco
from fastvit.config import differences
from fastvit.errors import DataError, RecipeError
from fastvit.models import PyramidMaskRCNN, PyramidRetinaNet
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.detection.digits import DigitObjects
from fastvit.tasks.detection.masks import decode_masks
from fastvit.tasks.detection.prediction import Detector
from fastvit.tasks.detection.task import Detection
from fastvit.training.engine import Trainer, train
from fastvit.training.optimizer import build_optimizer
from fastvit.training.run_folder import RunFolder

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "configs" / "quickstart" / "detection_digits.yaml"
RETINANET = (
    "model={detector: retinanet, name: fastvit_t8, fpn_channels: 64, anchor_sizes: [8, 16, 32, 48, 64]}",
    "loop.channels_last=false",
)


def task(*overrides: str) -> Detection:
    return make_task(load_recipe(DEMO, overrides))


def test_a_library_that_only_measures_is_asked_for_when_it_has_to(monkeypatch):
    """A network that was trained beside it predicts without it, and its run goes on with the other one."""
    monkeypatch.setattr("fastvit.tasks.detection.metrics.find_spec", lambda name: None)
    configured = task("evaluation.backend=faster-coco-eval")
    with pytest.raises(DataError, match=r"pip install faster-coco-eval, or set evaluation.backend=pycocotools"):
        configured.open_data("val")
    recipe = task().recipe
    assert differences(configured.recipe.to_dict(), recipe.to_dict(), type(recipe)) == []


def test_layer_wise_rates_reach_the_body():
    recipe = load_recipe(DEMO, ["optimizer.layer_decay=0.5"])
    model = make_task(recipe).build_model()
    groups = build_optimizer(model, recipe).param_groups
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales[id(model.rpn.head.cls_logits.weight)] == 1
    assert all(scales[id(parameter)] < 0.01 for parameter in model.backbone.body.stem.parameters())


@pytest.mark.parametrize("overrides", [(), RETINANET], ids=["mask_rcnn", "retinanet"])
def test_coco_files_are_trained_on_resumed_and_evaluated(
    overrides: tuple[str, ...], tmp_path: Path, capsys, monkeypatch
):
    """Evaluation needs no training data, and its measured time is not asked for here."""
    from launch import script

    monkeypatch.setattr("fastvit.evaluation.interleaved_latency", lambda calls: {form: [0.001] for form in calls})

    save_coco(tmp_path)
    run = tmp_path / "run"
    sizes = {"short_sides": [48, 64], "long_side": 96, "num_classes": 3, "workers": 0}
    data = json.dumps({"dataset": "coco", "root": str(tmp_path), **sizes})
    few = [] if overrides else ["model.proposals=10", "model.rois=16"]
    short = [f"data={data}", f"output={run}", "schedule.epochs=1", "loop.batch_size=3", "augmentation.hflip=0.5"]
    script("train")([str(DEMO), *overrides, *few, *short])
    script("train")(["--resume", str(run)])
    shutil.rmtree(tmp_path / "train2017")
    (tmp_path / "annotations" / "instances_train2017.json").unlink()
    script("evaluate")([str(run)])
    result = json.loads((run / "evaluation.json").read_text())
    assert result["fusion_error"] < 1e-5
    assert result["fused"]["samples"] == result["same_predictions"] == 3
    assert ("mask_ap" in result["fused"]) == (not overrides)
    assert (run / "predictions.png").stat().st_size > 10_000
    results = json.loads((run / "detections.json").read_text())
    assert {each["image_id"] for each in results} <= {11, 12, 13}
    assert {each["category_id"] for each in results} <= {3, 7, 90}
    assert "category ids 3 to 90 become the labels 1 to 3" in capsys.readouterr().out


def test_training_batches_are_of_images_of_like_shape(tmp_path: Path):
    save_coco(tmp_path)
    data = {"dataset": "coco", "root": str(tmp_path), "num_classes": 3, "workers": 0}
    recipe = load_recipe(DEMO, [f"data={json.dumps(data)}", "loop.batch_size=3", f"output={tmp_path / 'run'}"])
    trainer = Trainer(make_task(recipe), recipe, RunFolder(recipe.output))
    assert trainer.batches.sampler.groups.tolist() == [1, 1, 1]


def test_the_results_file_is_what_coco_s_tools_read(tmp_path: Path):
    save_coco(tmp_path)
    data = {"dataset": "coco", "root": str(tmp_path), "num_classes": 3, "workers": 0}
    configured = task(f"data={json.dumps(data)}")
    val = configured.open_data("val")
    metrics = configured.new_metrics()
    samples = [val.samples[i] for i in range(2)]
    targets = [target for _, target in samples]
    outputs = []
    for target in targets:
        boxes = torch.tensor([each["bbox"] for each in target["annotations"]])
        masks = decode_masks([each["segmentation"] for each in target["annotations"]], HEIGHT, WIDTH)[:, None].float()
        labels = torch.tensor([each["category_id"] for each in target["annotations"]])
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        outputs.append({"boxes": boxes, "labels": labels, "scores": torch.full((len(boxes),), 0.9), "masks": masks})
    metrics.update(outputs, ([image for image, _ in samples], targets))
    truth = COCO(str(tmp_path / "annotations" / "instances_val2017.json"))
    for kind, path in zip(("bbox", "segm"), configured.write_details(metrics, val, tmp_path), strict=True):
        found = truth.loadRes(str(path))
        areas = [each["area"] == mask_area(truth.annToRLE(each)) for each in found.anns.values()]
        assert kind == "bbox" or all(areas)  # of the mask, by which COCO tells small from large, and not of its box
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)


def test_what_is_wrong_with_the_data_is_said_before_training(tmp_path: Path):
    save_coco(tmp_path)
    data = {"dataset": "coco", "root": str(tmp_path), "num_classes": 4, "workers": 0}
    with pytest.raises(DataError, match=r"have 3 categories; set data\.num_classes to 3"):
        task(f"data={json.dumps(data)}").open_data("val")
    (tmp_path / "val2017" / "12.jpg").unlink()
    with pytest.raises(DataError, match=r"lacks images .* 12\.jpg"):
        task(f"data={json.dumps({**data, 'num_classes': 3})}").open_data("val")
    with pytest.raises(DataError, match=r"data\.root .*nowhere is not a folder"):
        task(f"data={json.dumps({**data, 'root': 'nowhere'})}").open_data("val")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.dataset=coco"], "root is missing: the folder of dataset coco"),
        (["model.detector=retinanet"], "box_channels is about detector: mask_rcnn"),
        (["data.short_sides=[96, 128]"], r"short_sides \[96, 128\] must be at most long_side \(64\)"),
        (["model.anchor_sizes=[8, 16]"], r"model\.anchor_sizes: there must be 5 sizes, one for each level .*, not 2$"),
        (["model.anchor_sizes=[8, 16, 24, 32, 48, 64]"], r"model\.anchor_sizes: there must be 5 sizes, .*, not 6$"),
        (["model.batch_norm=frozen"], "frozen is for weights that were trained"),
    ],
)
def test_a_contradiction_in_the_recipe_is_one_sentence(overrides: list[str], message: str):
    with pytest.raises(RecipeError, match=message) as caught:
        task(*overrides)
    assert "\n" not in str(caught.value)


def test_a_dry_run_shows_the_boxes_of_a_batch_on_one_canvas():
    images = [torch.rand(3, 70, 100), torch.rand(3, 64, 64)]
    boxes = torch.tensor([[20.0, 30.0, 80.0, 60.0]])
    nothing = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.long)}
    targets = [{"boxes": boxes, "labels": torch.tensor([1])}, nothing]
    canvas, _ = task().labelled((images, targets), ("one",))
    assert canvas.shape == (2, 3, 70, 100)
    assert torch.equal(canvas[1, :, :64, :64], images[1])
    assert canvas[1, :, 64:].max() == 0
    changed = (canvas[0] - images[0]).abs().amax(0) > 0.01
    assert changed[35:55, 20].all()  # the frame
    assert not changed[50:55, 50:70].any()  # what is in it
    assert not changed[:20].any()


def test_the_picture_shows_truth_and_confident_detections():
    configured = task("data.val_scenes=3")
    val = configured.open_data("val")
    samples = [val.samples[i] for i in range(3)]
    first = samples[0][1]["annotations"]
    masks = decode_masks([each["segmentation"] for each in first], 96, 96)[:, None].float()
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in first)])
    labels = torch.tensor([each["category_id"] for each in first])
    scores = torch.tensor([0.9] + [0.3] * (len(first) - 1))
    output = {"boxes": boxes, "labels": labels, "scores": scores, "masks": masks}
    figure = configured.draw(lambda images: [output], samples, val.class_names)
    true, predicted = figure.axes[:2]
    assert [text.get_text() for text in true.texts] == [str(each["category_id"] - 1) for each in first]
    assert [text.get_text() for text in predicted.texts] == [f"{first[0]['category_id'] - 1} 0.90"]
    assert len(predicted.patches) == 1


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "detection").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_build_their_networks(path: Path):
    header = " ".join(line.strip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    for promise in (f"detection/{path.stem}", "Paper row: ", "Hardware: ", "Expected: ", "Not reproduced.", "last.pt"):
        assert promise in header
    configured = make_task(load_recipe(path))
    assert configured.input_size == (3, 800, 1067)
    with torch.device("meta"):
        model = configured.build_model(initial_weights=False)
    assert configured.recipe.model.name.split(".")[0] in path.stem
    assert type(model) is (PyramidRetinaNet if path.stem.startswith("retinanet") else PyramidMaskRCNN)


@pytest.mark.slow
def test_the_demo_learns_and_predicts_about_pictures_of_another_size(tmp_path: Path):
    """Its first 120 steps: where the digits are. Which is which takes the whole demo."""
    recipe = load_recipe(
        DEMO, [f"output={tmp_path}", "data.train_scenes=320", "data.val_scenes=40", "schedule.epochs=3"]
    )
    trainer = train(make_task(recipe), recipe)
    history = trainer.history
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]  # 1.93 from 2.32
    assert history[-1]["val_box_ap50"] > 5  # 17, where chance is near 0

    options = {"device": torch.device("cpu"), "preprocessing": None, "labels": tuple("0123456789")}
    detector = Detector(trainer.learner.eval_model.eval(), **options)
    overlaps = []
    for image, _ in DigitObjects(train=False, count=40, size=64):
        own, enlarged = (detector.predict([detector.prepare(each)])[0] for each in (image, image.resize((320, 320))))
        assert enlarged.masks().shape[1:] == (320, 320)
        overlaps.append(box_iou(5 * own.boxes[:1], enlarged.boxes[:1]).item())  # of the surest objects
    assert np.median(overlaps) > 0.8
