"""Suites are read strictly; what is measured is what the suite says; the figures follow from the samples."""

import json
import time
from pathlib import Path

import pytest
import timm
import timm.models.fastvit
import torch
from torch import nn

import fastvit
from fastvit.benchmark.measure import Engines, add_ratio, add_statistics, groups, measure
from fastvit.benchmark.networks import build, input_size, macs, parameters
from fastvit.benchmark.picture import pareto, picture
from fastvit.benchmark.report import claim_rows, mean_speed_ups, report
from fastvit.benchmark.special import special_suite
from fastvit.benchmark.suite import Form, Network, Suite, load_suite
from fastvit.benchmark.workers import Failure, Measurement, Worker
from fastvit.errors import RecipeError, RunError
from launch import complaint, script

SUITES = sorted((Path(__file__).parent.parent / "configs" / "benchmark").glob("*.yaml"))
SUITES = [path for path in SUITES if special_suite(path) is None]  # those have tests of their own
DEPLOY = next(path for path in SUITES if path.stem == "deploy")
benchmark = script("benchmark")


def small_suite(**changes) -> Suite:
    parts = {
        "title": "small",
        "output": "unused",
        "networks": {"a": {"name": "fastvit_t8", "image_size": 32}, "b": {"name": "resnet18", "image_size": 32}},
        "forms": {"eager": {}, "half": {"dtype": "bfloat16"}},
        "batch_sizes": [1, 2],
        "take_turns": "networks",
    }
    return Suite.model_validate_json(json.dumps(parts | changes))


def row(network: str, form: str, *rounds: list[float], **more) -> dict:
    made = {"network": network, "form": form, "batch_size": 4, "image_size": 32, "rounds_ms": list(rounds), **more}
    add_statistics(made)
    return made


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_suite_loads_and_its_quick_part_has_enough_samples(path: Path):
    suite = load_suite(path)
    short = suite.shortened()
    assert set(short.networks) <= set(suite.networks)
    assert short.rounds * short.calls >= 10
    assert list(groups(short, "cpu"))
    for network in suite.networks.values():
        assert suite.image_sizes or input_size(network)[1] >= 32


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("networks.T8.nam=x", "unknown key networks.T8.nam; did you mean name?"),
        ("networks.T8.name=fastvit_t9", "did you mean fastvit_t8?"),
        ("networks.T8.registered_in=nowhere.py", "there is no file nowhere.py"),
        ("forms.eager={engine: tensorrt}", "forms.eager.engine: should be 'eager', 'compiled', 'onnxruntime'"),
        ("forms.x={engine: onnxruntime, dtype: float16}", "onnxruntime runs in float32"),
        ("forms.x={engine: openvino}", "openvino is measured on the CPU: add on: [cpu]"),
        ("forms.x={dtype: int8}", "int8 is timed with engine openvino"),
        ("forms.x={train: true}", "train needs fuse: false"),
        ("rounds=2", "at least 10 samples are needed"),
        ("baseline=timmm", "there is no 'timmm'; did you mean timm?"),
        ("baseline=T8", "baseline must be one of the forms, which take turns, not 'T8'"),
        ("claims=[{text: c, fast: T8, slow: B5, published: 2, published_on: iPhone}]", "claims: c: there is no 'B5'"),
    ],
)
def test_a_mistake_is_a_sentence_and_writes_nothing(override: str, message: str, tmp_path: Path, capsys):
    assert message in complaint(benchmark, [str(DEPLOY), override, f"output={tmp_path / 'out'}"], capsys)
    assert not (tmp_path / "out").exists()


def test_an_earlier_result_is_not_overwritten(tmp_path: Path, capsys):
    (tmp_path / "result.json").write_text("{}")
    assert "already holds a result" in complaint(benchmark, [str(DEPLOY), f"output={tmp_path}"], capsys)
    assert (tmp_path / "result.json").read_text() == "{}"


def test_turns_are_taken_by_what_is_compared():
    suite = small_suite()
    names = [{(m.network_name, m.form_name, m.batch_size) for m in group} for group in groups(suite, "cpu")]
    assert names[0] == {("a", "eager", 1), ("b", "eager", 1)}
    assert len(names) == 4
    by_form = small_suite(take_turns="forms", image_sizes=[64, 96])
    all_groups = list(groups(by_form, "cpu"))
    assert {(m.network_name, m.form_name) for m in all_groups[0]} == {("a", "eager"), ("a", "half")}
    assert [group[0].network.image_size for group in all_groups] == [64, 64, 96, 96] * 2


def test_a_suite_of_another_device_is_refused():
    with pytest.raises(RecipeError, match="none of the forms eager is measured on cpu"):
        list(groups(small_suite(forms={"eager": {"on": ["cuda"]}}), "cpu"))


def test_statistics_are_those_of_all_samples():
    made = row("a", "eager", [1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.0], [11.0])
    assert (made["n"], made["median_ms"], made["p10_ms"], made["p90_ms"]) == (11, 6.0, 2.0, 10.0)
    assert made["images_per_second"] == pytest.approx(4 / 0.006)


