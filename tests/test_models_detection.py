"""torchvision's detectors on our stages: fused, trained, in half precision."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn, retinanet_resnet50_fpn

from fastvit import fusion_error, reparameterize_model
from fastvit.models import PyramidMaskRCNN, PyramidRetinaNet
from reference import randomize


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
    detector.detections_per_img = fused.detections_per_img = 300  # where the list is cut, scores are nearly the same
    if isinstance(detector, PyramidMaskRCNN):
        detector.roi_heads.score_thresh = fused.roi_heads.score_thresh = 0.2
    for before, after in zip(detector(images), fused(images), strict=True):
        assert len(before["boxes"]) > 0
        assert found_again(before, after) > 0.99  # of two that overlap with nearly the same score, either may stay
        assert found_again(after, before) > 0.99


def found_again(detections: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """The share of the detections that are among the others: the same class, score, box and mask."""
    gap = (detections["boxes"][:, None] - others["boxes"]).abs().amax(2)
    gap += 100 * (detections["scores"][:, None] - others["scores"]).abs()
    gap[detections["labels"][:, None] != others["labels"]] = torch.inf
    nearest, index = gap.min(1)
    same = nearest < 0.02
    if "masks" in detections:
        same &= (detections["masks"] - others["masks"][index]).abs().amax((1, 2, 3)) < 1e-3
    return same.float().mean().item()


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
    (mask_rcnn, _), (retinanet, _) = pairs
    assert mask_rcnn.roi_heads.detections_per_img == retinanet.detections_per_img == 100  # MMDetection's, of both


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


class Given(nn.Module):
    """A backbone whose features are given."""

    def __init__(self, features: dict[str, Tensor]):
        super().__init__()
        self.features = {name: level.float() for name, level in features.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.features


@DETECTORS
@pytest.mark.parametrize("training", [False, True], ids=["detections", "losses"])
def test_autocast_is_for_the_features_only(build, training: bool):
    """All the rest is what heads in float32 make of the features that were computed in bfloat16.

    The image is large, for there boxes in bfloat16 are off by pixels.
    """
    detector = randomize(build()).train(training)
    detector.transform.min_size, detector.transform.max_size, detector.score_thresh = (576,), 800, 0.0
    if isinstance(detector, PyramidMaskRCNN):
        detector.roi_heads.detections_per_img = 30
    boxes, masks = torch.tensor([[100.0, 50.0, 300.0, 250.0], [500.0, 300.0, 777.0, 570.0]]), torch.zeros(2, 576, 800)
    target = {"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks.byte()}
    inputs = ([torch.rand(3, 576, 800)], [target] if training else None)
    features = []
    detector.backbone.register_forward_hook(lambda module, images, levels: features.append(levels))

    torch.manual_seed(1)  # which proposals are learned from
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = detector(*inputs)
        in_half = detector.backbone.body.stem(torch.rand(1, 3, 64, 64))
    assert in_half.dtype == torch.bfloat16
    detector.backbone = Given(features[0])
    torch.manual_seed(1)
    with torch.no_grad():
        precise = detector(*inputs)
    assert training or len(precise[0]["boxes"]) >= 30
    torch.testing.assert_close(mixed, precise, rtol=0, atol=1e-5)
