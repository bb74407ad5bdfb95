"""Figures follow from samples; tables, verdicts and pictures say what was measured, and what was not."""

import itertools
import json
import re
from pathlib import Path
from statistics import geometric_mean, median

import numpy as np
import pytest

from fastvit.benchmark.claims import checked_claims, verdict
from fastvit.benchmark.compare import SAME, YARDSTICK, changes, comparison
from fastvit.benchmark.field import field_points, pareto
from fastvit.benchmark.labels import Box, Name, place
from fastvit.benchmark.picture import picture
from fastvit.benchmark.report import (
    claims_table,
    fields,
    markdown,
    mean_speed_ups,
    report,
    share_of_limit,
    side_by_side,
)
from fastvit.benchmark.result import Group, Limits, Result, Row, load, save
from fastvit.benchmark.statistics import Interval, figures, median_interval, paired_ratio
from fastvit.benchmark.suite import Suite

MACHINE = {"cpu": "a CPU", "gpu": "none", "threads": 2, "platform": "x", "torch": "2", "fastvit": "1"}
FACTS = {"parameters": 10**6, "macs": 10**9, "traffic": 0, "batch_norms": 0}
LIMITS = Limits(peak={"float32": {"flops": 1e12, "by": "a product"}}, bandwidth=1e10, cache=2**20)


def row(network: str, form: str, *rounds: list[float], **more) -> Row:
    return Row(network=network, form=form, batch_size=1, image_size=32, facts=FACTS, rounds_ms=list(rounds), **more)


def result(*groups: list[Row], **suite) -> Result:
    networks = {each.network: {"name": "fastvit_t8"} for group in groups for each in group}
    forms = {each.form: {} for group in groups for each in group}
    parts = {"title": "made up", "output": "unused", "networks": networks, "forms": forms, "batch_sizes": [1]}
    made = Suite.model_validate_json(json.dumps({**parts, "take_turns": "networks", **suite}))
    common = {"quick": False, "device": "cpu", "environment": MACHINE, "limits": LIMITS, "loads": [0.1]}
    return Result(suite=made, groups=[Group(rows=rows, done=True) for rows in groups], complete=True, **common)


# ---- statistics ------------------------------------------------------------------------------------------------------


def test_latencies_are_those_of_all_samples():
    made = result([row("a", "f", [1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.0], [11.0])])
    assert figures(made)[0].latency == (6.0, 2.0, 10.0, 11)


def test_the_interval_of_a_median_holds_what_it_promises():
    """It has the true median in 95 % of repetitions or more, and not in nearly all; lognormal, as times are."""
    rng = np.random.default_rng(0)
    for n in (6, 10, 20, 41):
        intervals = [median_interval(rng.lognormal(size=n)) for _ in range(2000)]
        hits = np.mean([each.low <= 1 <= each.high for each in intervals])
        assert 0.945 <= hits <= 0.985
    assert median_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_a_ratio_is_taken_within_rounds():
    """The machine slows down eightfold; the second network takes twice as long as the first in every round."""
    fast, slow = row("a", "f", [1, 1], [2, 2], [8, 8]), row("b", "f", [2, 2], [4, 4], [16, 16])
    assert paired_ratio(slow, fast) == (2.0, 2.0, 2.0)
    ratios = {each.row.network: each.speed_up.value for each in figures(result([fast, slow], baseline="b"))}
    assert ratios == {"a": 2.0, "b": 1.0}


def test_times_are_in_step_with_the_baseline_that_took_turns():
    """`b` met the machine at half its speed: beside the baseline it is as fast as `a`."""
    first = [row("base", "f", [10, 10], [10, 10]), row("a", "f", [20, 20], [20, 20])]
    second = [row("base", "f", [20, 20], [20, 20]), row("b", "f", [40, 40], [40, 40])]
    third = [row("base", "f", [10, 10]), row("c", "f", [5, 5])]
    made = result(first, second, third, take_turns="baseline", baseline="base")
    shown = {each.row.network: each for each in figures(made)}
    assert {name: each.latency.median for name, each in shown.items()} == {"base": 10, "a": 20, "b": 20, "c": 5}
    assert {name: each.speed_up.value for name, each in shown.items()} == {"base": 1, "a": 0.5, "b": 0.5, "c": 2}
    assert shown["base"].latency.n == 10


def test_times_are_in_step_with_the_baseline_of_the_same_size():
    """The large images take ten times as long, and the machine never changes."""
    sizes = [[row("base", "f", [10]), row("a", "f", [20])], [row("base", "f", [100]), row("a", "f", [200])]]
    for size, group in zip((32, 64), sizes, strict=True):
        for each in group:
            each.image_size = size
    made = result(*sizes, take_turns="baseline", baseline="base", image_sizes=[32, 64])
    assert [each.latency.median for each in figures(made)] == [10, 20, 100, 200]


