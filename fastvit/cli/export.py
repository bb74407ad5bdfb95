"""Export a trained network, verified in each format's own runtime.

fastvit export runs/quickstart --format onnx openvino --dynamic batch
fastvit export fastvit_t8.apple_in1k --format coreml --output exports
fastvit export fastvit_sa12 --checkpoint fastvit_sa12.pth.tar --features --format onnx --dynamic batch size

Writes <output>/<name><suffix> and, beside it, a JSON file with what it takes, its labels, its preprocessing, where its
weights come from, and how far it is from the eager network. docs/deploy.md says how to run each format.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit.cli.source import SOURCE, add_weights, image_size, options
from fastvit.errors import ExportError

if TYPE_CHECKING:
    from fastvit.deploy.sidecar import Sidecar
    from fastvit.trained import Trained

FORMATS = ("onnx", "openvino", "coreml", "executorch", "aot_inductor", "torch_export", "safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help=SOURCE)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the recipe says")
    parser.add_argument("--format", nargs="+", required=True, choices=FORMATS, help="one or more")
    parser.add_argument("--output", type=Path, default=Path("exports"), help="folder (exports)")
    parser.add_argument("--name", help="of the files, without suffix; that of the run or of the network by default")
    parser.add_argument("--overwrite", action="store_true", help="replace files of that name")
    parser.add_argument("--image-size", type=int, nargs="+", metavar="PIXELS", help="a side, or height and width")
    parser.add_argument("--batch", type=int, default=1, help="images at a time (1)")
    parser.add_argument(
        "--dynamic", nargs="+", default=[], choices=("batch", "size"), help="left open: batch, size, both"
    )
    parser.add_argument("--opset", type=int, help="of onnx and openvino")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes, one in each line")
    parser.add_argument("--features", action="store_true", help="the outputs of the stages of a classifier")
    add_weights(parser)


def run(arguments: argparse.Namespace) -> None:
    from fastvit.cli.formats import targets, write_each
    from fastvit.trained import find_trained

    if arguments.batch < 1:
        raise ExportError(f"--batch is {arguments.batch}; it must be at least 1")
    size = image_size(arguments.image_size)
    trained = find_trained(arguments.source, options(arguments, image_size=size, features_only=arguments.features))
    labels = labels_of(trained, arguments.labels)
    paths = targets(arguments.format, arguments.output, arguments.name or trained.name, overwrite=arguments.overwrite)
    require_known_to_safetensors(trained, arguments.format)
    write_each(paths, lambda name, path: export_one(name, path, trained, labels, arguments))


def labels_of(trained: "Trained", file: Path | None) -> tuple[str, ...] | None:
    """The names of a classifier's classes: its own, or those in a file. Raises ExportError."""
    own = trained.labels if trained.does == "classification" else None
    if file is None:
        return own
    if own is None:
        raise ExportError(f"--labels is for classifiers: {trained.source} is for {trained.does or 'features'}")
    labels = read_labels(file)
    if len(labels) != len(own):
        raise ExportError(f"{file} has {len(labels)} names, and {trained.source} has {len(own)} classes")
    return labels


def require_known_to_safetensors(trained: "Trained", formats: list[str]) -> None:
    """Weights alone are of use where the fused network can be built without them: in our own."""
    from fastvit.reparam import Reparameterizable

    is_ours = any(isinstance(module, Reparameterizable) for module in trained.module.modules())
    if "safetensors" in formats and not is_ours:
        raise ExportError(f"safetensors holds the weights of a fused FastViT, and {trained.name} is none: leave it out")


def export_one(
    name: str, path: Path, trained: "Trained", labels: tuple[str, ...] | None, arguments: argparse.Namespace
) -> str:
    import torch

    from fastvit.deploy import export
    from fastvit.deploy.formats import get_format

    size = trained.preprocessing
    sidecar = export(
        trained.module,
        path,
        torch.zeros(arguments.batch, 3, size.height, size.width),
        format=name,
        dynamic=arguments.dynamic,
        preprocessing=trained.preprocessing,
        labels=labels,
        weights=trained.weights,
        architecture=trained.architecture,
        opset=arguments.opset if "onnx" in get_format(name).converters else None,
        overwrite=arguments.overwrite,
    )
    return summary(path, sidecar)


def read_labels(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"the labels in {path} cannot be read ({error})") from error
    return tuple(line.strip() for line in lines if line.strip())


def summary(path: Path, sidecar: "Sidecar") -> str:
    """What was written, and how it was verified."""
    from fastvit.deploy.sidecar import sidecar_path

    verification = sidecar["verification"]
    lines = [f"{path}  {sidecar['bytes'] / 1e6:.1f} MB, {sidecar_path(path).name}"]
    for each in verification.get("outputs", []):
        shape = "x".join(map(str, each["shape"]))
        lines.append(f"  {shape:<16} relative error {each['relative_error']:.1e} in {verification['runtime']}")
    if "checked" in verification:
        lines.append(f"  checked: {verification['checked']}")
    return "\n".join(lines)
