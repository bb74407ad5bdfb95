"""A recipe is read as written, or refused with sentences that say what to change."""

import pickle
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import _registry

from fastvit import shipped
from fastvit.config import apply_overrides, differences, parse_yaml, read_file
from fastvit.errors import RecipeError
from fastvit.recipes import load_recipe, make_task, recipe_of_all
from fastvit.runtime.processes import Processes
from hands import mano_like

CONFIGS = Path(__file__).parent.parent / "configs"
QUICKSTART = CONFIGS / "quickstart" / "digits.yaml"


def problems(*overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(QUICKSTART, overrides)
    return str(caught.value).splitlines()


OTHERS = ("benchmark/", "robustness/", "segmentation/", "detection/")  # which have tests of their own
RECIPES = [name for name in shipped.names() if not name.startswith(OTHERS)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_builds_its_model(name: str, tmp_path: Path):
    overrides = []
    if name.startswith("hand_mesh/"):  # the MANO hand itself is the user's
        np.savez(tmp_path / "mano.npz", **mano_like())
        overrides = [f"model.mano={tmp_path / 'mano.npz'}"]
    if name == "classification/finetune":  # else they are counted in the user's images
        overrides = ["data.num_classes=3"]
    recipe = load_recipe(name, overrides)
    # Without numbers; but the hand model computes with its own when it is made.
    with nullcontext() if "hand_mesh" in name else torch.device("meta"):
        model = make_task(recipe).build_model(initial_weights=False)
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e6


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),  # PyYAML: "1e-3"
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("010", 10),  # PyYAML: 8
        ("no", "no"),  # PyYAML: False
        ("1:30", "1:30"),  # PyYAML: 90
        ("true", True),
        ("null", None),
        ("[1, 2.0]", [1, 2.0]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any):
    parsed = parse_yaml(text, "text")
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_key_that_occurs_twice_is_an_error():
    with pytest.raises(RecipeError, match=r"recipe.yaml, line 3: .*'lr' occurs twice"):
        parse_yaml("optimizer:\n  lr: 1\n  lr: 2\n", "recipe.yaml")


def test_an_unknown_key_suggests_the_nearest_of_its_section():
    assert problems("schedule.epoch=3") == [
        f"{QUICKSTART}: unknown key schedule.epoch; did you mean epochs?",
    ]


def test_a_key_in_the_wrong_section_suggests_the_right_one():
    (problem,) = problems("batch_size=3")
    assert problem.endswith("unknown key batch_size; did you mean loop.batch_size?")


def test_a_wrong_type_is_not_converted():
    (problem,) = problems("schedule.epochs='3'")
    assert problem.endswith('schedule.epochs: should be a valid integer, but is "3"')


def test_all_problems_are_reported_together():
    found = problems("schedule.epochs=ten", "loop.batchsize=3", "optimizer={lr: -1}", "seed=-1")
    assert len(found) == 4
    assert all(problem.startswith(f"{QUICKSTART}: ") for problem in found)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=fastvit_t9", "model.name: timm knows no model 'fastvit_t9'; did you mean fastvit_t8?"),
        ("model.name=fastvit_t8.apple", "model.name: fastvit_t8 has no pretrained weights 'apple', but "),
        ("optimizer.name=adamv", "optimizer.name: no optimizer of timm is called 'adamv'; did you mean adam"),
        ("data.dataset=digit", "data.dataset: must be digits, folder, or begin with one of"),
        ("data.table=a.csv", "data: table is of dataset folder, not of digits: leave one of them out"),
        ("data={dataset: folder, image_size: 32, test_share: 0.8}", "(0.2) and test_share (0.8) leave no image to"),
        ("model={name: fastvit_t8, pretrained: true, checkpoint: a.pt}", "model: pretrained and checkpoint exclude"),
        ("schedule.warmup_epochs=50", "schedule: warmup_epochs (50) must be less than epochs"),
        ("schedule.min_lr=1", "schedule.min_lr (1) is above the peak that optimizer.lr gives"),
        ("augmentation.auto_augment=rand-m9-huh3", "augmentation.auto_augment: timm cannot read 'rand-m9-huh3'"),
        ("augmentation.scale=[1.0, 0.5]", "augmentation.scale: must be [smallest, largest]"),
        (
            "task=clasification",
            "task must be one of classification, multi_label, detection, segmentation, hand_mesh, not 'clasification'",
        ),
        ("optimizer.lr=.nan", "optimizer.lr: should be "),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(override: str, message: str):
    (problem,) = problems(override)
    assert message in problem


def test_mixing_needs_pairs():
    (problem,) = problems("augmentation.mixup=0.2", "loop.batch_size=63")
    assert problem.endswith("loop.batch_size / loop.accumulation (63) must be even for mixup and cutmix")


def test_overrides_create_sections_and_leave_the_original_alone():
    data = {"ema": None, "seed": 0}
    assert apply_overrides(data, ["ema.decay=1e-3", "seed=4"]) == {"ema": {"decay": 1e-3}, "seed": 4}
    assert data == {"ema": None, "seed": 0}


@pytest.mark.parametrize("override", ["seed", "=3", "seed.a=3"])
def test_an_override_that_is_none_is_an_error(override: str):
    with pytest.raises(RecipeError, match="override"):
        apply_overrides({"seed": 0}, [override])


def test_a_complete_recipe_says_the_same_as_the_file():
    recipe = load_recipe(QUICKSTART)
    assert load_recipe(recipe.to_dict()) == recipe


FREE = ["output=elsewhere", "data.workers=7", "data.root=there", "data.on_bad_image=skip", "log.wandb_project=mine"]
FREE += ["loop.accumulation=2"]


def test_only_keys_that_matter_count_as_different():
    recipe = load_recipe(QUICKSTART)
    moved = load_recipe(QUICKSTART, FREE)
    changed = load_recipe(QUICKSTART, ["optimizer.lr=1", "ema=null"])
    assert differences(recipe.to_dict(), moved.to_dict(), type(recipe)) == []
    found = differences(recipe.to_dict(), changed.to_dict(), type(recipe))
    assert [line.partition(":")[0] for line in found] == ["ema.decay", "ema.warmup", "optimizer.lr"]


# ---- include ---------------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_adds_to_what_it_includes_and_wins(tmp_path: Path):
    write(tmp_path / "one.yaml", "a: 1\nsection: {x: 1, y: [1, 2], inner: {p: 1}}\n")
    write(tmp_path / "two.yaml", "section: {y: [3], z: 1}\n")
    path = write(tmp_path / "own.yaml", "include: [one.yaml, two.yaml]\nsection: {z: 2, inner: {q: 2}}\nb: 2\n")
    assert read_file(path) == {"a": 1, "b": 2, "section": {"x": 1, "y": [3], "z": 2, "inner": {"p": 1, "q": 2}}}


def test_a_shipped_file_can_be_included_from_anywhere_and_one_beside_comes_first(tmp_path: Path):
    path = write(tmp_path / "own.yaml", "include: base/imagenet.yaml\n")
    assert read_file(path)["schedule"]["epochs"] == 300
    (tmp_path / "base").mkdir()
    write(tmp_path / "base" / "imagenet.yaml", "schedule: {epochs: 7}\n")
    assert read_file(path) == {"schedule": {"epochs": 7}}


def test_a_recipe_is_the_same_in_whatever_folder_the_user_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where files of the user's have the names of those of the package."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    for name in ("base/imagenet.yaml", "own_base.yaml"):
        write(tmp_path / name, "schedule: {epochs: 7}\n")
    for recipe in ("classification/fastvit_t8", "classification/fastvit_t8.yaml"):
        assert read_file(shipped.find(recipe))["schedule"]["epochs"] == 300
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(RecipeError, match=r"there is no file own_base.yaml beside it, and none in the package"):
        read_file(write(elsewhere / "recipe.yaml", "include: own_base.yaml\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include: nowhere.yaml", "own.yaml: include: there is no file nowhere.yaml"),
        ("include: nested.yaml", "include: nested.yaml includes other files itself: name those here instead"),
        ("include: list.yaml", "must be a mapping of keys to values, not [1, 2]"),
        ("include:", "own.yaml: include must be the name of a file, or a list of names, not null"),
        ("include: 3", "include must be the name of a file, or a list of names, not 3"),
        ("include: [one.yaml, 3]", "include must be the name of a file, or a list of names, not ['one.yaml', 3]"),
        ("[1, 2]", "own.yaml must be a mapping of keys to values, not [1, 2]"),
    ],
)
def test_what_cannot_be_included(text: str, message: str, tmp_path: Path):
    write(tmp_path / "nested.yaml", "include: list.yaml")
    write(tmp_path / "list.yaml", "[1, 2]")
    with pytest.raises(RecipeError) as caught:
        read_file(write(tmp_path / "own.yaml", text))
    assert message in str(caught.value)


