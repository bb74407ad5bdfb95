"""Say what is in images, with a trained network in any form.

fastvit predict photo.jpg --model fastvit_t8.apple_in1k
fastvit predict photos/ "more/*.png" --model runs/quickstart --output predictions.csv --pictures pictures
fastvit predict photos/ --model exports/quickstart.onnx --output predictions.jsonl
fastvit predict photos/ --model runs/finetune --explain explained
fastvit predict photos/ --model runs/finetune --output predictions.csv --engine openvino --precision bfloat16

Images that cannot be read, or whose size an exported file does not take, are skipped and counted. The network runs on
a GPU if there is one (exported files, openvino and onnxruntime: on the CPU), and otherwise on all cores; a classifier
by OpenVINO where that is installed and there are enough images to make up for its start.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit.cli.source import SOURCE, add_weights, options, tell_licence
from fastvit.errors import DataError, RunError, UserError, reason_of, some

if TYPE_CHECKING:
    import torch

    from fastvit.prediction import Predicted
    from fastvit.predictor import Predictor, Shown
    from fastvit.trained import Trained

TABLES = (".csv", ".jsonl")
FOLDERS = ("pictures", "masks", "explain")
EAGER = "eager"  # PyTorch, without being made ready
MANY = 2000  # images from which on OpenVINO pays: it takes 3 s to be ready, and saves 3 ms an image (T8, 2 cores)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="images, folders of them, and patterns")
    parser.add_argument("--model", required=True, help=SOURCE)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write into FILE.csv or FILE.jsonl (in CSV an image without objects has no row, as an unreadable one)",
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw each image with what was predicted")
    parser.add_argument("--masks", type=Path, metavar="FOLDER", help="of segmentation: images whose pixels are classes")
    parser.add_argument("--explain", type=Path, metavar="FOLDER", help="draw where a classifier has looked")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many classes (5)")
    parser.add_argument("--score", type=float, default=0.5, help="that an object or a label must have (0.5)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="images at a time in each thread (16)")
    parser.add_argument("--engine", metavar="NAME", help="eager, openvino, onnxruntime, torch, or auto: the fastest")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of an engine (float32)"
    )
    parser.add_argument("--image-size", type=int, nargs="+", metavar="PIXELS", help="a side, or height and width")
    add_weights(parser)


def run(arguments: argparse.Namespace) -> None:
    from fastvit.prediction import (
        MASKS,
        draw,
        draw_explained,
        find_images,
        left_out,
        places,
        predict_files,
        require_apart,
        require_explainable,
        save_mask,
    )
    from fastvit.predictor import Shown
    from fastvit.runtime.allocator import keep_freed_memory
    from fastvit.trained import find_trained

    require_sound(arguments)
    paths, shown = find_images(arguments.images), Shown(top=arguments.top, score=arguments.score)
    drawn, explained = places(arguments.pictures, paths), places(arguments.explain, paths)
    masks = places(arguments.masks, paths, MASKS)
    tables = [arguments.output] if arguments.output else []
    require_apart(paths, [*tables, *drawn.values(), *masks.values(), *explained.values()])
    trained = find_trained(arguments.model, options(arguments))
    require_fitting(trained, arguments)
    tell_licence(trained.licence)
    predictor = make_predictor(trained, len(paths), arguments)
    keep_freed_memory(predictor.device)
    if arguments.explain:
        require_explainable(predictor, arguments.model)
    if others := left_out(arguments.images):
        what = "files that are not taken for images, by their names"
        print(f"{what}: {len(others)}, such as {some(others, 3)}", file=sys.stderr)

    def pictures(predicted: "Predicted") -> None:
        if target := drawn.get(predicted.path):
            draw(predicted, target, shown)
        if target := masks.get(predicted.path):
            save_mask(predicted, target)
        if target := explained.get(predicted.path):
            draw_explained(predictor, predicted, target, shown)

    tell(predict_files(predictor, paths, batch=arguments.batch, then=pictures), len(paths), predictor, arguments, shown)


def require_fitting(trained: "Trained", arguments: argparse.Namespace) -> None:
    """Raise RunError for what means nothing for this network's task."""
    does = trained.does or "features"
    if arguments.masks and does != "segmentation":
        raise RunError(f"--masks is for segmentation: {arguments.model} is for {does}, which has no classes of pixels")
    if arguments.image_size and does in ("segmentation", "detection"):
        raise RunError(f"--image-size: {does} brings images to its size as its recipe says: leave it out")


