"""What a recipe says about the backbone: where its weights come from, and what its batch norms do."""

import pytest
import timm
import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from fastvit import fusion_error, reparameterize_model
from fastvit.errors import RecipeError
from fastvit.models.pyramid import FeaturePyramid
from fastvit.tasks.backbone import BackboneConfig, build_body, synchronize_batch_norm
from reference import randomize


def statistics(model: nn.Module) -> list[torch.Tensor]:
    """The running means and variances, copied."""
    return [buffer.clone() for name, buffer in model.named_buffers() if "running" in name]


def test_frozen_batch_norm_keeps_what_was_loaded_and_fuses(tmp_path):
    trained = randomize(timm.create_model("fastvit_t8", num_classes=7))
    torch.save(trained.state_dict(), tmp_path / "classifier.pt")
    config = BackboneConfig(name="fastvit_t8", checkpoint=tmp_path / "classifier.pt", batch_norm="frozen")
    frozen = build_body(config, initial_weights=True)
    before = statistics(frozen.stem)
    torch.testing.assert_close(before, statistics(trained.stem), rtol=0, atol=0)
    pyramid = FeaturePyramid(frozen, 8)
    pyramid.train()
    sum(each.sum() for each in pyramid(torch.randn(2, 3, 64, 64)).values()).backward()
    torch.testing.assert_close(statistics(frozen.stem), before, rtol=0, atol=0)
    assert any(isinstance(module, nn.BatchNorm2d) for module in pyramid.modules())  # the new norms learn
    fused = reparameterize_model(pyramid)
    assert fusion_error(pyramid, fused, (3, 64, 64)) < 1e-5
    assert not [module for module in fused.modules() if isinstance(module, FrozenBatchNorm2d)]


def test_frozen_batch_norm_from_scratch_is_a_mistake():
    with pytest.raises(ValueError, match="frozen is for weights that were trained"):
        BackboneConfig(name="fastvit_t8", batch_norm="frozen")


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(timm.create_model("fastvit_t8").state_dict(), tmp_path / "t8.pt")
    config = BackboneConfig(name="fastvit_t12", checkpoint=tmp_path / "t8.pt")
    with pytest.raises(RecipeError, match=r"model\.checkpoint: .*holds a fastvit_t8, but the model is a fastvit_t12"):
        build_body(config, initial_weights=True)


def test_a_network_without_the_four_stages_is_a_mistake_of_the_recipe():
    config = BackboneConfig(name="test_vit")
    with pytest.raises(RecipeError, match=r"model.name: test_vit cannot .*strides \[16\], but needs \[4, 8, 16, 32\]"):
        build_body(config, initial_weights=True)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = FeaturePyramid(timm.create_model("fastvit_t8", num_classes=0), 8)
        self.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))


@pytest.mark.parametrize(("batch_norm", "of_backbone"), [("train", {nn.SyncBatchNorm}), ("local", {nn.BatchNorm2d})])
def test_a_local_backbone_has_statistics_of_its_own(batch_norm: str, of_backbone: set[type]):
    """As in MMSegmentation's Semantic FPN, whose norm_cfg of SyncBN reaches the head only."""
    config = BackboneConfig(name="fastvit_t8", batch_norm=batch_norm)
    network = synchronize_batch_norm(config, Network())
    kinds = {
        name: {type(module) for module in part.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
        for name, part in network.named_children()
    }
    assert kinds == {"backbone": of_backbone, "head": {nn.SyncBatchNorm}}
