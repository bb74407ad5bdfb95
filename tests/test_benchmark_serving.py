"""Serving: what is counted, what is said of servers that fail, and the command."""

import json
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from fastvit.benchmark import serving
from fastvit.benchmark.serving import Server, figures, requests
from fastvit.benchmark.special import run_special
from fastvit.errors import RecipeError, RunError
from launch import ROOT, complaint, script

SUITE = ROOT / "configs" / "benchmark" / "serving.yaml"
benchmark = script("benchmark")


def test_every_client_waits_for_its_answer_before_it_asks_again():
    active, most, lock = [0], [0], threading.Lock()

    def server(image):
        with lock:
            active[0] += 1
            most[0] = max(most[0], active[0])
        time.sleep(0.02)
        with lock:
            active[0] -= 1

    seconds, latencies = requests([server] * 3, torch.zeros(1), seconds=0.2)
    assert most[0] == 3  # all at once, and never more
    assert min(latencies) >= 0.02
    assert 0.2 <= seconds < 2
    assert 3 <= len(latencies) <= 3 * 10
    assert sum(latencies) == pytest.approx(3 * seconds, rel=0.5)


def test_an_answer_that_takes_longer_than_the_turn_counts():
    seconds, latencies = requests([lambda image: time.sleep(0.05)], torch.zeros(1), seconds=0.001)
    assert len(latencies) == 1
    assert seconds >= 0.05


def test_figures_are_of_all_rounds():
    rounds = [{"seconds": 1.0, "ms": [1.0] * 98}, {"seconds": 1.0, "ms": [7.0, 100.0]}]
    assert figures(rounds) == "50.0/s, 1.0, 7.0"


@pytest.fixture
def quick_servers(monkeypatch):
    """Servers that do next to nothing; one of them does not start."""

    def start(self, model, image):
        if self.engine == "onnxruntime":
            raise RunError("not today\nat all")
        assert image.shape == (1, 3, 256, 256)
        return SimpleNamespaceServer(self)

    class SimpleNamespaceServer(SimpleNamespace):
        def __init__(self, server):
            super().__init__(engine=server.engine)

        def __call__(self, image):
            time.sleep(0.001)

    monkeypatch.setattr(Server, "start", start)
    monkeypatch.setattr(serving, "SETTLE_SECONDS", 0.001)


def test_the_command_writes_a_table_and_every_sample(quick_servers, tmp_path, capsys):
    output = f"output={tmp_path / 'result'}"
    benchmark([str(SUITE), "--quick", output, "seconds=0.01", "clients=[1,3]"])
    table = capsys.readouterr().out
    assert (tmp_path / "result" / "table.md").read_text() == table
    assert "| 1 client " in table
    assert "| 3 clients " in table
    assert table.count("| T8 ") == 6  # of eight servers
    assert "T8, ONNX Runtime: not today\n" in table
    assert "SA12" not in table
    rows = json.loads((tmp_path / "result" / "result.json").read_text())["rows"]
    assert all(len(row["rounds"]) == 2 and row["rounds"][0]["ms"] for row in rows if "error" not in row)
    assert "already holds a result" in complaint(benchmark, [str(SUITE), output], capsys)
    assert "--quick" in complaint(benchmark, [str(SUITE), "--minutes", "3"], capsys)


def test_suites_are_read_strictly(tmp_path):
    with pytest.raises(RecipeError, match="did you mean streams"):
        run_special(SUITE, [f"output={tmp_path}", "servers.x={engine: torch, stream: 2}"])


@pytest.mark.slow
def test_real_servers(tmp_path, capsys):
    (tmp_path / "suite.yaml").write_text(
        f"""
measures: serving
title: "two"
output: {tmp_path / "result"}
clients: [2]
rounds: 1
seconds: 0.2
networks: {{ T8: {{ name: fastvit_t8, image_size: 64 }} }}
servers: {{ streams: {{ engine: openvino, streams: cores }}, half: {{ engine: openvino, dtype: bfloat16 }} }}
"""
    )
    benchmark([str(tmp_path / "suite.yaml")])
    assert capsys.readouterr().out.count("/s, ") == 2
