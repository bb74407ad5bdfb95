"""What cannot be fused exactly stays as it is, and is named; what can be fused in spite of a change is fused."""

import warnings

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn

import fastvit
from fastvit import (
    Affine,
    AttentionBlock,
    CannotFuse,
    ConvBN,
    ConvFFN,
    LayerScale,
    RepMixer,
    RepMixerBlock,
    fusion_error,
    reparameterize_model,
)
from fastvit.reparam import collapse
from reference import randomize


def _gelu_in_between(mixer):
    mixer.mixer.conv_scale.bn = nn.Sequential(mixer.mixer.conv_scale.bn, nn.GELU())


def _no_statistics(mixer):
    mixer.norm.identity = nn.BatchNorm2d(8, track_running_stats=False)


def _reflect(mixer):
    mixer.mixer.conv_kxk[0].conv.padding_mode = "reflect"


def _hook(mixer):
    mixer.mixer.register_forward_hook(lambda module, args, output: 2 * output)


def _hook_before(mixer):
    mixer.mixer.register_forward_pre_hook(lambda module, args: 2 * args[0])


class _Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def _subclass(mixer):
    mixer.mixer.conv_kxk[0].conv = _Doubled(8, 8, 3, padding=1, groups=8, bias=False)


class _Twice(RepMixer):
    def forward(self, x):
        return 2 * super().forward(x)


def _forward_of_a_subclass(mixer):
    mixer.__class__ = _Twice


def _forward_of_the_instance(mixer):
    mixer.mixer.forward = lambda x: 2 * x


def _dense_branch(mixer):
    mixer.mixer.conv_scale = ConvBN(8, 8, 1)


def _strided_branch(mixer):
    """With padding that keeps the size, so that the forward works."""
    mixer.mixer.identity = nn.MaxPool2d(3, stride=1, padding=1)


def _hook_on_an_identity(mixer):
    mixer.mixer.act.register_forward_hook(lambda module, args, output: 2 * output)


class _Halved(nn.Identity):
    def forward(self, x):
        return x / 2


def _an_identity_that_is_none(mixer):
    mixer.norm = nn.Sequential(_Halved(), mixer.norm.identity)


class _Forwarding(nn.Module):
    """As torch's checkpoint wrapper and PEFT's: what it has not, its module has."""

    def __init__(self, module):
        super().__init__()
        self.inside = module

    def forward(self, x):
        return self.inside(x)

    def __getattr__(self, name):
        return self._modules[name] if name == "inside" else getattr(self.inside, name)


def _forwarding(mixer):
    mixer.mixer = _Forwarding(mixer.mixer)


def _frozen_without_eps(mixer):
    """As in DETR: its eps is in its forward alone."""

    class FrozenBatchNorm2d(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias, self.running_mean, self.running_var = torch.rand(4, 8)

        def forward(self, x):
            return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-5)

    mixer.norm.identity = FrozenBatchNorm2d()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_hook_on_an_identity, "Identity stands between"),
        (_an_identity_that_is_none, "_Halved is no convolution"),
        (_forwarding, "_Forwarding is no convolution"),
        (_frozen_without_eps, "its frozen batch norm does not state its eps"),
        (_forward_of_a_subclass, "_Twice has a forward of its own"),
        (_forward_of_the_instance, "RepConv has a forward of its own"),
        (_gelu_in_between, "GELU stands between"),
        (_no_statistics, "no running statistics"),
        (_reflect, "zero padding"),
        (_hook, "forward hooks"),
        (_hook_before, "forward hooks"),
        (_subclass, "_Doubled has a forward of its own, unlike a plain Conv2d"),
        (_dense_branch, "convolutions of different channels, groups or strides"),
        (_strided_branch, "MaxPool2d is no convolution"),
    ],
)
def test_what_cannot_be_fused_is_left_and_reported(change, reason):
    model = nn.Sequential(randomize(RepMixer(8)), nn.Sequential(nn.GELU(), randomize(RepMixer(8)))).eval()
    change(model[1][1])
    with pytest.warns(UserWarning, match=rf"1\.1 \((?:RepMixer|_Twice)\) is left unfused: .*{reason}") as caught:
        fused = reparameterize_model(model)
    assert {warning.filename for warning in caught} == {__file__}, "it points to the caller"
    assert type(fused[0]) is nn.Conv2d
    assert isinstance(fused[1][1], RepMixer)
    assert fusion_error(model, fused, (8, 8, 8)) < 1e-5
    with pytest.raises(CannotFuse, match=reason):
        model[1][1].fuse()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, padding="same", dilation=2),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 2, padding=1),
        nn.Conv2d(4, 4, (3, 1), padding=(1, 0)),
        nn.Conv2d(4, 4, 3, padding=1, stride=(1, 2)),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    ],
    ids=str,
)
def test_unusual_convolutions_are_refused(conv):
    with pytest.raises(CannotFuse, match="is not a square convolution with zero padding"):
        Affine.of(conv)


@pytest.mark.parametrize("conv", [nn.Conv2d(4, 8, 1), nn.Conv2d(4, 4, 3, padding=1, stride=2)], ids=str)
def test_no_skip_connection_goes_around_what_changes_the_shape(conv):
    with pytest.raises(CannotFuse, match="a skip connection goes around a convolution that changes the shape"):
        Affine.of(conv).identity()


def test_no_sum_goes_past_an_activation():
    plain, active = Affine.of(nn.Conv2d(4, 4, 1)), Affine.of(nn.Sequential(nn.Conv2d(4, 4, 1), nn.GELU()))
    for a, b in ((plain, active), (active, plain)):
        with pytest.raises(CannotFuse, match="GELU stands between two convolutions and their sum"):
            a + b


