"""Quantise a trained classifier to int8 and show it beside float32 and bfloat16.

fastvit quantize runs/quickstart --format openvino
fastvit quantize fastvit_t8.apple_in1k --format onnx executorch --images photos/

Calibrated on some of the images, validated on the others: those of --images, or a run's own validation images. Where an
image lies in a folder with the name of a class, that is its label; the folders of ImageNet's classes may have the names
of their synsets, such as n01440764. What agrees too little with float32 is not written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit.cli.source import SOURCE, add_weights, options, tell_licence
from fastvit.errors import DataError, ExportError

if TYPE_CHECKING:
    from fastvit.deploy.sidecar import Sidecar
    from fastvit.trained import Trained

FORMATS = ("openvino", "onnx", "executorch", "litert")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help=SOURCE)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the recipe says")
    parser.add_argument("--format", nargs="+", required=True, choices=FORMATS, help="one or more")
    parser.add_argument("--images", type=Path, help="folder; by default the run's validation images")
    parser.add_argument("--calibration", type=int, default=128, help="images to calibrate on (128); at most half")
    parser.add_argument("--min-agreement", type=float, default=98.0, help="with float32, percent of the images (98)")
    parser.add_argument("--max-top1-loss", type=float, default=1.0, help="points, where the images have labels (1)")
    parser.add_argument("--output", type=Path, default=Path("exports"), help="folder (exports)")
    parser.add_argument("--name", help="of the files, without suffix; by default that of the run or network and -int8")
    parser.add_argument("--overwrite", action="store_true", help="replace files of that name")
    add_weights(parser)


def run(arguments: argparse.Namespace) -> None:
    from fastvit.cli.formats import targets, write_each
    from fastvit.deploy.formats import Format, get_format
    from fastvit.deploy.int8 import QUANTIZERS, quantize, split
    from fastvit.trained import find_trained

    for name in arguments.format:
        QUANTIZERS[name].require()
    trained = find_trained(arguments.source, options(arguments))
    tell_licence(trained.licence)
    if trained.does != "classification":
        raise ExportError(f"{arguments.source} is no classifier: int8 is measured by its classes, so only for them")
    name = arguments.name or f"{trained.name}-int8"
    paths = targets(list(map(get_format, arguments.format)), arguments.output, name, overwrite=arguments.overwrite)
    calibration, validation = split(find_samples(trained, arguments.images), arguments.calibration)

    def write(kind: Format, path: Path) -> str:
        sidecar = quantize(
            trained.module,
            path,
            calibration,
            validation,
            format=kind.name,
            card=trained.card,
            min_agreement=arguments.min_agreement,
            max_top1_loss=arguments.max_top1_loss,
            overwrite=arguments.overwrite,
        )
        return f"{path}\n{table(sidecar)}"

    write_each(paths, write)


def find_samples(trained: "Trained", folder: Path | None) -> Sequence[tuple[Any, int]]:
    """Images of a folder, or those that a run was validated on, with their labels."""
    from fastvit.data.folder import LabelledImages
    from fastvit.trained.of_timm import imagenet_classes

    if folder is not None:
        samples = LabelledImages(folder, trained.preprocessing.transform(), trained.labels)
        synsets = imagenet_classes(len(trained.labels))
        if tuple(synsets.values()) == trained.labels:
            samples.labels |= {synset: label for label, synset in enumerate(synsets)}
        if not any(path.parent.name in samples.labels for path in samples.paths):
            print(
                f"no image of {folder} lies in a folder with the name of a class, such as {trained.labels[0]}: "
                "agreement with float32 is measured, and no top-1",
                file=sys.stderr,
            )
        return samples
    if trained.task is None:
        raise DataError("a network of the hub comes without images: give yours with --images FOLDER")
    return trained.task.open_data("val").samples


def table(sidecar: "Sidecar") -> str:
    """The precisions side by side."""
    made, measured = sidecar["quantization"], sidecar["verification"]
    lines = [f"{'':<10}{'top-1':>8}{'agreement':>11}{'error':>9}{'MB':>8}{'ms':>8}{'speed-up':>10}  runtime"]
    for name in ("float32", "bfloat16", "int8"):
        row = measured[name]
        top1, ms, speed_up = (
            "-" if row[key] is None else f"{row[key]:.2f}" for key in ("top1", "latency_ms", "speed_up")
        )
        agreement, error, size = f"{row['agreement']:.2f}", f"{row['relative_error']:.1e}", f"{row['bytes'] / 1e6:.1f}"
        lines.append(f"{name:<10}{top1:>8}{agreement:>11}{error:>9}{size:>8}{ms:>8}{speed_up:>10}  {row['runtime']}")
    in_float = ", ".join(made["float_layers"]) or "nothing"
    lines.append(f"{made['method']}; left in float: {in_float}")
    images, others = made["calibration_images"], measured["validation_images"]
    lines.append(f"calibrated on {images} images, validated on {others} others")
    return "\n".join(lines)
