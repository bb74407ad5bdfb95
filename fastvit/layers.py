"""The layers of FastViT (arXiv 2303.14189), each usable in a network of your own.

All take and return (batch, channels, height, width). A layer that computes one convolution in eval mode is
`Reparameterizable`: its `equivalent` stands under its `forward` and says the same with `x` erased.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from fastvit.reparam import Affine, Reparameterizable


def _trunc_normal(conv: nn.Conv2d) -> nn.Conv2d:
    """The initialisation of linear layers and of the FFN; every other convolution keeps torch's default."""
    nn.init.trunc_normal_(conv.weight, std=0.02)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class LayerScale(nn.Module):
    """One learned factor for each channel (CaiT, arXiv 2103.17239).

    `gamma` is (dim, 1, 1) as in the published checkpoints. The usual rule "no weight decay for 1-d parameters"
    therefore decays it, and the published recipe did.
    """

    def __init__(self, dim: int, init: float = 1e-5):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim, 1, 1), init))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x


class ConvBN(Reparameterizable):
    """Convolution without bias, then batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1):
        super().__init__()
        # A strided 1x1 convolution sees every stride-th pixel only. Taking those pixels first gives the same numbers
        # and avoids a strided 1x1 backward, which corrupts memory on CPU in channels_last (uxlfoundation/oneDNN#6035).
        self.subsample = stride if kernel_size == 1 else 1
        stride = stride // self.subsample
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.subsample > 1:
            x = F.avg_pool2d(x, 1, self.subsample)  # a slice, whose gradient stays channels_last: 1.3x the step of T8
        return self.bn(self.conv(x))

    def equivalent(self) -> Affine:
        return Affine.of(self.conv).subsample(self.subsample).batch_norm(self.bn)


class NormConv(Reparameterizable):
    """Batch norm, then a 1x1 convolution without bias: the pre-norm projection to queries, keys and values."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = _trunc_normal(nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))

    def equivalent(self) -> Affine:
        return Affine.of(self.conv).after_batch_norm(self.norm)


class ScaledConv(Reparameterizable):
    """1x1 convolution, then layer scale: the end of a residual branch."""

    def __init__(self, in_channels: int, out_channels: int, layer_scale: float = 1e-5):
        super().__init__()
        self.conv = _trunc_normal(nn.Conv2d(in_channels, out_channels, 1))
        self.scale = LayerScale(out_channels, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.conv(x))

    def equivalent(self) -> Affine:
        return Affine.of(self.conv).scale(self.scale.gamma)


class RepConv(Reparameterizable):
    """Sum of parallel conv-BN branches, and of a BN skip where the shape is kept (section 3.2; MobileOne's block).

    Args:
        kernel_sizes: of the branches, the largest first: (3, 1) is a convolution with a scale branch, (7, 3) the
            large-kernel convolution of the patch embedding, (1,) a pointwise convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: tuple[int, ...] = (3, 1),
        *,
        stride: int = 1,
        groups: int = 1,
    ):
        super().__init__()
        largest, *smaller = kernel_sizes
        self.conv = ConvBN(in_channels, out_channels, largest, stride, groups)
        self.branches = nn.ModuleList(ConvBN(in_channels, out_channels, k, stride, groups) for k in smaller)
        self.skip = nn.BatchNorm2d(in_channels) if in_channels == out_channels and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        for branch in self.branches:
            y = y + branch(x)
        return y if self.skip is None else y + self.skip(x)

    def equivalent(self) -> Affine:
        y = self.conv.equivalent()
        for branch in self.branches:
            y = y + branch.equivalent()
        return y if self.skip is None else y + y.identity().batch_norm(self.skip)


class RepMixer(Reparameterizable):
    """The token mixer of stages 1-3: x + gamma * (mixer(x) - norm(x)), one depthwise convolution in eval mode.

    The paper's equation 2 differs; the published weights need this one.
    """

    def __init__(self, dim: int, kernel_size: int = 3, layer_scale: float = 1e-5):
        super().__init__()
        self.mixer = RepConv(dim, dim, (kernel_size, 1), groups=dim)
        self.norm = nn.BatchNorm2d(dim)
        self.scale = LayerScale(dim, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(self.mixer(x) - self.norm(x))

    def equivalent(self) -> Affine:
        mixer = self.mixer.equivalent()
        x = mixer.identity()
        return x + (mixer - x.batch_norm(self.norm)).scale(self.scale.gamma)


class ConditionalPositionalEncoding(Reparameterizable):
    """x + depthwise convolution of x: positions from the zero padding (section 3.3; CPVT, arXiv 2102.10882)."""

    def __init__(self, dim: int, kernel_size: int = 7):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)

    def equivalent(self) -> Affine:
        conv = Affine.of(self.conv)
        return conv.identity() + conv


class ConvFFN(nn.Module):
    """The residual branch of the feed-forward network: large-kernel conv-BN, expand, GELU, project, layer scale."""

    def __init__(self, dim: int, expansion: int = 4, kernel_size: int = 7, layer_scale: float = 1e-5):
        super().__init__()
        self.conv = ConvBN(dim, dim, kernel_size, groups=dim)
        _trunc_normal(self.conv.conv)
        self.fc1 = _trunc_normal(nn.Conv2d(dim, expansion * dim, 1))
        self.act = nn.GELU()
        self.fc2 = ScaledConv(expansion * dim, dim, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.conv(x))))


class Attention(nn.Module):
    """The residual branch of self-attention: BN, multi-head attention over all positions, layer scale.

    Raises ValueError if `dim` is not a multiple of `head_dim`.
    """

    def __init__(self, dim: int, head_dim: int = 32, layer_scale: float = 1e-5):
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"dim {dim} must be a multiple of head_dim {head_dim}")
        self.head_dim = head_dim
        self.qkv = NormConv(dim, 3 * dim)
        self.proj = ScaledConv(dim, dim, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(x).reshape(B, 3, C // self.head_dim, self.head_dim, H * W)
        q, k, v = qkv.transpose(-2, -1).unbind(1)  # each (B, heads, H * W, head_dim)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(-2, -1).reshape(B, C, H, W))


class PatchEmbed(nn.Sequential):
    """Halves the resolution: large-kernel RepConv with stride 2, pointwise RepConv, GELU (section 3.2.2).

    `out_channels` must be a multiple of `in_channels`: each output channel sees one input channel.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 7):
        super().__init__(
            # No activation here, whatever figure 2 shows: the published code computes one and drops it.
            RepConv(in_channels, out_channels, (kernel_size, 3), stride=2, groups=in_channels),
            RepConv(out_channels, out_channels, (1,)),
            nn.GELU(),
        )


class RepMixerBlock(nn.Module):
    """RepMixer, then the feed-forward network as a residual with stochastic depth `drop_path`."""

    def __init__(self, dim: int, expansion: int = 4, layer_scale: float = 1e-5, drop_path: float = 0.0):
        super().__init__()
        self.token_mixer = RepMixer(dim, layer_scale=layer_scale)
        self.ffn = ConvFFN(dim, expansion, layer_scale=layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.token_mixer(x)
        return x + self.drop_path(self.ffn(x))


class AttentionBlock(nn.Module):
    """Self-attention and the feed-forward network, each a residual with stochastic depth `drop_path`."""

    def __init__(self, dim: int, expansion: int = 4, layer_scale: float = 1e-5, drop_path: float = 0.0):
        super().__init__()
        self.token_mixer = Attention(dim, layer_scale=layer_scale)
        self.ffn = ConvFFN(dim, expansion, layer_scale=layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.token_mixer(x))
        return x + self.drop_path(self.ffn(x))
