"""What fuses wherever it sits: inside other models, shared, followed by something, wrapped, compiled."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastvit import (
    AttentionBlock,
    ConvBN,
    ConvFFN,
    Foldable,
    LayerScale,
    RepConv,
    RepMixer,
    RepMixerBlock,
    collapse,
    fold_norm,
    fusion_error,
    reparameterize_model,
)
from reference import randomize


def test_fuses_inside_any_model():
    class Segmenter(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = timm.create_model("fastvit_sa12", features_only=True)
            self.heads = nn.ModuleDict({"mixer": RepMixer(64), "norm": nn.Sequential(nn.BatchNorm2d(64), ConvFFN(64))})

        def forward(self, x):
            features = self.backbone(x)
            return {"features": features, "out": self.heads["norm"](self.heads["mixer"](features[0]))}

    model = randomize(Segmenter()).eval()
    fused = reparameterize_model(model)
    assert fusion_error(model, fused, (3, 64, 64)) < 1e-5
    assert type(fused.heads["mixer"]) is nn.Conv2d
    assert type(fused.heads["norm"][0]) is nn.BatchNorm2d, "not one of our modules: stays"
    assert fused.backbone.feature_info.channels() == [64, 128, 256, 512]


def test_a_block_of_one_s_own_folds_its_parts_by_public_functions():
    class Block(Foldable):
        def __init__(self, norm):
            super().__init__()
            self.norm, self.project = norm, nn.Conv2d(8, 8, 1)
            self.mix, self.mixed = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

        def forward(self, x):
            return x + self.mixed(self.mix(self.project(self.norm(x)).tanh()))

        def folded(self):
            norm, project = fold_norm(self.norm, self.project)
            return {"norm": norm, "project": project, "mix": collapse(self.mix, self.mixed), "mixed": nn.Identity()}

    for norm, rest in ((nn.BatchNorm2d(8), nn.Identity), (timm.layers.LayerNorm2d(8), timm.layers.LayerNorm2d)):
        block = randomize(Block(norm)).eval()
        fused = reparameterize_model(block)
        assert [type(part) for part in fused.children()] == [rest, nn.Conv2d, nn.Conv2d, nn.Identity]
        assert not list(fused.norm.parameters())
        assert fusion_error(block, fused, (8, 8, 8)) < 1e-5


def test_a_module_used_twice_stays_shared():
    mixer = randomize(RepMixer(8))
    fused = reparameterize_model(nn.Sequential(mixer, nn.GELU(), mixer))
    assert fused[0] is fused[2]
    assert type(fused[0]) is nn.Conv2d
    assert fusion_error(nn.Sequential(mixer, nn.GELU(), mixer), fused, (8, 8, 8)) < 1e-5


@pytest.mark.parametrize(("make", "parts"), [(RepMixerBlock, ["mlp"]), (AttentionBlock, ["mlp", "token_mixer"])])
def test_blocks_that_share_parts_keep_their_own_layer_scales(make, parts):
    """Weight tying: a part is folded with each block's own, and the rest of it stays shared."""
    a, b = randomize(make(32), seed=0), randomize(make(32), seed=1)
    for part in parts:
        setattr(b, part, getattr(a, part))
    model = nn.Sequential(a, b).eval()
    fused = reparameterize_model(model)
    assert fusion_error(model, fused, (32, 8, 8)) < 1e-5
    assert fused[0].mlp.conv is fused[1].mlp.conv
    assert not [module for module in fused.modules() if isinstance(module, (_BatchNorm, LayerScale))]


class Gate(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv = ConvBN(dim, dim, 1)

    def forward(self, x):
        return x * self.conv(x).sigmoid()


def test_what_follows_a_convolution_fuses_too():
    leaf = randomize(RepConv(6, 6, se=Gate, act=nn.GELU)).eval()
    fused = reparameterize_model(leaf)
    assert fusion_error(leaf, fused, (6, 8, 8)) < 1e-5
    assert not [module for module in fused.modules() if isinstance(module, _BatchNorm)]
    leaf.se.conv.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"^se\.conv \(ConvBN\) is left unfused: it has forward hooks"):
        reparameterize_model(leaf)


class Forwarding(nn.Module):
    """A wrapper that passes what it has not on to what is inside, and computes something of its own."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inside, name)

    def forward(self, x):
        return 2 * self.inside(x)


def test_a_wrapper_around_what_was_compiled_stays():
    plain = nn.Sequential(Forwarding(randomize(RepMixer(8)))).eval()
    compiled = nn.Sequential(Forwarding(torch.compile(plain[0].inside)))
    assert fusion_error(plain, reparameterize_model(compiled), (8, 8, 8)) < 1e-5


def test_what_was_compiled_is_fused():
    """The wrappers go: their forward would be that of the modules they were made of."""
    plain = nn.Sequential(randomize(RepMixer(8)), nn.GELU(), randomize(RepMixerBlock(8))).eval()
    part = nn.Sequential(torch.compile(plain[0]), nn.GELU(), copy.copy(plain[2]))
    part[2]._modules = plain[2]._modules | {"mlp": torch.compile(plain[2].mlp)}
    for model in (part, torch.compile(plain)):
        fused = reparameterize_model(model)
        assert type(fused[0]) is nn.Conv2d
        assert type(fused[2].layer_scale) is nn.Identity
        assert fusion_error(plain, fused, (8, 8, 8)) < 1e-5
    assert type(part[0]) is not type(plain[0]), "the original is untouched"
