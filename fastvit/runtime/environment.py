"""What a result was made with: versions, revision, hardware."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy
import timm
import torch
import torchvision

PACKAGES = (torch, torchvision, timm, numpy)


def environment() -> dict[str, str | int]:
    """Versions of what computes, the git revision of this code if it has one, and the hardware, plain and printable."""
    return {
        "fastvit": _fastvit_version(),
        "python": platform.python_version(),
        **{package.__name__: str(package.__version__) for package in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "gpu": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none",
    }


def name_of(device: torch.device) -> str:
    """What computes, for people: of several GPUs the one that is meant."""
    if device.type == "cpu":
        return f"{_cpu_name()}, threads: {torch.get_num_threads()}"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "Apple's GPU"


def installed(distribution: str) -> str:
    """The version of a distribution, empty if it is not there."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def version_of(distribution: str, module: str) -> str:
    """The version of what brings a module that is in use; ONNX Runtime comes as onnxruntime-gpu, too."""
    return installed(distribution) or str(getattr(sys.modules.get(module), "__version__", "unknown"))


@cache
def _fastvit_version() -> str:
    import fastvit

    revision = _git("describe", "--always", "--dirty") if _git("ls-files", "__init__.py") else ""
    return f"{fastvit.__version__}+{revision}" if revision else fastvit.__version__


def _git(*arguments: str) -> str:
    """Output of git in the folder of this package; empty without git, or if another project's repository is around."""
    try:
        folder = Path(__file__).parent
        result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
