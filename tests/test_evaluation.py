"""Evaluation of a network on validation data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastvit.evaluation import evaluate_forms, some_samples
from fastvit.runtime.processes import Processes
from fastvit.trained import Options, find_trained


class Heard(Processes):
    """With another process that has something to say about its share of the data."""

    def gather(self, value: Any) -> list[Any]:
        return [value, ["of the other process's images: 1"]]


def test_a_picture_is_of_samples_from_all_of_the_data():
    assert some_samples(range(100), 8) == [0, 12, 25, 37, 50, 62, 75, 87]
    assert some_samples(range(3), 8) == [0, 1, 2]


def test_only_the_validation_data_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a classifier; those of the other tasks are evaluated after their training data is gone, in their own tests."""
    rng = np.random.default_rng(0)
    for label in "ab":
        folder = tmp_path / "images" / "val" / label
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    data = f"data={{dataset: folder, root: {tmp_path / 'images'}, num_classes: 2, image_size: 32, workers: 0}}"
    trained = find_trained("quickstart/digits", Options(random_weights=True, overrides=(data,)))
    folder, task, drawn = tmp_path / "result", trained.task, []
    draw = task.draw
    monkeypatch.setattr(task, "pictured", 3)
    monkeypatch.setattr(task, "draw", lambda model, some, names: drawn.append(len(some)) or draw(model, some, names))
    result, files, notices = evaluate_forms(trained, task, folder, forms=("fused",), processes=Heard())
    assert drawn == [3]
    assert result["fused"]["samples"] == 4
    assert all(file.is_file() for file in files)
    assert notices == ["of the other process's images: 1"]
