"""Predict the classes of images with a trained network in any form, and draw them.

fastvit predict photo.jpg --model fastvit_t8.apple_in1k
fastvit predict photos/ more/cat.png --model runs/quickstart
fastvit predict photos/ --model exports/quickstart.onnx

An exported network brings its preprocessing and labels along, in the JSON file beside it.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, help="images, or folders of them")
    parser.add_argument("--model", required=True, help="a run, its checkpoint, a hub tag, or an exported file")
    parser.add_argument("--top", type=int, default=5, help="how many classes (5)")
    parser.add_argument("--picture", type=Path, default=Path("predictions.png"), help="file to draw into")
    parser.add_argument("--no-picture", dest="picture", action="store_const", const=None, help="draw nothing")


def run(arguments: argparse.Namespace) -> None:
    from fastvit.prediction import draw, find_classifier, find_images, predict, table

    paths = find_images(arguments.images)
    predictions = list(predict(find_classifier(arguments.model), paths, arguments.top))
    print(table(predictions))
    if arguments.picture:
        draw(predictions, arguments.picture)
        print(f"\nwritten: {arguments.picture}")
