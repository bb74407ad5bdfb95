"""The compiler that torch's own compiler, inductor, cannot do without."""

import os
import shlex
import shutil
import sys

from fastvit.errors import EngineError

# On each type of device: the language, the variable that may name a compiler, and those that are looked for.
CPP = {"darwin": ("clang++",), "win32": ("cl",)}.get(sys.platform, ("g++",))  # for the code that inductor writes
COMPILERS = {
    "cpu": ("C++", "CXX", CPP),
    "cuda": ("C", "CC", ("gcc", "clang")),  # for what starts Triton's kernels
}


def require_compiler(what: str, device: str = "cpu") -> None:
    """Raise EngineError, about what needs it, if there is none for what inductor makes on this type of device.

    It is looked for as inductor and Triton do: one that the variable names is taken, and no other then.
    """
    if device not in COMPILERS or (device == "cuda" and sys.platform != "linux"):  # there Triton brings one, or is none
        return
    language, variable, names = COMPILERS[device]
    named = shlex.split(os.environ.get(variable, ""))
    if not any(map(shutil.which, named[:1] or names)):
        said = f", and {variable} names {named[0]}, which is not there" if named else ""
        raise EngineError(f"{what} needs a {language} compiler such as {names[0]}{said}: install one")
