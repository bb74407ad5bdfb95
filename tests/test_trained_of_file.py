"""Exported segmenters and hands: the same predictions as before, the same metrics, names of what comes out."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from deployment import need
from fastvit.deploy import export
from fastvit.evaluation import evaluate_forms, task_of
from fastvit.predictor import Shown
from fastvit.trained import load_trained
from launch import script
from photographs import photographs
from reference import randomize

predict = script("predict")
RECIPES = {"segmentation": "quickstart/segmentation_digits", "hand_mesh": "quickstart/hand_mesh_synthetic"}


def trained_of(task):
    torch.manual_seed(0)
    trained = load_trained(RECIPES[task], random_weights=True, overrides=("model.name=fastvit_t8",))
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
    """On the same data, with the same metrics; the recipe travels without the folders of the machine."""
    trained, file = pair
    sizes = ("data.val_scenes=20",) if trained.does == "segmentation" else ("data.val_size=20",)
    results = []
    for each, form in ((trained, "fused"), (file, "exported")):
        task = task_of(replace(each, task=None, recipe=file.recipe), sizes)
        results.append(evaluate_forms(each, task, tmp_path / form, forms=(form,))[0][form])
    fused, by_file = results
    assert fused["samples"] == by_file["samples"] == 20
    for name in fused.keys() - {"parameters", "latency_ms"}:
        assert by_file[name] == pytest.approx(fused[name], rel=0.02, abs=0.05), name
    assert "output" not in file.recipe
    assert "runs/" not in json.dumps(dict(file.recipe))


def test_outputs_have_the_names_that_the_network_gives_them(pair):
    trained, file = pair
    size = trained.preprocessing.height
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = trained.network(image)
    found = file.network(image)
    if trained.does == "segmentation":
        expected, found = {"logits": expected}, {"logits": found}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-3 * tensor.abs().max().item())


def test_photographs_that_a_file_does_not_take_are_skipped_with_the_reason(segmenter, tmp_path, capsys):
    """A row of pixels becomes one of 32 by 2048, and a file of any size takes 64 to 1024."""
    _, file = segmenter
    for name in ("portrait", "one row", "as it is"):
        photographs()[name].save(tmp_path / f"{name}.png")
    table = tmp_path / "said.jsonl"
    predict([str(tmp_path), "--model", file.source, "--output", str(table), "--masks", str(tmp_path / "masks")])
    assert "2 images in" in (said := capsys.readouterr().err)
    assert "1 skipped: " in said
    assert "exported for height 64 to 1024, not 32: export it for that" in said
    rows = {row["image"]: row for row in map(json.loads, table.read_text().splitlines())}
    assert len(rows) == 3
    assert "exported for height" in rows[str(tmp_path / "one row.png")]["error"]
    assert rows[str(tmp_path / "portrait.png")]["classes"]
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["as it is.png", "portrait.png"]
