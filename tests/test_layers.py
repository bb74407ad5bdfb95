import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastvit import Attention, ConditionalPositionalEncoding, ConvBN, ConvFFN, PatchEmbed, RepConv, RepMixer
from fastvit.layers import AttentionBlock, RepMixerBlock
from reference import randomize


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
def test_strided_pointwise_equals_a_strided_convolution(size):
    layer = randomize(ConvBN(4, 6, 1, stride=2)).double()
    plain = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6)).double()
    plain.load_state_dict(dict(zip(plain.state_dict(), layer.state_dict().values(), strict=True)))
    x, x_plain = (torch.ones(3, 4, *size).double().cumsum(0).cumsum(1).requires_grad_() for _ in range(2))
    y, y_plain = layer(x), plain(x_plain)
    torch.testing.assert_close(y, y_plain, rtol=1e-12, atol=1e-12)
    y.square().sum().backward()
    y_plain.square().sum().backward()
    torch.testing.assert_close(x.grad, x_plain.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer.conv.weight.grad, plain[0].weight.grad, rtol=1e-10, atol=1e-12)


def test_strided_pointwise_keeps_gradients_in_channels_last():
    """Batch norm and GELU in the layers before are several times as slow where gradient and input differ in layout."""
    layer = ConvBN(8, 8, 1, stride=2, groups=8).to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x)  # as a layer before it gets it
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels_last", ["model", "input", "both"])
def test_training_in_channels_last_survives_on_cpu(channels_last):
    """uxlfoundation/oneDNN#6035 crashes the process or corrupts gradients, hence a process of its own."""
    program = """
import sys, torch, fastvit, copy
model = fastvit.FastViT((1, 1), (16, 32), 2, (False, False), num_classes=3)
x = torch.randn(4, 3, 64, 64)
plain = copy.deepcopy(model)
plain(x).square().sum().backward()
if sys.argv[1] != "input":
    model = model.to(memory_format=torch.channels_last)
if sys.argv[1] != "model":
    x = x.to(memory_format=torch.channels_last)
for _ in range(3):
    model.zero_grad()
    model(x).square().sum().backward()
for a, b in zip(model.parameters(), plain.parameters()):
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
"""
    done = subprocess.run([sys.executable, "-c", program, channels_last], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_attention_equals_multihead_attention():
    layer = Attention(64, layer_scale=1.0).double().eval()
    reference = nn.MultiheadAttention(64, 2, batch_first=True).double().eval()
    with torch.no_grad():
        reference.in_proj_weight.copy_(layer.qkv.conv.weight.flatten(1))
        reference.in_proj_bias.zero_()
        reference.out_proj.weight.copy_(layer.proj.conv.weight.flatten(1))
        reference.out_proj.bias.copy_(layer.proj.conv.bias)
    randomize(layer.qkv)
    x = torch.randn(2, 64, 3, 5).double()
    tokens = layer.qkv.norm(x).flatten(2).transpose(1, 2)
    expected = reference(tokens, tokens, tokens)[0].transpose(1, 2).reshape(2, 64, 3, 5)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-12)


def test_attention_rejects_a_width_that_is_no_multiple_of_the_head():
    with pytest.raises(ValueError, match="dim 48 must be a multiple of head_dim 32"):
        Attention(48)


def test_rep_mixer_is_the_published_formula():
    """x + gamma * (mixer(x) - norm(x)), with the mixer a sum of 3x3, 1x1 and skip, each with its batch norm."""
    layer = randomize(RepMixer(4)).double().eval()
    x = torch.randn(2, 4, 6, 6).double()

    def bn(y, norm):
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    mixer, (small,) = layer.mixer, layer.mixer.branches
    y = bn(F.conv2d(x, mixer.conv.conv.weight, padding=1, groups=4), mixer.conv.bn)
    y = y + bn(F.conv2d(x, small.conv.weight, groups=4), small.bn) + bn(x, mixer.skip)
    expected = x + layer.scale.gamma * (y - bn(x, layer.norm))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_no_activation_between_the_convolutions_of_the_patch_embedding():
    """The published code computes one there and drops it; the weights were trained without."""
    large, pointwise, _ = randomize(PatchEmbed(4, 8)).double().eval()
    x, y = torch.randn(2, 1, 4, 16, 16).double()
    middle = pointwise(large((x + y) / 2))
    torch.testing.assert_close(middle, (pointwise(large(x)) + pointwise(large(y))) / 2, rtol=1e-10, atol=1e-12)


def test_positional_encoding_sees_the_border():
    """Its zero padding is what makes positions differ: constant input, other values only near the border."""
    layer = ConditionalPositionalEncoding(2)
    y = layer(torch.ones(1, 2, 16, 16))
    torch.testing.assert_close(y[..., 3:-3, 3:-3], y[..., 8:9, 8:9].expand(-1, -1, 10, 10))
    assert not torch.allclose(y[..., 0, 0], y[..., 8, 8])


def test_only_rep_mixer_residuals_escape_stochastic_depth():
    """Dropped with certainty, a RepMixer block keeps its token mixer, an attention block is the identity."""
    x = torch.randn(4, 32, 8, 8)
    repmixer, attention = RepMixerBlock(32, drop_path=1.0), AttentionBlock(32, drop_path=1.0)
    for block in (repmixer, attention):
        randomize(block).train()
        block.drop_path.scale_by_keep = False  # 0 / 0 otherwise
    torch.testing.assert_close(repmixer(x), repmixer.token_mixer(x))
    assert torch.equal(attention(x), x)


@pytest.mark.parametrize("layer", [RepMixer(32), ConvFFN(32), Attention(32), ConditionalPositionalEncoding(32)])
@pytest.mark.parametrize("size", [(1, 1), (5, 9)])
def test_layers_keep_any_shape(layer, size):
    assert layer.eval()(torch.randn(1, 32, *size)).shape == (1, 32, *size)


def test_skip_only_where_the_shape_is_kept():
    assert RepConv(4, 4).skip is not None
    assert RepConv(4, 4, stride=2).skip is None
    assert RepConv(4, 8, groups=4).skip is None


def test_initialisation():
    """Linear layers and the FFN start from trunc_normal(0.02), other convolutions from torch's default."""
    ffn, attention = ConvFFN(64), Attention(64)
    for conv in (ffn.conv.conv, ffn.fc1, ffn.fc2.conv, attention.qkv.conv, attention.proj.conv):
        assert conv.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert conv.bias is None or not conv.bias.any()
    torch.manual_seed(1)
    ours = RepConv(64, 64, (1,)).conv.conv.weight
    torch.manual_seed(1)
    assert torch.equal(ours, nn.Conv2d(64, 64, 1, bias=False).weight)
