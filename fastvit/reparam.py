"""Structural reparameterization: fold what a network computes with many layers in eval mode into few.

In eval mode a convolution, a batch norm, a skip connection and a per-channel scale are all affine maps, and affine
maps with "same" padding are closed under addition and per-channel scaling. A module made of them therefore *is* one
convolution (RepVGG, arXiv 2101.03697; FastViT, arXiv 2303.14189, section 3.2). `Affine` is that algebra,
`Reparameterizable` the base of a module that has such an equivalent, `Foldable` of one whose parts fold into each
other, and `reparameterize_model` the pass that visits them all.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class CannotFuse(Exception):
    """A module has no exact equivalent in fewer layers. The message says why."""


class NotAffine(CannotFuse):
    """A module is of a kind that computes no affine map, such as an activation."""


@dataclass(frozen=True)
class Affine:
    """The map x -> conv(x, kernel) + bias, zero-padded so that stride 1 keeps the image size; then the tail.

    Attributes:
        kernel: (out_channels, in_channels / groups, k, k) with odd k; float64, or float32 on a device without it.
        bias: (out_channels,), of the kernel's dtype.
        dtype: dtype of the weights it was made from. Folding in half precision would double the error, so rounding
            happens once, in `to_layer`.
        stride, groups: as in `nn.Conv2d`.
        tail: what follows and is not affine, such as an activation.
    """

    kernel: Tensor
    bias: Tensor
    dtype: torch.dtype
    stride: int = 1
    groups: int = 1
    tail: tuple[nn.Module, ...] = ()

    @classmethod
    def of(cls, module: nn.Module) -> "Affine":
        """What a module computes in eval mode: a convolution, linear layer or batch norm, a sequence that begins with
        one, or whatever has an `equivalent`. Raises `NotAffine` for another, `CannotFuse` for an unusual one of these.
        """
        if hasattr(type(module), "equivalent"):  # of the class: a wrapper may pass on what its module has
            require_plain(module, _definer(module, "equivalent"))
            return module.equivalent()
        if isinstance(module, nn.Sequential) and (parts := [p for p in module if not does_nothing(p)]):
            require_plain(module, nn.Sequential)
            return reduce(cls.then, parts[1:], cls.of(parts[0]))
        if isinstance(module, nn.Linear):
            require_plain(module, nn.Linear)
            return cls.of_weights(module.weight[..., None, None], module.bias)
        if isinstance(module, nn.Conv2d):
            _require_same_padding(module)
            return cls.of_weights(module.weight, module.bias, module.stride[0], module.groups)
        if isinstance(module, _BatchNorm) or type(module).__name__ == "FrozenBatchNorm2d":  # torchvision's, timm's
            return cls.per_channel(*_scale_and_shift(module))
        raise NotAffine(f"{type(module).__name__} is no convolution, linear layer or batch norm")

    @classmethod
    def of_weights(cls, weight: Tensor, bias: Tensor | None, stride: int = 1, groups: int = 1) -> "Affine":
        """A convolution, with its weight of shape (out_channels, in_channels / groups, k, k)."""
        kernel = _exact(weight)
        bias = kernel.new_zeros(len(kernel)) if bias is None else _exact(bias)
        return cls(kernel, bias, weight.dtype, stride, groups)

    @classmethod
    def per_channel(cls, scale: Tensor, shift: Tensor | None = None) -> "Affine":
        """x -> scale * x + shift, with one number of each for each channel."""
        return cls.of_weights(scale.reshape(-1, 1, 1, 1), shift, groups=scale.numel())

    def identity(self) -> "Affine":
        """x -> x, for the channels of this map. Raises `CannotFuse` if it changes the shape."""
        if (self.stride, len(self.kernel)) != (1, self.kernel.shape[1] * self.groups):
            raise CannotFuse("a skip connection goes around a convolution that changes the shape")
        return replace(Affine.per_channel(torch.ones_like(self.bias)), dtype=self.dtype)

    def __add__(self, other: "Affine") -> "Affine":
        a, b = self._in_groups_of(other), other._in_groups_of(self)
        if (a.stride, a.groups, a.kernel.shape[:2]) != (b.stride, b.groups, b.kernel.shape[:2]):
            raise CannotFuse("it adds up convolutions of different channels, groups or strides")
        if a.tail or b.tail:
            raise CannotFuse(f"{type((a.tail + b.tail)[0]).__name__} stands between two convolutions and their sum")
        size = max(a.kernel.shape[-1], b.kernel.shape[-1])
        kernel, other_kernel = (F.pad(each.kernel, [(size - each.kernel.shape[-1]) // 2] * 4) for each in (a, b))
        return replace(a, kernel=kernel + other_kernel, bias=a.bias + b.bias)

    def __sub__(self, other: "Affine") -> "Affine":
        return self + replace(other, kernel=-other.kernel, bias=-other.bias)

    def then(self, module: nn.Module) -> "Affine":
        """module(self(x)). What is not affine joins the tail, and so does everything after it.

        Raises `CannotFuse` for a convolution after a convolution.
        """
        if does_nothing(module):
            return self
        if self.tail:
            return replace(self, tail=(*self.tail, module))
        try:
            return Affine.of(module)._after(self)
        except NotAffine:
            return replace(self, tail=(module,))

    def _after(self, inner: "Affine") -> "Affine":
        """self(inner(x)), where one of the two treats each channel of each pixel by itself."""
        if len(inner.kernel) != self.kernel.shape[1] * self.groups:
            raise CannotFuse(f"a layer of {self.kernel.shape[1] * self.groups} channels follows {len(inner.kernel)}")
        if self._is_per_channel:
            kernel, bias = inner.kernel * self.kernel, inner.bias * self.kernel.flatten() + self.bias
            return replace(inner, kernel=kernel, bias=bias, tail=self.tail)
        if not inner._is_per_channel or self.kernel.shape[-1] > 1:  # which would also have to pad with the shift
            raise CannotFuse("one convolution after another is not one convolution")
        shape = (self.groups, -1, self.kernel.shape[1])  # the output channels of a group see its input channels
        kernel, scale, shift = self.kernel.reshape(shape), inner.kernel.reshape(shape), inner.bias.reshape(shape)
        bias = self.bias + (kernel * shift).sum(-1).flatten()
        return replace(self, kernel=(kernel * scale).reshape(self.kernel.shape), bias=bias)

    @property
    def _is_per_channel(self) -> bool:
        return self.stride == 1 and self.groups == len(self.kernel) and self.kernel.shape[1:] == (1, 1, 1)

    def _in_groups_of(self, other: "Affine") -> "Affine":
        """The same map with the groups of `other`, if it is per channel."""
        if not self._is_per_channel or self.groups % other.groups:
            return self
        identity = self.kernel.new_empty(self.groups, self.groups // other.groups, 1, 1)
        return replace(self, kernel=nn.init.dirac_(identity, other.groups) * self.kernel, groups=other.groups)

    def to_layer(self, *, linear: bool = False) -> nn.Conv2d | nn.Linear:
        """The convolution that computes this map without its tail, or the linear layer over channels that does, in the
        dtype of the original weights."""
        channels, width, size, _ = self.kernel.shape
        with torch.device("meta"):  # no memory, no initialisation, and torch's random state stays as it was
            if linear:
                layer = nn.Linear(width, channels)
            else:
                layer = nn.Conv2d(width * self.groups, channels, size, self.stride, size // 2, groups=self.groups)
        layer.weight = nn.Parameter(self.kernel.reshape(layer.weight.shape).to(self.dtype).contiguous())
        layer.bias = nn.Parameter(self.bias.to(self.dtype))
        return layer


class Reparameterizable(nn.Module):
    """A module that computes one convolution in eval mode, possibly with something like an activation after it.

    A subclass writes `equivalent` so that it reads like its `forward` with `x` erased.
    """

    def equivalent(self) -> Affine:
        """The map of the eval-mode forward. Raises `CannotFuse` where there is no exact one."""
        raise NotImplementedError

    def fuse(self) -> nn.Module:
        """What `collapse` makes of this module; also the hook of timm's own pass. Raises `CannotFuse`."""
        return collapse(self)


