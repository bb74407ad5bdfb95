"""List the recipes and suites that come with the package, copy one to edit it, or show what a recipe can say.

fastvit recipes
fastvit recipes copy classification/finetune
fastvit recipes copy classification/finetune my_recipe.yaml
fastvit recipes keys classification
"""

import argparse
import shutil
from pathlib import Path

from fastvit import shipped
from fastvit.errors import RecipeError, nearest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(light=True)
    parser.add_argument(
        "action", nargs="?", choices=("list", "copy", "keys"), default="list", help="list (default), copy or keys"
    )
    parser.add_argument("name", nargs="?", help="of the recipe to copy, as the list shows it; keys: a task")
    parser.add_argument("to", nargs="?", type=Path, help="the new file (default: of the same name, in this folder)")


def run(arguments: argparse.Namespace) -> None:
    if arguments.action == "list":
        print(table())
    elif arguments.action == "keys":
        print(keys(arguments.name))
    else:
        print(f"written: {copy(arguments.name, arguments.to)}")


def table() -> str:
    """A line for each recipe and suite."""
    names = list(shipped.names())
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {shipped.title(name)}" for name in names)


def keys(task: str | None) -> str:
    """The keys of a task's recipes, each with its values, its default and its meaning. Raises RecipeError."""
    from fastvit.recipe_keys import recipe_keys

    lines = []
    for path, kind, default, meaning in recipe_keys(task or ""):
        values = f"{kind}; {'required' if default is None else default}" if kind else default
        lines.append(f"{path}{f'  ({values})' if values else ''}\n    {meaning}")
    return "\n".join(lines)


def copy(name: str | None, to: Path | None) -> Path:
    """Write a recipe to a file of the user's.

    Raises:
        RecipeError: there is no such recipe, or the file exists or cannot be written.
    """
    if name is None:
        raise RecipeError("copy what? fastvit recipes copy NAME [TO]; fastvit recipes lists the names")
    if name.removesuffix(".yaml") not in shipped.names():
        known = f"{nearest(name, shipped.names())}; fastvit recipes lists them"
        raise RecipeError(f"no recipe of the package is called {name}{known}")
    source = shipped.find(name)
    target = to or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise RecipeError(f"{target} exists already: name another file to write to")
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise RecipeError(f"{target} cannot be written ({error.strerror})") from error
    return target
