"""Classify images by the names of classes, with the text tower of a network of open_clip's.

fastvit embed open_clip:MobileCLIP2-S0.dfndr2b photos/ --output embeddings/photos
fastvit zeroshot open_clip:MobileCLIP2-S0.dfndr2b embeddings/photos --classes cat "hot dog" --output said.csv

The images are embedded first, once for all lists of classes. Apple's weights of MobileCLIP are for research only.
"""

import argparse
import sys
from pathlib import Path

from fastvit.cli.source import options, tell_licence
from fastvit.errors import RunError
from fastvit.files import write_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="the network of open_clip's that the embeddings are of")
    parser.add_argument("embeddings", type=Path, help="a folder or file that fastvit embed wrote")
    parser.add_argument("--classes", nargs="+", required=True, metavar="NAME", help="as they stand in a sentence")
    parser.add_argument("--template", nargs="+", default=["a photo of a {}"], help='sentences ("a photo of a {}")')
    parser.add_argument("--output", type=Path, metavar="FILE", help="write FILE.csv")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights: those of a file")
    parser.add_argument("--pretrained", action="store_true", help="weights: those of the hub")
    parser.add_argument("--random-weights", action="store_true", help="weights: none, to try things out")
    parser.set_defaults(num_classes=None)


def run(arguments: argparse.Namespace) -> None:
    import torch

    from fastvit.features.files import read_embeddings
    from fastvit.features.zero_shot import zero_shot
    from fastvit.runtime.folders import require_new_file
    from fastvit.trained.of_clip import of_clip

    if arguments.output:
        require_new_file(arguments.output, overwrite=arguments.overwrite)
    embeddings = read_embeddings(arguments.embeddings)
    tell_licence(of_clip(arguments.model, options(arguments)).licence)
    torch.manual_seed(0)  # as fastvit embed has it for random weights
    said = {"classes": arguments.classes, "templates": arguments.template}
    probabilities = zero_shot(embeddings, arguments.model, options(arguments), **said)
    best = probabilities.argmax(1)
    rows = [
        (name, arguments.classes[index], f"{of_image[index]:.6f}")
        for name, index, of_image in zip(embeddings.names.tolist(), best.tolist(), probabilities, strict=True)
    ]
    if arguments.output:
        write(rows, arguments.output)
    else:
        print("\n".join(f"{name}: {label} {float(probability):.2%}" for name, label, probability in rows))
    if set(embeddings.labels.tolist()) <= set(arguments.classes):
        right = sum(label == true for (_, label, _), true in zip(rows, embeddings.labels.tolist(), strict=True))
        print(f"accuracy {100 * right / len(rows):.2f} % of {len(rows)} images, by the folders that they are in")
    else:
        print("the folders of these images are not all among --classes: no accuracy is measured", file=sys.stderr)


def write(rows: list[tuple[str, str, str]], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, ("image", "label", "probability"), rows)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror})") from error
    print(f"written: {path}")
