"""Grad-CAM: the paper's formula by other means, and the place that an answer depends on."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import fastvit
from fastvit.errors import RunError
from fastvit.explain import grad_cam, heated
from reference import randomize


class Toy(nn.Module):
    """Two convolutions, and a head that is not linear."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Conv2d(8, 6, 3, 2, 1))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 16, 5), nn.Softplus(), nn.Linear(5, 4))

    def forward_features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(features)


def spread(maps: Tensor, size: int) -> Tensor:
    maps = F.interpolate(maps[:, None], (size, size), mode="bilinear")[:, 0]
    return maps / maps.amax((1, 2), keepdim=True)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_formula(memory_format: torch.memory_format):
    """By the whole Jacobian, of which the sums are written out."""
    toy, images = Toy().to(memory_format=memory_format), torch.randn(3, 3, 16, 16)
    classes = [2, 0, 3]
    expected = []
    for image, label in zip(images, classes, strict=True):
        features = toy.forward_features(image[None]).detach()
        jacobian = torch.autograd.functional.jacobian(toy.forward_head, features)[0, label, 0]  # (6, 4, 4)
        weights = [float(jacobian[k].sum()) / 16 for k in range(6)]
        expected.append(sum(weight * features[0, k] for k, weight in enumerate(weights)).clamp(min=0))
    maps = grad_cam(toy, images.to(memory_format=memory_format), classes)
    torch.testing.assert_close(maps, spread(torch.stack(expected), 16), rtol=1e-4, atol=1e-5)


def test_of_a_linear_classifier_it_is_the_class_activation_map():
    """Channels weighted by the weights of the class (Zhou et al., 2016); the same fused and in inference mode."""
    model = randomize(timm.create_model("fastvit_t8", num_classes=3)).eval()
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        features, answers = model.forward_features(images), model(images).argmax(1)
    weights = model.get_classifier().weight[answers].detach()  # (2, C)
    raw = torch.einsum("bc,bchw->bhw", weights, features).clamp(min=0)
    assert (raw.amax((1, 2)) > 0).all()
    torch.testing.assert_close(grad_cam(model, images), spread(raw, 96), rtol=1e-3, atol=1e-3)
    with torch.inference_mode():
        maps = grad_cam(fastvit.reparameterize_model(model), images.clone())
    torch.testing.assert_close(maps, spread(raw, 96), rtol=1e-2, atol=1e-2)
    assert not maps.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


class Corner(nn.Module):
    """Sees brightness in the upper right corner only."""

    def forward_features(self, images: Tensor) -> Tensor:
        cells = F.avg_pool2d(images, 8)
        seen = torch.zeros_like(cells)
        seen[..., 0, -1] = cells[..., 0, -1]
        return seen

    def forward_head(self, features: Tensor) -> Tensor:
        bright = features.mean((1, 2, 3))
        return torch.stack([bright, -bright], dim=1)


def test_the_map_is_where_the_answer_comes_from():
    images = torch.rand(1, 3, 32, 48) + 0.1
    (for_it,), (against,) = grad_cam(Corner(), images, [0]), grad_cam(Corner(), images, [1])
    assert for_it[:4, -4:].min() == 1
    assert for_it[12:].max() == for_it[:, :-12].max() == 0
    assert against.max() == 0  # nothing speaks for it
    colored = heated(torch.full((3, 32, 48), 0.5), for_it)
    red, green, blue = colored[:, 0, -1]
    assert red > 0.8
    assert green == blue < 0.2
    assert (colored[:, 16:] == 0.5).all()


class Channelwise(Corner):
    """As timm's networks that keep the channels last."""

    output_fmt = "NHWC"

    def forward_features(self, images: Tensor) -> Tensor:
        return super().forward_features(images).permute(0, 2, 3, 1)


def test_channels_may_come_last():
    images = torch.rand(1, 3, 32, 48) + 0.1
    torch.testing.assert_close(grad_cam(Channelwise(), images), grad_cam(Corner(), images))


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        (lambda: nn.Conv2d(3, 4, 1), 32, "Grad-CAM is for classifiers, and for no exported file"),
        (lambda: timm.create_model("fastvit_t8").eval(), 32, "of 32 x 32 px the last features are a single cell"),
        (lambda: timm.create_model("vit_tiny_patch16_224").eval(), 224, "those of VisionTransformer have none"),
    ],
)
def test_what_has_no_map(network, size: int, message: str):
    with pytest.raises(RunError, match=message):
        grad_cam(network(), torch.zeros(1, 3, size, size))


def test_a_classifier_is_explained_from_python():
    """The part of the image that it sees, and the most where the map says."""
    trained = fastvit.load_trained("fastvit_t8", random_weights=True, num_classes=3, image_size=(64, 64))
    picture = replace(trained, load=Corner).explain(Image.new("L", (100, 80), 128))
    assert picture.size == (64, 64)
    colored = np.abs(np.asarray(picture, float) - 128).sum(-1)
    assert colored[0, -1] == colored.max() > 100
    assert max(colored[12:].max(), colored[:, :-12].max()) <= 3  # a level of each color
    segmenter = fastvit.load_trained("quickstart/segmentation_digits", random_weights=True)
    with pytest.raises(RunError, match="only what a classifier says can be explained"):
        segmenter.explain(Image.new("L", (100, 80)))
