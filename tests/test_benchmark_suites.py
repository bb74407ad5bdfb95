"""Suites are read strictly, and those of the package are sound."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from fastvit.benchmark.everything import PARTS, Part
from fastvit.benchmark.measure import groups
from fastvit.benchmark.networks import _made, input_size
from fastvit.benchmark.special import special_suite
from fastvit.benchmark.suite import MIN_SAMPLES, Suite, load_suite
from fastvit.benchmark.work import parameters
from fastvit.errors import RecipeError
from launch import ROOT, complaint, script

BY_RECIPES = ("dense", "hand_mesh", "repmixer")  # or files; the names of the others are tested elsewhere, too
SUITES = sorted(path for path in (ROOT / "configs" / "benchmark").glob("*.yaml") if special_suite(path) is None)
DEPLOY = next(path for path in SUITES if path.stem == "deploy")
benchmark = script("benchmark")


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_suite_loads_and_its_quick_part_has_enough_samples(path: Path):
    suite, short = load_suite(path), load_suite(path, quick=True)
    assert short.output == suite.output.with_name(f"{suite.output.name}_quick")  # so that both can be measured
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


def test_what_is_said_beside_quick_wins():
    suite = load_suite(DEPLOY, ["rounds=7", "batch_sizes=[3]", "output=mine"], quick=True)
    assert (suite.rounds, suite.batch_sizes, str(suite.output)) == (7, (3,), "mine")
    assert list(suite.networks) == ["T8", "SA12"]


def test_what_quick_measures_need_not_fit_where_nobody_asks_for_it():
    """And the suite, as it stands in a result, can be read again."""
    own = ["networks={B: {name: resnet18}}", "forms={mine: {fuse: false}}", "baseline=null"]
    suite = load_suite(DEPLOY, [*own, "calls=1"])
    assert (list(suite.networks), list(suite.forms), suite.calls) == (["B"], ["mine"], 1)
    assert Suite.model_validate_json(suite.model_dump_json()) == suite
    with pytest.raises(RecipeError, match=r"quick\.networks: there is no 'T8', but B: say quick\.networks=\[\]"):
        load_suite(DEPLOY, own, quick=True)
    own.append("quick.networks=[]")
    assert list(load_suite(DEPLOY, own, quick=True).networks) == ["B"]
    with pytest.raises(RecipeError, match=r"quick\.rounds \* calls is 6: at least 10 samples are needed"):
        load_suite(DEPLOY, [*own, "calls=1"], quick=True)


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
        (["report", str(DEPLOY / "x.json")], "deploy.yaml is not a writable folder"),
    ],
)
def test_a_command_that_says_too_little(arguments: list[str], message: str, capsys):
    assert message in complaint(benchmark, arguments, capsys)


@pytest.mark.parametrize("device", PARTS)
def test_the_parts_of_everything_are_there(device: str):
    for part in PARTS[device]:
        suite = load_suite(next(path for path in SUITES if path.stem == part.suite), part.overrides)
        kept = suite.only(part.networks, part.forms)
        assert set(part.networks) <= kept.networks.keys()
        measured = [m for group in groups(kept, device) for m in group]
        assert {m.form_name for m in measured} >= set(part.forms)
        assert {kept.baseline} <= {None, *(name for m in measured for name in (m.network_name, m.form_name))}


@pytest.mark.parametrize(
    "part",
    [pytest.param(part, marks=() if part.suite in BY_RECIPES else pytest.mark.slow) for part in PARTS["cuda"]],
    ids=lambda part: part.name,
)
def test_what_is_measured_of_a_gpu_can_be_built(part: Part):
    """Without weights. What is wrong would be found out on the GPU, in the middle of its time."""
    suite = load_suite(next(path for path in SUITES if path.stem == part.suite), part.overrides)
    measured = [m for group in groups(suite.only(part.networks, part.forms), "cuda") for m in group]
    for each in {(m.network, m.form.builtin): m for m in measured}.values():
        of_numbers = "hand_mesh" in str(each.network.recipe)  # its hand is made of them
        with nullcontext() if of_numbers else torch.device("meta"):
            assert parameters(_made(each.network, each.form)) > 1e6
