"""What a measurement is about: the device, its software, and what is known to be wrong with it."""

import subprocess
from typing import Any

import torch

from fastvit.runtime.environment import environment

GOOD_CUDNN = (9, 24)  # 9.23.1 has a slow depthwise convolution: compiled MobileNets take up to five times as long


def environment_of(device: str, threads: int) -> dict[str, str | int]:
    """Versions and hardware; on a GPU also its driver, CUDA and cuDNN."""
    found = environment() | {"threads": threads}
    if device == "cuda":
        found |= {"driver": _driver(), "cuda": torch.version.cuda or "none", "cudnn": _cudnn()}
    return found


def hardware(device: str, environment: dict[str, Any]) -> str:
    """The name of what computed."""
    return str(environment["cpu"] if device == "cpu" else environment["gpu"])


def known_problems(environment: dict[str, Any]) -> list[str]:
    """What makes the figures of this software wrong or old, one sentence each."""
    cudnn = str(environment.get("cudnn", ""))
    if cudnn and tuple(map(int, cudnn.split(".")[:2])) < GOOD_CUDNN:
        good = ".".join(map(str, GOOD_CUDNN))
        return [f"cuDNN {cudnn} can be five times as slow in depthwise convolutions: install {good} or later"]
    return []


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
