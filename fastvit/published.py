"""The form in which timm and Apple publish fused networks.

Their pass makes one convolution of each sum of branches, token mixer and positional encoding. It leaves the batch norms
of the feed-forward networks, the norms before attention and the layer scales of the blocks.
"""

from torch import Tensor, nn

from fastvit.layers import ConditionalPositionalEncoding, LargeKernelConv, RepConv, RepMixer
from fastvit.reparam import Affine, Reparameterizable


class FusedConv(Reparameterizable):
    """What their pass makes of one module: a convolution, then `se` and `act`."""

    def __init__(self, reparam_conv: nn.Conv2d, se: nn.Module, act: nn.Module):
        super().__init__()
        self.se = se
        self.reparam_conv = reparam_conv
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.se(self.reparam_conv(x)))

    def equivalent(self) -> Affine:
        return Affine.of(self.reparam_conv).then(self.se).then(self.act)


def fuse_as_published(model: nn.Module) -> nn.Module:
    """Fuse a model in place as they do, under timm's names. Returns it, in eval mode."""
    kinds = (RepConv, LargeKernelConv, RepMixer, ConditionalPositionalEncoding)
    found = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    for name, module in found.items():
        if name.rpartition(".")[0] in found:  # part of a RepMixer
            continue
        fused, parts = module.fuse(), dict(module.named_children())
        conv = fused[0] if isinstance(fused, nn.Sequential) else fused
        model.set_submodule(name, FusedConv(conv, parts.get("se", nn.Identity()), parts.get("act", nn.Identity())))
    return model.eval()
