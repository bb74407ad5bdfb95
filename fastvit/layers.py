"""The layers of FastViT (arXiv 2303.14189), each usable in a network of your own, under timm's parameter names.

All take and return (batch, channels, height, width). A layer that computes one convolution in eval mode is
`Reparameterizable`: its `equivalent` stands under its `forward` and says the same with `x` erased. A block is
`Foldable`: its norm and layer scales fold into the layers beside them. Kernels must be of odd size.

The arguments `se` and `norm` make a module for a number of channels, `act` makes one of no arguments: classes, mostly.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from fastvit.reparam import Affine, CannotFuse, Foldable, Reparameterizable, collapse, fold_norm, require_plain

Make = Callable[..., nn.Module]


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

    def equivalent(self) -> Affine:
        return Affine.per_channel(self.gamma)


class SubsampledConv2d(nn.Conv2d):
    """A strided 1x1 convolution that first takes the pixels it sees.

    The numbers are those of `nn.Conv2d`, whose backward corrupts memory on CPU in channels_last
    (uxlfoundation/oneDNN#6035).
    """

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 1, self.stride)  # a slice, whose gradient stays channels_last: 1.3x the step of T8
        return F.conv2d(x, self.weight, self.bias, groups=self.groups)

    def equivalent(self) -> Affine:
        return Affine.of_weights(self.weight, self.bias, self.stride[0], self.groups)


class ConvBN(Reparameterizable):
    """Convolution without bias, then batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1):
        super().__init__()
        conv = SubsampledConv2d if kernel_size == 1 < stride else nn.Conv2d
        padding = _same_padding(kernel_size)
        self.conv = conv(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def equivalent(self) -> Affine:
        return Affine.of(self.conv).then(self.bn)


class RepConv(Reparameterizable):
    """Sum of parallel conv-BN branches, and of a BN skip where the shape is kept; then `se` and `act` (section 3.2;
    MobileOne's block, arXiv 2206.04040).

    Args:
        kernel_sizes: of the branches, the largest first: (3, 1) is a convolution with a scale branch, (1,) a pointwise
            convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: tuple[int, ...] = (3, 1),
        *,
        stride: int = 1,
        groups: int = 1,
        se: Make = nn.Identity,
        act: Make = nn.Identity,
    ):
        super().__init__()
        if not isinstance(kernel_sizes, tuple) or not kernel_sizes:
            raise ValueError(f"kernel_sizes must be a tuple, such as (3, 1), not {kernel_sizes!r}")
        branches = [ConvBN(in_channels, out_channels, size, stride, groups) for size in kernel_sizes]
        scale = branches.pop() if kernel_sizes[-1] == 1 < kernel_sizes[0] else None
        self.se = se(out_channels)
        self.identity = nn.BatchNorm2d(in_channels) if in_channels == out_channels and stride == 1 else None
        self.conv_kxk = nn.ModuleList(branches)
        self.conv_scale = scale
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        branches = [conv(x) for conv in self.conv_kxk]
        if self.conv_scale is not None:
            branches.append(self.conv_scale(x))
        if self.identity is not None:
            branches.append(self.identity(x))
        return self.act(self.se(_sum(branches)))

    def equivalent(self) -> Affine:
        branches = [Affine.of(conv) for conv in self.conv_kxk]
        if self.conv_scale is not None:
            branches.append(Affine.of(self.conv_scale))
        if self.identity is not None:
            branches.append(Affine.of(self.identity))
        return reduce(add, branches).then(self.se).then(self.act)


class LargeKernelConv(Reparameterizable):
    """Sum of a large and a 3x3 conv-BN branch with stride 2, where each output channel sees one input channel; then
    `se` and `act` (section 3.2.2; RepLKNet, arXiv 2203.06717)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 7,
        *,
        se: Make = nn.Identity,
        act: Make = nn.Identity,
    ):
        super().__init__()
        self.large_conv = ConvBN(in_channels, out_channels, kernel_size, stride=2, groups=in_channels)
        self.small_conv = ConvBN(in_channels, out_channels, 3, stride=2, groups=in_channels)
        self.se = se(out_channels)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        y = self.large_conv(x) + self.small_conv(x)
        return self.act(self.se(y))

    def equivalent(self) -> Affine:
        y = Affine.of(self.large_conv) + Affine.of(self.small_conv)
        return y.then(self.se).then(self.act)


