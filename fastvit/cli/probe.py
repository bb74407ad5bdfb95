"""Accuracy of frozen features: of nearest neighbours, and of a linear classifier.

fastvit embed fastvit_t8.apple_in1k my_images/train --output embeddings/train
fastvit embed fastvit_t8.apple_in1k my_images/val --output embeddings/val
fastvit probe embeddings/train embeddings/val --output probe.json

Features of length 1. Neighbours: a vote of the k nearest by cosine, weighted by exp(cosine / temperature). Linear:
logistic regression, whose C is chosen on a fifth of the training features.
"""

import argparse
import json
from pathlib import Path

from fastvit.errors import RunError, require_packages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("train", type=Path, help="embeddings to train on: a folder or file that fastvit embed wrote")
    parser.add_argument("val", type=Path, help="embeddings to measure on, of the same model")
    parser.add_argument("--knn", action="store_true", help="neighbours only")
    parser.add_argument("--linear", action="store_true", help="the linear classifier only")
    parser.add_argument("--k", type=int, default=20, metavar="N", help="neighbours (20)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of their vote (0.07)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write FILE.json, with versions")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def run(arguments: argparse.Namespace) -> None:
    require_packages("probing", "sklearn", extra="train")
    from fastvit.features.files import read_embeddings
    from fastvit.features.probe import Linear, Neighbours, probe
    from fastvit.runtime.environment import environment
    from fastvit.runtime.folders import require_new_file

    if arguments.k < 1 or arguments.temperature <= 0:
        raise RunError("--k has to be at least 1, and --temperature more than 0")
    if arguments.output:
        require_new_file(arguments.output, overwrite=arguments.overwrite)
    both = arguments.knn == arguments.linear
    neighbours = Neighbours(arguments.k, arguments.temperature) if arguments.knn or both else None
    linear = Linear() if arguments.linear or both else None
    train, val = read_embeddings(arguments.train), read_embeddings(arguments.val)
    result = probe(train, val, neighbours=neighbours, linear=linear)
    print(f"{train.about['source']}: {result['classes']} classes, {len(train.names)} images, {len(val.names)} held out")
    if neighbours:
        print(f"neighbours  {result['knn']['top1']:.2f} %  (k = {neighbours.k}, temperature {neighbours.temperature})")
    if linear:
        print(f"linear      {result['linear']['top1']:.2f} %  (C = {result['linear']['C']:g})")
    if arguments.output:
        result |= {"train": str(arguments.train), "val": str(arguments.val), "environment": environment()}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"written: {arguments.output}")
