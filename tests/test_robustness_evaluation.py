"""A robustness evaluation: each image once whoever measures it, with workers that live, and all figures written."""

import csv
import json
import os
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from colors import draw, meter
from fastvit import reparameterize_model
from fastvit.errors import DataError, RecipeError
from fastvit.robustness import measure, missing_sets, summarize, table, write
from fastvit.robustness.classifier import Classifier
from fastvit.robustness.corruptions import CORRUPTIONS, SEVERITIES
from fastvit.robustness.evaluation import Figure
from fastvit.robustness.own_images import Corrupted
from fastvit.robustness.recipe import read_robustness_recipe
from fastvit.robustness.sets import Part, subset_of_imagenet
from fastvit.runtime.processes import Processes
from launch import ENVIRONMENT, complaint, finish, script, start_script, two_ranks

CONFIGS = Path(__file__).parents[1] / "configs" / "robustness"
A_FIGURE = (None, 0, 256, 0.9, 32.1, 7500)


class Numbers(nn.Module):
    """A network that notes what it sees: images are numbers (B, 1)."""

    def __init__(self):
        super().__init__()
        self.seen, self.autocast = [], set()

    def forward(self, images):
        self.seen += images.flatten().tolist()
        self.autocast.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return (images % 2 == torch.tensor([[0, 1]])).long()


class Rank(Processes):
    """One of several that measure one after the other in this test."""

    def gather(self, value):
        return [value]


def numbers(sample):
    return torch.tensor([sample[0]]), 1


