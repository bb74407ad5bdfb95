"""Write the features of a frozen network for many images, one row for an image.

fastvit embed fastvit_t8.apple_in1k my_images/train --output embeddings/train
fastvit embed runs/quickstart digits --split train --output embeddings/train
fastvit embed open_clip:MobileCLIP2-S0.dfndr2b photos/ "more/*.jpg" --output embeddings/photos
torchrun --nproc-per-node 8 -m fastvit embed fastvit_mci2.apple_mclip "shards/*.tar" --output embeddings/shards

Of a classifier these are the features before its last layer; of an encoder, its outputs. A shard becomes one file, and
so does a fixed number of images. The same command goes on after an interruption, with the files that are missing. What
to do with them: fastvit probe, fastvit zeroshot, or in Python fastvit.features.files.read_embeddings.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit.cli.source import SOURCE, add_weights, options, tell_licence
from fastvit.errors import RunError, require_packages, some

if TYPE_CHECKING:
    from fastvit.features.embedder import Embedder
    from fastvit.features.images import Part
    from fastvit.trained import Trained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"{SOURCE} of an encoder")
    parser.add_argument("images", nargs="+", help="images, folders, WebDataset's .tar files, patterns; or a dataset")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the files are written")
    parser.add_argument("--format", choices=("npz", "parquet"), default="npz", help="of the files (npz)")
    parser.add_argument("--split", help="of a dataset, such as train")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="of a dataset")
    parser.add_argument("--image-column", metavar="NAME", help="of a dataset of Hugging Face's or TensorFlow's (image)")
    parser.add_argument("--label-column", metavar="NAME", help="the same (label)")
    parser.add_argument(
        "--part", type=int, default=10_000, metavar="N", help="images in a file (10000); a shard is one"
    )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images at a time (64)")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="processes that read images (4)")
    parser.add_argument("--image-size", type=int, nargs="+", metavar="PIXELS", help="a side, or height and width")
    add_weights(parser)


def run(arguments: argparse.Namespace) -> None:
    import torch

    from fastvit.features.embedder import Embedder, require_features
    from fastvit.features.images import find_parts
    from fastvit.features.writing import parts_left
    from fastvit.runtime.allocator import keep_freed_memory
    from fastvit.runtime.device import best_device
    from fastvit.runtime.folders import require_writable
    from fastvit.runtime.processes import process_group
    from fastvit.trained import find_trained

    require_sound(arguments)
    with process_group() as processes:
        trained = find_trained(arguments.model, options(arguments))
        require_features(trained)
        columns = arguments.image_column, arguments.label_column
        chosen = {"split": arguments.split, "root": arguments.root, "columns": columns}
        chosen["image_size"] = trained.preprocessing.height
        parts = processes.on_main(lambda: find_parts(arguments.images, size=arguments.part, **chosen))
        processes.on_main(lambda: require_writable(arguments.output))
        torch.manual_seed(0)  # random weights are the same in all processes, and next time
        embedder = Embedder(trained, best_device(processes.local_rank))
        paths = [arguments.output / f"{part.name}.{arguments.format}" for part in parts]
        abouts = describe(trained, embedder, parts)
        left = processes.on_main(lambda: parts_left(paths, abouts, arguments.output))
        if processes.is_main:
            tell_licence(trained.licence)
        if processes.is_main and len(left) < len(parts):
            print(f"written before: {len(parts) - len(left)} of {len(parts)} files in {arguments.output}")
        processes.on_main(lambda: begin(arguments.output, paths))
        keep_freed_memory(embedder.device)
        own = left[processes.rank :: processes.count]
        write([parts[i] for i in own], [paths[i] for i in own], embedder, [abouts[i] for i in own], arguments)


def require_sound(arguments: argparse.Namespace) -> None:
    """Raise UserError for numbers that mean nothing, and a format that needs more."""
    for name, least in (("part", 1), ("batch", 1), ("workers", 0)):
        if getattr(arguments, name) < least:
            raise RunError(f"--{name} is {getattr(arguments, name)}, and has to be at least {least}")
    if arguments.format == "parquet":
        require_packages("writing Parquet", "pyarrow", extra="features")


def begin(folder: Path, paths: list[Path]) -> None:
    from fastvit.features.files import write_list

    folder.mkdir(parents=True, exist_ok=True)
    write_list(paths)


def describe(trained: "Trained", embedder: "Embedder", parts: "list[Part]") -> list[dict[str, Any]]:
    """What the file of each part says about itself."""
    from fastvit import __version__

    source = {"source": trained.source, "weights": trained.weights, "licence": trained.licence, "fastvit": __version__}
    return [{"model": embedder.model, **source, "images": part.fingerprint()} for part in parts]


def write(
    parts: "list[Part]",
    paths: list[Path],
    embedder: "Embedder",
    abouts: list[dict[str, Any]],
    arguments: argparse.Namespace,
) -> None:
    """This process's parts, with a bar; then how many images there were, how fast, and what was skipped."""
    from tqdm import tqdm

    from fastvit.features.writing import embed_parts

    start, counts, skipped = time.perf_counter(), [], []
    with tqdm(unit="image", disable=None) as bar:

        def then(images: int, unreadable: list[str]) -> None:
            bar.update(images)
            counts.append(images)
            skipped.extend(unreadable)

        size = {"batch_size": arguments.batch, "workers": arguments.workers}
        embed_parts(parts, paths, embedder, abouts, then=then, **size)
    count, seconds = sum(counts), time.perf_counter() - start
    if paths:
        print(f"{count} images in {seconds:.1f} s, {count / seconds:.0f} a second; {embedder.width} numbers for each")
        print("written:", *paths, sep="\n  ")
    if skipped:
        print(f"{len(skipped)} skipped, which cannot be read: {some(skipped)}", file=sys.stderr)