def _own_forward_of_the_ffn(block):
    class Doubled(ConvFFN):
        def forward(self, x):
            return 2 * super().forward(x)

    block.mlp.__class__ = Doubled


def _other_norm(block):
    block.norm = nn.GroupNorm(2, 32)


def _norm_over_columns(block):
    """Torch's own takes the last axis: where images are as wide as there are channels, it runs unnoticed."""
    block.norm = nn.LayerNorm(32)


def _own_forward_of_the_norm(block):
    class Doubled(LayerNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    block.norm = Doubled(32)


def _the_same_name_for_another_norm(block):
    """As that of segment-anything: its class is torch's plain Module."""

    class LayerNorm2d(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.rand(dim)), nn.Parameter(torch.rand(dim))

        def forward(self, x):
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
            return self.weight[:, None, None] * x + self.bias[:, None, None]

    block.norm = LayerNorm2d(32)


class _Adapted(nn.Module):
    """As fine-tuning by low-rank adapters wraps a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.adapter = layer, nn.Linear(layer.in_features, layer.out_features)

    def forward(self, x):
        return self.layer(x) + self.adapter(x)


def _adapted_input(block):
    block.token_mixer.qkv = _Adapted(block.token_mixer.qkv)


def _adapted_output(block):
    block.token_mixer.proj = _Adapted(block.token_mixer.proj)


def _a_layer_in_a_sequence(block):
    block.token_mixer.proj = nn.Sequential(block.token_mixer.proj)


def _activation_after_attention(block):
    block.layer_scale_1 = nn.Sequential(block.layer_scale_1, nn.Tanh())


def _activation_before_attention(block):
    block.norm = nn.Sequential(block.norm, nn.Tanh())


def _hook_on_attention(block):
    block.token_mixer.register_forward_hook(lambda module, args, output: 2 * output)


def _own_forward_of_the_block(block):
    class Doubled(AttentionBlock):
        def forward(self, x):
            return super().forward(self.norm(x))

    block.__class__ = Doubled


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_own_forward_of_the_ffn, "Doubled has a forward of its own, unlike a plain ConvFFN"),
        (_other_norm, "GroupNorm is no convolution"),
        (_norm_over_columns, "LayerNorm is no convolution"),
        (_own_forward_of_the_norm, "Doubled is no convolution"),
        (_the_same_name_for_another_norm, "LayerNorm2d is no convolution"),
        (_adapted_input, "norm and qkv, or proj and layer_scale_1, are not one linear layer"),
        (_adapted_output, "_Adapted is no convolution"),
        (_a_layer_in_a_sequence, "are not one linear layer"),
        (_activation_after_attention, "are not one linear layer"),
        (_activation_before_attention, "are not one linear layer"),
        (_hook_on_attention, "forward hooks"),
        (_own_forward_of_the_block, "Doubled has a forward of its own, unlike a plain AttentionBlock"),
    ],
)
def test_a_block_that_cannot_fold_keeps_its_norm_and_layer_scales(change, reason):
    block = AttentionBlock(32, 2)
    change(block)
    randomize(block).eval()
    with pytest.warns(UserWarning, match=rf"the model \(\w+\) is left unfused: .*{reason}"):
        fused = reparameterize_model(block)
    assert type(fused.layer_scale_1) is type(block.layer_scale_1)
    assert type(fused.layer_scale_2) is LayerScale
    assert type(fused.mlp.conv) is nn.Conv2d, "the rest fuses"
    assert fusion_error(block, fused, (32, 32, 32)) < 1e-5


def test_replaced_parts_that_still_fit_fuse():
    mixer, block = randomize(RepMixer(8)).eval(), randomize(RepMixerBlock(8)).eval()
    mixer.layer_scale = block.layer_scale = nn.Identity()
    mixer.mixer.conv_scale = None
    for module in (mixer, block):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fused = reparameterize_model(module)
        assert fusion_error(module, fused, (8, 8, 8)) < 1e-5


def test_layers_of_other_channels_do_not_follow_each_other():
    """A scale of one channel works on any number of them, and is then no convolution of those."""
    with pytest.raises(CannotFuse, match="a layer of 4 channels follows 1"):
        collapse(LayerScale(1), nn.Conv2d(4, 4, 1))


def test_a_bug_in_an_equivalent_is_not_hidden():
    class Broken(fastvit.Reparameterizable):
        def forward(self, x):
            return x

        def equivalent(self):
            return Affine.of(self.convolution)

    with pytest.raises(AttributeError, match="convolution"):
        reparameterize_model(Broken())


def test_parametrized_convolutions_fuse():
    """The weight is computed from other parameters, the convolution itself is plain."""
    mixer = randomize(RepMixer(8)).eval()
    torch.nn.utils.parametrizations.weight_norm(mixer.mixer.conv_kxk[0].conv)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused = reparameterize_model(mixer)
    assert fusion_error(mixer, fused, (8, 8, 8)) < 1e-5


def test_ddp_is_refused(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(RepMixer(8))
        for model in (wrapped, nn.Sequential(wrapped), torch.compile(wrapped)):
            with pytest.raises(TypeError, match=r"\(DistributedDataParallel\) keeps track of .*: fuse its \.module"):
                reparameterize_model(model)
        assert type(reparameterize_model(wrapped.module)) is nn.Conv2d
    finally:
        torch.distributed.destroy_process_group()