class Foldable(nn.Module):
    """A module whose parts fold into each other in eval mode, such as a norm into the projection after it."""

    def folded(self) -> dict[str, nn.Module]:
        """What takes the place of which part, by name: what `collapse` or `fold_norm` makes, and `nn.Identity` for what
        is gone. Raises `CannotFuse` where there is nothing exact."""
        raise NotImplementedError

    def reparameterize(self) -> None:
        """Fold the parts, in place; also the hook of timm's own pass. Raises `CannotFuse` and then changes nothing."""
        _require_forward(self, _definer(self, "folded"))
        for name, part in self.folded().items():
            if holder := name.rpartition(".")[0]:  # another block may share it, and folds other layers into its parts
                own = copy.copy(self.get_submodule(holder))
                own._modules = dict(own._modules)
                self.set_submodule(holder, own)
            self.set_submodule(name, part.train(self.training))


@torch.no_grad()
def collapse(*modules: nn.Module) -> nn.Module:
    """One `nn.Conv2d` that computes the modules one after the other in eval mode, or `nn.Linear` if one of them is.

    Where something follows that is not affine, an `nn.Sequential` of the layer and that, which is shared with the
    modules. The layer has their device, dtype, mode and memory format, and trains if any parameter it was made from
    does. Raises `CannotFuse`.
    """
    return _make_layer(Affine.of(nn.Sequential(*modules)), *modules)


