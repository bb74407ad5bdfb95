"""What recipes can say is listed completely, in the documentation and by the command."""

import importlib.util
import json
from importlib import import_module
from pathlib import Path

import pytest

from fastvit.cli.main import main
from fastvit.config import key_paths
from fastvit.recipe_keys import recipe_keys
from fastvit.recipes import TASKS
from launch import complaint, script

DOCS = Path(__file__).parents[1] / "docs"


def recipe_class(task):
    return getattr(import_module(f"fastvit.tasks.{task}.recipe"), TASKS[task][0])


@pytest.mark.parametrize("task", TASKS)
def test_every_key_of_the_recipe_is_there_with_a_meaning(task):
    """The keys are those that a mistyped one is compared with, so that both lists are complete or neither."""
    listed = recipe_keys(task)
    assert {key.path for key in listed} == {path for path, _ in key_paths(recipe_class(task))}
    assert [key.path for key in listed if not key.meaning] == []
    assert all("\n" not in key.meaning for key in listed)


def test_values_and_defaults_are_those_of_the_recipe():
    keys = {key.path: key for key in recipe_keys("classification")}
    assert keys["schedule.epochs"].default is None
    assert keys["ema"].default == "null"
    assert keys["loop.precision"].kind == "float32, bfloat16, float16"
    assert keys["optimizer.layer_decay"].kind == "number > 0, <= 1, or null"
    assert keys["augmentation.scale"].kind == "list of 2 x number > 0"
    assert keys["model.drop_rate"].meaning == "dropout before the classifier"
    fields = recipe_class("classification").model_fields["loop"].annotation.model_fields
    for name, field in fields.items():
        if not field.is_required():
            assert json.loads(keys[f"loop.{name}"].default) == field.default


def test_the_page_has_a_row_for_each():
    spec = importlib.util.spec_from_file_location("docs_recipe_keys", DOCS / "recipe_keys.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.page()
    for task in TASKS:
        assert all(f"`{key.path}`" in page and key.meaning in page for key in recipe_keys(task))
    assert page.count("| `optimizer.lr` |") == 1  # which all tasks share
    assert all(line.count(" | ") == 3 for line in page.splitlines() if line.startswith("| "))


def test_the_command_prints_them(capsys):
    main(["recipes", "keys", "segmentation"])
    assert "data.crop_size  (whole number >= 32; required)\n    pixels on a side of a training image\n" in (
        capsys.readouterr().out
    )
    said = complaint(script("recipes"), ["keys", "segmentatoin"], capsys)
    assert said.endswith("and none is 'segmentatoin'; did you mean segmentation?")
