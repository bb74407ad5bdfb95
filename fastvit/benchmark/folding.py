"""Fold each batch norm into the convolution before it, in any network, so that all are compared as one deploys them."""

from collections import Counter
from collections.abc import Iterator

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold in place, of a network in eval mode; returns it.

    Each module's forward is traced with its children as black boxes. Where a convolution's output goes into a batch
    norm and nowhere else, the batch norm goes into its weights; an activation that is part of the batch norm (timm's)
    stays. A module whose forward cannot be traced is left as it is.
    """
    graphs = [(parent, graph) for parent in list(model.modules()) if (graph := _trace(parent))]
    uses = Counter(child for parent, graph in graphs for child, _ in _calls(parent, graph))
    for parent, graph in graphs:
        for norm, node in _calls(parent, graph):
            chain = [norm, *_before(parent, node)]
            if _is_plain_norm(norm) and _is_plain_conv(chain[-1]) and all(uses[module] == 1 for module in chain):
                _fold(chain[-1], norm)
                parent.set_submodule(node.target, _rest(norm))
    return model


class _OneLevel(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _trace(module: nn.Module) -> fx.Graph | None:
    if not any(module.children()):
        return None
    try:
        return _OneLevel().trace(module)
    except Exception:  # whatever a forward does that depends on values
        return None


def _calls(parent: nn.Module, graph: fx.Graph) -> Iterator[tuple[nn.Module, fx.Node]]:
    for node in graph.nodes:
        if node.op == "call_module":
            yield parent.get_submodule(node.target), node


def _before(parent: nn.Module, node: fx.Node) -> list[nn.Module]:
    """The module whose output goes into this node and nowhere else; of a sequence, also its last one."""
    before = node.args[0] if node.args else None
    if not (isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1):
        return []
    chain = [parent.get_submodule(before.target)]
    while type(chain[-1]) is nn.Sequential and len(chain[-1]):
        chain.append(chain[-1][-1])
    return chain


def _is_plain_norm(norm: nn.Module) -> bool:
    return type(norm) in (nn.BatchNorm2d, BatchNormAct2d) and norm.running_mean is not None and not _hooked(norm)


def _is_plain_conv(conv: nn.Module) -> bool:
    return type(conv) in (nn.Conv2d, Conv2dSame) and not _hooked(conv)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def _rest(norm: nn.Module) -> nn.Module:
    """What a batch norm does besides normalizing."""
    return norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
