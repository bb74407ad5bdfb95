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

from fastvit.errors import ExportError

if TYPE_CHECKING:
    from fastvit.deploy.sidecar import Sidecar
    from fastvit.trained import Trained

FORMATS = ("onnx", "openvino", "coreml", "executorch", "aot_inductor", "torch_export", "safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="folder or checkpoint of a run, or a network such as fastvit_t8.apple_in1k")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what a run's recipe says")
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
    weights = parser.add_argument_group("for the name of a network without a tag")
    weights.add_argument("--checkpoint", type=Path, help="weights: a file that load_checkpoint reads")
    weights.add_argument("--random-weights", action="store_true", help="none, to try things out")
    weights.add_argument("--num-classes", type=int, help="of these weights (1000)")
    weights.add_argument("--features", action="store_true", help="the outputs of the four stages, not the classifier's")


def run(arguments: argparse.Namespace) -> None:
    from fastvit.deploy.formats import get_format
    from fastvit.trained import find_trained

    for name in arguments.format:
        get_format(name).require()  # all of them, before any work
    trained = find_trained(
        arguments.source,
        checkpoint=arguments.checkpoint,
        random_weights=arguments.random_weights,
        num_classes=arguments.num_classes,
        image_size=image_size(arguments),
        features_only=arguments.features,
        overrides=arguments.overrides,
    )
    for name in arguments.format:
        path, sidecar = export_one(name, trained, arguments)
        print(summary(path, sidecar), flush=True)


def image_size(arguments: argparse.Namespace) -> tuple[int, int] | None:
    size = arguments.image_size
    if size and (len(size) > 2 or min(size) < 32):
        raise ExportError("--image-size is one side or height and width, of at least 32 pixels")
    return (size[0], size[-1]) if size else None


def export_one(name: str, trained: "Trained", arguments: argparse.Namespace) -> "tuple[Path, Sidecar]":
    import torch

    from fastvit.deploy import export
    from fastvit.deploy.formats import get_format

    if arguments.batch < 1:
        raise ExportError(f"--batch is {arguments.batch}; it must be at least 1")
    size = trained.preprocessing
    path = arguments.output / f"{arguments.name or trained.name}{get_format(name).suffix}"
    sidecar = export(
        trained.model,
        path,
        torch.zeros(arguments.batch, 3, size.height, size.width),
        format=name,
        dynamic=arguments.dynamic,
        preprocessing=trained.preprocessing,
        labels=read_labels(arguments.labels) if arguments.labels else trained.labels,
        weights=trained.weights,
        architecture=trained.architecture,
        opset=arguments.opset if "onnx" in get_format(name).packages else None,
        overwrite=arguments.overwrite,
    )
    return path, sidecar


def read_labels(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"the labels in {path} cannot be read ({error})") from error


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
