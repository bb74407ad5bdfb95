import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # tests side by side: threads of one would wait for those of another
    os.environ["OMP_NUM_THREADS"] = "1"

import torch

from fastvit.recipes import load_recipe, make_task
from launch import QUICKSTART, script
from reference import randomize, tell_apart
from teaching import write_digits, write_teacher


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def short_run(tmp_path_factory):
    """The folder of a run of one epoch on the digits. Nothing may be written into it."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    script("train")([QUICKSTART, f"output={folder}", "schedule.epochs=1", "schedule.warmup_epochs=0"])
    return folder


@pytest.fixture(scope="session")
def random_run(tmp_path_factory):
    """A folder that looks like a run on the digits, with random weights, which give each image another answer."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    folder.mkdir()
    recipe = load_recipe(QUICKSTART)
    task = make_task(recipe)
    torch.manual_seed(0)
    digits = task.open_data("val").samples
    model = tell_apart(randomize(task.build_model()), torch.stack([digits[i][0] for i in range(32)]))
    checkpoint = {"state_dict": model.state_dict(), "recipe": recipe.to_dict(), "class_names": list("0123456789")}
    torch.save(checkpoint, folder / "best.pt")
    return folder


@pytest.fixture(scope="session")
def digits_and_teacher(tmp_path_factory):
    """A folder of digits, and the weights of a teacher beside them. Nothing may be written into it."""
    root = tmp_path_factory.mktemp("taught")
    write_digits(root)
    write_teacher(root)
    return root
