"""The processes that read data for a `DataLoader`: no signal ends them, the end of the main process does."""

import atexit
import copy
import multiprocessing
import signal
import sys
from typing import Any

import torch

from fastvit.runtime.signals import STOP

# From Python 3.14 on, Linux would start them from a server, which the signals to a run end; and all that forked workers
# share with this process would be pickled for each of them.
START: Any = multiprocessing.get_context("fork") if sys.platform == "linux" else multiprocessing


class DataWorker(START.Process):
    """What tells our workers from the other children of a process."""


def worker_options(workers: int) -> dict[str, Any]:
    """The arguments of a `DataLoader` that are about its processes.

    Args:
        workers: how many processes read; 0: the main process does.
    """
    context = None
    if workers:
        context = copy.copy(START.get_context())
        context.Process = DataWorker
    return {
        "num_workers": workers,
        "multiprocessing_context": context,
        "worker_init_fn": ignore_stop_signals,
        "pin_memory": torch.cuda.is_available(),
    }


def ignore_stop_signals(worker: int) -> None:
    """SLURM and a terminal send them to every process of a run, which then saves itself, and needs its workers."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)


@atexit.register  # handlers run in reverse: before that of multiprocessing, which sends SIGTERM and waits for ever
def end_workers() -> None:
    """End the workers of this process, whatever they are doing."""
    running = [child for child in multiprocessing.active_children() if isinstance(child, DataWorker)]
    if running and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises where a worker is killed
    for worker in running:
        worker.kill()
