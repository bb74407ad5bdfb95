"""The errors that a user can fix, as distinct from bugs. The library raises them, the commands print them."""

import difflib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

__all__ = ["DataError", "EngineError", "ExportError", "MissingPackage", "RecipeError", "RunError", "UserError"]

# The extra of fastvit that brings a module; several bring some of them, and this is the one to ask for.
EXTRAS = {
    **dict.fromkeys(("pydantic", "tensorboard", "matplotlib", "sklearn"), "train"),
    **dict.fromkeys(("webdataset", "datasets"), "streams"),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "export"),
    **dict.fromkeys(("openvino", "nncf"), "openvino"),
    **dict.fromkeys(("executorch", "torchao"), "executorch"),
    **dict.fromkeys(("litert_torch", "ai_edge_litert", "ai_edge_quantizer"), "litert"),
    "coremltools": "coreml",
    "imagecorruptions": "corruptions",
    "pycocotools": "detection",
    "roma": "hand",
    "wandb": "wandb",
    **dict.fromkeys(("open_clip", "pyarrow"), "features"),
}


class UserError(ValueError):
    """Something about the user's recipe, data or files. The message is a sentence that says what, and the fix."""

    def sentence(self) -> str:
        """The message alone, also after a worker of a `DataLoader` has wrapped it in its own traceback."""
        return str(self).rpartition(f"{type(self).__name__}: ")[2].strip()


class RecipeError(UserError):
    """A recipe that cannot be run. One line for each problem."""


class DataError(UserError):
    """A dataset that is not what the recipe says."""


class RunError(UserError):
    """An output folder or a checkpoint of a run that cannot be used as asked."""


class RunStopped(Exception):
    """A run was asked to stop, and is saved."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number  # of the signal


class MissingPackage(UserError):
    """A package that an extra of fastvit brings is not installed."""

    def __init__(self, purpose: str, *packages: str, extra: str):
        super().__init__(f'{purpose} needs {", ".join(packages)}: pip install "fastvit[{extra}]"')


class ExportError(UserError):
    """A network that cannot be exported as asked, or an exported file that cannot be used."""


class EngineError(UserError):
    """A network that an engine cannot compute as asked."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for the end of a message, or nothing if nothing is near."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def require_packages(purpose: str, *modules: str, extra: str) -> None:
    """Raise `MissingPackage` unless all of these modules can be imported; nothing is imported by asking."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise MissingPackage(purpose, *missing, extra=extra)


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def reason_of(error: BaseException) -> str:
    """What another library's error says in its first line that says something; its kind where none does."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception from ")]  # OpenVINO's places in its code
    return said[0] if said else type(error).__name__


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """For commands: print a `UserError` without a traceback and exit with status 2. A bug keeps its traceback.

    The import of a module that an extra brings is such an error, wherever it fails, and so is a file of somebody else.
    """
    try:
        yield
        return
    except UserError as error:
        sentence = error.sentence()
    except PermissionError as error:  # up to Python 3.13, also of asking whether a file is there
        if error.filename is None:
            raise
        sentence = f"{error.filename} cannot be used ({error.strerror}): change its permissions, or name another place"
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        sentence = str(MissingPackage("this command", module, extra=EXTRAS[module]))
    print(sentence, file=sys.stderr)
    sys.exit(2)
