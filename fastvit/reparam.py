"""Structural reparameterization: fold train-time branches into one convolution.

In eval mode a convolution, a batch norm, a skip connection and a per-channel scale are all affine maps, and affine
maps with "same" padding are closed under addition, per-channel scaling and a following batch norm. A module made of
them therefore *is* one convolution (RepVGG, arXiv 2101.03697; FastViT, arXiv 2303.14189, section 3.2). `Affine` is
that algebra, `Reparameterizable` the base of every module that has such an equivalent, and `reparameterize_model`
the pass that replaces them all.
"""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastvit.precision import exact_float32


class CannotFuse(Exception):
    """A module has no exact single-convolution equivalent. The message says why."""


@dataclass(frozen=True)
class Affine:
    """The map x -> conv(x, kernel) + bias, zero-padded so that stride 1 keeps the image size.

    Attributes:
        kernel: (out_channels, in_channels / groups, k, k) with odd k; float64, or float32 on a device without it.
        bias: (out_channels,), of the kernel's dtype.
        dtype: dtype of the weights it was made from. Folding in half precision would double the error, so rounding
            happens once, in `to_conv`.
        stride, groups: as in `nn.Conv2d`.
    """

    kernel: Tensor
    bias: Tensor
    dtype: torch.dtype
    stride: int = 1
    groups: int = 1

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "Affine":
        """The map a convolution computes. Raises `CannotFuse` unless it is a plain, "same"-padded one."""
        _require_plain(conv)
        kernel = conv.weight.to(torch.float32 if conv.weight.device.type == "mps" else torch.float64)
        bias = kernel.new_zeros(len(kernel)) if conv.bias is None else conv.bias.to(kernel.dtype)
        return cls(kernel, bias, conv.weight.dtype, conv.stride[0], conv.groups)

    def identity(self) -> "Affine":
        """x -> x, for the channels and groups of this map."""
        out_channels, width, _, _ = self.kernel.shape
        assert (self.stride, out_channels) == (1, width * self.groups), "no identity: the map changes the shape"
        kernel = nn.init.dirac_(self.kernel.new_empty(out_channels, width, 1, 1), self.groups)
        return replace(self, kernel=kernel, bias=torch.zeros_like(self.bias))

    def __add__(self, other: "Affine") -> "Affine":
        assert (self.stride, self.groups) == (other.stride, other.groups)
        size = max(self.kernel.shape[-1], other.kernel.shape[-1])
        kernel = _pad_to(self.kernel, size) + _pad_to(other.kernel, size)
        return replace(self, kernel=kernel, bias=self.bias + other.bias)

    def __sub__(self, other: "Affine") -> "Affine":
        return self + replace(other, kernel=-other.kernel, bias=-other.bias)

    def scale(self, gamma: Tensor) -> "Affine":
        """gamma * self(x), with one factor for each output channel."""
        gamma = gamma.flatten().to(self.kernel.dtype)
        return replace(self, kernel=self.kernel * gamma.view(-1, 1, 1, 1), bias=self.bias * gamma)

    def batch_norm(self, norm: nn.Module) -> "Affine":
        """norm(self(x))."""
        scale, shift = _scale_and_shift(norm, self.kernel.dtype)
        scaled = self.scale(scale)
        return replace(scaled, bias=scaled.bias + shift)

    def after_batch_norm(self, norm: nn.Module) -> "Affine":
        """self(norm(x)), for a dense 1x1 map: a larger one would also have to pad with the shift."""
        assert (self.groups, self.kernel.shape[-1]) == (1, 1)
        scale, shift = _scale_and_shift(norm, self.kernel.dtype)
        bias = self.bias + (self.kernel * shift.view(1, -1, 1, 1)).sum((1, 2, 3))
        return replace(self, kernel=self.kernel * scale.view(1, -1, 1, 1), bias=bias)

    def subsample(self, stride: int) -> "Affine":
        """self(x[..., ::stride, ::stride]), for a 1x1 map."""
        assert stride == 1 or self.kernel.shape[-1] == 1
        return replace(self, stride=self.stride * stride)

    def to_conv(self) -> nn.Conv2d:
        """The convolution that computes this map, in the dtype of the original weights."""
        out_channels, width, size, _ = self.kernel.shape
        # Made on the meta device: no memory, no initialisation, and torch's random state stays as it was.
        conv = nn.Conv2d(
            width * self.groups, out_channels, size, self.stride, size // 2, groups=self.groups, device="meta"
        )
        conv.weight = nn.Parameter(self.kernel.to(self.dtype).contiguous())
        conv.bias = nn.Parameter(self.bias.to(self.dtype))
        return conv


class Reparameterizable(nn.Module):
    """A module that, in eval mode, computes one convolution.

    A subclass writes `equivalent` so that it reads like its `forward` with `x` erased.
    """

    def equivalent(self) -> Affine:
        """The affine map of the eval-mode forward. Raises `CannotFuse` where there is no exact one."""
        raise NotImplementedError

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """The equivalent convolution, on the same device and in the same dtype; also the hook of timm's own pass.

        It trains if any parameter it was made from does. Raises `CannotFuse`.
        """
        for module in self.modules():
            _require_own_forward(module)
        try:
            conv = self.equivalent().to_conv()
        except AttributeError as error:  # where a part was replaced by a module of another kind
            raise CannotFuse(f"one of its parts is not what it was made with ({error})") from error
        conv.requires_grad_(any(p.requires_grad for p in self.parameters()))
        if any(_is_channels_last(p) for p in self.parameters()):
            conv = conv.to(memory_format=torch.channels_last)
        return conv.train(self.training)


