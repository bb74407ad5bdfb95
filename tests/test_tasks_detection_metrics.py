"""Average precision is COCO's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from coco_files import CATEGORIES, HEIGHT, WIDTH, add_odd_objects, content, save_coco
from fastvit.errors import DataError
from fastvit.tasks.detection.coco import CocoImages
from fastvit.tasks.detection.masks import encode_masks
from fastvit.tasks.detection.metrics import DetectionMetrics
from fastvit.tasks.detection.samples import ValSamples


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


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
def test_an_epoch_without_detections_has_the_same_figures_all_zero(backend: str):
    """The log is a table. There are small and medium objects, and no large one."""
    if backend != "pycocotools":
        pytest.importorskip("faster_coco_eval")
    targets = [truth(1, [square(0, 0)], [1]), truth(2, [], []), truth(3, [square(9, 9, 40)], [2])]
    found = [detections([square(0, 0)], [1], [0.9]), *[detections([], [], [])] * 2]
    some, nothing = (measure(each, targets, backend=backend).report() for each in (found, found[1:2] * 3))
    assert nothing.keys() == some.keys()
    assert not [name for name in some if name.endswith("_large")]
    assert some["box_ap_small"] == pytest.approx(100)
    assert nothing.pop("samples") == 3
    assert set(nothing.values()) == {0}


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
    """The way of COCO's own scripts: annotations and results as JSON files, with the file's category ids.

    Objects that are tiny or partly outside of their image count as the file has them.
    """
    data = content()
    add_odd_objects(data)
    save_coco(tmp_path, data)
    file = tmp_path / "annotations" / "instances_val2017.json"
    val = ValSamples(CocoImages(tmp_path / "val2017", file, masks=True))
    samples = [val[i] for i in range(3)]
    rng = np.random.default_rng(0)
    outputs, results = [], []
    original = sorted(category["id"] for category in CATEGORIES)
    for (_, target), image in zip(samples, content()["images"], strict=True):
        boxes = [[v + int(rng.integers(-3, 4)) for v in each["bbox"]] for each in target["annotations"]]
        boxes += [[20, 20, 15, 15], [70, 50, 10, 10]]  # the second is what of annotation 24 is within its image
        labels = [each["category_id"] for each in target["annotations"]] + [1, 1]
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
    figures = [report[f"box_{name}"] for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium")]
    assert figures == pytest.approx(100 * expected.stats[:5])


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
