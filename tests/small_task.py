"""A task whose runs take a second, and runs of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

from fastvit.data.digits import Digits
from fastvit.training.engine import Trainer, train
from fastvit.training.learner import Learner, Step
from fastvit.training.recipe import Recipe
from fastvit.training.task import Metrics, Part, Task

LOOP = {"batch_size": 100, "clip_grad": 1.0}
ONE_EPOCH = {"epochs": 1}
PLAN = {"epochs": 3, "warmup_epochs": 0.5}


class NoisyDigits(Digits):
    """Random augmentation, so that a wrong seed shows."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        return to_tensor(image)[:1] + 0.1 * torch.rand(1, 8, 8), label


class Accuracy(Metrics):
    def __init__(self) -> None:
        self.hits, self.samples = 0, 0

    def update(self, outputs: Tensor, batch: Any) -> None:
        self.hits += int((outputs.argmax(1) == batch["labels"]).sum())
        self.samples += len(outputs)

    def merge(self, other: "Accuracy") -> None:
        self.hits, self.samples = self.hits + other.hits, self.samples + other.samples

    def report(self) -> dict[str, float]:
        return {"accuracy": self.hits / self.samples, "samples": self.samples}


class SmallTask(Task):
    """Batches are dicts, there are two losses, dropout and batch norm: what other tasks will have."""

    best_metric = "accuracy"
    input_size = (1, 8, 8)

    def build_model(self, *, initial_weights: bool = True) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(1024, 10),
        )

    def open_data(self, part: str) -> Part:
        return Part(NoisyDigits(train=part == "train", image_size=8))

    @staticmethod
    def collate(samples: list[Any]) -> dict[str, Tensor]:
        images, labels = zip(*samples, strict=True)
        return {"images": torch.stack(images), "labels": torch.tensor(labels)}

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = model(batch["images"])
        return {"cross_entropy": F.cross_entropy(logits, batch["labels"]), "size": 1e-3 * logits.square().mean()}

    def labelled(self, batch: dict[str, Tensor], class_names: Any) -> tuple[Tensor, list[str]]:
        return batch["images"], []

    def predict(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        assert not model.training
        return model(batch["images"])

    def new_metrics(self) -> Metrics:
        return Accuracy()

    def draw(self, model: nn.Module, samples: list[Any], class_names: None):
        raise NotImplementedError


def small_recipe(output: Path, **changes: Any) -> Recipe:
    return Recipe(
        **{
            "task": "small",
            "output": output,
            "data": {"workers": 0},
            "optimizer": {"lr": 3e-3, "weight_decay": 0.05},
            "schedule": PLAN,
            "ema": {"decay": 0.9},
            "loop": LOOP,
            **changes,
        }
    )


def small_run(output: Path, **changes: Any) -> Trainer:
    recipe = small_recipe(output, **changes)
    return train(SmallTask(recipe), recipe)


def interrupt_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kill would: at once, and nothing is saved."""
    step = Learner.step

    def interrupted(self: Learner, number: int, *arguments: Any, **options: Any) -> Step:
        if number == steps:
            raise KeyboardInterrupt
        return step(self, number, *arguments, **options)

    monkeypatch.setattr(Learner, "step", interrupted)


def assert_same_run(actual: Trainer, expected: Trainer) -> None:
    """All weights, averages, optimizer states and results, bit for bit; only the speed may differ."""
    for key in ("state_dict", "state_dict_ema", "optimizer", "scaler", "step", "best"):
        torch.testing.assert_close(actual.state()[key], expected.state()[key], rtol=0, atol=0, msg=key)
    assert results(actual) == results(expected)


def results(trainer: Trainer) -> list[dict[str, float]]:
    speed = ("images_per_second", "data_wait", "memory_gib")
    return [{name: value for name, value in row.items() if name not in speed} for row in trainer.history]