@torch.inference_mode(False)  # parameters made in inference mode could never train
def reparameterize_model(model: nn.Module) -> nn.Module:
    """An eval-mode copy of `model` in which each `Reparameterizable` module is one plain `nn.Conv2d`.

    Works on any module tree that contains fastvit's blocks, and on a block itself. The original is untouched. Weights
    are folded in float64 (float32 on MPS) and cast to their own dtype last. Fusing twice changes nothing.

    Warns (`UserWarning`) with the name of each module that cannot be fused exactly; such a module stays as it is.
    Raises TypeError for a model inside `DistributedDataParallel`, which keeps track of the tensors it was made with.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise TypeError("the model is wrapped in DistributedDataParallel: fuse what is inside, model.module")
    unfused: list[str] = []
    fused = _fuse_tree(copy.deepcopy(model).eval(), name="", done={}, unfused=unfused)
    for problem in unfused:
        warnings.warn(problem, stacklevel=3)  # 2 is the decorator
    return fused


def _fuse_tree(module: nn.Module, name: str, done: dict[nn.Module, nn.Module], unfused: list[str]) -> nn.Module:
    if module in done:  # used in several places: keep it shared
        return done[module]
    done[module] = module
    if isinstance(module, Reparameterizable):
        try:
            done[module] = module.fuse()
        except CannotFuse as reason:
            unfused.append(f"{name or 'the model'} ({type(module).__name__}) is left unfused: {reason}")
    else:
        for child_name, child in module._modules.items():
            if child is None:
                continue
            fused = _fuse_tree(child, f"{name}.{child_name}".lstrip("."), done, unfused)
            if fused is not child:
                module._modules[child_name] = fused
    return done[module]


@torch.no_grad()
def fusion_error(model: nn.Module, fused: nn.Module, input_size: tuple[int, int, int] = (3, 256, 256)) -> float:
    """Relative L2 difference of the eval-mode outputs of two models on the same two random images.

    Args:
        model, fused: models with equal outputs: a tensor, or a list, tuple or dict of tensors. Neither is changed.
        input_size: (channels, height, width) of the images.

    Returns:
        |fused(x) - model(x)| / |model(x)|, computed in float64.
    """
    parameter = next(model.parameters())
    x = torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0)).to(parameter)
    with exact_float32():
        expected, actual = (copy.deepcopy(each).eval()(x) for each in (model, fused))
    return relative_error(actual, expected)


def relative_error(actual: Any, expected: Any) -> float:
    """|actual - expected| / |expected| over all tensors in two equally nested outputs, computed in float64."""
    a, e = (torch.cat([t.flatten().cpu().double() for t in _tensors(output)]) for output in (actual, expected))
    return float((a - e).norm() / e.norm())


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    else:
        for value in output.values() if isinstance(output, dict) else output:
            yield from _tensors(value)


def _pad_to(kernel: Tensor, size: int) -> Tensor:
    return F.pad(kernel, [(size - kernel.shape[-1]) // 2] * 4)


def _require_own_forward(module: nn.Module) -> None:
    """The module must compute what its `equivalent` says: nothing hooked to it, no `forward` written over it."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise CannotFuse("it has forward hooks, which fusing would drop")
    if isinstance(module, Reparameterizable):
        definers = [next(c for c in type(module).__mro__ if name in vars(c)) for name in ("forward", "equivalent")]
        if "forward" in vars(module) or not issubclass(definers[1], definers[0]):
            raise CannotFuse(f"{type(module).__name__} has a forward of its own, but no equivalent to it")


def _is_channels_last(tensor: Tensor) -> bool:
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return last and not tensor.is_contiguous()


def _scale_and_shift(norm: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A batch norm in eval mode is x -> scale * x + shift for each channel."""
    # torchvision's and timm's frozen batch norms are recognised by name: this file needs torch only.
    plain = type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    if not plain and type(norm).__name__ != "FrozenBatchNorm2d":
        raise CannotFuse(f"{type(norm).__name__} is not a batch norm")
    if norm.running_mean is None:
        raise CannotFuse("its batch norm keeps no running statistics")
    scale = (norm.running_var.to(dtype) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.to(dtype)
    shift = -norm.running_mean.to(dtype) * scale
    return scale, shift if norm.bias is None else shift + norm.bias.to(dtype)


def _require_plain(conv: nn.Module) -> None:
    forwards = (nn.Conv2d.forward, nn.Conv2d._conv_forward)
    if not isinstance(conv, nn.Conv2d) or (type(conv).forward, type(conv)._conv_forward) != forwards:
        raise CannotFuse(f"{type(conv).__name__} is not a plain nn.Conv2d")
    size = conv.kernel_size[0]
    same = conv.padding in ("same", (size // 2, size // 2)) and size % 2 == 1 and conv.padding_mode == "zeros"
    square = conv.kernel_size == (size, size) and conv.stride[0] == conv.stride[1]
    if not (same and square and conv.dilation == (1, 1)):
        raise CannotFuse(f"{conv} is not a square convolution with zero padding of half its kernel and no dilation")
