"""What a robustness recipe may say, and what those of the package say."""

import json
from pathlib import Path

import pytest

from fastvit.errors import RecipeError
from fastvit.robustness.recipe import RobustnessRecipe, read_robustness_recipe

CONFIGS = Path(__file__).parents[1] / "configs" / "robustness"
VARIANTS = ("t8", "t12", "s12", "sa12", "sa24", "sa36", "ma36")
TAGS = ("apple_in1k", "apple_dist_in1k")
PLAIN = {
    "task": "robustness",
    "model": {"name": "fastvit_t8.apple_in1k"},
    "root": "data",
    "output": "out",
    "sets": {"x": {"kind": "imagenet", "folder": "x"}},
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads(path):
    recipe = read_robustness_recipe(path, ["root=/data"])
    assert recipe.sets
    for each in recipe.sets.values():
        assert set(each.expected) <= {f"fastvit_{variant}.{tag}" for variant in VARIANTS for tag in TAGS}
        # timm's results files have 0.9 for SA36, and what this package has for all others.
        assert each.expected_crop_pct == ({f"fastvit_sa36.{tag}": 0.9 for tag in TAGS} if each.expected else {})


def test_all_has_every_set():
    sets = set(read_robustness_recipe(CONFIGS / "all.yaml", []).sets)
    single = list(CONFIGS.glob("imagenet_*.yaml"))
    assert sets == {name for path in single for name in read_robustness_recipe(path, []).sets}


def test_one_set_can_be_changed_by_its_name():
    recipe = read_robustness_recipe(CONFIGS / "all.yaml", ["sets.ImageNet-A.crop_pct=0.9"])
    assert recipe.sets["ImageNet-A"].crop_pct == 0.9
    assert recipe.sets["ImageNet-A"].kind == "imagenet_a"
    assert recipe.sets["ImageNet-R"].crop_pct is None
    with pytest.raises(RecipeError, match=r"sets.ImageNet-A.crop: did|unknown key sets.ImageNet-A.crop"):
        read_robustness_recipe(CONFIGS / "all.yaml", ["sets.ImageNet-A.crop=0.9"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, "model.name"),
        ({"model": {"name": "fastvit_t8"}}, "no weights of its own: give a tag, pretrained: true, or a checkpoint"),
        ({"model": {"name": "runs/a", "checkpoint": "b"}}, "weights and classes of its own: leave out pretrained and"),
        ({"model": {"name": "x.onnx"}, "precision": "bfloat16"}, "x.onnx is an exported file, .*: leave out precision"),
        ({"model": {"name": "x.onnx", "form": "unfused"}}, "x.onnx is an exported file, .* leave out .*model.form"),
        ({"sets": {}}, "sets is empty"),
        ({"root": None}, "root is missing"),
        ({"sets": {"x": {"kind": "imagenet"}}}, "folder is for all kinds but"),
        ({"sets": {"x": {"kind": "imagenet_c", "folder": "c", "resize": False, "crop_pct": 1}}}, "crop_pct is about"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RobustnessRecipe.model_validate_json(json.dumps(PLAIN | change))


def test_an_exported_file_is_measured_as_it_is():
    model = {"name": "x.onnx", "form": "fused"}
    recipe = RobustnessRecipe.model_validate_json(json.dumps(PLAIN | {"model": model, "precision": "float32"}))
    assert recipe.model.name == "x.onnx"
