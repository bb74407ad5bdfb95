"""The detection task: torchvision's detectors on a classification network, trained and evaluated as the recipe says."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torchvision.utils import draw_bounding_boxes

from fastvit.errors import DataError, require_packages
from fastvit.models.detection import PyramidMaskRCNN, PyramidRetinaNet
from fastvit.tasks.backbone import build_body, synchronize_batch_norm
from fastvit.tasks.detection.coco import LAYOUT, CocoImages
from fastvit.tasks.detection.digits import DigitObjects
from fastvit.tasks.detection.metrics import CONFIDENT, Batch, DetectionMetrics, require_backend
from fastvit.tasks.detection.picture import detection_grid
from fastvit.tasks.detection.recipe import DetectionRecipe
from fastvit.tasks.detection.samples import TrainSamples, ValSamples, target_of
from fastvit.training.task import Network, Part, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Detection(Task):
    """Boxes, and masks with Mask R-CNN. A batch is (list of images (3, H, W), list of targets)."""

    recipe: DetectionRecipe
    best_metric = "box_ap"
    headline = ("box_ap", "mask_ap")
    exportable = False  # the number of boxes differs from image to image
    pictured = 12

    def __init__(self, recipe: DetectionRecipe):
        super().__init__(recipe)
        self.masks = recipe.model.detector == "mask_rcnn"

    @property
    def input_size(self) -> tuple[int, int, int]:
        data = self.recipe.data
        short = data.short_sides[-1]
        return 3, short, min(round(short * 4 / 3), data.long_side)  # most photographs are 4:3

    def build_model(self, *, initial_weights: bool = True) -> nn.Module:
        config, data = self.recipe.model, self.recipe.data
        options: dict[str, Any] = {
            "short_sides": data.short_sides,
            "long_side": data.long_side,
            "channels": config.fpn_channels,
            "output_norm": config.output_norm,
            "anchor_sizes": config.anchor_sizes,
        }
        body = build_body(config, initial_weights=initial_weights)
        if config.detector == "retinanet":
            return PyramidRetinaNet(body, data.num_classes, **options)
        return PyramidMaskRCNN(
            body,
            data.num_classes,
            box_channels=config.box_channels,
            mask_channels=config.mask_channels,
            proposals=config.proposals,
            rois=config.rois,
            **options,
        )

    def open_data(self, part: Literal["train", "val"]) -> Part:
        require_packages("detection", "pycocotools", extra="detection")
        require_backend(self.recipe.evaluation.backend)
        source, num_classes = self._open(part), self.recipe.data.num_classes
        if len(source.classes) != num_classes:
            raise DataError(
                f"data.num_classes is {num_classes}, but the annotations have {len(source.classes)} categories; "
                f"set data.num_classes to {len(source.classes)}"
            )
        samples = ValSamples(source)
        if part == "train":
            samples = TrainSamples(source, hflip=self.recipe.augmentation.hflip, masks=self.masks)
        return Part(samples, source.classes, notices=lambda: source.notices, groups=source.groups)

    def _open(self, split: str) -> CocoImages | DigitObjects:
        data = self.recipe.data
        if data.dataset == "digits":
            train = split == "train"
            count = data.train_scenes if train else data.val_scenes
            return DigitObjects(train=train, count=count, size=data.short_sides[-1])
        if not data.root.is_dir():
            raise DataError(f"data.root {data.root} is not a folder; {LAYOUT}; say where yours is: data.root=FOLDER")
        folder, file = getattr(data, f"{split}_images"), getattr(data, f"{split}_annotations")
        images = CocoImages(data.root / folder, data.root / file, masks=self.masks)
        if data.check_images:
            images.check()
        return images

    @staticmethod
    def collate(samples: list[tuple[Tensor, dict[str, Any]]]) -> Batch:
        images, targets = zip(*samples, strict=True)
        return list(images), list(targets)

    def synchronize_batch_norm(self, model: nn.Module) -> nn.Module:
        return synchronize_batch_norm(self.recipe.model, model)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images, targets = batch
        return model(images, targets)

    def labelled(self, batch: Batch, class_names: Sequence[str]) -> tuple[Tensor, list[str]]:
        """With the boxes to be learned."""
        images, targets = batch
        height, width = (max(image.shape[side] for image in images) for side in (1, 2))
        canvas = torch.zeros(len(images), 3, height, width)
        for padded, image, target in zip(canvas, images, targets, strict=True):
            names = [class_names[label - 1] for label in target["labels"].tolist()]
            drawn = draw_bounding_boxes(image, target["boxes"], names, "yellow", width=2) if names else image
            padded[:, : image.shape[1], : image.shape[2]] = drawn
        return canvas, []

    def predict(self, model: Network, batch: Batch) -> list[dict[str, Tensor]]:
        """What is found in each image by itself, as MMDetection and the published figures have it.

        torchvision pads several images to their largest height and width. What is beside an image enters the last
        stage's attention and the convolutions near the edges, so that precision would depend on its neighbours: on the
        size of a batch, and on the number of processes.
        """
        images, _ = batch
        return [model([image])[0] for image in images]

    def new_metrics(self) -> DetectionMetrics:
        kinds = ("bbox", "segm") if self.masks else ("bbox",)
        return DetectionMetrics(self.recipe.data.num_classes, kinds, self.recipe.evaluation.backend)

    def comparable(self, model: nn.Module) -> nn.Module:
        return model.backbone

    def write_details(self, metrics: DetectionMetrics, data: Part, folder: Path) -> list[Path]:
        """Of COCO data: all detections in COCO's format for results, with the ids of the annotation file.

        Boxes and masks apart: of a result that has both, COCO's tools take the box's area for the mask's.
        """
        samples: Any = data.samples
        source = samples.source
        if not isinstance(source, CocoImages):
            return []
        results = [_result(detection, source) for detection in metrics.detections]
        left_out = {"detections.json": "segmentation"}
        if self.masks:
            left_out["masks.json"] = "bbox"
        for name, without in left_out.items():
            content = [{key: value for key, value in each.items() if key != without} for each in results]
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return [folder / name for name in left_out]

    def draw(
        self, model: Network, samples: list[tuple[Tensor, dict[str, Any]]], class_names: Sequence[str]
    ) -> "Figure":
        images = [image for image, _ in samples]
        with torch.no_grad():
            outputs = self.predict(model, (images, []))
        true = [target_of(each["annotations"], image.shape[1:], masks=self.masks) for image, each in samples]
        return detection_grid(images, [_confident(output) for output in outputs], true, class_names)


def _result(detection: Mapping[str, Any], source: CocoImages) -> dict[str, Any]:
    code = detection.get("segmentation")
    return {
        **detection,
        "image_id": source.images[detection["image_id"] - 1]["id"],
        "category_id": source.category_ids[detection["category_id"] - 1],
        **({"segmentation": {**code, "counts": code["counts"].decode()}} if code else {}),
    }


def _confident(output: dict[str, Tensor]) -> dict[str, Tensor]:
    shown = {name: value[output["scores"] >= CONFIDENT] for name, value in output.items()}
    return shown | ({"masks": shown["masks"][:, 0] > 0.5} if "masks" in shown else {})