@pytest.mark.parametrize("size", [1, 2, 7, 64])  # fewer than ranks, uneven, and several batches
def test_every_image_counts_once_over_the_processes(size):
    part = Part("fog", 1, Corrupted(size, "fog", 1))
    network, results = Numbers(), []
    for rank in range(3):
        ours = meter({"own": numbers}, network, Rank(rank, 3), batch_size=4)
        if len(ours.processes.share(size)):
            results.append(ours.accuracy("own", part))
    assert sorted(network.seen) == list(range(size))
    assert sum(samples for _, samples in results) == size
    hits = sum(top1 * samples / 100 for top1, samples in results)
    assert hits == pytest.approx(size // 2)  # the odd ones


def of_worker(sample):
    return torch.tensor([os.getpid()]), 0


def test_workers_live_through_all_parts(monkeypatch):
    """Also through one of which this process has no image."""
    monkeypatch.setattr(Rank, "gather", lambda self, value: [value, (0, 1)])
    network = Numbers()
    ours = meter({"own": of_worker}, network, Rank(0, 2), batch_size=2, workers=2)
    for severity, size in enumerate((16, 1, 16, 17, 16), start=1):
        ours.accuracy("own", Part("fog", severity, Corrupted(size, "fog", severity)))
    assert len(set(network.seen)) == 2
    assert os.getpid() not in network.seen


def test_precision_is_the_recipe_s():
    network = Numbers()
    for precision in ("float32", "bfloat16"):
        meter({"own": numbers}, network, precision=precision).accuracy("own", Part(None, 0, Corrupted(3, None, 0)))
    assert network.autocast == {torch.float32, torch.bfloat16}


# ---- of recipes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """ImageNet-A with one image of each class."""
    folder = tmp_path_factory.mktemp("data")
    names, indices = subset_of_imagenet("imagenet_a")
    for name, index in zip(names, indices.tolist(), strict=True):
        draw(folder / "imagenet-a" / name / "image.png", index)
    return folder


@pytest.fixture(scope="module")
def overrides(root, tmp_path_factory):
    """Measures T8 at 32 px, where all of it takes a second."""
    path = tmp_path_factory.mktemp("weights") / "t8.pt"
    torch.save(timm.create_model("fastvit_t8").state_dict(), path)
    model = [f"model.checkpoint={path}", "model.name=fastvit_t8.apple_in1k"]
    return [f"root={root}", *model, "workers=0", "sets.ImageNet-A.image_size=32"]


def test_what_is_there_is_measured_and_what_is_missing_is_said(overrides, tmp_path):
    recipe = read_robustness_recipe(CONFIGS / "all.yaml", [*overrides, "sets.ImageNet-A.crop_pct=0.95"])
    figures, missing = list(measure(recipe)), missing_sets(recipe)
    assert [(each.set, each.samples, each.image_size, each.crop_pct) for each in figures] == [
        ("ImageNet-A", 200, 32, 0.95)
    ]
    assert len(missing) == 6
    summary = summarize(recipe, figures, missing)
    assert summary["sets"]["ImageNet-A"]["expected_top1"] == 6.8
    printed = table(summary)
    assert "ImageNet-A (200 images; 32 px, crop 0.95)" in printed
    assert "missing: ImageNet-Sketch" in printed
    paths = write(summary, figures, tmp_path / "result")
    assert json.loads(paths[0].read_text())["sets"]["ImageNet-A"]["top1"] == figures[0].top1
    with paths[1].open() as file:
        assert [float(row["top1"]) for row in csv.DictReader(file)] == [figures[0].top1]
    with pytest.raises(DataError, match="sketch is not a folder: there are no images for ImageNet-Sketch"):
        missing_sets(read_robustness_recipe(CONFIGS / "imagenet_sketch.yaml", overrides[:1]))


def test_a_published_figure_of_another_crop_says_so():
    name = "fastvit_sa36.apple_in1k"
    for crop_pct, label in ((0.95, "published top-1 at crop 0.9, %"), (0.9, "published top-1, %")):
        recipe = read_robustness_recipe(CONFIGS / "imagenet_a.yaml", [f"model.name={name}"])
        figure = Figure("ImageNet-A", None, 0, 256, crop_pct, 32.1, 7500)
        assert f"  {label} " in table(summarize(recipe, [figure], []))


def test_a_set_without_a_published_figure_has_its_table_too():
    recipe = read_robustness_recipe(CONFIGS / "own_data.yaml", [])
    name = "own validation images"
    figures = [Figure(name, None, 0, 224, 0.9, 80.0, 50), Figure(name, "fog", 1, 224, 0.9, 60.0, 50)]
    printed = table(summarize(recipe, figures, []))
    assert [line.split() for line in printed.splitlines()[1:]] == [
        ["top-1,", "%", "80.00"],
        ["mean", "top-1", "under", "corruption,", "%", "60.00"],
        ["of", "the", "top-1", "without,", "%", "75.00"],
        ["fog", "60.0"],
    ]


@pytest.mark.parametrize(
    ("severities", "corruptions", "figures"),
    [
        (SEVERITIES, CORRUPTIONS, {"corruption_errors", "mce"}),
        (SEVERITIES, CORRUPTIONS[:14], {"corruption_errors"}),
        ((3,), CORRUPTIONS, set()),
    ],
)
def test_errors_by_alexnet_s_are_of_all_that_its_own_are_of(severities, corruptions, figures):
    """Of a part, they would be numbers that stand for something else."""
    name = "ImageNet-C, the model's own size"
    part = [f"sets.{name}.{key}={json.dumps(each)}" for key, each in
            (("severities", severities), ("corruptions", corruptions))]  # fmt: skip
    recipe = read_robustness_recipe(CONFIGS / "imagenet_c.yaml", part)
    measured = [Figure(name, each, severity, 256, 0.9, 60.0, 50) for each in corruptions for severity in severities]
    summary = summarize(recipe, measured, [])
    assert {"corruption_errors", "mce"} & summary["sets"][name].keys() == figures
    assert ("CE" in table(summary)) == ("corruption_errors" in figures)


def test_weights_that_are_fused_have_no_other_form(tmp_path):
    fused = reparameterize_model(timm.create_model("fastvit_t8"))
    torch.save(fused.state_dict(), tmp_path / "fused.pt")
    overrides = [f"root={tmp_path}", f"model.checkpoint={tmp_path / 'fused.pt'}"]
    recipe = read_robustness_recipe(CONFIGS / "imagenet_a.yaml", [*overrides, "model.name=fastvit_t8"])
    assert set(Classifier(recipe, torch.device("cpu")).model.state_dict()) == set(fused.state_dict())
    recipe = read_robustness_recipe(
        CONFIGS / "imagenet_a.yaml", [*overrides, "model.name=fastvit_t8", "model.form=unfused"]
    )
    with pytest.raises(RecipeError, match=r"model\.form: the weights of fastvit_t8 are fused; set it to fused"):
        Classifier(recipe, torch.device("cpu"))


def test_a_model_of_other_classes_is_refused(root, tmp_path):
    weights = tmp_path / "small.pt"
    torch.save({"state_dict": timm.create_model("fastvit_t8", num_classes=10).state_dict()}, weights)
    recipe = read_robustness_recipe(CONFIGS / "imagenet_a.yaml", [f"root={root}", f"model.checkpoint={weights}"])
    with pytest.raises(RecipeError, match=r"model: .*small.pt holds a fastvit_t8, but the model is a fastvit_sa12"):
        next(measure(recipe))
    recipe = read_robustness_recipe(CONFIGS / "imagenet_a.yaml", [f"root={root}", f"model.name={tmp_path}"])
    with pytest.raises(RecipeError, match=r"model: there is no checkpoint .*best.pt"):
        next(measure(recipe))


@pytest.fixture
def more(root, tmp_path):
    """A folder of ImageNet-A's images, to which a test adds."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "imagenet-a").symlink_to(root / "imagenet-a")
    return tmp_path / "data"


def test_a_set_that_is_not_whole_is_found_before_any_is_measured(more, overrides, monkeypatch):
    (more / "imagenet-c" / "fog" / "1").mkdir(parents=True)
    (more / "imagenet-r").mkdir()
    recipe = read_robustness_recipe(CONFIGS / "all.yaml", [*overrides, f"root={more}"])
    monkeypatch.setattr("fastvit.robustness.evaluation.Meter.accuracy", lambda *_: pytest.fail("measured"))
    with pytest.raises(DataError, match="imagenet-r must have 200 class folders"):
        next(measure(recipe))
    (more / "imagenet-r").rmdir()
    with pytest.raises(DataError, match=r"imagenet-c/gaussian_noise/1 is not a folder"):
        next(measure(recipe))


def test_making_corruptions_without_the_library_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr("fastvit.errors.find_spec", lambda module: None if module == "imagecorruptions" else module)
    said = complaint(script("evaluate"), ["robustness/own_data", "model.name=runs/nowhere"], capsys)
    assert said == 'making corruptions needs imagecorruptions: pip install "fastvit[corruptions]"'


def test_figures_that_are_measured_survive_a_failure(more, overrides, tmp_path, capsys):
    names, _ = subset_of_imagenet("imagenet_r")
    for name in names:
        draw(more / "imagenet-r" / name / "image.png", 1)
    bad = more / "imagenet-r" / names[7] / "image.png"
    bad.write_bytes(b"no image")
    arguments = ["robustness/all", *overrides, f"root={more}", f"output={tmp_path / 'out'}"]
    assert complaint(script("evaluate"), arguments, capsys).startswith(f"image {bad} cannot be read")
    with (tmp_path / "out" / "robustness.csv").open() as file:
        assert [row["set"] for row in csv.DictReader(file)] == ["ImageNet-A"]


def test_networks_do_not_replace_each_other_s_results(tmp_path, monkeypatch):
    """Where the user names no folder. What the user says is taken as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "imagenet-a").mkdir(parents=True)
    monkeypatch.setattr("fastvit.robustness.measure", lambda recipe, _: [Figure(recipe.model.name, *A_FIGURE)])
    own = tmp_path / "own.yaml"
    own.write_text((CONFIGS / "imagenet_a.yaml").read_text() + "output: of_the_file\n")
    torch.save({}, tmp_path / "weights.pt")
    names = ["fastvit_t8.apple_in1k", "fastvit_t8.apple_dist_in1k"]
    for recipe, *overrides in (
        *(["robustness/imagenet_a", f"model.name={name}"] for name in names),
        ["robustness/imagenet_a", "model.name=fastvit_t8", "model.checkpoint=weights.pt"],
        ["robustness/all"],
        ["robustness/all", "output=said"],
        [str(own)],
    ):
        script("evaluate")([recipe, *overrides])
    written = {str(path.parent.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("robustness.csv")}
    default = "runs/robustness"
    of_one_recipe = [f"{default}/imagenet_a/{name}" for name in (*names, "fastvit_t8_weights.pt")]
    assert sorted(written) == sorted([*of_one_recipe, f"{default}/all/fastvit_sa12.apple_in1k", "said", "of_the_file"])
    assert all(f"{name}," in written[f"{default}/imagenet_a/{name}"] for name in names)


def test_a_folder_that_cannot_be_written_is_found_before_any_is_measured(overrides, monkeypatch, capsys):
    monkeypatch.setattr("fastvit.robustness.measure", lambda *_: pytest.fail("measured"))
    said = complaint(script("evaluate"), ["robustness/imagenet_a", *overrides, f"output={__file__}/x"], capsys)
    assert said.startswith(f"output {__file__}/x cannot be written: {__file__} is not a writable folder")


@pytest.mark.slow
def test_two_processes_measure_what_one_does(overrides, tmp_path):
    arguments = ["robustness/imagenet_a", *overrides, "workers=1", "batch_size=48"]
    variables = [{}, *two_ranks()]
    one, main, other = (
        start_script("evaluate", *arguments, f"output={tmp_path / str(min(number, 1))}", variables=ENVIRONMENT | each)
        for number, each in enumerate(variables)
    )
    _, printed, silent = finish(one, main, other)
    assert "ImageNet-A (200 images" in printed
    assert silent == ""
    single, double = ((tmp_path / name / "robustness.csv").read_text() for name in "01")
    assert single == double
