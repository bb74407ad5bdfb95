"""What a measurement is about: its hardware, its software, and who else is at work."""

from pathlib import Path

from fastvit.benchmark.machine import environment_of, load_now


def test_the_load_is_of_others(tmp_path: Path):
    source = tmp_path / "loadavg"
    source.write_text("1.86 1.78 1.74 3/321 9075\n")  # three threads run, one of which is the one that reads this
    assert load_now(source, looks=2) == 2.0


def test_the_machine_is_described_with_its_engines():
    found = environment_of("cpu", 3)
    assert found["threads"] == 3
    assert {"torch", "cpu", "onnxruntime", "openvino"} <= found.keys()
