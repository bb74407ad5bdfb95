"""Who sets the C library's allocator, and what that does."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastvit.runtime import allocator
from launch import QUICKSTART, script

PACKAGE = Path(__file__).parents[1] / "fastvit"
COMMANDS = {f"cli/{name}.py" for name in ("train", "teach", "evaluate", "predict", "embed")}
BENCHMARKS = {f"benchmark/{name}.py" for name in ("distillation", "predict")}  # of what those commands do


def test_only_commands_set_it():
    """A function that somebody calls in a notebook leaves the allocator of that process alone."""
    callers = {path for path in PACKAGE.rglob("*.py") if "keep_freed_memory(" in path.read_text(encoding="utf-8")}
    names = {str(path.relative_to(PACKAGE)) for path in callers}
    assert names == COMMANDS | BENCHMARKS | {"runtime/allocator.py"}


class Kept(Exception):
    """Raised in place of the setting, so that the command does nothing else."""


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train", [QUICKSTART, "output={folder}/run"]),
        ("teach", [QUICKSTART]),
        ("evaluate", ["{run}"]),
        ("predict", ["{folder}/image.png", "--model", "{run}"]),
        ("embed", ["{run}", "{folder}/image.png", "--output", "{folder}/features"]),
    ],
)
def test_each_command_that_computes_sets_it(command, arguments, random_run, tmp_path, monkeypatch):
    def keep(device):
        assert device.type == "cpu"
        raise Kept

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(allocator, "keep_freed_memory", keep)
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    with pytest.raises(Kept):
        script(command)([word.format(folder=tmp_path, run=random_run) for word in arguments])


PROGRAM = """
import resource, statistics, torch
from fastvit.runtime.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def faults_of_a_call():  # takes 3 times 32 MiB
    before = faults()
    a = torch.zeros(2**23).add_(1)
    b = torch.stack([a.view(2**11, -1).t()]).contiguous()
    (a + b.flatten()).sum()
    return faults() - before

for kind in ("meta", "cpu"):  # the first changes nothing
    keep_freed_memory(torch.device(kind))
    print(statistics.median(faults_of_a_call() for _ in range(15)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
@pytest.mark.slow
def test_memory_that_was_freed_is_not_cleared_again():
    """In a process of its own, which keeps the setting to its end."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before > 10_000  # pages of 4 KiB; if this fails, the setting is no longer needed
    assert after < 100  # of most calls: the heap may still grow once or twice, where its holes lie badly
