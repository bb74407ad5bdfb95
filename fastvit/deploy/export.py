"""Export a network, verified: the file is loaded in its own runtime and compared before it gets its place."""

import copy
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastvit
from fastvit.data.preprocessing import Preprocessing
from fastvit.deploy.formats import Format, format_of, get_format
from fastvit.deploy.formats.format import Run
from fastvit.deploy.request import INPUT_NAME, Request, make_request
from fastvit.deploy.sidecar import Sidecar, contents, sha256, sidecar_path, size_in_bytes, write_sidecar
from fastvit.errors import ExportError
from fastvit.reparam import relative_error


def export(
    model: nn.Module,
    path: str | Path,
    example_input: Tensor,
    *,
    format: str | None = None,
    dynamic: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
    weights: str = "not stated",
    architecture: Mapping[str, Any] | None = None,
    opset: int | None = None,
    overwrite: bool = False,
) -> Sidecar:
    """Fuse a network, export it in float32, and verify the result against the eager network.

    Nothing is left behind by an export that fails. Beside the file comes `<file>.json` with all that is known of it.

    Args:
        model: any network with one input, images; it is left as it is. Its outputs are a tensor or a list, tuple or
            dict of tensors.
        path: where to; its folder is made.
        example_input: (B, C, H, W); the shape that the file will take.
        format: a name in `FORMATS`; by default what the suffix of `path` says.
        dynamic: "batch" for any number of images from 1 to 128, "size" for 64 to 1024 pixels on each side; or both.
        preprocessing: what images go through before; needed to predict on image files, and for Core ML.
        labels: names of the classes.
        weights: where the weights come from, in words.
        architecture: {"name": ..., "options": ...}: the unfused network is `timm.create_model(name, **options)`.
        opset: of ONNX, 18 to 24.
        overwrite: replace what is there.

    Returns:
        What the JSON file says.

    Raises:
        ExportError: it cannot be exported, or what came out differs from the network. The message says what and why.
    """
    path = Path(path)
    kind = get_format(format) if format else format_of(path)
    kind.require()
    if unsupported := set(dynamic) - set(kind.axes):
        raise ExportError(f"{kind.name} cannot keep open: {', '.join(sorted(unsupported))}")
    if opset is not None and "onnx" not in kind.packages:
        raise ExportError(f"an opset is for onnx and openvino, not for {kind.name}")
    require_free(path, kind, overwrite=overwrite)
    request = make_request(
        model,
        example_input,
        dynamic=dynamic,
        limits=kind.limits,
        preprocessing=preprocessing,
        labels=labels,
        opset=opset,
        architecture=architecture,
    )
    with placed_when_done(path, kind) as draft:
        _convert(kind, request, draft)
        verification = _verify(kind, request, draft, model)
        sidecar = describe(kind, request, draft, weights=weights) | {"verification": verification}
        write_sidecar(sidecar, draft)
    return sidecar


def require_free(path: Path, kind: Format, *, overwrite: bool) -> None:
    """Raise ExportError if something is there that must not be replaced."""
    if not path.name.endswith(kind.suffix):
        raise ExportError(f"{path} must end in {kind.suffix} to be a file of {kind.name}")
    taken = [file for file in (*kind.files(path), sidecar_path(path)) if file.exists()]
    if taken and not overwrite:
        raise ExportError(f"{taken[0]} exists already: overwrite it (--overwrite) or choose another place")


@contextmanager
def placed_when_done(path: Path, kind: Format) -> Iterator[Path]:
    """A path in a temporary folder; what is there at the end of a block without errors moves to `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".export-", dir=path.parent))  # moving is quick within a file system
    except OSError as error:
        raise ExportError(f"cannot write into {path.parent} ({error.strerror}): choose another folder") from error
    try:
        draft = folder / path.name
        yield draft
        mode = sidecar_path(draft).stat().st_mode  # as the umask gives it; some converters write for the owner only
        for file in (*kind.files(draft), sidecar_path(draft)):
            for each in contents(file):
                each.chmod(mode)
            target = path.with_name(file.name)
            if target.is_dir():
                shutil.rmtree(target)
            file.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def describe(kind: Format, request: Request, draft: Path, *, weights: str) -> Sidecar:
    """All that is known about an exported network but its verification."""
    with torch.no_grad():
        outputs = request.network(request.example)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    files = kind.files(draft)
    return {
        "format": kind.name,
        "files": {file.name: sha256(file) for file in files},
        "bytes": size_in_bytes(files),
        "architecture": request.architecture,
        "parameters": sum(parameter.numel() for parameter in request.network.parameters()),
        "weights": weights,
        "input": {"name": INPUT_NAME, "dtype": "float32", "layout": "NCHW", **request.ranges()},
        "example": list(request.example.shape),
        "outputs": {name: list(output.shape) for name, output in zip(request.output_names, outputs, strict=True)},
        "labels": request.labels,
        "preprocessing": request.preprocessing and request.preprocessing.to_dict(),
        "versions": {"fastvit": fastvit.__version__, **kind.versions()},
    }


def _convert(kind: Format, request: Request, draft: Path) -> None:
    try:
        kind.convert(request, draft)
    except ExportError:
        raise
    except Exception as error:  # each converter has errors of its own
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ExportError(f"{kind.name} cannot convert this network ({type(error).__name__}: {reason})") from error


def _verify(kind: Format, request: Request, draft: Path, model: nn.Module) -> dict[str, Any]:
    """Compare with the eager network as it was given, unfused if it is, on each shape that `request` lists."""
    run = kind.verify(draft, request)
    if run is None:
        return {"runtime": kind.runtime, "checked": "structure and constants of the program; its outputs were not run"}
    errors = compare(run, request, model)
    worst = max(each["relative_error"] for each in errors)
    if not worst <= kind.tolerance:
        raise ExportError(
            f"what {kind.runtime} computes from the {kind.name} file differs from the network by {worst:.1e} (relative "
            f"L2), more than {kind.tolerance:g}: nothing was written"
        )
    return {"runtime": kind.runtime, "tolerance": kind.tolerance, "outputs": errors}


@torch.no_grad()
def compare(run: Run, request: Request, model: nn.Module) -> list[dict[str, Any]]:
    """The relative L2 error of all outputs on random images, for each shape."""
    reference = copy.deepcopy(model).cpu().float().eval()
    generator = torch.Generator().manual_seed(0)
    errors = []
    for shape in request.shapes():
        images = torch.randn(shape, generator=generator)
        error = relative_error(list(run(images)), reference(images))
        errors.append({"shape": list(shape), "relative_error": error})
    return errors
