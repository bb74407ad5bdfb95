"""The compiler that torch's own compiler, inductor, cannot do without."""

import os
import shutil
import sys

from fastvit.errors import EngineError

# On each type of device: the language, the variable that may name a compiler, and those that are looked for.
COMPILERS = {
    "cpu": ("C++", "CXX", ("g++", "clang++", "c++", "cl")),  # for the code that inductor writes
    "cuda": ("C", "CC", ("gcc", "clang")),  # for what starts Triton's kernels
}


def require_compiler(what: str, device: str = "cpu") -> None:
    """Raise EngineError, about what needs it, if there is none for what inductor makes on this type of device."""
    if device not in COMPILERS or (device == "cuda" and sys.platform != "linux"):  # there Triton brings one, or is none
        return
    language, variable, names = COMPILERS[device]
    if not any(map(shutil.which, (os.environ.get(variable, ""), *names))):  # as inductor and Triton look for it
        raise EngineError(f"{what} needs a {language} compiler such as {names[0]}: install one")
