"""Suites are read strictly; what is compared takes turns; what is interrupted goes on; what fails is reported."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastvit.benchmark import bench, limits, machine
from fastvit.benchmark import measure as measuring
from fastvit.benchmark.bench import Bench
from fastvit.benchmark.everything import PARTS, Part, everything
from fastvit.benchmark.measure import groups, measure
from fastvit.benchmark.measurement import Failure, Measurement
from fastvit.benchmark.networks import input_size
from fastvit.benchmark.result import Result, load
from fastvit.benchmark.special import special_suite
from fastvit.benchmark.suite import MIN_SAMPLES, Form, Network, Suite, load_suite
from fastvit.benchmark.workers import Worker, WorkerDied
from fastvit.deploy import ENGINES
from fastvit.errors import RecipeError, RunError
from launch import ROOT, complaint, script

SUITES = sorted(path for path in (ROOT / "configs" / "benchmark").glob("*.yaml") if special_suite(path) is None)
DEPLOY = next(path for path in SUITES if path.stem == "deploy")
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


# ---- suites ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_suite_loads_and_its_quick_part_has_enough_samples(path: Path):
    suite = load_suite(path)
    short = suite.shortened()
    assert set(short.networks) <= set(suite.networks)
    assert short.rounds * short.calls >= MIN_SAMPLES
    for device in ("cpu", "cuda"):
        if any(device in form.on for form in short.forms.values()):
            assert list(groups(short, device))
    for network in suite.networks.values():
        assert suite.image_sizes or input_size(network)[1] >= 32


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("networks.T8.nam=x", "unknown key networks.T8.nam; did you mean name?"),
        ("networks.T8.name=fastvit_t9", "did you mean fastvit_t8?"),
        ("networks.T8.registered_in=nowhere.py", "there is no file nowhere.py"),
        ("networks.T8.top1={plain: 76.2}", "top1 and source go together"),
        ("networks.T8={name: fastvit_t8, top1: {plain: 76.2}, source: tim}", "networks.T8.source: there is no 'tim'"),
        ("forms.eager={engine: tensorrt}", "forms.eager.engine: should be 'eager', 'compiled', 'onnxruntime'"),
        ("forms.x={engine: onnxruntime, dtype: float16}", "onnxruntime runs in float32"),
        ("forms.x={engine: openvino}", "openvino is measured on the CPU: add on: [cpu]"),
        ("forms.x={dtype: int8}", "int8 is timed with engine openvino"),
        ("forms.x={train: true}", "train needs fuse: false"),
        ("forms.x={cuda_graph: true}", "cuda_graph is about eager inference on a GPU: add on: [cuda]"),
        ("rounds=2", "at least 10 samples are needed"),
        ("baseline=timmm", "there is no 'timmm'; did you mean timm?"),
        ("baseline=T8", "baseline must be one of the forms, which take turns, not 'T8'"),
        ("take_turns=networks", "baseline must be one of the networks, which take turns, not 'timm'"),
        ("claims=[{where: t, fast: T8, slow: B5, published: {iPhone: [1, 2]}}]", "claims: t: there is no 'B5'"),
        ("claims=[{where: t, text: x, published: {iPhone: [1, 2]}}]", "give fast and slow, or not_measured and text"),
    ],
)
def test_a_mistake_is_a_sentence_and_writes_nothing(override: str, message: str, tmp_path: Path, capsys):
    text = complaint(benchmark, [str(DEPLOY), override, f"output={tmp_path / 'out'}"], capsys)
    assert message in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a suite, or --everything"),
        (["x", "--device", "cuda"], "a suite takes device=<name>"),
        (["x", "--minutes", "-1"], "--minutes must be more than 0, not -1"),
        (["--everything", "--quick"], "--quick is about one suite"),
        (["compare", "a"], "compare two results, the earlier one first, not 1"),
        (["compare", "a", "b"], "a cannot be read"),
        (["report"], "name the results to report"),
        (["report", str(DEPLOY)], "is no result of `fastvit benchmark`"),
    ],
)
def test_a_command_that_says_too_little(arguments: list[str], message: str, capsys):
    assert message in complaint(benchmark, arguments, capsys)


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
        self.script, self.built = script, []
        script.processes.append(self)

    def build(self, measurement: Measurement, *, seconds: float | None = None) -> dict | Failure:
        name = measurement.network_name
        if name in self.script.deadly:
            raise WorkerDied("died in build")
        if name in self.script.broken:
            return Failure("ValueError: broken", "a trace")
        if measurement not in self.built:
            self.script.diary.append(f"build {name}")
            self.built.append(measurement)
        return {"image_size": 32, "parameters": 1, "macs": 1}

    def call(self, measurement: Measurement, calls: int) -> list[float]:
        assert measurement in self.built
        if self.script.calls_left == 0:
            raise KeyboardInterrupt
        self.script.calls_left -= 1
        self.script.diary.append(f"call {measurement.network_name}")
        return [self.script.seconds] * calls

    def keep(self, measurements: list[Measurement]) -> None:
        self.built = [each for each in self.built if each in measurements]

    def limits(self, dtypes: list[str]) -> dict:
        return {"peak": {dtype: {"flops": 1e9, "by": "x"} for dtype in dtypes}, "bandwidth": 1e9, "cache": 1}

    def versions(self) -> dict[str, str]:
        return {"onnx": "1"}

    def close(self) -> None:
        pass


@pytest.fixture
def played(monkeypatch) -> SimpleNamespace:
    script = SimpleNamespace(diary=[], processes=[], deadly=set(), broken=set(), calls_left=10**6, seconds=0.001)
    monkeypatch.setattr(measuring, "Worker", lambda threads, device: Played(script))
    monkeypatch.setattr(measuring, "SETTLE_SECONDS", 0)
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
    assert [len(process.built) for process in played.processes] == [1, 1]  # the baseline's own, which it stays in
    assert load(tmp_path) == result


def test_an_interrupted_measurement_goes_on_in_the_round_where_it_ended(played: SimpleNamespace, tmp_path: Path):
    suite = small_suite(output=str(tmp_path), forms={"eager": {}, "half": {}})
    played.calls_left = 3 * 5 + 7  # two whole rounds and a third of the second form
    with pytest.raises(KeyboardInterrupt):
        measure(suite)
    part = load(tmp_path)
    assert not part.complete
    assert samples(part) == [(n, "eager", 10) for n in "abc"] + [("a", "half", 6), ("b", "half", 4), ("c", "half", 4)]
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
    assert (stopped.complete, samples(stopped)) == (False, [(n, "eager", 0) for n in "abc"])
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
    assert len(played.processes) == 2  # another one in place of the dead
    assert played.diary.count("build a") == 2


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


@pytest.mark.parametrize("device", PARTS)
def test_the_parts_of_everything_are_there(device: str):
    for part in PARTS[device]:
        suite = load_suite(next(path for path in SUITES if path.stem == part.suite), part.overrides)
        kept = suite.only(part.networks, part.forms)
        assert set(part.networks) <= kept.networks.keys()
        measured = [m for group in groups(kept, device) for m in group]
        assert {m.form_name for m in measured} >= set(part.forms)
        assert {kept.baseline} <= {None, *(name for m in measured for name in (m.network_name, m.form_name))}


def test_a_gpu_is_described_with_what_makes_it_slow(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92301)
    found = machine.environment_of("cuda", 2)
    assert found["cudnn"] == "9.23.1"
    assert {"driver", "cuda", "gpu", "threads"} <= found.keys()
    assert "cuDNN 9.23.1 can be five times as slow" in machine.known_problems(found)[0]
    assert not machine.known_problems({"cudnn": "9.24.0"})
    assert not machine.known_problems(machine.environment_of("cpu", 2))


# ---- the machine -----------------------------------------------------------------------------------------------------


def test_limits_are_those_of_the_fastest_shape(monkeypatch):
    monkeypatch.setitem(limits.SHAPES, "cpu", ((64, 64, 64), (256, 256, 256)))
    monkeypatch.setattr(limits, "ENOUGH_SECONDS", 0.01)
    found = limits.peak(torch.float32, torch.device("cpu"))
    assert found["flops"] > 1e9
    assert "256" in found["by"]
    assert limits.bandwidth(torch.device("cpu"), 2**20) > 1e8
    assert limits.least_seconds(1e9, 1e6, flops=1e9, bytes_per_second=1e9) == (1.0, "compute")
    assert limits.least_seconds(1e6, 1e9, flops=1e9, bytes_per_second=1e9) == (1.0, "memory")


# ---- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker():
    worker = Worker(1, "cpu")
    yield worker
    worker.close()


def measurement(name: str = "fastvit_t8", **form) -> Measurement:
    return Measurement(name, "form", Network(name=name, image_size=64), Form(**form), 2)


@pytest.mark.slow
def test_a_worker_measures_and_goes_on_after_a_failure(worker: Worker):
    asked = measurement()
    facts = worker.build(asked)
    assert facts["image_size"] == 64
    times = worker.call(asked, 3)
    assert len(times) == 3
    assert all(1e-4 < seconds < 10 for seconds in times)
    failure = worker.build(measurement("resnet18", builtin=True))
    assert isinstance(failure, Failure)
    assert "resnet18 is none" in failure.reason
    assert len(worker.call(asked, 1)) == 1
    worker.keep([])
    assert "KeyError" in worker.call(asked, 1).reason


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


def test_a_dead_worker_is_a_sentence():
    dying = Worker(1, "cpu")
    with pytest.raises(RunError, match=r"not ready after 0 minutes"):
        dying.build(measurement(), seconds=0)
    with pytest.raises(RunError, match=r"a measuring process died \(SIGKILL\) in versions: if memory ran out"):
        dying.versions()
    dying.close()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"dtype": "bfloat16"},
        {"train": True, "fuse": False},
        pytest.param({"engine": "onnxruntime", "on": ("cpu",)}, marks=pytest.mark.slow),
        pytest.param({"engine": "openvino", "dtype": "int8", "on": ("cpu",)}, marks=pytest.mark.slow),
        pytest.param({"engine": "fastest"}, marks=pytest.mark.slow),
    ],
)
def test_every_form_is_built_and_called(form: dict, monkeypatch):
    if form.get("engine") == "openvino":
        pytest.importorskip("nncf")
    monkeypatch.setattr(bench, "_taken_by", lambda call, device: 10**7)
    process, asked = Bench(torch.device("cpu")), measurement("resnet18", **form)
    facts = process.build(asked)
    assert facts["parameters"] > 1e7
    assert facts["macs"] == pytest.approx(1.82e9 * (64 / 224) ** 2, rel=0.02)
    assert ("counted_memory" in facts) == bool(form.get("train"))
    assert ("traffic" in facts) == (form.get("dtype") != "int8" and not form.get("train"))
    if not form.get("engine"):
        weights = 0 if form.get("train") else facts["parameters"] * (2 if form else 4)
        assert facts["peak_memory"] == weights + 10**7
    assert facts.get("engine") in (ENGINES if form.get("engine") == "fastest" else (None,))
    assert len(process.call(asked, 2)) == 2
    assert process.build(asked) is facts  # once


def test_the_memory_of_a_call_is_what_it_takes_at_its_peak():
    """32 MiB are written, then given back."""
    taken = bench._taken_by(lambda: torch.ones(2**23).sum(), torch.device("cpu"))
    assert taken is None or 30 * 2**20 < taken < 40 * 2**20


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
    benchmark(["suite.yaml", "quick.batch_sizes=[2]", "--quick"])
    assert "T8 to ResNet" in capsys.readouterr().out
    assert {path.name for path in Path("out").iterdir()} == {"table.md", "result.json", "picture.png"}
    assert samples(load(Path("out"))) == [("ResNet", "eager", 10), ("T8", "eager", 10)]
    Path("out/table.md").unlink()
    Path("out/result.json").rename("published.json")
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
