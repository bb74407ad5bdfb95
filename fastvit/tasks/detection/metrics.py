"""Average precision of boxes and masks as COCO defines it, computed by pycocotools."""

from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from fastvit.errors import DataError
from fastvit.tasks.detection.masks import encode_masks
from fastvit.training.task import Metrics

BACKENDS = ("pycocotools", "faster-coco-eval")
NAMES = {"bbox": "box", "segm": "mask"}
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")  # the first of COCOeval's `stats`
CONFIDENT = 0.5  # score of a detection that is compared, or drawn

Batch = tuple[list[Tensor], list[dict[str, Any]]]


class DetectionMetrics(Metrics):
    """COCO's AP in percent of boxes, and of masks where they are predicted.

    It gathers annotations together with detections, so that parts of the data can be measured apart and merged.

    Args:
        kinds: "bbox", "segm", or both.
        backend: the library that computes; both give the same numbers, faster-coco-eval several times as fast.
    """

    def __init__(self, num_classes: int, kinds: tuple[str, ...] = ("bbox", "segm"), backend: str = BACKENDS[0]):
        self.num_classes, self.kinds, self.backend = num_classes, kinds, backend
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.detections: list[dict[str, Any]] = []

    def update(self, outputs: list[dict[str, Tensor]], batch: Batch) -> None:
        images, targets = batch
        for image, target, output in zip(images, targets, outputs, strict=True):
            image_id = target["image_id"]
            self.images.append({"id": image_id, "height": image.shape[-2], "width": image.shape[-1]})
            self.annotations += [{**annotation, "image_id": image_id} for annotation in target["annotations"]]
            self._add_detections(image_id, output)

    def _add_detections(self, image_id: int, output: dict[str, Tensor]) -> None:
        boxes = box_convert(output["boxes"].float(), "xyxy", "xywh").tolist()
        labels, scores = output["labels"].tolist(), output["scores"].float().tolist()
        found = [
            {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
            for label, box, score in zip(labels, boxes, scores, strict=True)
        ]
        if "segm" in self.kinds:
            masks = output["masks"][:, 0] > 0.5  # on the device: a byte a pixel is to be copied, not four
            for detection, code in zip(found, encode_masks(masks.cpu()), strict=True):
                detection["segmentation"] = code
        self.detections += found

    def merge(self, other: "DetectionMetrics") -> None:
        self.images += other.images
        self.annotations += other.annotations
        self.detections += other.detections

    def report(self) -> dict[str, float]:
        """The same figures whatever was detected; those of a size that no object has are left out."""
        if not any(not annotation["iscrowd"] for annotation in self.annotations):
            raise DataError("none of the validation images has an object: there is no precision to measure")
        report: dict[str, float] = {}
        for kind in self.kinds:
            stats = self._stats(kind)
            report |= {
                f"{NAMES[kind]}_{figure}": 100 * float(value)
                for figure, value in zip(FIGURES, stats, strict=False)
                if value >= 0  # COCOeval says -1 where there is no object of that size
            }
        return {**report, "samples": len(self.images)}

    def _stats(self, kind: str) -> list[float]:
        """COCOeval's figures from 0 to 1."""
        coco_class, eval_class = _evaluator(self.backend)
        with redirect_stdout(StringIO()):  # both libraries print
            # Ids from 1: COCOeval takes a match with annotation 0 for none.
            truth = self._indexed(coco_class, [{**each, "id": i} for i, each in enumerate(self.annotations, 1)])
            # Without its box a detection has the area of its mask, by which COCO tells small from large.
            without = "segmentation" if kind == "bbox" else "bbox"
            results = [{key: value for key, value in each.items() if key != without} for each in self.detections]
            # `loadRes` refuses an empty list.
            found = truth.loadRes(results) if results else self._indexed(coco_class, [])
            evaluation = eval_class(truth, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return list(evaluation.stats)

    def _indexed(self, coco_class: Any, annotations: list[dict[str, Any]]) -> Any:
        """The images with these annotations, as the libraries want them."""
        coco = coco_class()
        coco.dataset = {
            "info": {},
            "images": self.images,
            "categories": [{"id": label, "name": str(label)} for label in range(1, self.num_classes + 1)],
            "annotations": annotations,
        }
        coco.createIndex()
        return coco

    def same_predictions(self, other: "DetectionMetrics") -> int:
        """Images with the same confident detections: as many, and for each one of the same label that covers it."""
        own, others = self._confident(), other._confident()
        return sum(_agree(own.get(image["id"], []), others.get(image["id"], [])) for image in self.images)

    def _confident(self) -> dict[int, list[dict[str, Any]]]:
        by_image: dict[int, list[dict[str, Any]]] = {}
        for detection in self.detections:
            if detection["score"] >= CONFIDENT:
                by_image.setdefault(detection["image_id"], []).append(detection)
        return by_image


def _agree(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    if len(first) != len(second) or not first:
        return len(first) == len(second)
    boxes = [box_convert(torch.tensor([each["bbox"] for each in part]), "xywh", "xyxy") for part in (first, second)]
    labels = [torch.tensor([each["category_id"] for each in part]) for part in (first, second)]
    same = (box_iou(*boxes) > 0.95) & (labels[0][:, None] == labels[1])
    return bool(same.any(0).all() and same.any(1).all())


def require_backend(backend: str) -> None:
    """Raises `DataError` where faster-coco-eval is asked for and is not installed."""
    if backend == "faster-coco-eval" and find_spec("faster_coco_eval") is None:
        raise DataError(
            "evaluation.backend faster-coco-eval is not installed: pip install faster-coco-eval, or set "
            "evaluation.backend=pycocotools"
        )


def _evaluator(backend: str) -> tuple[Any, Any]:
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    from faster_coco_eval import COCO, COCOeval_faster

    return COCO, COCOeval_faster
