"""From annotations to what detectors learn from and are measured by."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2

from coco_files import HEIGHT, WIDTH, add_odd_objects, content, open_coco, rectangle, save_coco
from fastvit.tasks.detection.masks import decode_masks, encode_masks
from fastvit.tasks.detection.samples import TrainSamples, ValSamples


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_coco(tmp_path)
    return tmp_path


def test_targets_are_torchvision_s_but_for_crowds_and_labels(root: Path):
    """torchvision's own reading of the same files, with v2's wrapper."""
    theirs = wrap_dataset_for_transforms_v2(
        CocoDetection(root / "train2017", root / "annotations" / "instances_train2017.json"),
        target_keys=("boxes", "labels", "masks", "iscrowd"),
    )
    ours = TrainSamples(open_coco(root), hflip=0.0, masks=True)
    to_label = {3: 1, 7: 2, 90: 3}
    for i in range(2):
        image, expected = theirs[i]
        pixels, target = ours[i]
        kept = [j for j, crowd in enumerate(expected["iscrowd"]) if not crowd]
        torch.testing.assert_close(target["boxes"], expected["boxes"][kept].as_subclass(torch.Tensor).float())
        assert target["labels"].tolist() == [to_label[int(expected["labels"][j])] for j in kept]
        assert torch.equal(target["masks"], expected["masks"][kept].as_subclass(torch.Tensor))
        torch.testing.assert_close(pixels, torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)


def test_an_image_without_objects_is_background(root: Path):
    images = open_coco(root)
    _, target = TrainSamples(images, hflip=1.0, masks=True)[2]
    assert {name: tuple(value.shape) for name, value in target.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, HEIGHT, WIDTH),
    }
    assert any("1 of 3 images have no objects" in notice for notice in images.notices)


def test_learned_from_is_what_is_within_the_image(tmp_path: Path):
    data = content()
    add_odd_objects(data)
    save_coco(tmp_path, data)
    _, target = TrainSamples(open_coco(tmp_path), hflip=0.0, masks=True)[2]
    assert target["boxes"].tolist() == [[70, 50, 80, 60]]
    assert target["masks"].sum() == 100
    _, target = TrainSamples(open_coco(tmp_path, masks=False), hflip=0.0, masks=False)[2]
    assert len(target["boxes"]) == 2  # without masks, nobody asks for the polygon


def test_mirroring_moves_boxes_and_masks_with_the_image(root: Path):
    plain, mirrored = (TrainSamples(open_coco(root), hflip=p, masks=True)[0] for p in (0.0, 1.0))
    assert torch.equal(mirrored[0], plain[0].flip(-1))
    for mask, box in zip(mirrored[1]["masks"], mirrored[1]["boxes"], strict=True):
        rows, columns = mask.nonzero().unbind(1)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert not torch.equal(mirrored[1]["boxes"], plain[1]["boxes"])


def test_validation_samples_keep_crowds_and_carry_their_annotations(root: Path):
    _, target = ValSamples(open_coco(root))[1]
    assert target["image_id"] == 2
    assert [each["iscrowd"] for each in target["annotations"]] == [0, 1]
    masks = decode_masks([each["segmentation"] for each in target["annotations"]], HEIGHT, WIDTH)
    assert np.array_equal(masks[1].numpy(), rectangle(50, 10, 75, 55))


def test_masks_survive_coding():
    masks = torch.rand(3, 20, 30) > 0.5
    assert torch.equal(decode_masks(encode_masks(masks), 20, 30).bool(), masks)
    assert encode_masks(masks[:0]) == []
