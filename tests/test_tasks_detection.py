"""Detection: COCO's precision, torchvision's detectors on our stages, and a demo that learns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn, retinanet_resnet50_fpn

from coco_files import CATEGORIES, HEIGHT, WIDTH, content, save_coco
from fastvit import fusion_error, reparameterize_model
from fastvit.errors import DataError, RecipeError
from fastvit.models import PyramidMaskRCNN, PyramidRetinaNet
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.detection.coco import CocoImages
from fastvit.tasks.detection.metrics import DetectionMetrics
from fastvit.tasks.detection.samples import ValSamples, decode_masks, encode_masks
from fastvit.tasks.detection.task import Detection
from fastvit.training.engine import train
from fastvit.training.optimizer import build_optimizer
from reference import randomize

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "configs" / "quickstart" / "detection_digits.yaml"
RETINANET = (
    "model={detector: retinanet, name: fastvit_t8, fpn_channels: 64, anchor_sizes: [8, 16, 32, 48, 64]}",
    "loop.channels_last=false",
)


def task(*overrides: str) -> Detection:
    return make_task(load_recipe(DEMO, overrides))


# ---- precision -------------------------------------------------------------------------------------------------------


def square(left: float, top: float, side: float = 10) -> list[float]:
    return [left, top, left + side, top + side]


def detections(boxes: list[list[float]], labels: list[int], scores: list[float]) -> dict[str, Tensor]:
    """Of boxes, with masks that fill them."""
    masks = torch.zeros(len(boxes), 1, HEIGHT, WIDTH)
    for mask, box in zip(masks, boxes, strict=True):
        left, top, right, bottom = (round(value) for value in box)
        mask[0, top:bottom, left:right] = 1
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.long),
        "scores": torch.tensor(scores),
        "masks": masks,
    }


def truth(number: int, boxes: list[list[float]], labels: list[int], crowd: bool = False) -> dict[str, Any]:
    codes = encode_masks(detections(boxes, labels, [1.0] * len(labels))["masks"][:, 0] > 0.5)
    annotations = [
        {
            "bbox": [left, top, right - left, bottom - top],
            "category_id": label,
            "area": (right - left) * (bottom - top),
            "iscrowd": int(crowd),
            "segmentation": code,
        }
        for (left, top, right, bottom), label, code in zip(boxes, labels, codes, strict=True)
    ]
    return {"image_id": number, "annotations": annotations}


def measure(outputs: list[dict[str, Tensor]], targets: list[dict[str, Any]], **options: Any) -> DetectionMetrics:
    metrics = DetectionMetrics(2, **options)
    images = [torch.zeros(3, HEIGHT, WIDTH)] * len(targets)
    metrics.update(outputs, (images, targets))
    return metrics


def test_precision_of_a_case_worked_out_by_hand():
    """Two objects of one class; by score: a hit, a miss, a hit with IoU 2/3.

    At IoU thresholds up to 0.65 precision is 1 up to recall 1/2 and 2/3 from there to 1: of the 101 recall points, 51
    at 1 and 50 at 2/3. At the other six thresholds only the first is a hit: 51 points at 1.
    """
    targets = [truth(1, [square(0, 0), square(30, 30)], [1, 1])]
    found = [detections([square(0, 0), square(60, 40), square(32, 30)], [1, 1, 1], [0.9, 0.8, 0.7])]
    report = measure(found, targets).report()
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 101
    for kind in ("box", "mask"):
        assert report[f"{kind}_ap50"] == pytest.approx(100 * low)
        assert report[f"{kind}_ap75"] == pytest.approx(100 * high)
        assert report[f"{kind}_ap"] == pytest.approx(100 * (4 * low + 6 * high) / 10)
    assert report["samples"] == 1


def test_perfect_detections_are_perfect_and_none_are_worth_nothing():
    targets = [truth(1, [square(0, 0)], [1]), truth(2, [], []), truth(3, [square(9, 9)], [2])]
    perfect = [detections([square(0, 0)], [1], [0.9]), detections([], [], []), detections([square(9, 9)], [2], [0.9])]
    report = measure(perfect, targets).report()
    assert (report["box_ap"], report["mask_ap"], report["samples"]) == (pytest.approx(100), pytest.approx(100), 3)
    nothing = measure([detections([], [], [])] * 3, targets).report()
    assert (nothing["box_ap"], nothing["mask_ap"]) == (0, 0)


def test_a_detection_in_a_crowd_is_neither_right_nor_wrong():
    targets = [truth(1, [square(0, 0)], [1])]
    targets[0]["annotations"] += truth(1, [square(40, 20, 30)], [1], crowd=True)["annotations"]
    found = [detections([square(45, 25), square(0, 0)], [1, 1], [0.9, 0.8])]
    assert measure(found, targets).report()["box_ap"] == pytest.approx(100)
    targets[0]["annotations"].pop()
    assert measure(found, targets).report()["box_ap"] < 60


def random_scenes(count: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Any]]]:
    """Objects, and detections near some of them, in random order of score."""
    rng = np.random.default_rng(0)
    outputs, targets = [], []
    for number in range(1, count + 1):
        boxes = [square(rng.integers(0, 60), rng.integers(0, 40), int(rng.integers(5, 20))) for _ in range(4)]
        labels = rng.integers(1, 3, 4).tolist()
        near = [[value + rng.integers(-2, 3) for value in box] for box in boxes]
        near = [[max(b[0], 0), max(b[1], 0), max(b[2], b[0] + 3), max(b[3], b[1] + 3)] for b in near]
        outputs.append(detections([list(map(float, b)) for b in near], labels, rng.random(4).tolist()))
        targets.append(truth(number, [list(map(float, box)) for box in boxes], labels))
    return outputs, targets


def test_precision_is_what_cocoeval_says_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The way of COCO's own scripts: annotations and results as JSON files, with the file's category ids."""
    save_coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    val = ValSamples(CocoImages(tmp_path / "val2017", file, masks=True))
    samples = [val[i] for i in range(3)]
    rng = np.random.default_rng(0)
    outputs, results = [], []
    original = sorted(category["id"] for category in CATEGORIES)
    for (_, target), image in zip(samples, content()["images"], strict=True):
        boxes = [[v + int(rng.integers(-3, 4)) for v in each["bbox"]] for each in target["annotations"]]
        boxes += [[20, 20, 15, 15]]
        labels = [each["category_id"] for each in target["annotations"]] + [1]
        scores = rng.random(len(boxes)).round(3).tolist()
        corners = [[float(x), float(y), float(x + w), float(y + h)] for x, y, w, h in boxes]
        outputs.append(detections(corners, labels, scores))
        results += [
            {"image_id": image["id"], "category_id": original[label - 1], "bbox": box, "score": score}
            for box, label, score in zip(boxes, labels, scores, strict=True)
        ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    expected = COCOeval(COCO(str(file)), COCO(str(file)).loadRes(str(tmp_path / "results.json")), "bbox")
    expected.evaluate()
    expected.accumulate()
    expected.summarize()
    capsys.readouterr()

    metrics = DetectionMetrics(3)
    metrics.update(outputs, ([image for image, _ in samples], [target for _, target in samples]))
    report = metrics.report()
    assert capsys.readouterr().out == ""
    assert 0 < report["box_ap"] < 100
    assert [report["box_ap"], report["box_ap50"], report["box_ap75"]] == pytest.approx(100 * expected.stats[:3])


def test_both_backends_give_the_same_numbers():
    pytest.importorskip("faster_coco_eval")
    outputs, targets = random_scenes(20)
    slow, fast = (measure(outputs, targets, backend=name).report() for name in ("pycocotools", "faster-coco-eval"))
    assert 10 < slow["mask_ap"] < 95
    assert fast == pytest.approx(slow, abs=1e-9)


def test_metrics_merge_into_those_of_all_images():
    outputs, targets = random_scenes(6)
    whole = measure(outputs, targets)
    parts = [measure(outputs[i::2], targets[i::2]) for i in (0, 1)]  # as two processes would see them
    parts[0].merge(parts[1])
    assert parts[0].report() == pytest.approx(whole.report())


def test_no_object_at_all_is_an_error():
    with pytest.raises(DataError, match="none of the validation images has an object"):
        measure([detections([], [], [])], [truth(1, [], [])]).report()


def test_same_predictions_counts_images_whose_confident_detections_agree():
    targets = [truth(i, [], []) for i in (1, 2, 3, 4)]
    base = [detections([square(0, 0), square(20, 20)], [1, 2], [0.9, 0.4])] * 4
    other = [
        detections([square(0, 0)], [1], [0.8]),  # the same above 0.5
        detections([square(0, 0)], [2], [0.9]),  # another label
        detections([square(4, 0)], [1], [0.9]),  # elsewhere
        detections([], [], []),
    ]
    assert measure(base, targets).same_predictions(measure(other, targets)) == 1
    assert measure(other, targets).same_predictions(measure(other, targets)) == 4


# ---- the detectors ---------------------------------------------------------------------------------------------------


def small_mask_rcnn() -> PyramidMaskRCNN:
    body = timm.create_model("fastvit_sa12", num_classes=0)
    options = {"channels": 32, "box_channels": 64, "mask_channels": 32, "proposals": 50, "rois": 32}
    return PyramidMaskRCNN(body, 3, short_sides=(96,), long_side=128, anchor_sizes=(8, 16, 32, 48, 64), **options)


def small_retinanet() -> PyramidRetinaNet:
    body = timm.create_model("fastvit_sa12", num_classes=0)
    return PyramidRetinaNet(body, 3, short_sides=(96,), long_side=128, channels=32)


DETECTORS = pytest.mark.parametrize("build", [small_mask_rcnn, small_retinanet])


@DETECTORS
def test_fusing_changes_no_detection_and_leaves_no_batch_norm(build):
    detector = randomize(build()).eval()
    fused = reparameterize_model(detector)
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    assert fusion_error(detector.backbone, fused.backbone, (3, 96, 128)) < 1e-5
    images = [torch.rand(3, 70, 100), torch.rand(3, 96, 80)]
    detector.score_thresh = fused.score_thresh = 0.0
    if isinstance(detector, PyramidMaskRCNN):
        detector.roi_heads.score_thresh = fused.roi_heads.score_thresh = 0.2
    for before, after in zip(detector(images), fused(images), strict=True):
        assert len(before["boxes"]) > 0
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of different sizes, the second without an object."""
    masks = torch.zeros(2, 70, 100, dtype=torch.uint8)
    masks[0, 10:40, 10:30] = masks[1, 20:60, 50:90] = 1
    boxes = torch.tensor([[10.0, 10.0, 30.0, 40.0], [50.0, 20.0, 90.0, 60.0]])
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": masks[:0, :64, :64]}
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks}, empty]
    return [torch.rand(3, 70, 100), torch.rand(3, 64, 64)], targets


@DETECTORS
@pytest.mark.parametrize("objects", [True, False])
def test_every_parameter_has_a_gradient_with_and_without_objects(build, objects: bool):
    detector = build().train()
    images, targets = batch()
    losses = detector(images, targets) if objects else detector(images[1:], targets[1:])
    sum(losses.values()).backward()
    assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []


def test_the_heads_are_torchvision_s():
    """All of Mask R-CNN and RetinaNet beyond the pyramid has the shapes of torchvision's models."""
    with torch.device("meta"):
        body = [timm.create_model("fastvit_sa12", num_classes=0) for _ in range(2)]
        pairs = (
            (PyramidMaskRCNN(body[0], 90), maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)),
            (PyramidRetinaNet(body[1], 90), retinanet_resnet50_fpn(weights=None, weights_backbone=None)),
        )
    for ours, theirs in pairs:
        shapes = [
            {n: tuple(p.shape) for n, p in model.named_parameters() if not n.startswith("backbone.")}
            for model in (ours, theirs)
        ]
        assert shapes[0] == shapes[1]
        anchors = [getattr(m, "anchor_generator", None) or m.rpn.anchor_generator for m in (ours, theirs)]
        assert anchors[0].sizes == anchors[1].sizes
        assert ours.backbone.out_channels == 256