def test_several_image_sizes_stand_one_under_the_other():
    sizes = [[row("base", "f", [10]), row("a", "f", [20])], [row("base", "f", [100]), row("a", "f", [2000.4])]]
    for size, group in zip((32, 64), sizes, strict=True):
        for each in group:
            each.image_size = size
    made = result(*sizes, baseline="base", image_sizes=[32, 64])
    (lines,) = side_by_side(made, figures(made))
    assert lines == [
        ("ms, batch 1, f", "base", "a", "a: x base"),
        ("32 px", "10", "20", "0.50"),
        ("64 px", "100", "2000", "0.05"),
    ]


def test_means_are_geometric_and_of_the_raw_ratios():
    rng = np.random.default_rng(1)
    groups, expected = [], {}
    for network in "abc":
        rounds = {form: rng.uniform(1, 9, (7, 2)) for form in ("slow", "fast")}
        groups.append([row(network, form, *samples.tolist()) for form, samples in rounds.items()])
        expected[network] = median(median(s) / median(f) for s, f in zip(rounds["slow"], rounds["fast"], strict=True))
    (lines,) = mean_speed_ups(result(*groups, take_turns="forms"))
    assert lines[0][1:] == ("slow", "fast", "networks")
    mean = f"{geometric_mean(expected.values()):.2f}"
    assert lines[2] == ("fast", mean, "1.00", "3")
    made = result(*groups, take_turns="forms", baseline="slow")
    (beside,) = side_by_side(made, figures(made))
    assert beside[-1] == ("times as fast", "1.00", mean)


# ---- claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "here", "words"),
    [
        (2.0, (2.1, 2.0, 2.2), "holds"),
        (2.0, (1.4, 1.3, 1.5), "right direction, smaller"),
        (2.0, (3.0, 2.9, 3.1), "right direction, larger"),
        (2.0, (1.1, 0.9, 1.2), "no difference here"),
        (2.0, (0.8, 0.7, 0.9), "no: the other way round"),
        (0.5, (0.5, 0.4, 0.6), "holds"),
        (0.5, (0.8, 0.7, 0.9), "right direction, smaller"),
        (0.5, (1.5, 1.4, 1.6), "no: the other way round"),
        (1.02, (1.08, 1.0, 1.1), "holds: level here too"),
        (1.0, (1.5, 1.4, 1.6), "no: faster here"),
        (1.0, (0.5, 0.4, 0.6), "no: slower here"),
    ],
)
def test_a_verdict_is_about_direction_and_size(published: float, here: tuple, words: str):
    assert verdict(published, Interval(*here)) == words


def test_every_claim_gets_a_verdict():
    claims = [
        {"where": "abstract", "fast": "a", "slow": "b", "published": {"iPhone": [2, 8], "GPU": [2, 2]}},
        {"where": "table 5", "fast": "a", "slow": "c", "published": {"iPhone": [2, 8]}},
        {"where": "table 8", "text": "x", "not_measured": "lost", "unit": "fps", "published": {"GPU": [218, 109]}},
    ]
    pair = [row("b", "f", *[[8, 8]] * 6), row("a", "f", *[[2, 2]] * 6)]
    broken = [row("c", "f", error="no compiler"), row("a", "f")]
    made = result(pair, broken, take_turns="claims", claims=claims)
    found = [(c.claim.where, c.device, c.published, c.verdict) for c in checked_claims(made)]
    assert found == [
        ("abstract", "iPhone", 4.0, "holds"),
        ("abstract", "GPU", 1.0, "no: faster here"),
        ("table 5", "iPhone", 4.0, "not measured: c: no compiler"),
        ("table 8", "GPU", 2.0, "not measured: lost"),
    ]
    assert list(map(tuple, claims_table(list(checked_claims(made)), made))) == [
        ("claim", "top-1", "in", "iPhone", "GPU", "here, f", "beside the iPhone", "beside the GPU"),
        ("a to b", "", "abstract", "4.00", "1.00", "4.00 (4.00-4.00)", "holds", "no: faster here"),
        ("a to c", "", "table 5", "4.00", "", "", "not measured: c: no compiler", ""),
        ("x", "", "table 8", "", "2.00", "", "", "not measured: lost"),
    ]
    assert "not measured: f: no compiler (c)" in report(made)


# ---- reports ---------------------------------------------------------------------------------------------------------


