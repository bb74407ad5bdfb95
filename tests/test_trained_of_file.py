"""Exported segmenters and hands: the same predictions as before, the same metrics, names of what comes out."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from deployment import need
from fastvit.compare import relative_error
from fastvit.deploy import export
from fastvit.evaluation import evaluate_forms, task_of
from fastvit.predictor import Shown
from fastvit.recipes import build_recipe, make_task
from fastvit.trained import Options, find_trained, load_trained
from launch import script
from photographs import photographs
from reference import randomize

predict = script("predict")
RECIPES = {"segmentation": "quickstart/segmentation_digits", "hand_mesh": "quickstart/hand_mesh_synthetic"}


def trained_of(task):
    torch.manual_seed(0)
    trained = load_trained(RECIPES[task], random_weights=True)
    randomize(trained.module)
    return trained


def exported(trained, path, **options):
    size = trained.preprocessing.height
    export(trained.module, path, torch.zeros(1, 3, size, size), card=trained.card, **options)
    return load_trained(path)


def made(task, folder, **options):
    """A network, and its file."""
    need("onnx")
    trained = trained_of(task)
    return trained, exported(trained, folder / "network.onnx", **options)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return made("segmentation", tmp_path_factory.mktemp("segmenter"), dynamic=("size",))


@pytest.fixture(scope="module")
def hand(tmp_path_factory):
    return made("hand_mesh", tmp_path_factory.mktemp("hand"))


@pytest.fixture(params=["segmenter", "hand"])
def pair(request):
    return request.getfixturevalue(request.param)


def close(some, others):
    """Two predictions, of any task: JSON's numbers are alike, and so are the pictures."""
    one, other = (json.loads(json.dumps(each.to_dict(Shown()))) for each in (some, others))
    assert one.keys() == other.keys()
    for name, value in one.items():
        if name == "classes":
            one, other = ({each["label"]: each["share"] for each in values} for values in (value, other[name]))
            assert one == pytest.approx(other, abs=2e-3)
        else:
            np.testing.assert_allclose(value, other[name], rtol=1e-3, atol=1e-4 * np.abs(value).max())


def test_a_file_says_of_photographs_of_any_size_what_its_network_says(pair):
    trained, file = pair
    images = [photographs()[name] for name in ("as it is", "portrait", "panorama", "smaller than the crop")]
    said = [trained(image) for image in images]
    for image, expected in zip(images, said, strict=True):
        found = file(image)
        close(found, expected)
        pictures = [np.asarray(each.draw(image, Shown()), float) for each in (found, expected)]
        assert np.abs(pictures[0] - pictures[1]).mean() < 0.5
    assert len({json.dumps(each.to_dict(Shown())) for each in said}) == len(said)  # not the same of everything
    assert file.labels == trained.labels


def test_a_file_is_evaluated_as_its_network_is(pair, tmp_path):
    """By the same metrics on the same data, in float32 whatever the run trained in."""
    trained, file = pair
    few = ("data.val_scenes=20" if trained.does == "segmentation" else "data.val_size=20", "loop.precision=bfloat16")
    before = find_trained(trained.source, Options(random_weights=True, overrides=few))
    task = make_task(build_recipe(before.task.recipe.to_dict(), ["loop.precision=float32"], source="the test"))
    fused = evaluate_forms(trained, task, tmp_path / "fused", forms=("fused",))[0]["fused"]
    task = task_of(replace(file, stated=replace(file.stated, recipe=before.recipe)))
    by_file = evaluate_forms(file, task, tmp_path / "file")[0]["exported"]
    assert fused["samples"] == by_file["samples"] == 20
    for name in fused.keys() - {"parameters", "latency_ms"}:
        assert by_file[name] == pytest.approx(fused[name], rel=0.02, abs=0.05), name


def test_the_recipe_of_a_file_is_the_network_s_without_folders(pair):
    trained, file = pair
    secret = ("output=/secret/runs/mine", "model.checkpoint=/secret/weights.pt", "log.wandb_project=secret")
    recipe = find_trained(trained.source, Options(random_weights=True, overrides=secret)).recipe
    assert (recipe["output"], recipe["model"]["checkpoint"]) == ("mine", "weights.pt")
    assert "secret" not in json.dumps(recipe)
    plain = trained.task.recipe.to_dict()
    assert plain.pop("log")
    assert file.recipe == {**plain, "output": plain["output"].rpartition("/")[2]}


def test_outputs_have_the_names_that_the_network_gives_them(pair):
    trained, file = pair
    image = torch.randn(1, 3, trained.preprocessing.height, trained.preprocessing.width)
    with torch.no_grad():
        expected = trained.network(image)
    found = file.network(image)
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert list(found) == list(expected) == ["vertices", "joints", "camera", "rotations", "shape"]
        found, expected = list(found.values()), list(expected.values())
    assert relative_error(found, expected) < 1e-5


def test_photographs_that_a_file_does_not_take_are_skipped_with_the_reason(segmenter, tmp_path, capsys):
    """A row of pixels becomes one of 32 by 2048, and a file of any size takes 64 to 4096."""
    _, file = segmenter
    for name in ("portrait", "one row", "as it is"):
        photographs()[name].save(tmp_path / f"{name}.png")
    table = tmp_path / "said.jsonl"
    predict([str(tmp_path), "--model", file.source, "--output", str(table), "--masks", str(tmp_path / "masks")])
    assert "2 images in" in (said := capsys.readouterr().err)
    assert "1 skipped: " in said
    assert "exported for height 64 to 4096, not 32: export it for that" in said
    rows = {row["image"]: row for row in map(json.loads, table.read_text().splitlines())}
    assert len(rows) == 3
    assert "exported for height" in rows[str(tmp_path / "one row.png")]["error"]
    assert rows[str(tmp_path / "portrait.png")]["classes"]
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["as it is.png", "portrait.png"]