def test_training_picks_one_of_the_sides_and_validation_the_last():
    detector = PyramidRetinaNet(timm.create_model("fastvit_t8", num_classes=0), 3, short_sides=(64, 80, 96), channels=8)
    image = torch.rand(3, 50, 60)
    detector.train()
    assert {detector.transform([image])[0].image_sizes[0][0] for _ in range(30)} == {64, 80, 96}
    detector.eval()
    assert {detector.transform([image])[0].image_sizes[0][0] for _ in range(5)} == {96}


def test_images_are_normalised_as_the_network_was_pretrained():
    detector = small_retinanet()
    assert detector.transform.image_mean == [0.485, 0.456, 0.406]
    inception = PyramidRetinaNet(timm.create_model("resnetv2_50.a1h_in1k", num_classes=0), 3)
    assert inception.transform.image_mean == [0.5, 0.5, 0.5]


# ---- the task --------------------------------------------------------------------------------------------------------


def test_layer_wise_rates_reach_the_body():
    recipe = load_recipe(DEMO, ["optimizer.layer_decay=0.5"])
    model = make_task(recipe).build_model()
    groups = build_optimizer(model, recipe).param_groups
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales[id(model.rpn.head.cls_logits.weight)] == 1
    assert scales[id(model.backbone.body.stem[0].conv.conv.weight)] < 0.01