def make_predictor(trained: "Trained", count: int, arguments: argparse.Namespace) -> "Predictor":
    """By the engine that is asked for; or by OpenVINO where that pays, and by PyTorch where it cannot."""
    from fastvit.runtime.device import best_device

    device, engine = best_device(), arguments.engine
    if engine not in (None, EAGER):
        return by_engine(trained, device, arguments)
    if engine or not pays(trained, device.type, count, arguments):
        return trained.predictor_on(device)
    _ = trained.network  # an error about the weights is not OpenVINO's
    print("making the network ready for OpenVINO (or say --engine eager)", file=sys.stderr)
    try:
        return trained.predictor_on(device, "openvino")
    except (UserError, RuntimeError) as error:
        print(f"OpenVINO cannot compute it, so PyTorch does: {error}", file=sys.stderr)
        return trained.predictor_on(device)


def by_engine(trained: "Trained", device: "torch.device", arguments: argparse.Namespace) -> "Predictor":
    """By the engine that is asked for. Raises RunError where what that computes is not what the network does."""
    import torch

    _ = trained.network  # an error about the weights is not the engine's
    try:
        return trained.predictor_on(device, arguments.engine, getattr(torch, arguments.precision))
    except RuntimeError as error:
        said = f"--engine {arguments.engine} --precision {arguments.precision}"
        raise RunError(f"{said} cannot be used: {reason_of(error)}; or take --engine {EAGER}") from error


def pays(trained: "Trained", device: str, count: int, arguments: argparse.Namespace) -> bool:
    """Whether OpenVINO is faster, with the time that it takes to be made ready. It has no gradients to explain with."""
    from fastvit.predictor import CLASSIFIERS
    from fastvit.trained import Kind

    can = device == "cpu" and trained.does in CLASSIFIERS and trained.kind is not Kind.FILE and not arguments.explain
    return can and count >= MANY and all(map(find_spec, ("openvino", "onnx", "onnxscript")))


def require_sound(arguments: argparse.Namespace) -> None:
    """Raise RunError for numbers that mean nothing, and files that must not be replaced."""
    if arguments.explain and arguments.engine not in (None, EAGER):
        raise RunError("--explain needs gradients, which only PyTorch has: leave out --engine")
    if arguments.precision != "float32" and arguments.engine in (None, EAGER):
        raise RunError(f"--precision {arguments.precision} is of an engine: add --engine openvino, or auto")
    if not 0 <= arguments.score <= 1:
        raise RunError(f"--score is {arguments.score}, and has to be from 0 to 1")
    for name in ("top", "batch"):
        if getattr(arguments, name) < 1:
            raise RunError(f"--{name} is {getattr(arguments, name)}, and has to be at least 1")
    if arguments.output and arguments.output.suffix not in TABLES:
        raise RunError(f"--output {arguments.output} has to end in {' or '.join(TABLES)}")
    folders = {name: folder for name in FOLDERS if (folder := getattr(arguments, name))}
    for (one, folder), (other, another) in combinations(folders.items(), 2):
        if folder.resolve() == another.resolve():
            raise RunError(f"--{one} and --{other} are both {folder}, and would replace each other: name two folders")
    for path in targets(arguments):
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if taken and not arguments.overwrite:
            raise RunError(f"{path} exists already: name another, or say --overwrite")


def targets(arguments: argparse.Namespace) -> list[Path]:
    """The file and the folders to write."""
    return [path for name in ("output", *FOLDERS) if (path := getattr(arguments, name))]


def tell(
    results: "Iterator[Predicted]", count: int, predictor: "Predictor", arguments: argparse.Namespace, shown: "Shown"
) -> None:
    """Write each result, or print it; then how many there were, how fast, and what was skipped."""
    from tqdm import tqdm

    from fastvit.prediction import Table

    table = Table(arguments.output, predictor.columns(shown), shown) if arguments.output else nullcontext()
    start, skipped = time.perf_counter(), []
    with table, tqdm(results, total=count, unit="image", disable=None) as bar:
        for predicted in bar:
            if predicted.prediction is None:
                skipped.append(f"{predicted.path} ({predicted.reason})")
            if isinstance(table, Table):
                table.write(predicted)
            elif predicted.prediction is not None:
                tqdm.write(f"{predicted.path}: {predicted.prediction.summary(shown)}")
    seconds = time.perf_counter() - start
    read = count - len(skipped)
    print(f"{read} images in {seconds:.1f} s, {read / seconds:.0f} a second", file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} skipped: {some(skipped)}", file=sys.stderr)
    if written := targets(arguments):
        print(f"written: {', '.join(map(str, written))}")
    if not read:
        raise DataError("nothing could be said about any of the images")
