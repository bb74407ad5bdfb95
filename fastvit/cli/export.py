"""Export a trained network, verified in each format's own runtime.

fastvit export runs/quickstart --format onnx openvino --dynamic batch
fastvit export runs/quickstart --format onnx --preprocessing inside
fastvit export runs/quickstart --format web --examples 6
fastvit export fastvit_t8.apple_in1k --format coreml --output exports
fastvit export fastvit_sa12 --checkpoint fastvit_sa12.pth.tar --features --format onnx --dynamic batch size

Writes <output>/<name><suffix> and, beside it, a JSON file with what it takes, its labels, its preprocessing, where its
weights come from, and how far it is from the eager network. docs/deploy.md says how to run each format.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fastvit.cli.source import SOURCE, add_weights, options, tell_licence
from fastvit.errors import DataError, ExportError

if TYPE_CHECKING:
    from torch import Tensor

    from fastvit.deploy.formats import Format
    from fastvit.deploy.formats.web import Overlay
    from fastvit.deploy.sidecar import Sidecar
    from fastvit.trained import Trained

FORMATS = (
    "onnx",
    "openvino",
    "coreml",
    "litert",
    "executorch",
    "aot_inductor",
    "torch_export",
    "safetensors",
    "timm",
    "web",
)

MOST_IMAGES = 8
LONGEST_SIDE = 640  # of a picture to click on, in pixels


@dataclass(frozen=True)
class Given:
    """What the arguments say about an export: images to verify on, layers that stay in float32."""

    images: "Tensor | None"
    float32: tuple[str, ...]


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
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="real images to verify on, too")
    parser.add_argument(
        "--float32", nargs="+", default=[], metavar="LAYER", help="of coreml: layers that stay so; auto: what overflows"
    )
    parser.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes, one in each line")
    parser.add_argument("--features", action="store_true", help="the outputs of the stages of a classifier")
    parser.add_argument(
        "--preprocessing", choices=("outside", "inside"), default="outside", help="inside: of onnx, openvino and coreml"
    )
    add_weights(parser)
    page = parser.add_argument_group("for web")
    page.add_argument("--offline", action="store_true", help="put the runtime beside the page (41 MB, from npm)")
    page.add_argument(
        "--examples", nargs="+", default=[], metavar="PICTURE", help="to click on; or how many of the run's own"
    )


def run(arguments: argparse.Namespace) -> None:
    from fastvit.cli.formats import targets, write_each
    from fastvit.trained import find_trained

    if arguments.batch < 1:
        raise ExportError(f"--batch is {arguments.batch}; it must be at least 1")
    trained = find_trained(arguments.source, options(arguments, features_only=arguments.features))
    trained.require_module()
    tell_licence(trained.licence)
    trained = replace(trained, labels=labels_of(trained, arguments.labels))
    images = read_images(trained, arguments.images, arguments.batch)
    with TemporaryDirectory() as folder:
        kinds = [find_format(name, trained, arguments, Path(folder)) for name in arguments.format]
        paths = targets(kinds, arguments.output, arguments.name or trained.name, overwrite=arguments.overwrite)
        require_known_to_safetensors(trained, arguments.format)  # from here on, weights are read
        float32 = layers_in_float32(trained, arguments, images)
        given = Given(images, float32)
        write_each(paths, lambda kind, path: export_one(kind, path, trained, given, arguments))


def find_format(name: str, trained: "Trained", arguments: argparse.Namespace, folder: Path) -> "Format":
    """The format of a name, with what the arguments say about it. Raises UserError.

    Args:
        folder: for pictures that the format is going to copy.
    """
    from fastvit.deploy.formats import get_format
    from fastvit.deploy.formats.timm_folder import TimmFolder
    from fastvit.deploy.formats.web import Web
    from fastvit.model_card import model_card

    if (arguments.offline or arguments.examples) and "web" not in arguments.format:
        raise ExportError("--offline and --examples are for a page: add --format web, or leave them out")
    if name == "web":
        examples = example_pictures(arguments.examples, trained, folder)
        return Web(offline=arguments.offline, examples=examples, overlay=overlay_of(trained))
    if name == "timm" and arguments.preprocessing == "outside":
        return TimmFolder(model_card(trained, title=arguments.name or trained.name))
    if arguments.preprocessing == "outside":
        return get_format(name)
    inside = get_format(name).inside
    if inside is None:
        raise ExportError(f"--preprocessing inside is for onnx, openvino and coreml; {name} cannot have it")
    return get_format(inside)


def read_images(trained: "Trained", folder: Path | None, batch: int) -> "Tensor | None":
    """Some images of a folder as the network takes them. Raises UserError if one of them cannot be read."""
    if folder is None:
        return None
    if trained.preprocessing.crop_pct is None:
        raise ExportError(f"--images: {trained.source} resizes images in its task's own way: leave it out")
    import torch

    from fastvit.data.reading import read_image
    from fastvit.prediction import find_images

    transform = trained.preprocessing.transform()
    return torch.stack([transform(read_image(path)) for path in find_images([str(folder)])[: max(MOST_IMAGES, batch)]])


def layers_in_float32(trained: "Trained", arguments: argparse.Namespace, images: "Tensor | None") -> tuple[str, ...]:
    """Those named or, of `auto`, those that overflow in float16 on the images. Raises ExportError."""
    from fastvit.deploy import FORMATS as KINDS
    from fastvit.deploy import overflowing_layers

    if arguments.float32 and not any(KINDS[name].float16 for name in arguments.format):
        raise ExportError("--float32 is for coreml, the one format of float16: leave it out")
    if arguments.float32 != ["auto"]:
        return tuple(arguments.float32)
    if images is None:
        raise ExportError("--float32 auto looks at what overflows on real images: give some with --images FOLDER")
    return overflowing_layers(trained.module, images)


def overlay_of(trained: "Trained") -> "Overlay | None":
    """What a page paints over a picture, of a segmenter."""
    if trained.does != "segmentation":
        return None
    from fastvit.data.whole_image import WholeImage
    from fastvit.deploy.formats.web import Overlay
    from fastvit.tasks.segmentation.picture import class_colors

    task = trained.task
    colors = class_colors(len(trained.labels))
    return Overlay(WholeImage(task.box, task.normalization), tuple(colors))


def example_pictures(names: list[str], trained: "Trained", folder: Path) -> list[Path]:
    """The pictures of that name, or as many of the run's validation images as the only name says. Raises UserError."""
    if len(names) != 1 or not names[0].isdigit():
        return list(map(Path, names))
    if trained.task is None:
        raise ExportError(f"{trained.source} comes without images: give pictures with --examples FILE ...")
    return save_some(trained.task.open_data("val").samples, int(names[0]), folder)