@pytest.mark.parametrize("overrides", [(), RETINANET], ids=["mask_rcnn", "retinanet"])
def test_coco_files_are_trained_on_resumed_and_evaluated(overrides: tuple[str, ...], tmp_path: Path, capsys):
    from launch import script

    save_coco(tmp_path)
    run = tmp_path / "run"
    sizes = {"short_sides": [48, 64], "long_side": 96, "num_classes": 3, "workers": 0}
    data = json.dumps({"dataset": "coco", "root": str(tmp_path), **sizes})
    few = [] if overrides else ["model.proposals=10", "model.rois=16"]
    short = [f"data={data}", f"output={run}", "schedule.epochs=1", "loop.batch_size=3", "augmentation.hflip=0.5"]
    script("train")([str(DEMO), *overrides, *few, *short])
    script("train")(["--resume", str(run)])
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
        masks = decode_masks(target["annotations"], HEIGHT, WIDTH)[:, None].float()
        labels = torch.tensor([each["category_id"] for each in target["annotations"]])
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        outputs.append({"boxes": boxes, "labels": labels, "scores": torch.full((len(boxes),), 0.9), "masks": masks})
    metrics.update(outputs, ([image for image, _ in samples], targets))
    (path,) = configured.write_details(metrics, val, tmp_path)
    truth = COCO(str(tmp_path / "annotations" / "instances_val2017.json"))
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, truth.loadRes(str(path)), kind)
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
        (["model.anchor_sizes=[8, 16]"], "anchor_sizes"),
        (["model.batch_norm=frozen"], "frozen is for weights that were trained"),
    ],
)
def test_a_contradiction_in_the_recipe_is_one_sentence(overrides: list[str], message: str):
    with pytest.raises(RecipeError, match=message):
        task(*overrides)


