"""Export a network, verified: the file is loaded in its own runtime and compared before it gets its place."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import fastvit
from fastvit.deploy.card import Card
from fastvit.deploy.files import explained, placed_when_done, require_free, require_space
from fastvit.deploy.formats import Format, format_of, get_format
from fastvit.deploy.request import Request, make_request
from fastvit.deploy.runtimes.run import plain_mode
from fastvit.deploy.sidecar import Sidecar, sha256, size_in_bytes, write_sidecar
from fastvit.errors import ExportError


def export(
    model: nn.Module,
    path: str | Path,
    example_input: Tensor,
    *,
    format: str | Format | None = None,
    dynamic: Collection[str] = (),
    card: Card = Card(),  # noqa: B008 - frozen
    opset: int | None = None,
    float32: Collection[str] = (),
    images: Tensor | None = None,
    overwrite: bool = False,
) -> Sidecar:
    """Fuse a network, export it in float32, and verify the result against the eager network.

    Nothing is left behind by an export that fails. Beside the file comes `<file>.json` with all that is known of it.

    Args:
        model: any network with one input, images; it is left as it is. Its outputs are a tensor or a list, tuple or
            dict of tensors.
        path: where to; its folder is made, and `~` is the home.
        example_input: (B, C, H, W); the shape that the file will take.
        format: a name in `FORMATS`, or a `Format` with settings of its own; by default what the suffix of `path` says.
        dynamic: "batch" for any number of images from 1 to 128, "size" for 64 to 1024 pixels on each side (to 4096
            of onnx, openvino and torch_export); or both.
        card: what belongs to the network: preprocessing, labels, where its weights come from, its architecture.
        opset: of ONNX, 18 to 24.
        float32: names of layers, in the fused network, that stay in float32 in a format of float16 (coreml): see
            `overflowing_layers`.
        images: (N, C, H, W) of the example's size, to verify on, too: real ones, for activations as they will be.
        overwrite: replace what is there.

    Returns:
        What the JSON file says.

    Raises:
        UserError: it cannot be exported, or what came out differs from the network. The message says what and why.
    """
    path = Path(path).expanduser()
    kind = format if isinstance(format, Format) else get_format(format) if format else format_of(path)
    _require_possible(kind, dynamic, opset, float32)
    require_free(path, kind, overwrite=overwrite)
    with plain_mode(), placed_when_done(path, kind) as draft:
        request = make_request(
            model,
            example_input,
            dynamic={*dynamic, *kind.opened},
            limits=kind.limits,
            card=card,
            opset=opset,
            depthwise=kind.depthwise,
            float32=float32,
            images=None if images is None else images.detach().cpu().float(),
        )
        require_space(draft.parent, request)
        verification = _convert_and_check(kind, request, draft)
        sidecar = describe(kind, request, draft) | {"verification": verification}
        write_sidecar(sidecar, draft)
    return sidecar


def _convert_and_check(kind: Format, request: Request, draft: Path) -> dict[str, Any]:
    """Write the draft, and compare it with the network. Returns what was found."""
    found = kind.check_network(request)
    with explained(f"{kind.name} cannot convert this network", draft.parent, request):
        kind.convert(request, draft)
    with explained(f"the {kind.name} file of this network cannot be verified", draft.parent, request):
        return kind.check(draft, request) | found


def _require_possible(kind: Format, dynamic: Collection[str], opset: int | None, float32: Collection[str]) -> None:
    kind.require()
    if unsupported := set(dynamic) - set(kind.axes):
        raise ExportError(f"{kind.name} cannot keep open: {', '.join(sorted(unsupported))}")
    if opset is not None and "onnx" not in kind.converters:
        raise ExportError(f"an opset is for onnx and openvino, not for {kind.name}")
    if float32 and not kind.float16:
        raise ExportError(f"{kind.name} files are in float32 all through: leave out float32")


def describe(kind: Format, request: Request, draft: Path) -> Sidecar:
    """All that is known about an exported network but its verification."""
    files = kind.files(draft)
    return {
        "format": kind.name,
        "files": {file.relative_to(draft.parent).as_posix(): sha256(file) for file in kind.fixed(draft)},
        "bytes": size_in_bytes(files),
        "parameters": sum(parameter.numel() for parameter in request.network.parameters()),
        **kind.interface(request),
        **request.card.to_dict(),
        "versions": {"fastvit": fastvit.__version__, **kind.versions()},
    }
