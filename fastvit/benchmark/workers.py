"""One process for each engine, which waits idle for its turn.

Thread pools of several engines in one process fight for the cores and slow each other by half. In processes of their
own only one computes at a time: the others sleep in `recv`.
"""

import multiprocessing
import os
import signal
import traceback
from multiprocessing.connection import Connection
from typing import Any

from fastvit.benchmark.measurement import Failure
from fastvit.errors import RunError, reason_of

SETTLE_SECONDS = 0.01  # an OpenMP thread spins for some milliseconds after its work before it sleeps


class WorkerDied(RunError):
    """A measuring process is gone, with what it had built."""


class Worker:
    """A process that builds measurements and calls them, one at a time."""

    def __init__(self, threads: int, device: str):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read by the process when it starts
        try:
            self._process = context.Process(target=_serve, args=(theirs, threads, device), daemon=True)
            self._process.start()
        finally:
            os.environ.pop("OMP_NUM_THREADS")
            if before is not None:
                os.environ["OMP_NUM_THREADS"] = before
        theirs.close()

    def ask(self, what: str, *arguments: Any, seconds: float | None = None) -> Any:
        """What a method of the process's `Bench` returns; a `Failure` where that raises an error.

        Raises WorkerDied if the process is gone, or takes more than `seconds`: then it is killed.

        Args:
            what: the name of the method.
        """
        try:
            self._connection.send((what, *arguments))
            if seconds is not None and not self._connection.poll(seconds):
                self._process.kill()
                raise WorkerDied(f"not ready after {seconds / 60:g} minutes")
            return self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(timeout=5)
            code = self._process.exitcode
            how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
            fix = ": if memory ran out, measure fewer networks or smaller batches" if how == "SIGKILL" else ""
            raise WorkerDied(f"a measuring process died ({how}) in {what}{fix}") from error

    def close(self) -> None:
        self._connection.close()
        self._process.join(timeout=5)  # so that what torch started in it ends with it
        if self._process.is_alive():
            self._process.terminate()


def _serve(connection: Connection, threads: int, device: str) -> None:
    import torch

    from fastvit.benchmark.bench import Bench

    torch.set_num_threads(threads)
    bench = Bench(torch.device(device))
    while True:
        try:
            name, *arguments = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer = getattr(bench, name)(*arguments)
        except KeyboardInterrupt:
            return
        except Exception as error:
            answer = Failure(f"{type(error).__name__}: {reason_of(error)}"[:200], traceback.format_exc())
        connection.send(answer)
