"""What is compared takes turns; what is interrupted goes on; what fails is reported."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastvit.benchmark import measure as measuring
from fastvit.benchmark.everything import Part, everything
from fastvit.benchmark.measure import Engines, groups, measure
from fastvit.benchmark.measurement import Failure, Measurement
from fastvit.benchmark.report import report
from fastvit.benchmark.result import Result, load
from fastvit.benchmark.suite import MIN_SAMPLES, Suite
from fastvit.benchmark.workers import WorkerDied
from fastvit.errors import RecipeError, RunError
from launch import ROOT, script

benchmark = script("benchmark")


def small_suite(**changes) -> Suite:
    parts = {
        "title": "small",
        "output": "unused",
        "networks": {name: {"name": "fastvit_t8", "image_size": 32} for name in "abc"},
        "forms": {"eager": {}, "half": {"dtype": "bfloat16"}},
        "batch_sizes": [1],
        "take_turns": "networks",
        "rounds": 5,
    }
    return Suite.model_validate_json(json.dumps(parts | changes))


# ---- who takes turns with whom ---------------------------------------------------------------------------------------


def turns(suite: Suite) -> list[list[tuple[str, str, int, int]]]:
    return [
        [(m.network_name, m.form_name, m.batch_size, m.network.image_size) for m in group]
        for group in groups(suite, "cpu")
    ]


def test_turns_are_taken_by_what_is_compared():
    assert turns(small_suite()) == [[(n, form, 1, 32) for n in "abc"] for form in ("eager", "half")]
    by_form = turns(small_suite(take_turns="forms", image_sizes=[64, 96], batch_sizes=[1, 2]))
    assert by_form[:3] == [[(n, "eager", 1, 64), (n, "half", 1, 64)] for n in "abc"]
    assert [group[0][2:] for group in by_form] == [(1, 64)] * 3 + [(1, 96)] * 3 + [(2, 64)] * 3 + [(2, 96)] * 3
    with_baseline = turns(small_suite(take_turns="baseline", baseline="b"))
    assert with_baseline[:2] == [[("b", "eager", 1, 32), (n, "eager", 1, 32)] for n in "ac"]
    claim = {"where": "t", "fast": "a", "slow": "c", "published": {"iPhone": [1, 2]}}
    hopeless = {"where": "t", "text": "x", "not_measured": "lost", "published": {"iPhone": [1, 2]}}
    pairs = turns(small_suite(take_turns="claims", claims=[claim, hopeless, claim]))
    assert pairs == [[("c", form, 1, 32), ("a", form, 1, 32)] for form in ("eager", "half")]
    with pytest.raises(RecipeError, match="none of the forms eager is measured on cpu"):
        list(groups(small_suite(forms={"eager": {"on": ["cuda"]}}), "cpu"))


# ---- measuring, with processes that are played -----------------------------------------------------------------------


class Played:
    """A process whose calls take the time that `seconds` says; keeps a diary of what all of them did."""

    def __init__(self, script: SimpleNamespace):
        self.script, self.built, self.built_once = script, [], False
        script.processes.append(self)

    def ask(self, what: str, *arguments: Any, seconds: float | None = None) -> Any:
        return getattr(self, what)(*arguments)

    def build(self, measurement: Measurement) -> dict | Failure:
        name = measurement.network_name
        if name in self.script.deadly:
            raise WorkerDied("died in build")
        if name in self.script.broken:
            return Failure("ValueError: broken", "a trace")
        if measurement not in self.built:
            self.script.diary.append(f"build {name}")
            self.built.append(measurement)
            self.built_once = True
        return {"image_size": 32, "parameters": 1, "macs": 1, **self.script.facts}

    def call(self, measurement: Measurement, calls: int) -> list[float] | Failure:
        name = measurement.network_name
        if name in self.script.die_later and len(self.built) > 1:
            raise WorkerDied("died in call")
        if isinstance(found := self.build(measurement), Failure):
            return found
        if self.script.calls_left == 0:
            raise KeyboardInterrupt
        self.script.calls_left -= 1
        self.script.diary.append(f"call {measurement.network_name}")
        return [self.script.seconds] * calls

    def keep(self, measurements: list[Measurement]) -> None:
        self.built = [each for each in self.built if each in measurements]

    def limits(self, dtypes: list[str]) -> dict:
        return {"peak": {dtype: {"flops": 1e9, "by": "x"} for dtype in dtypes}, "bandwidth": 1e9, "cache": 1}

    def close(self) -> None:
        pass


@pytest.fixture
def played(monkeypatch) -> SimpleNamespace:
    nobody = {kind: set() for kind in ("deadly", "die_later", "broken")}
    script = SimpleNamespace(diary=[], processes=[], facts={}, **nobody, calls_left=10**6, seconds=0.001)
    monkeypatch.setattr(measuring, "Worker", lambda threads, device: Played(script))
    monkeypatch.setattr(measuring, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(measuring, "load_now", lambda: 0.0)  # which takes two seconds
    return script


def samples(result: Result) -> list[tuple[str, str, int]]:
    return [(row.network, row.form, sum(map(len, row.rounds_ms))) for row in result.rows()]


def test_rounds_go_around_and_only_what_takes_turns_is_in_memory(played: SimpleNamespace, tmp_path: Path):
    suite = small_suite(output=str(tmp_path), take_turns="baseline", baseline="b", forms={"eager": {}})
    result = measure(suite)
    assert result.complete
    assert samples(result) == [("b", "eager", 10), ("a", "eager", 10), ("b", "eager", 10), ("c", "eager", 10)]
    own_turns = ["call b", "call a"] * 5
    assert played.diary == ["build b", "build a", *own_turns, "build c", *["call b", "call c"] * 5]
    building = [process for process in played.processes if process.built_once]
    assert len(building) == 2  # the baseline's own, which it stays in, and the other one
    assert load(tmp_path) == result


def test_an_interrupted_measurement_goes_on_after_the_last_whole_round(played: SimpleNamespace, tmp_path: Path):
    suite = small_suite(output=str(tmp_path), forms={"eager": {}, "half": {}})
    played.calls_left = 3 * 5 + 7  # two whole rounds and a third of the second form
    with pytest.raises(KeyboardInterrupt):
        measure(suite)
    part = load(tmp_path)
    assert not part.complete
    assert samples(part) == [(n, "eager", 10) for n in "abc"] + [(n, "half", 4) for n in "abc"]
    assert "NOT COMPLETE" in report(part)
    played.calls_left, played.diary = 10**6, []
    result = measure(suite)
    assert samples(result) == [(n, form, 10) for form in ("eager", "half") for n in "abc"]
    assert played.diary.count("call a") == 3
    assert result.complete
    assert len(result.loads) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: result.update(complete=True), "already holds a complete result: choose another"),
        (lambda result: result["environment"].update(cpu="a faster one"), "cpu: a faster one -> "),
        (lambda result: result["suite"].update(rounds=7), "rounds: 7 -> 5"),
        (lambda result: result.update(device="cuda"), "the device or --quick"),
        (lambda result: result.clear(), "is no result of `fastvit benchmark`"),
    ],
)
def test_another_result_is_neither_overwritten_nor_mixed(change, message: str, played, tmp_path: Path):
    suite = small_suite(output=str(tmp_path / "out"), forms={"eager": {}})
    measure(suite, minutes=1e-9)
    file = tmp_path / "out" / "result.json"
    content = json.loads(file.read_text())
    change(content)
    before = json.dumps(content)
    file.write_text(before)
    with pytest.raises(RunError, match=message):
        measure(suite)
    assert file.read_text() == before


def test_the_time_is_kept(played: SimpleNamespace, tmp_path: Path):
    suite = small_suite(output=str(tmp_path), forms={"eager": {}})
    stopped = measure(suite, minutes=1e-9)
    assert (stopped.complete, samples(stopped)) == (False, [(n, "eager", 2) for n in "abc"])  # never nothing
    long = suite.model_copy(update={"rounds": 100, "seconds": 60.0, "output": tmp_path / "long"})
    played.seconds = 1.0
    assert samples(measure(long))[0] == ("a", "eager", 20)  # 20 s of each of three
    played.seconds = 10.0
    longer = long.model_copy(update={"output": tmp_path / "longer"})
    assert samples(measure(longer))[0] == ("a", "eager", MIN_SAMPLES)


def test_what_cannot_be_measured_is_reported_and_all_else_is(played: SimpleNamespace, tmp_path: Path):
    played.deadly, played.broken = {"b"}, {"c"}
    suite = small_suite(output=str(tmp_path), forms={"eager": {}})
    first, died, broken = measure(suite).rows()
    assert (died.error, broken.error) == ("died in build", "ValueError: broken")
    assert "c, eager, batch 1: ValueError: broken\na trace" in (tmp_path / "errors.txt").read_text()
    assert sum(map(len, first.rounds_ms)) == 10
    assert played.diary.count("build a") == 2  # again, in the process in place of the dead one


def test_what_dies_in_the_middle_takes_nobody_with_it(played: SimpleNamespace, tmp_path: Path):
    played.die_later = {"b"}
    first, died, last = measure(small_suite(output=str(tmp_path), forms={"eager": {}})).rows()
    assert died.error == "died in call"
    assert [sum(map(len, row.rounds_ms)) for row in (first, died, last)] == [10, 0, 10]


@pytest.mark.parametrize(("device", "processes"), [("cpu", 1), ("cuda", 2)])
def test_what_fails_on_a_gpu_has_a_new_process_after_it(device: str, processes: int, played: SimpleNamespace):
    """Errors of kernels stay with their process."""
    played.broken = {"b"}
    (measurements,) = groups(small_suite(forms={"eager": {}}), "cpu")
    engines = Engines(1, device)
    answers = [engines.ask(("eager", False), "build", each) for each in measurements]
    assert [isinstance(answer, Failure) for answer in answers] == [False, True, False]
    assert len(played.processes) == processes


def test_where_another_engine_is_the_fastest_now_all_begin_anew(played: SimpleNamespace, tmp_path: Path):
    """Ratios are of what took turns with each other."""
    suite = small_suite(output=str(tmp_path), forms={"eager": {}}, rounds=7)
    played.facts, played.calls_left = {"engine": "torch"}, 3 * 2
    with pytest.raises(KeyboardInterrupt):
        measure(suite)
    played.facts, played.calls_left = {"engine": "openvino"}, 10**6
    result = measure(suite)
    assert samples(result) == [(n, "eager", 14) for n in "abc"]
    assert {row.facts["engine"] for row in result.rows()} == {"openvino"}
    assert "| a       | eager |" in report(result)


# ---- everything ------------------------------------------------------------------------------------------------------


def test_everything_goes_on_within_its_time(played: SimpleNamespace, tmp_path: Path):
    parts = (Part("one", "variants", (), ("T8",), ("timm", "fused")), Part("two", "peers", (), ("SA12", "T12")))
    common = {"parts": parts, "folder": tmp_path, "device": "cpu", "overrides": ["rounds=5", "batch_sizes=[1]"]}
    assert list(everything(**common, minutes=1e-9)) == []
    assert not list(tmp_path.iterdir())
    first, second = everything(**common)
    assert samples(first) == [("T8", "timm", 10), ("T8", "fused", 10)]
    assert [row.network for row in second.rows()] == ["SA12", "T12"] * 2
    played.diary.clear()
    assert [result.complete for result in everything(**common)] == [True, True]
    assert played.diary == []
    with pytest.raises(RunError, match=r"holds another result(.|\n)*rounds: 5 -> 7"):
        next(everything(**common | {"overrides": ["rounds=7", "batch_sizes=[1]"]}))


def test_all_that_a_group_builds_fits_into_a_call(played: SimpleNamespace, tmp_path: Path):
    """Else one that is ended soon after its time would build the same again in each call, and never measure it."""
    part = Part("one", "variants", ("rounds=5", "batch_sizes=[1]"), ("T8",), ("timm", "fused"))
    played.calls_left = 3
    limits = []
    for minutes, overrides in ((9, ()), (60, ()), (None, ()), (9, ("build_minutes=7",))):
        common = {"parts": (part,), "folder": tmp_path, "device": "cpu", "overrides": overrides, "minutes": minutes}
        with pytest.raises(KeyboardInterrupt):  # in each call a round, and the limit may be another in the next
            next(everything(**common))
        limits.append(load(tmp_path / "one").suite.build_minutes)
        played.calls_left = 2
    assert limits == [3, 15, 15, 7]


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
    suite = small_suite(networks=networks, forms={"eager": {}}, threads=1, device="cpu", output=str(tmp_path / "out"))
    first, died, last = measure(suite).rows()
    assert died.error == "a measuring process died (SIGSEGV) in build"
    assert (len(first.rounds_ms), len(last.rounds_ms)) == (5, 5)


SMALL = """
title: "two networks"
output: out
take_turns: baseline
baseline: ResNet
batch_sizes: [1, 2]
threads: 1
rounds: 5
picture: accuracy
sources: { paper: a paper }
networks:
  T8: { name: fastvit_t8, image_size: 32, top1: { plain: 76.2 }, source: paper, family: FastViT }
  ResNet: { name: resnet18, image_size: 32, top1: { plain: 70.0 }, source: paper }