def test_a_ratio_is_taken_within_rounds():
    """The machine slows down eightfold; the second network takes twice as long as the first in every round."""
    fast, slow = row("a", "f", [1, 1], [2, 2], [8, 8]), row("b", "f", [2, 2], [4, 4], [16, 16])
    rows = [fast, slow]
    for each in rows:
        add_ratio(each, rows, "b")
    assert (fast["speed_up"], slow["speed_up"]) == (2.0, 1.0)
    other = row("a", "f", [1, 1], image_size=64)
    add_ratio(other, rows, "b")
    assert "speed_up" not in other


def test_means_are_geometric_and_claims_are_of_the_named_pair():
    suite = small_suite(
        baseline="b",
        claims=[{"text": "a to b", "fast": "a", "slow": "b", "published": 3.0, "published_on": "iPhone"}],
    )
    rows = [row("a", "eager", [2, 2]), row("b", "eager", [8, 8])]
    for each in rows:
        add_ratio(each, rows, "b")
    assert list(mean_speed_ups(rows)) == [("eager", "4", "32", "2.00", "2")]  # of 4 and 1
    assert list(claim_rows(suite, rows)) == [("a to b", "eager", "4", "3.00", "iPhone", "4.00", "? / ?")]


def test_the_pareto_front_is_what_nothing_beats():
    points = [(5.0, 80.0), (1.0, 70.0), (2.0, 75.0), (3.0, 74.0), (2.0, 73.0), (6.0, 80.0)]
    front = pareto(points)
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] >= p[1]}
    assert front == sorted(set(points) - beaten) == [(1.0, 70.0), (2.0, 75.0), (5.0, 80.0)]


def test_work_is_counted_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(8 * 16 * 16, 10))
    assert macs(network, (3, 32, 32)) == 16 * 16 * 8 * 3 * 9 + 8 * 16 * 16 * 10
    assert parameters(network) == 8 * 27 + 8 + 8 * 256 * 10 + 10


def test_the_work_of_attention_is_counted():
    """SA12 over S12 at two sizes: qkv and projection grow with the positions, attention with their square."""
    extra = {}
    for px in (256, 512):
        work = {name: macs(build(Network(name=name), Form()), (3, px, px)) for name in ("fastvit_s12", "fastvit_sa12")}
        extra[px] = work["fastvit_sa12"] - work["fastvit_s12"]
    positions, dim, blocks = 8 * 8, 512, 2
    per_position = blocks * dim * (4 * dim - 9) + 49 * dim  # not: RepMixer's 3x3; but: CPE's 7x7
    assert extra[256] == positions * per_position + blocks * 2 * positions**2 * dim
    assert extra[512] == 4 * positions * per_position + blocks * 2 * (4 * positions) ** 2 * dim


def count(model: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def test_forms_are_what_they_say():
    network = Network(name="fastvit_sa12.apple_in1k")
    theirs, ours = build(network, Form(builtin=True)), build(network, Form())
    assert type(theirs) is timm.models.fastvit.FastVit
    assert count(theirs, nn.BatchNorm2d) == 14  # what timm's pass leaves (two attention norms among them)
    assert type(ours) is fastvit.FastViT
    assert count(ours, nn.BatchNorm2d) == 0
    assert not ours.training
    assert build(network, Form(fuse=False, train=True)).training
    mobileone = Network(name="mobileone_s0")
    assert parameters(build(mobileone, Form())) < parameters(build(mobileone, Form(fuse=False)))
    backbone = build(Network(name="fastvit_t8", features_only=True), Form())
    assert [tuple(f.shape[1:]) for f in backbone(torch.randn(1, 3, 64, 64))][-1] == (384, 2, 2)


def test_builtin_is_about_fastvit_only():
    with pytest.raises(RecipeError, match="resnet18 is none"):
        build(Network(name="resnet18"), Form(builtin=True))


@pytest.fixture(scope="module")
def worker():
    worker = Worker(1, "cpu")
    yield worker
    worker.close()


def measurement(**form) -> Measurement:
    return Measurement("t8", "form", Network(name="fastvit_t8", image_size=64), Form(**form), 2)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"dtype": "bfloat16"},
        {"engine": "onnxruntime", "on": ("cpu",)},
        {"engine": "openvino", "dtype": "int8", "on": ("cpu",)},
    ],
)
def test_a_worker_measures(worker: Worker, form: dict):
    if form.get("engine") == "openvino":
        pytest.importorskip("nncf")
    asked = measurement(**form)
    facts = worker.build(asked)
    assert facts["image_size"] == 64
    assert facts["parameters"] == parameters(build(asked.network, asked.form))
    times = worker.call(asked, 3)
    assert len(times) == 3
    assert all(1e-4 < seconds < 10 for seconds in times)


def test_a_worker_times_training_steps(worker: Worker):
    assert worker.build(measurement(train=True, fuse=False))["peak_memory"] > 1e6
    assert worker.call(measurement(train=True, fuse=False), 1)[0] > 1e-3


