import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastvit import (
    Attention,
    AttentionBlock,
    ConditionalPositionalEncoding,
    ConvBN,
    ConvFFN,
    PatchEmbed,
    RepConv,
    RepMixer,
    RepMixerBlock,
)
from fastvit.layers import LargeKernelConv
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


def test_training_in_channels_last_survives_on_cpu():
    """uxlfoundation/oneDNN#6035 crashes the process or corrupts gradients, hence a process of its own."""
    program = """
import torch, fastvit, copy
model = fastvit.FastViT((1, 1), (16, 32), 2, (False, False), num_classes=3)
x = torch.randn(4, 3, 64, 64)
plain = copy.deepcopy(model)
plain(x).square().sum().backward()
last = {"memory_format": torch.channels_last}
nets = [copy.deepcopy(model), copy.deepcopy(model).to(**last), copy.deepcopy(model).to(**last)]
for net, images in zip(nets, (x.to(**last), x, x.to(**last))):
    for _ in range(3):
        net.zero_grad()
        net(images).square().sum().backward()
    for a, b in zip(net.parameters(), plain.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_attention_equals_multihead_attention():
    layer = Attention(64).double().eval()
    reference = nn.MultiheadAttention(64, 2, batch_first=True).double().eval()
    with torch.no_grad():
        reference.in_proj_weight.copy_(layer.qkv.weight)
        reference.in_proj_bias.zero_()
        reference.out_proj.weight.copy_(layer.proj.weight)
        reference.out_proj.bias.copy_(layer.proj.bias)
    x = torch.randn(2, 64, 3, 5).double()
    tokens = x.flatten(2).transpose(1, 2)
    expected = reference(tokens, tokens, tokens)[0].transpose(1, 2).reshape(2, 64, 3, 5)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attention(48), "dim 48 must be a multiple of head_dim 32"),
        (lambda: RepMixer(32, kernel_size=4), "a kernel must be of odd size, .* not 4"),
        (lambda: RepConv(32, 64, 3), r"kernel_sizes must be a tuple, such as \(3, 1\), not 3"),
        (lambda: RepConv(32, 64, ()), r"kernel_sizes must be a tuple, .* not \(\)"),
        (lambda: RepConv(32, 64, (3, 2)), "odd size, .* not 2"),
        (lambda: ConvFFN(32, kernel_size=6), "odd size, .* not 6"),
        (lambda: ConvBN(32, 32, 0), "odd size, .* not 0"),
        (lambda: ConditionalPositionalEncoding(32, 2), "odd size, .* not 2"),
        (lambda: PatchEmbed(32, 64, 8), "odd size, .* not 8"),
        (lambda: PatchEmbed(32, 48), "must be divisible by groups"),
    ],
)
def test_sizes_that_cannot_be_are_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_rep_mixer_is_the_published_formula():
    """x + gamma * (mixer(x) - norm(x)), with the mixer a sum of 3x3, 1x1 and skip, each with its batch norm."""
    layer = randomize(RepMixer(4)).double().eval()
    x = torch.randn(2, 4, 6, 6).double()

    def bn(y, norm):
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    (large,), small = layer.mixer.conv_kxk, layer.mixer.conv_scale
    y = bn(F.conv2d(x, large.conv.weight, padding=1, groups=4), large.bn)
    y = y + bn(F.conv2d(x, small.conv.weight, groups=4), small.bn) + bn(x, layer.mixer.identity)
    expected = x + layer.layer_scale.gamma * (y - bn(x, layer.norm.identity))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_what_stands_between_the_convolutions_of_the_patch_embedding():
    """Nothing: the published code computes an activation there and drops it, and the weights were trained without.
    MobileCLIP's encoders have squeeze-and-excitation and an activation, in this order."""
    x = torch.randn(2, 4, 16, 16).double()
    embed = randomize(PatchEmbed(4, 8)).double().eval()
    large, pointwise = embed.proj
    y = large.large_conv(x) + large.small_conv(x)
    assert torch.equal(embed(x), pointwise(y))

    class Double(nn.Module):
        def __init__(self, channels):
            super().__init__()
            assert channels == 8

        def forward(self, x):
            return 2 * x

    with_both = PatchEmbed(4, 8, se=Double, act=nn.GELU).double().eval()
    with_both.load_state_dict(embed.state_dict())
    assert torch.equal(with_both(x), pointwise(F.gelu(2 * y)))


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
    for drop_path in (repmixer.drop_path, attention.drop_path1, attention.drop_path2):
        drop_path.scale_by_keep = False  # 0 / 0 otherwise
    torch.testing.assert_close(repmixer(x), repmixer.token_mixer(x))
    assert torch.equal(attention(x), x)


@pytest.mark.parametrize("layer", [RepMixer(32), ConvFFN(32), Attention(32), ConditionalPositionalEncoding(32)])
@pytest.mark.parametrize("size", [(1, 1), (5, 9)])
def test_layers_keep_any_shape(layer, size):
    assert layer.eval()(torch.randn(1, 32, *size)).shape == (1, 32, *size)


def test_skip_only_where_the_shape_is_kept():
    assert RepConv(4, 4).identity is not None
    assert RepConv(4, 4, stride=2).identity is None
    assert RepConv(4, 8, groups=4).identity is None


def test_branches_are_of_the_given_sizes():
    def sizes(*convs):
        return [branch.conv.kernel_size[0] for branch in convs]

    mobile_one = RepConv(4, 4, (5, 3, 3, 1))
    assert sizes(*mobile_one.conv_kxk) == [5, 3, 3]
    assert sizes(mobile_one.conv_scale) == [1]
    assert sizes(*RepConv(4, 4, (1, 1)).conv_kxk) == [1, 1]
    assert RepConv(4, 4, (3,)).conv_scale is RepConv(4, 4, (1,)).conv_scale is None
    large = LargeKernelConv(4, 8, 9)
    assert sizes(large.large_conv, large.small_conv) == [9, 3]


def test_initialisation():
    """Linear layers and the FFN start from trunc_normal(0.02), other convolutions from torch's default."""
    ffn, attention = ConvFFN(64), Attention(64)
    for layer in (ffn.conv.conv, ffn.fc1, ffn.fc2, attention.qkv, attention.proj):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.bias is None or not layer.bias.any()
    torch.manual_seed(1)
    ours = RepConv(64, 64, (1,)).conv_kxk[0].conv.weight
    torch.manual_seed(1)
    assert torch.equal(ours, nn.Conv2d(64, 64, 1, bias=False).weight)