def save_some(samples: Any, count: int, folder: Path) -> list[Path]:
    """Write `count` images of a dataset into a folder, as far apart in it as can be, reduced if they are large.

    Args:
        samples: a `fastvit.data.images.TransformedImages`, whose images as they are get written.

    Raises:
        DataError: the dataset is of another kind, or has too few.
    """
    source = getattr(samples, "source", None)
    if source is None or not hasattr(source, "__getitem__"):
        raise DataError("this dataset gives no single images: give pictures with --examples FILE ...")
    if not 1 <= count <= len(source):
        raise DataError(f"there are {len(source)} validation images: {count} examples cannot be taken from them")
    paths = []
    for i in range(count):
        image = source[i * len(source) // count][0].convert("RGB")
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        paths.append(folder / f"{i + 1}.png")
        image.save(paths[-1])
    return paths


def labels_of(trained: "Trained", file: Path | None) -> tuple[str, ...] | None:
    """The names of the classes: the network's own, or those in a file. Raises ExportError."""
    if file is None:
        return trained.labels
    if trained.labels is None:
        raise ExportError(f"--labels: {trained.source} is for {trained.does or 'features'}, which has no classes")
    labels = read_labels(file)
    if len(labels) != len(trained.labels):
        raise ExportError(f"{file} has {len(labels)} names, and {trained.source} has {len(trained.labels)} classes")
    return labels


def require_known_to_safetensors(trained: "Trained", formats: list[str]) -> None:
    """Weights alone are of use where the fused network can be built without them: in our own."""
    from fastvit.weights import plain_names

    if "safetensors" in formats and not plain_names(trained.module.state_dict()):
        raise ExportError(f"safetensors holds the weights of a fused FastViT, and {trained.name} is none: leave it out")


def export_one(kind: "Format", path: Path, trained: "Trained", given: "Given", arguments: argparse.Namespace) -> str:
    import torch

    from fastvit.deploy import export

    size = trained.preprocessing
    sidecar = export(
        trained.module,
        path,
        torch.zeros(arguments.batch, 3, size.height, size.width),
        format=kind,
        dynamic=arguments.dynamic,
        card=trained.card,
        opset=arguments.opset if "onnx" in kind.converters else None,
        float32=given.float32 if kind.float16 else (),
        images=given.images,
        overwrite=arguments.overwrite,
    )
    takes_one_size = trained.does == "segmentation" and "size" in set(kind.axes) - set(arguments.dynamic)
    note = "\n  takes images of this size alone; photographs of any, with --dynamic size" if takes_one_size else ""
    return summary(path, sidecar) + note


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
    for each in verification.get("pictures", []):
        size = "x".join(map(str, each["picture"]))
        apart = " and ".join(
            f"{name} differ by {each[name]:.1e}" for name in ("pixels", "probabilities") if name in each
        )
        lines.append(f"  picture {size:<8} {apart}")
    if "float16_error" in verification:
        kept = f", with {', '.join(verification['float32'])} in float32" if verification["float32"] else ""
        lines.append(f"  computed in float16 here: relative error {verification['float16_error']:.1e}{kept}")
    if "checked" in verification:
        lines.append(f"  checked: {verification['checked']}")
    return "\n".join(lines)
