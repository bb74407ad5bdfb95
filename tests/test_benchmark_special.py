"""Suites that measure something else than networks: small, but all that they do."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data.loader import fast_collate

from deployment import need
from fastvit.benchmark import distillation, loader, predict
from fastvit.benchmark.special import SPECIAL, run_special, special_suite
from fastvit.benchmark.work import macs
from fastvit.errors import RecipeError, RunError
from fastvit.reparam import reparameterize_model
from fastvit.tasks import load_recipe, make_task
from fastvit.trained import Options, find_trained
from launch import script
from reference import randomize

SMALL = ("loop.batch_size=4", "optimizer.lr_batch_size=null")
SUITES = Path(__file__).parents[1] / "configs" / "benchmark"


def test_images_a_second_are_of_all_loaders_and_numbers_of_workers(tmp_path: Path):
    overrides = (f"output={tmp_path}", "images=24", "batch_size=4", "rounds=2", "workers=[1]")
    text = run_special(SUITES / "loader.yaml", overrides, quick=True)
    rates = json.loads((tmp_path / "result.json").read_text())["images_per_second"]["1"]
    assert set(rates) == {"ours", "timm", "timm, mixing in the workers"}
    assert all(len(each) == 2 and min(each) > 0 for each in rates.values())
    assert (tmp_path / "table.md").read_text() == text
    assert "| 1       | ours " in text
    with pytest.raises(RunError, match="already holds a result: choose another"):
        run_special(SUITES / "loader.yaml", overrides)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/folder cannot be written \(Not a directory\)"):
        run_special(SUITES / "loader.yaml", (f"output={tmp_path / 'file' / 'folder'}",))


def test_the_first_batch_of_each_worker_does_not_count(monkeypatch: pytest.MonkeyPatch):
    """They come together, when the workers have begun."""
    clock = [0.0]
    monkeypatch.setattr(loader.time, "perf_counter", lambda: clock[0])

    def batches():
        for seconds in (20, 0, 0, 1, 2, 3):
            clock[0] += seconds
            yield None, [0] * 4

    assert loader.images_per_second(batches(), workers=3) == 3 * 4 / 6
    with pytest.raises(RunError, match=r"an epoch needs more batches than there are workers \(6\)"):
        loader.images_per_second(batches(), workers=6)


def test_both_loaders_make_the_same_kind_of_batches(tmp_path: Path):
    """Else their speeds could not be compared."""
    loader._write_photographs(tmp_path / "train", 12)
    data = (f"data.root={tmp_path}", "data.num_classes=2", "data.workers=1", *SMALL)
    task = make_task(load_recipe("classification/fastvit_t8", data))
    ours, timms = (list(epoch(0)) for epoch in (loader._ours(task), loader._timms(task, fast_collate)))
    assert len(ours) == len(timms) == 3
    for images, labels in (*ours, *timms):
        assert (images.shape, images.dtype, labels.shape) == ((4, 3, 256, 256), torch.uint8, (4,))


@pytest.mark.slow  # the teacher is large
def test_a_step_is_timed_in_three_ways(tmp_path: Path):
    small = ("batch_size=2", "image_size=32", "rounds=2", "warmup=1", "recipes=[classification/fastvit_t8_distill]")
    text = run_special(SUITES / "distillation.yaml", (f"output={tmp_path}", *small))
    (result,) = json.loads((tmp_path / "result.json").read_text())["recipes"].values()
    assert {name: len(seconds) for name, seconds in result["seconds"].items()} == {"none": 2, "stored": 2, "live": 2}
    assert result["macs"]["teacher"] > 20 * result["macs"]["student"]
    assert "| fastvit_t8 | stored " in text


def test_the_timed_steps_learn_what_their_names_say():
    recipe = load_recipe("classification/fastvit_t8_distill", ["data.image_size=32", *SMALL])
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 1000))
    losses = {name: step().losses for name, step in distillation._steps(recipe, teacher).items()}
    assert set(losses["none"]) == {"cross_entropy"}
    assert set(losses["stored"]) == set(losses["live"]) == {"cross_entropy", "distillation"}


@pytest.mark.slow  # each way has a process of its own
def test_predicting_a_folder_is_timed(tmp_path: Path):
    text = run_special(SUITES / "predict.yaml", (f"output={tmp_path}", "images=2", "rounds=1"))
    rates = json.loads((tmp_path / "result.json").read_text())["images_per_second"]
    assert list(rates) == list(predict.ways())
    assert all(len(each) == 1 and each[0] > 0 for each in rates.values())
    assert "fastvit_t8, 2 images, 1 rounds" in text


def test_the_timed_ways_to_predict_say_the_same(tmp_path: Path):
    predict.write_photographs(tmp_path, 18)
    paths = sorted(tmp_path.glob("*.jpg"))
    assert {Image.open(path).size for path in paths} == set(predict.SIZES)
    trained = find_trained("fastvit_t8", Options(random_weights=True, image_size=(64, 64), num_classes=5))
    randomize(trained.module).get_classifier().weight.data *= 30  # else all answers are much alike
    ways = [way for name, way in predict.ways().items() if name not in predict.BY_OPENVINO]  # in test_prediction.py
    answers = [torch.stack(way(trained, 4)(paths)) for way in ways]
    assert answers[0].std(0).max() > 0.05  # other images, other answers
    for each in answers[1:]:
        torch.testing.assert_close(each, answers[0], rtol=0, atol=0.02)


@pytest.mark.slow  # OpenVINO has to compile
def test_the_work_of_all_kinds_of_layers_is_that_of_the_network(tmp_path: Path):
    need("openvino")
    network = "networks={SA12: {name: fastvit_sa12, image_size: 64}}"
    run_special(SUITES / "layers.yaml", (f"output={tmp_path}", "rounds=3", "dtypes=[float32]", network))
    result = json.loads((tmp_path / "result.json").read_text())
    (row,) = result["rows"]
    kinds = row["kinds"].values()
    fused = reparameterize_model(timm.create_model("fastvit_sa12"))
    assert sum(kind["macs"] for kind in kinds) == macs(fused, (3, 64, 64))
    assert row["kinds"]["depthwise convolutions"]["nodes"] >= 2 * 12  # of each block its mixer and its FFN's
    assert 0.5 < sum(kind["ms"] for kind in kinds) / row["ms"] < 2
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_what_is_special_is_told_by_a_key(tmp_path: Path):
    kinds = {special_suite(path) for path in SUITES.glob("*.yaml")}
    assert kinds == {None, *SPECIAL}
    (tmp_path / "own.yaml").write_text("measures: loaders")
    with pytest.raises(RecipeError, match="predict, layers, not 'loaders'; did you mean loader"):
        special_suite(tmp_path / "own.yaml")


@pytest.mark.parametrize("name", SPECIAL)
def test_quick_is_a_smaller_part_of_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module, sizes = import_module(f"fastvit.benchmark.{name}"), []
    monkeypatch.setattr(module, "measure", lambda suite: [{}] if sizes.append(suite.rounds) is None else [])
    monkeypatch.setattr(module, "table", lambda result: "")
    monkeypatch.delattr(module, "picture", raising=False)
    for quick in (False, True):
        run_special(SUITES / f"{name}.yaml", (f"output={tmp_path / str(quick)}",), quick=quick)
    assert sizes[1] < sizes[0]


def test_a_suite_without_an_output_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    text = (SUITES / "layers.yaml").read_text()
    Path("own.yaml").write_text("\n".join(line for line in text.splitlines() if not line.startswith("output:")))
    for quick in (False, True):
        with pytest.raises(RecipeError, match=r"^own\.yaml: output is missing$"):
            run_special(Path("own.yaml"), (), quick=quick)
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]


def test_what_is_interrupted_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else the same command would refuse to measure it again, and the half would pass as the whole."""

    def interrupted(suite):
        yield {"rows": []}
        raise KeyboardInterrupt

    monkeypatch.setattr("fastvit.benchmark.layers.measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_special(SUITES / "layers.yaml", (f"output={tmp_path}",))
    assert [path.name for path in tmp_path.iterdir()] == ["result.json.part"]


@pytest.mark.parametrize("name", ["layers", "predict", "serving"])
def test_published_results_are_reported_again(name: str, tmp_path: Path):
    published = Path(__file__).parents[1] / "docs" / "measurements"
    shutil.copy(published / f"{name}.json", tmp_path)
    script("benchmark")(["report", str(tmp_path / f"{name}.json")])
    assert (tmp_path / f"{name}.md").read_text() == (published / f"{name}.md").read_text()
