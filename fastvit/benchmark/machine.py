"""What a measurement is about: the device, its software, and what is known to be wrong with it."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fastvit.runtime.environment import environment, installed

ENGINES = ("onnx", "onnxruntime", "openvino")  # packages, which not everyone has
GOOD_CUDNN = (9, 24)  # 9.23.1 has a slow depthwise convolution: compiled MobileNets take up to five times as long


def environment_of(device: str, threads: int) -> dict[str, str | int]:
    """Versions, of the engines too, and hardware; on a GPU also its driver, CUDA and cuDNN."""
    found = environment() | {"threads": threads} | {name: installed(name) or "not installed" for name in ENGINES}
    if device == "cuda":
        found |= {"driver": _driver(), "cuda": torch.version.cuda or "none", "cudnn": _cudnn()}
    return found


def hardware(device: str, environment: dict[str, Any]) -> str:
    """The name of what computed."""
    return str(environment["gpu" if device == "cuda" else "cpu"])


def known_problems(environment: dict[str, Any]) -> list[str]:
    """What makes the figures of this software wrong or old, one sentence each."""
    cudnn = str(environment.get("cudnn", ""))
    if cudnn and tuple(map(int, cudnn.split(".")[:2])) < GOOD_CUDNN:
        good = ".".join(map(str, GOOD_CUDNN))
        return [f"cuDNN {cudnn} can be five times as slow in depthwise convolutions: install {good} or later"]
    return []


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_now(source: Path = Path("/proc/loadavg"), looks: int = 20) -> float | None:
    """How many threads of others want to run, on average of two seconds in which this one only waits.

    The average of the last minute, which the system tells, still holds what this program did before. It is taken where
    there is nothing else (not on Linux).
    """
    if not source.exists():
        return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    running = 0
    for _ in range(looks):
        time.sleep(0.1)
        running += int(source.read_text().split()[3].partition("/")[0]) - 1  # without the one that reads
    return running / looks


def show(line: str = "") -> None:
    """A line on the terminal in place of the last one; no line: clears it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _cudnn() -> str:
    number = torch.backends.cudnn.version() or 0
    scale = 10_000 if number >= 90_000 else 1_000  # from version 9 on, two digits more
    return f"{number // scale}.{number % scale // 100}.{number % 100}"


def _driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