def test_a_waiting_worker_leaves_the_processor_to_others(worker: Worker):
    worker.build(measurement())
    worker.call(measurement(), 1)
    stat = Path(f"/proc/{worker._process.pid}/stat")
    if not stat.exists():
        pytest.skip("no /proc")
    time.sleep(0.1)
    before = sum(int(ticks) for ticks in stat.read_text().split()[13:15])
    time.sleep(0.5)
    assert sum(int(ticks) for ticks in stat.read_text().split()[13:15]) - before <= 2  # of 50


def test_what_fails_is_reported_and_the_worker_goes_on(worker: Worker):
    failure = worker.build(Measurement("r", "f", Network(name="resnet18", image_size=32), Form(builtin=True), 1))
    assert isinstance(failure, Failure)
    assert "resnet18 is none" in failure.reason
    assert worker.peak("float32") > 1e8


def test_a_dead_worker_is_a_sentence():
    dying = Worker(1, "cpu")
    dying._process.kill()
    with pytest.raises(RunError, match=r"a measuring process died \(SIGKILL\) in versions: if memory ran out"):
        dying.versions()
    dying.close()


@pytest.mark.slow
def test_what_kills_its_process_is_reported_and_all_else_is_measured(tmp_path: Path):
    (tmp_path / "deadly.py").write_text(
        """
import os, signal
from timm.models import register_model

@register_model
def deadly_network(**kwargs):
    os.kill(os.getpid(), signal.SIGSEGV)
"""
    )
    small = {"name": "resnet18", "image_size": 32}
    deadly = {"registered_in": str(tmp_path / "deadly.py"), "name": "deadly_network", "image_size": 32}
    networks = {"first": small, "deadly": deadly, "last": small}
    suite = small_suite(networks=networks, forms={"eager": {}}, batch_sizes=[1], threads=1, rounds=5, device="cpu")
    result = measure(suite, quick=False, keep=lambda so_far: None)
    first, died, last = result["rows"]
    assert died["error"] == "a measuring process died (SIGSEGV) in build"
    assert (first["n"], last["n"]) == (10, 10)


def test_one_process_for_each_engine():
    engines = Engines(1, "cpu")
    assert engines["eager"] is engines["eager"]
    assert engines["eager"]._process.pid != engines["compiled"]._process.pid
    engines.close()


def test_a_suite_from_end_to_end(tmp_path: Path, capsys, monkeypatch):
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        """
        title: "two networks"
        output: out
        take_turns: networks
        baseline: ResNet
        batch_sizes: [1, 2]
        threads: 1
        rounds: 5
        picture: accuracy
        networks:
          T8: { name: fastvit_t8, image_size: 32, top1: 76.2, family: FastViT }
          ResNet: { name: resnet18, image_size: 32, top1: 70.0 }
        forms:
          eager: {}
          impossible: { engine: openvino, on: [cpu] }
        claims:
          - { text: T8 to ResNet, fast: T8, slow: ResNet, published: 2, published_on: iPhone }
        """
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("os").environ, "PYTHONPATH", str(Path(__file__).parent.parent))
    benchmark([str(suite), "forms={eager: {}}", "quick.batch_sizes=[2]", "--quick"])
    printed = capsys.readouterr().out
    assert "THE MACHINE WAS BUSY" in printed or "load of the machine" in printed
    assert "T8 to ResNet" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table.md", "result.json", "picture.png"}
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [(r["network"], r["batch_size"], r["n"]) for r in result["rows"]] == [("T8", 2, 10), ("ResNet", 2, 10)]
    assert result["weights"] == "random"
    assert result["environment"]["threads"] == 1
    assert {"fastvit", "torch", "cpu", "openvino"} <= set(result["environment"])
    assert result["rows"][1]["speed_up"] == 1.0


@pytest.mark.parametrize("kind", ["bars", "sizes"])
def test_pictures_and_reports_say_what_was_not_measured(kind: str):
    suite = small_suite(picture=kind, baseline="b")
    rows = [row("a", "eager", [1, 2], parameters=1, macs=1, dtype="float32", train=False), row("b", "eager", [2, 3])]
    rows[1] |= {"parameters": 1, "macs": 1, "dtype": "float32", "train": False}
    missing = {"network": "a", "form": "half", "batch_size": 4, "image_size": 32, "error": "ImportError: no engine"}
    result = {
        "rows": [*rows, missing],
        "device": "cpu",
        "environment": dict.fromkeys(
            ("cpu", "threads", "platform", "fastvit", "python", "torch", "timm", "onnxruntime", "openvino"), 1
        ),
        "suite": suite.model_dump(mode="json"),
        "peak_flops": {},
        "load_before": 7.0,
        "quick": False,
    }
    text = report(suite, result)
    assert "not measured: half: ImportError: no engine (a)" in text
    assert "THE MACHINE WAS BUSY" in text
    picture(suite, result).canvas.draw()