def test_a_file_here_is_not_taken_for_one_of_the_package(tmp_path, monkeypatch):
    """Nor the other way round."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ablation").mkdir()
    (tmp_path / "ablation" / "networks.py").write_text("raise RuntimeError('was run')")
    (problem,) = problems("model.registered_in=ablation/networks.py", "model.name=ablation_repmixer")
    assert "ablation/networks.py is here and in the package: rename yours" in problem


def test_a_network_of_one_s_own_says_what_its_images_are(tmp_path: Path):
    file = tmp_path / "without_a_word.py"
    file.write_text(
        "from timm.models import register_model\nfrom torch import nn\n\n\n"
        "@register_model\ndef without_a_word(pretrained=False, **options):\n    return nn.Identity()\n"
    )
    (problem,) = problems(f"model.registered_in={file}", "model.name=without_a_word")
    assert "without_a_word states no mean, std and size of its images: add default_cfgs = timm" in problem
    assert str(file) in problem


class Second(Processes):
    """A process that has read no recipe so far: the main one has, and tells it by a message."""

    def on_main(self, action: Callable[[], Any]) -> Any:
        told = pickle.dumps(action())
        del sys.modules["registered_known_to_one"], _registry._model_entrypoints["known_to_one"]
        return pickle.loads(told)


def test_every_process_knows_a_network_of_one_s_own(tmp_path: Path):
    file = write(
        tmp_path / "known_to_one.py",
        "import timm\n\ndefault_cfgs = timm.models.generate_default_cfgs({'known_to_one': {}})\n\n\n"
        "@timm.models.register_model\ndef known_to_one(pretrained=False, **options):\n"
        "    return timm.create_model('test_byobnet', **options)\n",
    )
    here = load_recipe(QUICKSTART, [f"model.registered_in={file}", "model.name=known_to_one"])
    recipe = recipe_of_all(Second(1, 2), lambda: here)
    assert recipe == here
    assert timm.is_model("known_to_one")
    make_task(recipe).build_model()
    file.unlink()  # another machine lacks it
    with pytest.raises(RecipeError, match=r"^process 1: model\.registered_in: there is no file .*known_to_one\.py"):
        recipe_of_all(Second(1, 2), lambda: here)
