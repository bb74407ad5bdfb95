"""The processes of a run, one for each device, as torchrun or SLURM's srun starts them."""

import atexit
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastvit.errors import RunError, UserError, reason_of
from fastvit.runtime.data_workers import end_workers

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)  # of waiting for another process
SLURM_PORT = 20000  # and up, by the number of the job


@dataclass(frozen=True)
class Processes:
    """This process among all of the run. Without a launcher it is the only one, and nothing here costs anything."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # on this machine

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def share(self, size: int) -> range:
        """Which of `size` things, counted from 0, are this process's; in order of rank they are the whole."""
        first, end = (size * rank // self.count for rank in (self.rank, self.rank + 1))
        return range(first, end)

    def part(self, index: int) -> int:
        """The number of this process's batch `index` among all that make a step; each process has as many."""
        return index * self.count + self.rank

    def largest(self, *numbers: int) -> list[int]:
        """Of each number, the largest that any process has."""
        if self.count == 1:
            return list(numbers)
        largest = torch.tensor(numbers)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return largest.tolist()

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)
                tensor /= self.count

    def gather(self, value: T) -> list[T]:
        """The value of each process, by rank, with its tensors on the CPU."""
        if self.count == 1:
            return [value]
        packed: list[bytes] = [b""] * self.count
        dist.all_gather_object(packed, _pack(value))
        # These are our own processes, so that what they say may be unpickled.
        return [torch.load(io.BytesIO(each), map_location="cpu", weights_only=False) for each in packed]

    def union(self, values: Sequence[T]) -> list[T]:
        """What any process has, each once; by rank."""
        return list(dict.fromkeys(value for part in self.gather(values) for value in part))

    def on_main(self, action: Callable[[], T]) -> T:
        """What the action returns on the main process, on all of them; if it raises a `UserError`, all of them end."""
        if self.count == 1:
            return action()
        outcome: list[Any] = [None, None]
        error = None
        if self.is_main:
            try:
                outcome = [action(), None]
            except UserError as raised:
                error = raised
                outcome = [None, str(raised)]
        dist.broadcast_object_list(outcome)
        if error is not None:
            raise error
        if outcome[1] is not None:
            sys.exit(2)  # the main process says why
        return outcome[0]


ALONE = Processes()


def _pack(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@contextmanager
def process_group() -> Iterator[Processes]:
    """Join the other processes of the run, if a launcher has started several.

    Raises:
        RunError: another process has ended, or does not answer.
    """
    processes, address = _launched()
    if processes.count == 1:
        yield processes
        return
    backend = "gloo"
    if torch.cuda.is_available():
        _take_device(processes.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(
            backend, init_method=address, rank=processes.rank, world_size=processes.count, timeout=TIMEOUT
        )
        yield processes
    except SystemExit:  # of all processes
        dist.destroy_process_group()
        raise
    except BaseException as error:
        atexit.register(_leave, 2 if isinstance(error, UserError) or _lost_another(error) else 1)
        if not _lost_another(error):
            raise
        raise RunError(
            f"process {processes.rank} of {processes.count} has lost another one ({reason_of(error)}); what "
            "that one said is the cause. Go on from the last checkpoint with --resume"
        ) from error
    dist.destroy_process_group()


def _take_device(local_rank: int) -> None:
    """Make a GPU the default one of this process, which has it alone."""
    visible = torch.cuda.device_count()
    if local_rank >= visible:
        raise RunError(
            f"this is process {local_rank} of this machine, counted from 0, but {visible} GPUs are visible: start one "
            "process for each"
        )
    torch.cuda.set_device(local_rank)


def _leave(status: int) -> None:
    """Exit at once, after a failure: NCCL would wait for what the other processes will never do."""
    end_workers()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _lost_another(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _launched() -> tuple[Processes, str]:
    """This process and the address where all meet, from the environment."""
    environment = os.environ
    if "RANK" in environment and "WORLD_SIZE" in environment:  # torchrun
        rank, count = (int(environment[name]) for name in ("RANK", "WORLD_SIZE"))
        # Other launchers do not say it: as torchrun counts, where all machines have as many GPUs.
        local = int(environment.get("LOCAL_RANK", rank % max(1, torch.cuda.device_count())))
        return Processes(rank, count, local), "env://"
    # Of a step, that is of srun: a batch script that calls python by itself sees the job's variables, too.
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        rank, count, local = (int(environment[name]) for name in names)
        # With --gpus-per-task=1 SLURM shows each process only the GPU that is its own.
        return Processes(rank, count, 0 if torch.cuda.device_count() == 1 else local), _slurm_address()
    return Processes(), ""


def _slurm_address() -> str:
    host = os.environ.get("MASTER_ADDR") or _first_host(os.environ["SLURM_STEP_NODELIST"])
    port = os.environ.get("MASTER_PORT") or SLURM_PORT + int(os.environ["SLURM_JOB_ID"]) % 20000
    return f"tcp://{host}:{port}"


def _first_host(nodes: str) -> str:
    """Of SLURM's compressed list, such as `node[03-07,11]`."""
    try:
        done = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RunError(f"scontrol does not tell the hosts of {nodes}: set MASTER_ADDR to the first of them") from error
    return done.stdout.split()[0]


def batch_norm_statistics(model: nn.Module) -> list[Tensor]:
    """The running means and variances, which each process gathers from its own batches."""
    return [buffer for name, buffer in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
