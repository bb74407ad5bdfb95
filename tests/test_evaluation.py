"""Evaluation of a network on validation data."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastvit.evaluation import evaluate_forms
from fastvit.runtime.processes import Processes
from fastvit.trained import Options, find_trained


class Heard(Processes):
    """With another process that has something to say about its share of the data."""

    def gather(self, value: Any) -> list[Any]:
        return [value, ["of the other process's images: 1"]]


def test_only_the_validation_data_is_needed(tmp_path: Path):
    """Of a classifier; those of the other tasks are evaluated after their training data is gone, in their own tests."""
    rng = np.random.default_rng(0)
    for label in "ab":
        folder = tmp_path / "images" / "val" / label
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    data = f"data={{dataset: folder, root: {tmp_path / 'images'}, num_classes: 2, image_size: 32, workers: 0}}"
    trained = find_trained("quickstart/digits", Options(random_weights=True, overrides=(data,)))
    folder = tmp_path / "result"
    result, files, notices = evaluate_forms(trained, trained.task, folder, forms=("fused",), processes=Heard())
    assert result["fused"]["samples"] == 4
    assert all(file.is_file() for file in files)
    assert notices == ["of the other process's images: 1"]
