"""Evaluation of a network on validation data."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastvit.evaluation import compare, evaluate_forms, latency_ms, measure, some_samples, table
from fastvit.runtime.environment import name_of
from fastvit.runtime.processes import Processes
from fastvit.tasks import load_recipe, make_task
from fastvit.trained import Options, find_trained
from fastvit.training.evaluation import evaluate

CPU = torch.device("cpu")


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


# ---- on a GPU --------------------------------------------------------------------------------------------------------


QUICKSTARTS = {"digits": False, "segmentation_digits": True, "detection_digits": True}  # whether sizes differ


def kernels() -> tuple[bool, bool]:
    """How a GPU would compute now: in TF32, and by cuDNN's fastest algorithm."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark


def small_task(tf32: bool, cudnn_benchmark: bool, *, differ: bool = False) -> Any:
    """A task that notes how a GPU would compute what is evaluated."""
    seen: list[tuple[bool, bool]] = []
    loop = SimpleNamespace(
        tf32=tf32, cudnn_benchmark=cudnn_benchmark, precision="float32", batch_size=8, accumulation=1
    )
    recipe = SimpleNamespace(loop=loop, data=SimpleNamespace(workers=0), to_dict=dict)
    metrics = SimpleNamespace(update=lambda outputs, batch: seen.append(kernels()), report=lambda: {"samples": 8})
    predict, new = (lambda model, batch: model(batch)), (lambda: metrics)
    return SimpleNamespace(
        recipe=recipe, val_sizes_differ=differ, new_metrics=new, predict=predict, collate=None, seen=seen
    )


@pytest.mark.parametrize("flags", [(True, True), (False, False), (True, False)])
def test_a_gpu_evaluates_and_is_timed_as_the_recipe_says(flags: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch):
    """As it is trained, or a table would compare other kernels with each other than anybody uses."""
    task, before = small_task(*flags), kernels()
    evaluate(task, [nn.Identity()], [torch.zeros(1)], device=CPU)
    monkeypatch.setattr(
        "fastvit.evaluation.interleaved_latency",
        lambda calls: {name: [task.seen.append(kernels()) or 1] for name in calls},
    )
    latency_ms({"fused": nn.Identity()}, task, (3, 8, 8))
    assert task.seen == [flags] * 2
    assert kernels() == before


def test_cudnn_tries_nothing_where_each_validation_image_has_another_size():
    """It would try all its algorithms for nearly every batch. In training the same images are crops of one size."""
    task = small_task(True, True, differ=True)
    evaluate(task, [nn.Identity()], [torch.zeros(1)], device=CPU)
    assert task.seen == [(True, False)]
    differ = {name: make_task(load_recipe(f"quickstart/{name}")).val_sizes_differ for name in QUICKSTARTS}
    assert differ == QUICKSTARTS


def test_the_hardware_that_is_named_is_what_computed(monkeypatch: pytest.MonkeyPatch):
    """An exported file is computed on the CPU, whatever GPUs there are; and of eight GPUs one measures the latency."""
    monkeypatch.setattr("fastvit.evaluation.best_device", lambda local_rank=0: torch.device("cuda", local_rank))
    monkeypatch.setattr("fastvit.evaluation.latency_ms", lambda models, task, size: dict.fromkeys(models, 1.0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    task = small_task(True, True)
    metrics = dict.fromkeys(("exported", "fused"), task.new_metrics())
    for models, name in (({"exported": lambda images: images}, name_of(CPU)), ({"fused": nn.Identity()}, "GPU 0")):
        result = compare(task, models, metrics, (3, 8, 8)) | {"weights": "weights"}
        result["environment"] = {"gpu": "GPU 0, GPU 1", "cpu": "another", "threads": 3, "torch": "2.14"}
        assert f"for one image on {name}, torch 2.14)" in table(result)
    assert name_of(CPU).endswith(f", threads: {torch.get_num_threads()}")
    assert name_of(torch.device("mps")) == "Apple's GPU"


def test_an_exported_file_is_evaluated_without_starting_a_gpu(monkeypatch: pytest.MonkeyPatch):
    devices = []
    monkeypatch.setattr("fastvit.evaluation.best_device", lambda local_rank=0: torch.device("cuda", local_rank))
    monkeypatch.setattr("fastvit.evaluation.eval_loader", lambda *_, device, **__: devices.append(device) or [])
    measure(small_task(True, True), {"exported": lambda images: images}, range(8), Processes())
    assert devices == [CPU]
