"""The processes that read data end with the process they read for, however that ends."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from fastvit.runtime.data_workers import worker_options
from fastvit.tasks import load_recipe, make_task
from launch import QUICKSTART, start_python, two_ranks

SECONDS = 30  # of a busy machine; without the work of `end_workers` it is for ever

HALF_READ = """
import os, signal, time
from torch.utils.data import DataLoader, Dataset
from fastvit.runtime.data_workers import worker_options

class Slow(Dataset):
    def __len__(self):
        return 1000
    def __getitem__(self, index):
        time.sleep(0.01)
        return index

if __name__ == "__main__":  # where workers are not forked, each of them imports this file
    loader = DataLoader(Slow(), 4, persistent_workers=True, **worker_options(2))
    batches = iter(loader)
    next(batches)
    print(*(worker.pid for worker in batches._workers), flush=True)
    {end}
"""

FAILING_RUN = """
import os
from fastvit.cli.main import main
from fastvit.training.learner import Learner

step = Learner.step
def failing(self, number, *arguments, **options):
    if number == 3 and os.environ.get("RANK", "0") == "0":
        raise RuntimeError("out of memory, say")
    return step(self, number, *arguments, **options)
Learner.step = failing
main(["train", "quickstart/digits", "output={output}", "data.workers=2", "loop.batch_size=16"])
"""


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def end_within_seconds(process, words):
    """The status of a process that ends soon after it has said these words."""
    said = ""
    while words not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    try:
        return process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"still there {SECONDS} s after it said {words}")


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("raise RuntimeError('the end')", 1),
        pytest.param("import sys; print('the end', file=sys.stderr)", 0, marks=pytest.mark.slow),
        pytest.param(
            "import sys; print('the end', file=sys.stderr); os.kill(os.getpid(), signal.SIGKILL)",
            -signal.SIGKILL,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["exception", "end of the script", "kill"],
)
def test_a_script_that_keeps_a_half_read_loader_ends_and_so_do_its_workers(end, status, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(HALF_READ.format(end=end))
    process = start_python(str(script))
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    assert end_within_seconds(process, "the end") == status
    deadline = time.monotonic() + SECONDS
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "Exception ignored" not in process.stderr.read()


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_fails_within_an_epoch_ends(count, tmp_path):
    program = FAILING_RUN.format(output=tmp_path / "run")
    processes = [start_python("-c", program, variables=rank) for rank in (two_ranks() if count == 2 else [None])]
    assert end_within_seconds(processes[0], "RuntimeError: out of memory, say") == 1
    for other in processes[1:]:
        assert end_within_seconds(other, "has lost another one") == 2


class Parent(Dataset):
    """Of whoever reads the only sample, the process that has started it."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return os.getppid()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are started as Python does it")
def test_workers_are_forked_also_where_python_has_a_server_for_that():
    """As Linux from Python 3.14 on: a signal to all processes of a run would end the server."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        (parent,) = DataLoader(Parent(), None, **worker_options(1))
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert parent == os.getpid()


@pytest.mark.parametrize("recipe", [path.stem for path in sorted(Path(QUICKSTART).parent.glob("*.yaml"))])
def test_a_task_sends_its_workers_nothing_but_a_function(recipe):
    """Where they are not forked, what makes a batch is pickled for each of them."""
    assert len(pickle.dumps(make_task(load_recipe(f"quickstart/{recipe}", [])).collate)) < 200