forms:
  eager: {}
claims:
  - { where: table 5, fast: T8, slow: ResNet, published: { iPhone: [1, 2] } }
"""


def test_commands_from_a_suite_to_its_tables(played: SimpleNamespace, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("suite.yaml").write_text(SMALL)
    benchmark(["suite.yaml", "batch_sizes=[2]", "--quick"])
    assert "T8 to ResNet" in capsys.readouterr().out
    assert {path.name for path in Path("out_quick").iterdir()} == {"table.md", "result.json", "picture.png"}
    assert samples(load(Path("out_quick"))) == [("ResNet", "eager", 12), ("T8", "eager", 12)]
    Path("out_quick/table.md").unlink()
    Path("out_quick/result.json").rename("published.json")
    benchmark(["report", "published.json"])
    assert "T8 to ResNet" in Path("published.md").read_text()
    assert Path("published.png").stat().st_size > 10_000
    benchmark(["compare", "published.json", "published.json"])
    assert "nothing changed" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        benchmark(["--everything", "--output", "suite.yaml"])
    assert "suite.yaml is not a writable folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_suite_from_end_to_end(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("suite.yaml").write_text(SMALL)
    benchmark(["suite.yaml"])
    result = load(Path("out"))
    assert samples(result) == [("ResNet", "eager", 10), ("T8", "eager", 10)] * 2
    assert result.environment["threads"] == 1
    assert {"fastvit", "torch", "cpu", "openvino"} <= result.environment.keys()
    assert result.limits.peak["float32"].flops > 1e9


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_parts_for_a_gpu_run_on_a_cpu(tmp_path: Path, monkeypatch):
    """Each form in tiny; but for CUDA graphs, which need a GPU."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    tiny = ("batch_sizes=[2]", "rounds=5", "threads=1", "build_minutes=5")
    steps, eager = ("ours", "ours bf16"), ("eager", "eager bf16")
    parts = (
        Part("training", "training", ("baseline=timm bf16", "networks.T8.image_size=64"), ("T8",), steps),
        Part(
            "repmixer",
            "repmixer",
            ("networks.T8.image_size=64", "networks.T8 merged.image_size=64"),
            ("T8 merged",),
            eager,
        ),
        Part("dense", "dense", ("networks.digits={recipe: quickstart/detection_digits.yaml}",), ("digits",)),
    )
    results = list(everything(parts, tmp_path, "cpu", overrides=tiny))
    assert [result.complete for result in results] == [True, True, True]
    assert [row.error for result in results for row in result.rows()] == [""] * (3 + 2 * 2 + 2)
    assert (tmp_path / "dense" / "result.json").exists()
    assert all("counted_memory" in row.facts for row in results[0].rows())