class RepMixer(Reparameterizable):
    """The token mixer of stages 1-3: x + gamma * (mixer(x) - norm(x)), one depthwise convolution in eval mode.

    The paper's equation 2 differs; the published weights need this one.
    """

    def __init__(self, dim: int, kernel_size: int = 3, layer_scale: float = 1e-5):
        super().__init__()
        self.norm = nn.Sequential(OrderedDict(identity=nn.BatchNorm2d(dim)))  # its name in the checkpoints
        self.mixer = RepConv(dim, dim, (kernel_size, 1), groups=dim)
        self.layer_scale = LayerScale(dim, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale(self.mixer(x) - self.norm(x))

    def equivalent(self) -> Affine:
        mixer, norm = Affine.of(self.mixer), Affine.of(self.norm)
        return mixer.identity() + (mixer - norm).then(self.layer_scale)


class ConditionalPositionalEncoding(Reparameterizable):
    """x + depthwise convolution of x: positions from the zero padding (section 3.3; CPVT, arXiv 2102.10882)."""

    def __init__(self, dim: int, kernel_size: int = 7):
        super().__init__()
        self.pos_enc = nn.Conv2d(dim, dim, kernel_size, padding=_same_padding(kernel_size), groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pos_enc(x)

    def equivalent(self) -> Affine:
        pos_enc = Affine.of(self.pos_enc)
        return pos_enc.identity() + pos_enc


class PatchEmbed(nn.Module):
    """Halves the resolution: large-kernel convolution, pointwise RepConv, GELU (section 3.2.2).

    `out_channels` must be a multiple of `in_channels`. `se` and `act` follow the large-kernel convolution. FastViT has
    none there, whatever figure 2 shows: the published code computes an activation and drops it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 7,
        *,
        se: Make = nn.Identity,
        act: Make = nn.Identity,
    ):
        super().__init__()
        self.proj = nn.Sequential(
            LargeKernelConv(in_channels, out_channels, kernel_size, se=se, act=act),
            RepConv(out_channels, out_channels, (1,), act=nn.GELU),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class ConvFFN(nn.Module):
    """The feed-forward network: large-kernel conv-BN, expand, GELU, project."""

    def __init__(self, dim: int, expansion: float = 4, kernel_size: int = 7):
        super().__init__()
        hidden = int(expansion * dim)
        self.conv = ConvBN(dim, dim, kernel_size, groups=dim)
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, dim, 1)
        _trunc_normal(self.conv.conv, self.fc1, self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.conv(x))))


class Attention(nn.Module):
    """Multi-head self-attention over all positions. Raises ValueError if `dim` is not a multiple of `head_dim`."""

    def __init__(self, dim: int, head_dim: int = 32):
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"dim {dim} must be a multiple of head_dim {head_dim}")
        self.head_dim = head_dim
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        _trunc_normal(self.qkv, self.proj)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        tokens = x.flatten(2).transpose(1, 2)  # (B, H * W, C)
        qkv = self.qkv(tokens).reshape(B, H * W, 3, C // self.head_dim, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, H * W, head_dim)
        tokens = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        return self.proj(tokens).transpose(1, 2).reshape(B, C, H, W)


class RepMixerBlock(Foldable):
    """RepMixer, then the feed-forward network as a residual with layer scale and stochastic depth `drop_path`."""

    def __init__(self, dim: int, expansion: float = 4, layer_scale: float = 1e-5, drop_path: float = 0.0):
        super().__init__()
        self.token_mixer = RepMixer(dim, layer_scale=layer_scale)
        self.mlp = ConvFFN(dim, expansion)
        self.layer_scale = LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.token_mixer(x)
        return x + self.drop_path(self.layer_scale(self.mlp(x)))

    def folded(self) -> dict[str, nn.Module]:
        require_plain(self.mlp, ConvFFN)
        return {"mlp.fc2": collapse(self.mlp.fc2, self.layer_scale), "layer_scale": nn.Identity()}


class AttentionBlock(Foldable):
    """Norm and self-attention, then the feed-forward network, each a residual with layer scale and stochastic depth."""

    def __init__(
        self,
        dim: int,
        expansion: float = 4,
        layer_scale: float = 1e-5,
        drop_path: float = 0.0,
        *,
        norm: Make = nn.BatchNorm2d,
    ):
        super().__init__()
        self.norm = norm(dim)
        self.token_mixer = Attention(dim)
        self.layer_scale_1 = LayerScale(dim, layer_scale)
        self.drop_path1 = DropPath(drop_path)
        self.mlp = ConvFFN(dim, expansion)
        self.layer_scale_2 = LayerScale(dim, layer_scale)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.layer_scale_1(self.token_mixer(self.norm(x))))
        return x + self.drop_path2(self.layer_scale_2(self.mlp(x)))

    def folded(self) -> dict[str, nn.Module]:
        require_plain(self.token_mixer, Attention)
        require_plain(self.mlp, ConvFFN)
        norm, qkv = fold_norm(self.norm, self.token_mixer.qkv)
        proj = collapse(self.token_mixer.proj, self.layer_scale_1)
        fc2 = collapse(self.mlp.fc2, self.layer_scale_2)
        if not (isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear)):
            raise CannotFuse("norm and qkv, or proj and layer_scale_1, are not one linear layer")
        gone = {"layer_scale_1": nn.Identity(), "layer_scale_2": nn.Identity()}
        return {"norm": norm, "token_mixer.qkv": qkv, "token_mixer.proj": proj, "mlp.fc2": fc2, **gone}


def _same_padding(kernel_size: int) -> int:
    """The padding that keeps the size of an image. Raises ValueError where there is none."""
    if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"a kernel must be of odd size, which keeps the size of the image, not {kernel_size}")
    return kernel_size // 2


def _sum(terms: list[Tensor]) -> Tensor:
    """TorchScript's own `sum` is for numbers."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _trunc_normal(*layers: nn.Conv2d | nn.Linear) -> None:
    """The initialisation of linear layers and of the FFN; every other convolution keeps torch's default."""
    for layer in layers:
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
