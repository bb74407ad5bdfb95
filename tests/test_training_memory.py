"""Memory counted by hand."""

import timm
import torch
from torch import nn

from fastvit.cli.main import main
from fastvit.training import memory
from fastvit.training.memory import activation_bytes_per_image

LABEL = 8  # bytes


class TwoSquares(nn.Module):
    """Each square keeps its input, which the other one does not share; the mean keeps nothing."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        x = x * self.scale  # keeps x, 3 * 32 * 32 numbers for an image
        return (x.square() + 0).square().mean((2, 3))  # keeps two of that size


def test_every_saved_activation_counts_once():
    one = 3 * 32 * 32 * 4
    logits = 3 * 4  # log-softmax keeps its output
    assert activation_bytes_per_image(TwoSquares, 32, "float32") == 3 * one + logits + LABEL


def test_in_half_precision_what_is_computed_in_it_takes_half():
    def build():
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8 * 16 * 16, 4))

    full, half = (activation_bytes_per_image(build, 16, precision) for precision in ("float32", "bfloat16"))
    pixels = 16 * 16
    assert full == pixels * (3 + 8 + 8) * 4 + 4 * 4 + LABEL
    assert half == pixels * (3 + 8 + 8) * 2 + 4 * 4 + LABEL  # log-softmax stays in float32


def test_the_command_says_how_many_images_a_card_holds(monkeypatch, capsys):
    """Beside 20 bytes for each parameter: weight, gradient, AdamW's two averages, and the moving average."""
    asked = set()

    def counted(build, image_size, precision):
        asked.add((image_size, precision))
        return (8 if build().stages[0].grad_checkpointing else 30) * 2**20

    monkeypatch.setattr(memory, "VARIANTS", ("fastvit_t8",))
    monkeypatch.setattr(memory, "activation_bytes_per_image", counted)
    main(["memory", "--image-size", "64", "96", "--precision", "float32", "--card-gib", "0.07", "0.5", "8"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split("largest batch on")[1].split() == ["0.07", "GiB", "0.5", "GiB", "8", "GiB"]
    fixed = 20 * sum(parameter.numel() for parameter in timm.create_model("fastvit_t8").parameters())
    held = [str(int(gib * 2**30 - fixed) // (30 * 2**20)) for gib in (0.5, 8)]  # 0.07 are not enough for itself
    assert [row.split() for row in rows] == [
        ["fastvit_t8", size, f"{fixed / 2**30:.2f}", "30", "8", "0", *held] for size in ("64", "96")
    ]
    assert asked == {(64, "float32"), (96, "float32")}
