"""What the tests of deployment share: a small trained-looking network, its request, and scripts as functions."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fastvit import FastViT
from fastvit.deploy import FORMATS, Preprocessing
from reference import randomize

ROOT = Path(__file__).parents[1]
LABELS = tuple("abcdefg")
PREPROCESSING = Preprocessing(64, 64, 0.9, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def small_network() -> nn.Module:
    """All kinds of blocks, far from their initialisation."""
    torch.manual_seed(0)
    return randomize(FastViT((1, 1, 1), (32, 32, 64), 2, (False, False, True), num_classes=len(LABELS)))


def need(name: str) -> None:
    """Skip the test if the packages of a format are not installed."""
    for module in FORMATS[name].packages.values():
        pytest.importorskip(module)


def script(name: str) -> Callable[[list[str]], None]:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def complaint(main: Callable[[list[str]], None], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that a script ends with."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err.strip()
