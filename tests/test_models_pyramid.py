"""A classification network as a backbone: its stages, its weights, its layers."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from fastvit import FastViT, fusion_error, reparameterize_model
from fastvit.models.pyramid import FeaturePyramid, OnPyramid
from reference import VARIANTS, randomize


def body(name: str = "fastvit_t8") -> nn.Module:
    return timm.create_model(name, num_classes=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_levels_are_the_four_stages(name: str):
    with torch.device("meta"):
        pyramid = FeaturePyramid(body(name), 32)
        features = pyramid(torch.empty(1, 3, 128, 96))
    assert [tuple(each.shape) for each in features.values()] == [(1, 32, 128 // s, 96 // s) for s in (4, 8, 16, 32)]


def test_features_are_those_of_timm_s_features_only():
    """The last stage after its attention; the published code (`fork_feat`) taps what is in front of that."""
    network = randomize(body("fastvit_sa12")).eval()
    listed = timm.create_model("fastvit_sa12", features_only=True).eval()
    listed.load_state_dict({name.replace(".", "_", 1): tensor for name, tensor in network.state_dict().items()}, False)
    pyramid = FeaturePyramid(network, 8, output_norm=False).eval()
    image = torch.randn(1, 3, 64, 64)
    plain = FeaturePyramidNetwork([64, 128, 256, 512], 8)
    plain.load_state_dict(pyramid.fpn.state_dict())
    expected = plain({str(i): feature for i, feature in enumerate(listed(image))})
    torch.testing.assert_close(dict(pyramid(image)), dict(expected))


@pytest.mark.parametrize("levels", [(0, 1, 2, 3), (1, 2, 3)])
def test_every_parameter_has_a_gradient(levels: tuple[int, ...]):
    pyramid = FeaturePyramid(body("fastvit_sa12"), 8, levels=levels)
    sum(each.sum() for each in pyramid(torch.randn(2, 3, 64, 64)).values()).backward()
    assert [name for name, parameter in pyramid.named_parameters() if parameter.grad is None] == []


def test_it_fuses_completely_the_new_norms_included():
    pyramid = randomize(FeaturePyramid(body("fastvit_sa12"), 16))
    fused = reparameterize_model(pyramid)
    assert fusion_error(pyramid, fused, (3, 64, 64)) < 1e-5
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    again = FeaturePyramid(timm.create_model("fastvit_sa12", num_classes=0, fused=True), 16)
    reparameterize_model(again).load_state_dict(fused.state_dict())


def test_other_networks_of_timm_have_stages_too():
    features = FeaturePyramid(body("resnet18"), 8)(torch.randn(1, 3, 64, 64))
    assert [each.shape[-1] for each in features.values()] == [16, 8, 4, 2]
    with pytest.raises(ValueError, match=r"has stages of strides \[16\]"):
        FeaturePyramid(timm.create_model("vit_tiny_patch16_224"), 8)


class Network(OnPyramid, nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = FeaturePyramid(body("fastvit_sa12"), 8)
        self.head = nn.Conv2d(8, 2, 1)


def test_layer_wise_rates_are_the_classifier_s_and_the_new_layers_learn_at_the_full_rate():
    def scales(model: nn.Module) -> dict[str, float]:
        names = {parameter: name for name, parameter in model.named_parameters()}
        groups = param_groups_layer_decay(model, 0.05, layer_decay=0.5)
        return {names[parameter]: group["lr_scale"] for group in groups for parameter in group["params"]}

    classifier = timm.create_model("fastvit_sa12", num_classes=2)
    assert isinstance(classifier, FastViT)
    expected, found = scales(classifier), scales(Network())
    assert found["head.weight"] == found["backbone.fpn.inner_blocks.0.0.norm.weight"] == 1.0
    for name, scale in found.items():
        if name.startswith("backbone.body."):
            assert scale == expected[name.removeprefix("backbone.body.")], name
    assert all(scale < 0.001 for name, scale in found.items() if name.startswith("backbone.body.stem.0."))


def test_gradient_checkpointing_changes_nothing_but_memory():
    torch.manual_seed(0)
    network = Network()
    image = torch.randn(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        network.set_grad_checkpointing(enable)
        network.zero_grad()
        sum(each.square().mean() for each in network.backbone(image).values()).backward()
        gradients.append([parameter.grad.clone() for parameter in network.backbone.body.stem.parameters()])
    assert network.backbone.body.stages[2].grad_checkpointing
    torch.testing.assert_close(*gradients)