@torch.no_grad()
def fold_norm(norm: nn.Module, layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """(rest, folded), so that folded(rest(x)) is layer(norm(x)) in eval mode, for a 1x1 convolution or linear layer.

    Nothing is left of a batch norm, and of a layer norm over channels its normalization, without scale and shift.
    """
    if not isinstance(norm, nn.LayerNorm) or type(norm).__name__ != "LayerNorm2d":  # torch's own: not over channels
        return nn.Identity(), collapse(norm, layer)
    require_plain(norm, type(norm))
    if norm.weight is None:
        return norm, layer
    rest = copy.deepcopy(norm)
    rest.elementwise_affine, rest.weight, rest.bias = False, None, None
    return rest, _make_layer(Affine.per_channel(norm.weight, norm.bias).then(layer), norm, layer)


Problems = dict[str, str]  # where in the model: why it cannot be fused

# Functions that make modules of other libraries ours, in the copy of the model.
ADOPTERS: list[Callable[[nn.Module], Problems]] = []


@torch.inference_mode(False)  # parameters made in inference mode could never train
def reparameterize_model(model: nn.Module) -> nn.Module:
    """An eval-mode copy of `model` in which each `Reparameterizable` module is one plain `nn.Conv2d`, followed by its
    activation where it has one, and the parts of each `Foldable` module are folded into each other.

    Works on any module tree that contains fastvit's blocks, or those of timm's built-in FastViT, and on a block itself.
    The original is untouched. Weights are folded in float64 (float32 on MPS) and cast to their own dtype last. Fusing
    twice changes nothing.

    What `torch.compile` has wrapped is unwrapped in the copy: compile that one. Warns (`UserWarning`) with the name of
    each module that cannot be fused exactly; such a module stays as it is. Raises TypeError for a model that is or
    holds a `DistributedDataParallel`.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise TypeError(f"{called(module, name)} keeps track of the tensors it was made with: fuse its .module")
    model = _uncompiled(copy.deepcopy(model)).eval()
    problems = {where: reason for adopt in ADOPTERS for where, reason in adopt(model).items()}
    fused = _fuse_tree(model, name="", done={}, problems=problems)
    for where, reason in problems.items():
        warnings.warn(f"{where} is left unfused: {reason}", stacklevel=3)  # 2 is the decorator
    return fused


def _uncompiled(model: nn.Module) -> nn.Module:
    """The forward of a wrapper of `torch.compile` is that of the module it was made of, whatever takes its place."""
    for module in model.modules():
        for name, child in module._modules.items():
            module._modules[name] = child if child is None else child._modules.get("_orig_mod", child)
    return model._modules.get("_orig_mod", model)


def _fuse_tree(module: nn.Module, name: str, done: dict[nn.Module, nn.Module], problems: Problems) -> nn.Module:
    if module in done:  # used in several places: keep it shared
        return done[module]
    done[module] = module
    try:
        if isinstance(module, Reparameterizable):
            done[module] = module.fuse()
        elif isinstance(module, Foldable):
            module.reparameterize()
    except CannotFuse as reason:
        problems[called(module, name)] = str(reason)
    made, names = done[module], {part: part_name for part_name, part in module.named_children()}
    if not isinstance(made, Reparameterizable):  # what cannot be fused keeps its parts
        for key, child in made._modules.items():
            if child is not None:
                made._modules[key] = _fuse_tree(child, f"{name}.{names.get(child, key)}".lstrip("."), done, problems)
    return made


def called(module: nn.Module, name: str) -> str:
    return f"{name or 'the model'} ({type(module).__name__})"


def require_plain(module: nn.Module, kind: type[nn.Module]) -> None:
    """Raises `CannotFuse` unless `module` computes what the class `kind` says, with nothing hooked to it."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise CannotFuse("it has forward hooks, which fusing would drop")
    _require_forward(module, kind)


def does_nothing(module: nn.Module) -> bool:
    """Whether it is a plain `nn.Identity`, with nothing hooked to it."""
    try:
        require_plain(module, nn.Identity)
    except CannotFuse:
        return False
    return True


def _require_forward(module: nn.Module, kind: type[nn.Module]) -> None:
    if "forward" in vars(module) or type(module).forward is not kind.forward:
        raise CannotFuse(f"{type(module).__name__} has a forward of its own, unlike a plain {kind.__name__}")


def _definer(module: nn.Module, method: str) -> type[nn.Module]:
    return next(kind for kind in type(module).__mro__ if method in vars(kind))


def _require_same_padding(conv: nn.Conv2d) -> None:
    require_plain(conv, nn.Conv2d)
    size = conv.kernel_size[0]
    same = conv.padding in ("same", (size // 2, size // 2)) and size % 2 == 1 and conv.padding_mode == "zeros"
    square = conv.kernel_size == (size, size) and conv.stride[0] == conv.stride[1]
    if not (same and square and conv.dilation == (1, 1)):
        raise CannotFuse(f"{conv} is not a square convolution with zero padding of half its kernel and no dilation")


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm in eval mode is x -> scale * x + shift for each channel."""
    kinds = (nn.SyncBatchNorm, _BatchNorm, type(norm))  # each with a forward of its own; the last is a frozen one
    require_plain(norm, next(kind for kind in kinds if isinstance(norm, kind)))
    if norm.running_mean is None:
        raise CannotFuse("its batch norm keeps no running statistics")
    if not hasattr(norm, "eps"):  # DETR's has it in its forward alone, others have none
        raise CannotFuse("its frozen batch norm does not state its eps")
    scale = (_exact(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _exact(norm.weight)
    shift = -_exact(norm.running_mean) * scale
    return scale, shift if norm.bias is None else shift + _exact(norm.bias)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def _make_layer(affine: Affine, *sources: nn.Module) -> nn.Module:
    layer = affine.to_layer(linear=any(isinstance(source, nn.Linear) for source in sources))
    kept = {parameter for module in affine.tail for parameter in module.parameters()}
    parameters = [p for source in sources for p in source.parameters() if p not in kept]
    layer.requires_grad_(any(parameter.requires_grad for parameter in parameters))
    last = torch.channels_last
    if any(p.ndim == 4 and p.is_contiguous(memory_format=last) and not p.is_contiguous() for p in parameters):
        layer = layer.to(memory_format=last)
    made = nn.Sequential(layer, *affine.tail) if affine.tail else layer
    made.training = layer.training = sources[0].training
    return made
