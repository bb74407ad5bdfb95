"""Evaluation of a network on validation data."""

from pathlib import Path

import numpy as np
from PIL import Image

from fastvit.evaluation import evaluate_forms
from fastvit.tasks import load_recipe, make_task

DEMO = Path(__file__).parents[1] / "configs" / "quickstart" / "digits.yaml"


def test_only_the_validation_data_is_needed(tmp_path: Path):
    """Of a classifier; those of the other tasks are evaluated after their training data is gone, in their own tests."""
    rng = np.random.default_rng(0)
    for label in "ab":
        folder = tmp_path / "images" / "val" / label
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    data = f"data={{dataset: folder, root: {tmp_path / 'images'}, num_classes: 2, image_size: 32, workers: 0}}"
    task = make_task(load_recipe(DEMO, [data]))
    result, files, _ = evaluate_forms(task, task.build_model().eval(), tmp_path / "result", forms=("fused",))
    assert result["fused"]["samples"] == 4
    assert all(file.is_file() for file in files)
