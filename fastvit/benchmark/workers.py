"""One process for each engine, which waits idle for its turn.

Thread pools of several engines in one process fight for the cores and slow each other by half. In processes of their
own only one computes at a time: the others sleep in `recv`.
"""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Collection
from multiprocessing.connection import Connection
from typing import Any

from fastvit.benchmark.measurement import Failure, Measurement
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

    def build(self, measurement: Measurement, *, seconds: float | None = None) -> dict[str, Any] | Failure:
        """Get ready to call it, unless it is already. Returns what is known of it: parameters, MACs, memory, ...

        Raises WorkerDied if it takes more than `seconds`: the process is killed.
        """
        return self._ask("build", measurement, seconds=seconds)

    def call(self, measurement: Measurement, calls: int) -> list[float] | Failure:
        """The seconds of `calls` calls, after one that brings its weights back into the caches, if calls are short.

        Builds it first, if it is not.
        """
        return self._ask("call", measurement, calls)

    def keep(self, measurements: Collection[Measurement]) -> None:
        """Free everything that was built, except for these."""
        self._ask("keep", measurements)

    def limits(self, dtypes: Collection[str]) -> dict[str, Any] | Failure:
        """What the machine can do at most: `peak` by dtype, `bandwidth`, and the size of its `cache`."""
        return self._ask("limits", dtypes)

    def close(self) -> None:
        self._connection.close()
        self._process.join(timeout=5)  # so that what torch started in it ends with it
        if self._process.is_alive():
            self._process.terminate()

    def _ask(self, *request: Any, seconds: float | None = None) -> Any:
        try:
            self._connection.send(request)
            if seconds is not None and not self._connection.poll(seconds):
                self._process.kill()
                raise WorkerDied(f"not ready after {seconds / 60:g} minutes")
            return self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(timeout=5)
            code = self._process.exitcode
            how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
            fix = ": if memory ran out, measure fewer networks or smaller batches" if how == "SIGKILL" else ""
            raise WorkerDied(f"a measuring process died ({how}) in {request[0]}{fix}") from error


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
