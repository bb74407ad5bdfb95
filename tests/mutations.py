"""Do the tests see a mistake? Each row breaks one line in a copy of the package and names the test that fails.

    python tests/mutations.py                   all rows
    python tests/mutations.py layers.py eps     those that contain one of these words

A test that passes on a broken package is worth nothing. The rows also say which test stands for which line of code.
"""

import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from mutations_core import CORE
from mutations_training import TRAINING

ROOT = Path(__file__).parents[1]
COPIED = ("fastvit", "fastvit_cli.py", "configs", "tests", "pyproject.toml")

# file of the package -> test that fails -> (text in the file, what replaces it)
Table = Mapping[str, Mapping[str, list[tuple[str, str]]]]


class Mutation(NamedTuple):
    """In `file` of the package, `old` becomes `new`. Then `test` fails, named as pytest does within tests/."""

    file: str
    test: str
    old: str
    new: str

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.file}: {old} -> {new or 'nothing'} ({self.test})"

    def broken(self) -> str:
        """The whole file with the mistake. Raises ValueError if the row does not fit it any more."""
        text = (ROOT / "fastvit" / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self}: the text stands there {text.count(self.old)} times, and must stand there once")
        return text.replace(self.old, self.new)


def rows_of(table: Table) -> list[Mutation]:
    return [
        Mutation(file, test, *change)
        for file, tests in table.items()
        for test, changes in tests.items()
        for change in changes
    ]


MUTATIONS = rows_of(CORE) + rows_of(TRAINING)


def judge(mutations: Iterable[Mutation]) -> Iterator[tuple[Mutation, bool]]:
    """Each mutation, and whether its test fails in a copy of the project that is broken in this way.

    Raises RuntimeError if one of the tests fails on the project as it is, or cannot be run.
    """
    mutations = list(mutations)
    with TemporaryDirectory() as folder:
        copy_project(folder)
        if not passes(folder, {mutation.test for mutation in mutations}):
            raise RuntimeError(f"a test fails on the project as it is:\n{Path(folder, 'output').read_text()}")
    for mutation in mutations:
        with TemporaryDirectory() as folder:
            copy_project(folder)
            Path(folder, "fastvit", mutation.file).write_text(mutation.broken(), encoding="utf-8")
            yield mutation, not passes(folder, [mutation.test])


def copy_project(folder: str) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)


def passes(folder: str, tests: Iterable[str]) -> bool:
    """Whether all these tests pass in a copy of the project. Raises RuntimeError if pytest cannot run them."""
    context = multiprocessing.get_context("forkserver")  # importing torch and timm once saves most of the time
    context.set_forkserver_preload(["torch", "torchvision", "timm", "pytest"])
    process = context.Process(target=_run_pytest, args=(folder, sorted(tests)))
    process.start()
    process.join()
    if process.exitcode not in (0, 1):  # 1: a test failed
        raise RuntimeError(f"pytest ended with {process.exitcode}: {Path(folder, 'output').read_text()}")
    return process.exitcode == 0


def _run_pytest(folder: str, tests: list[str]) -> None:
    import pytest

    os.chdir(folder)
    sys.path.insert(0, folder)
    os.environ.update(PYTHONPATH=folder, PYTHONDONTWRITEBYTECODE="1", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    output = os.open("output", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    # Of the plugins only the one that is needed: loading all that are installed takes longer than most tests.
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", "-m", ""]
    sys.exit(pytest.main([*options, *(f"tests/{test}" for test in tests)]))


def main(words: list[str]) -> None:
    rows = [row for row in MUTATIONS if not words or any(word in str(row) for word in words)]
    unseen = 0
    for row, seen in judge(rows):
        unseen += not seen
        print("seen    " if seen else "NOT SEEN", row, flush=True)
    sys.exit(f"{unseen} of {len(rows)} are not seen" if unseen else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