def test_the_share_of_the_limit_is_of_what_binds():
    made = result([row("a", "f", [4.0])])
    bound = made.groups[0].rows[0]
    assert share_of_limit(bound, 4.0, made) == "50%"  # 2e9 operations at 1e12 a second take 2 ms
    bound.facts = FACTS | {"traffic": 3 * 10**7}
    assert share_of_limit(bound, 4.0, made) == "75% memory"  # 3e7 bytes at 1e10 a second take 3 ms
    bound.facts = {"parameters": 1, "macs": 1}
    assert share_of_limit(bound, 4.0, made) == ""


def test_a_report_says_what_disturbs_and_what_is_missing():
    made = result([row("a", "f", [1.0]), row("b", "f", error="ImportError: no engine")])
    quiet = report(made)
    assert "not measured: f: ImportError: no engine (b)" in quiet
    assert "BUSY" not in quiet
    assert "NOT COMPLETE" not in quiet
    disturbed = made.model_copy(update={"loads": [0.1, 7.0], "complete": False})
    disturbed.environment = MACHINE | {"cudnn": "9.23.1"}
    assert "THE MACHINE WAS BUSY" in report(disturbed)
    assert "NOT COMPLETE" in report(disturbed)
    assert "WARNING: cuDNN 9.23.1" in report(disturbed)


def test_forms_that_nothing_ran_are_left_out_of_the_means():
    made = result([row("a", "f", [1.0]), row("a", "g", error="no engine")], take_turns="forms")
    assert [lines[0][1:-1] for lines in mean_speed_ups(made)] == [("f",)]
    made.groups[0].rows[0].rounds_ms = []
    assert "not measured: g: no engine (a)" in report(made)


def test_a_result_is_read_as_it_was_written(tmp_path: Path):
    made = result([row("a", "f", [1.0, 2.0], [3.0, 4.0]), row("b", "f", error="broken")], [row("c", "f", [5.0])])
    save(made, tmp_path)
    assert load(tmp_path) == load(tmp_path / "result.json") == made
    assert json.loads((tmp_path / "result.json").read_text())["groups"][0]["rows"][0]["rounds_ms"] == [[1, 2], [3, 4]]
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


# ---- comparing -------------------------------------------------------------------------------------------------------


def guarded(factor: float, *, machine: float = 1.0, seed: int = 0) -> Result:
    """A baseline and two rows, one of them slower by `factor`, on a machine that drifts by a tenth."""
    rng = np.random.default_rng(seed)
    drift = machine * (1 + 0.1 * np.sin(np.arange(25)))
    rows = []
    for form, ms in (("timm", 20.0), ("ours", 10.0), ("changed", 12.0 * factor)):
        noise = rng.lognormal(0, 0.02, (25, 2))
        rows.append(row("a", form, *(ms * drift[:, None] * noise).tolist()))
    return result(rows, take_turns="forms", baseline="timm")


def test_a_change_beyond_the_noise_is_seen_and_a_slower_machine_is_none():
    verdicts = {c.row.form: c.verdict for c in changes(guarded(1), guarded(1.2, machine=1.5, seed=1))}
    assert verdicts["ours"] == "same"
    assert verdicts["changed"].startswith("slower by 2")
    assert verdicts["timm"] == YARDSTICK
    faster = {c.row.form: c.verdict for c in changes(guarded(1.2), guarded(1, seed=2))}
    assert faster["changed"].startswith("faster by 1")
    for seed in range(1, 20):
        assert {c.verdict for c in changes(guarded(1), guarded(1, seed=seed))} == {SAME, YARDSTICK}


def test_a_change_within_the_noise_is_none():
    before = result([row("a", "f", *([ms] for ms in (10, 14, 9, 15, 8, 16)))])
    now = result([row("a", "f", *([ms] for ms in (15, 15, 10, 16, 9, 20)))])
    (change,) = changes(before, now)
    assert change.time.value > 1.2
    assert change.time.low < 1 < change.time.high
    assert change.verdict == "same"


def test_a_comparison_names_what_else_differs():
    before, now = guarded(1), guarded(1.2, seed=1)
    now.environment = MACHINE | {"torch": "3", "cpu": "another"}
    text = comparison(before, now)
    assert "torch: 2 -> 3" in text
    assert "two machines" in text
    assert text.strip().splitlines()[-1].startswith("a, changed: slower by")


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_the_pareto_front_is_what_nothing_beats():
    points = [(5.0, 80.0), (1.0, 70.0), (2.0, 75.0), (3.0, 74.0), (2.0, 73.0), (6.0, 80.0)]
    front = pareto(points)
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] >= p[1]}
    assert front == sorted(set(points) - beaten) == [(1.0, 70.0), (2.0, 75.0), (5.0, 80.0)]


