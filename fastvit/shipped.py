"""The files that come with the package: recipes and benchmark suites, which can be named from any folder."""

from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent
INSTALLED, IN_A_CLONE = PACKAGE / "configs", PACKAGE.parent / "configs"  # a wheel carries the folder inside the package
FOLDER = INSTALLED if INSTALLED.is_dir() else IN_A_CLONE
PARTS = "base"  # its files are included by recipes, and are none themselves


def find(name: str | Path) -> Path:
    """The file that a user names: by its path, or by the name that `names` gives, with or without `.yaml`.

    A name that is neither comes back as it is, so that an error can show it.
    """
    path = Path(name)
    return next((each for each in (path, *places(name)) if each.is_file()), path)


def places(name: str | Path) -> tuple[Path, Path]:
    """Where the package has the file of this name, with or without `.yaml`, if it has one."""
    return FOLDER / name, FOLDER / f"{name}.yaml"


def names() -> Iterator[str]:
    """The names of all recipes and suites, sorted, such as `classification/fastvit_t8`."""
    for path in sorted(FOLDER.glob("*/*.yaml")):
        if path.parent.name != PARTS:
            yield f"{path.parent.name}/{path.stem}"


def title(name: str) -> str:
    """What a recipe is for: the first line of its header."""
    with find(name).open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()
