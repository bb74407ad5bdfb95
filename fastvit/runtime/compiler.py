"""The C++ compiler that torch's own compiler, inductor, writes code for on a CPU."""

import os
import shutil

from fastvit.errors import EngineError

COMPILERS = ("g++", "clang++", "c++", "cl")


def require_compiler(what: str) -> None:
    """Raise EngineError, about what needs it, if there is no compiler for the code that inductor writes for CPUs."""
    compilers = (os.environ.get("CXX", ""), *COMPILERS)  # as inductor: CXX may name one that is called otherwise
    if not any(map(shutil.which, compilers)):
        raise EngineError(f"{what} needs a C++ compiler such as g++: install one")