def field() -> Result:
    """Seventy networks in a cloud, as suite peers has them."""
    rng = np.random.default_rng(0)
    networks, rows = {}, []
    for i in range(70):
        family, kind = ("FastViT" if i % 9 == 0 else f"family {i % 20}"), ("plain", "distilled")[i % 2]
        top1 = {kind: round(74 + 10 * rng.random(), 1)} | ({"plain": 73.0} if i % 9 == 0 else {})
        networks[f"network {i}"] = {"name": "fastvit_t8", "top1": top1, "source": "s", "family": family}
        rows.append(row(f"network {i}", "f", [float(rng.lognormal(4, 0.7))]))
    networks["CLIP"] = {"name": "fastvit_t8", "top1": {"zero_shot": 71.5}, "source": "s", "family": "FastViT"}
    rows.append(row("CLIP", "f", [20.0]))
    return result(rows, networks=networks, sources={"s": "someone"}, picture="accuracy")


def test_no_name_covers_another_or_a_point_and_the_front_is_named():
    made = field()
    figure = picture(made)
    figure.draw_without_rendering()
    axes, zero_shot = figure.axes
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        assert not a.overlaps(b), (one, other)
    points = field_points(figures(made), made.suite, ("plain", "distilled"))
    for point in points:
        at = axes.transData.transform((point.ms, point.top1))
        assert not any(box.contains(*at) for box in boxes.values())
    assert {p.name for p in points if p.important} <= boxes.keys()
    assert len(boxes) > 50
    assert [text.get_text() for text in zero_shot.texts] == ["CLIP"]
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes.values())


def test_fronts_are_of_the_plain_ones_and_of_all():
    networks = {
        name: {"name": "fastvit_t8", "top1": {kind: top1}, "source": "s"}
        for name, kind, top1 in (("a", "plain", 80.0), ("b", "distilled", 82.0), ("c", "plain", 81.0))
    }
    rows = [row("a", "f", [1.0]), row("b", "f", [2.0]), row("c", "f", [3.0])]
    made = result(rows, networks=networks, sources={"s": "someone"}, picture="accuracy")
    points = field_points(figures(made), made.suite, ("plain", "distilled"))
    assert {point.name: point.front for point in points} == {"a": True, "b": True, "c": True}
    assert [p.name for p in points if p.front and p.kind == "plain"] == ["a", "c"]
    (lines,) = fields(made, figures(made))
    assert [tuple(cells) for cells in lines[1:]] == [
        ("1 to 3", "a 1 (80.0), b 2 (/82.0), c 3 (81.0)"),
        ("front without teachers", "a 80.0, c 81.0"),
        ("front of all", "a 80.0, b 82.0"),
    ]
    assert markdown(lines) in report(made)


def test_a_field_has_every_network_once_by_rising_time():
    made = field()
    (lines,) = fields(made, figures(made))
    *classifiers, zero_shot, _, _ = lines[1:]
    told = [re.findall(r"\**([\w ]+?)\** ([\d.]+) \(([\d.]*)(?:/([\d.]+))?\)", each) for _, each in classifiers]
    assert [len(each) for each in told] == [10] * 7
    found = [(name.strip(), float(ms), plain, distilled) for each in told for name, ms, plain, distilled in each]
    assert [ms for _, ms, _, _ in found] == sorted(ms for _, ms, _, _ in found)
    for name, ms, *top1 in found:
        assert ms == pytest.approx(made.groups[0].rows[int(name.split()[1])].rounds_ms[0][0], rel=0.005)
        published = made.suite.networks[name].top1
        assert top1 == [f"{each:.1f}" if each else "" for each in (published.plain, published.distilled)]
    assert tuple(zero_shot) == ("zero-shot", "**CLIP** 20 (71.5)")


def test_a_name_that_has_no_room_is_left_out():
    bounds = Box(0, 0, 100, 20)
    first, second = place([Name(50, 10, 40, 8, 60), Name(50, 10, 90, 8, 60)], [Box(48, 8, 52, 12)], bounds)
    assert first.within(bounds)
    assert second is None


@pytest.mark.parametrize("kind", ["bars", "sizes"])
def test_the_other_pictures_are_drawn(kind: str):
    rows = [row(name, "f", [1.0 + i]) for i, name in enumerate("ab")]
    made = result(rows, picture=kind, baseline="b")
    figure = picture(made)
    figure.draw_without_rendering()
    written = " ".join(text.get_text() for axes in figure.axes for text in axes.get_yticklabels() + axes.texts)
    assert ("a, f" if kind == "bars" else "2.00x") in written
