"""How much memory training takes, by variant, image size and batch: counted, without a GPU.

python scripts/memory.py
python scripts/memory.py --image-size 384 --precision float32 --card-gib 80

Counted are the weights, their gradients, AdamW's averages, the moving average of the weights, and everything that the
forward pass keeps for the backward pass. Workspaces and fragmentation come on top: allow 10 to 20 %.
"""

import argparse
from collections.abc import Sequence

import timm

from fastvit.training.memory import BYTES_PER_PARAMETER, BYTES_PER_PARAMETER_OF_EMA, activation_bytes_per_image
from fastvit.variants import VARIANTS


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, nargs="+", default=[256, 384], help="pixels on a side")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--card-gib", type=float, nargs="+", default=[8, 24, 80], help="memory of cards, in GiB")
    arguments = parser.parse_args(argv)
    cards = "".join(f"{f'{gib:g} GiB':>9}" for gib in arguments.card_gib)
    print(f"{'':<14}{'size':>5}{'fixed, GiB':>12}{'MiB/image':>11}{'checkpointing':>15}   largest batch on{cards}")
    for variant in VARIANTS:
        for size in arguments.image_size:
            print(row(variant, size, arguments.precision, arguments.card_gib))


def row(variant: str, size: int, precision: str, cards: Sequence[float]) -> str:
    parameters = sum(parameter.numel() for parameter in timm.create_model(variant, device="meta").parameters())
    fixed = parameters * (BYTES_PER_PARAMETER + BYTES_PER_PARAMETER_OF_EMA)
    plain, checkpointed = (
        activation_bytes_per_image(lambda on=on: build(variant, on), size, precision) for on in (False, True)
    )
    batches = "".join(f"{max(int((gib * 2**30 - fixed) / plain), 0):>9}" for gib in cards)
    images = f"{plain / 2**20:>11.0f}{checkpointed / 2**20:>15.0f}"
    return f"{variant:<14}{size:>5}{fixed / 2**30:>12.2f}{images}   {'':<16}{batches}"


def build(variant: str, checkpointing: bool):
    model = timm.create_model(variant)
    model.set_grad_checkpointing(checkpointing)
    return model


if __name__ == "__main__":
    main()
