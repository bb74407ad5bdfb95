"""The commands, for tests: in this process, or in processes of their own."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fastvit.cli.main import main
from fastvit.training.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[1]
QUICKSTART = str(ROOT / "configs" / "quickstart" / "digits.yaml")
QUICK = ("schedule.epochs=2", "schedule.warmup_epochs=0.5", "loop.batch_size=96", "loop.checkpoint_steps=4")
STEPS = 26  # 1257 // 96 in each of two epochs
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def script(name):
    """A subcommand of `fastvit`, as a function of its arguments."""
    return lambda arguments: main([name, *arguments])


def complaint(main, arguments, capsys):
    """The one sentence that a script ends with."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err.strip()


def start(output, *overrides, resume=False, variables=None):
    """Train by the digits' recipe, shortened, with one thread, in a process group of its own."""
    arguments = ["--resume", str(output)] if resume else ["configs/quickstart/digits.yaml", f"output={output}", *QUICK]
    return start_script("train", *arguments, *overrides, variables=variables)


def start_script(name, *arguments, variables=None):
    """A command of `fastvit`, as `start_python`."""
    return start_python("-m", "fastvit", name, *arguments, variables=variables)


def start_python(*arguments, variables=None):
    """Python with one thread, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT | (variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


def two_ranks():
    """What torchrun tells each of two processes."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)]


def start_two(output, *overrides, resume=False):
    """As `start`, in two processes."""
    return [start(output, *overrides, resume=resume, variables=rank) for rank in two_ranks()]


def finish(*processes):
    """What they printed; none may fail."""
    printed = [process.communicate(timeout=200) for process in processes]
    for process, (_, errors) in zip(processes, printed, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in printed]


def wait_for(path, process):
    """Until the process has written the file."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def assert_same_end(output, expected):
    """Two runs have ended with the same bits."""
    actual, expected = (read_checkpoint(folder / "last.pt") for folder in (output, expected))
    assert actual["step"] == expected["step"] == STEPS
    for key in ("state_dict", "state_dict_ema", "optimizer", "statistics"):
        torch.testing.assert_close(actual[key], expected[key], rtol=0, atol=0, msg=key)
