"""How much memory training takes, by variant, image size and batch: counted, without a GPU.

fastvit memory
fastvit memory --image-size 384 --precision float32 --card-gib 80

Counted are the weights, their gradients, AdamW's averages, the moving average of the weights, and everything that the
forward pass keeps for the backward pass. Workspaces and fragmentation come on top: allow 10 to 20 %.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-size", type=int, nargs="+", default=[256, 384], help="pixels on a side")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--card-gib", type=float, nargs="+", default=[8, 24, 80], help="memory of cards, in GiB")


def run(arguments: argparse.Namespace) -> None:
    from fastvit.training.memory import memory_table

    for line in memory_table(arguments.image_size, arguments.precision, arguments.card_gib):
        print(line, flush=True)