def test_inputs_are_the_images_on_one_canvas():
    images, targets = batch()
    canvas = task().inputs((images, targets))
    assert canvas.shape == (2, 3, 70, 100)
    assert torch.equal(canvas[1, :, :64, :64], images[1])
    assert canvas[1, :, 64:].max() == 0


def test_the_picture_shows_truth_and_confident_detections():
    configured = task("data.val_scenes=3")
    val = configured.open_data("val")
    samples = [val.samples[i] for i in range(3)]
    first = samples[0][1]["annotations"]
    masks = decode_masks(first, 96, 96)[:, None].float()
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
    for promise in (f"detection/{path.stem}", "Paper row: ", "Hardware: ", "Expected: ", "Not reproduced."):
        assert promise in header
    configured = make_task(load_recipe(path))
    assert configured.input_size == (3, 800, 1067)
    with torch.device("meta"):
        model = configured.build_model(initial_weights=False)
    assert configured.recipe.model.name.split(".")[0] in path.stem
    assert type(model) is (PyramidRetinaNet if path.stem.startswith("retinanet") else PyramidMaskRCNN)


@pytest.mark.slow
def test_the_demo_learns(tmp_path: Path):
    """Its first 120 steps: where the digits are. Which is which takes the whole demo."""
    recipe = load_recipe(
        DEMO, [f"output={tmp_path}", "data.train_scenes=320", "data.val_scenes=40", "schedule.epochs=3"]
    )
    history = train(make_task(recipe), recipe).history
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]  # 1.93 from 2.32
    assert history[-1]["val_box_ap50"] > 5  # 17, where chance is near 0
