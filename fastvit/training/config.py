"""From a YAML file and overrides to a validated recipe, or one error that lists everything wrong with it."""

import copy
import difflib
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fastvit.errors import RecipeError, nearest
from fastvit.training.recipe import Recipe
from fastvit.training.yaml12 import parse_yaml


def read_recipe(path: str | Path, overrides: Sequence[str], recipes: Mapping[str, type[Recipe]]) -> Recipe:
    """Read a recipe file, apply overrides (`key.sub=value`, the value in YAML), and validate.

    Args:
        recipes: the recipe class of each task; the file's `task` chooses.

    Raises:
        RecipeError: one line for every problem.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"there is no recipe file {path}")
    data = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    return build_recipe(data, overrides, recipes, source=str(path))


def build_recipe(data: Any, overrides: Sequence[str], recipes: Mapping[str, type[Recipe]], source: str) -> Recipe:
    """As `read_recipe`, from the plain data that a checkpoint carries."""
    if not isinstance(data, dict):
        raise RecipeError(f"{source}: a recipe is a mapping of keys to values, not {_show(data)}")
    data = apply_overrides(data, overrides)
    task = data.get("task")
    if not isinstance(task, str) or task not in recipes:
        raise RecipeError(f"{source}: task must be one of {', '.join(recipes)}, not {_show(task)}")
    return validate(data, recipes[task], source)


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `data` with every `key.sub=value` applied. Sections that are absent or null are created."""
    result = copy.deepcopy(dict(data))
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise RecipeError(f"override {override!r}: write it as key.sub=value")
        *sections, key = path.split(".")
        target = result
        for section in sections:
            if target.get(section) is None:
                target[section] = {}
            target = target[section]
            if not isinstance(target, dict):
                raise RecipeError(f"override {override!r}: {section} is a value, not a section")
        target[key] = parse_yaml(text, f"override {override!r}")
    return result


def differences(old: Mapping[str, Any], new: Mapping[str, Any], recipe_class: type[Recipe]) -> list[str]:
    """Keys (full paths) in which two recipes differ and that can change the result, as `key: old -> new`."""
    free = {path for path, extra in _key_paths(recipe_class) if extra.get("free_on_resume")}
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return [
        f"{path}: {before.get(path)} -> {after.get(path)}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path) and path not in free
    ]


# ---- from pydantic's errors to sentences -----------------------------------------------------------------------------


AnySection = typing.TypeVar("AnySection", bound=BaseModel)


def validate(data: Mapping[str, Any], section_class: type[AnySection], source: str) -> AnySection:
    """The typed section that `data` describes. Raises RecipeError with a line for each problem; `source` names it."""
    try:
        # As JSON: strict mode then still reads a list as a tuple and a string as a path, and an int as a float.
        return section_class.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        paths = [path for path, _ in _key_paths(section_class)]
        raise RecipeError("\n".join(f"{source}: {_sentence(problem, paths)}" for problem in error.errors())) from error


def _sentence(problem: Mapping[str, Any], known_paths: list[str]) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path}{_nearest_path(path, known_paths)}"
    if problem["type"] == "missing":
        return f"{path} is missing"
    if problem["type"] == "value_error":
        return f"{path}: {problem['ctx']['error']}" if path else str(problem["ctx"]["error"])
    return f"{path}: {problem['msg'].replace('Input should', 'should')}, but is {_show(problem['input'])}"


def _nearest_path(path: str, known_paths: list[str]) -> str:
    """The nearest key of the same section, or else of any section."""
    section, _, key = path.rpartition(".")
    siblings = [known.rpartition(".")[2] for known in known_paths if fnmatchcase(section, known.rpartition(".")[0])]
    if suggestion := nearest(key, siblings):
        return suggestion
    by_name = {known.rpartition(".")[2]: known for known in reversed(known_paths)}
    found = difflib.get_close_matches(key, by_name, n=1, cutoff=0.8)
    return f"; did you mean {by_name[found[0]]}?" if found else ""


def _key_paths(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of a recipe with its full path and its `json_schema_extra`."""
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        yield f"{prefix}{name}", extra
        options = typing.get_args(field.annotation)
        several = "" if isinstance(field.annotation, types.UnionType) else "*."  # a list or a mapping of sections
        for section, step in ((field.annotation, ""), *((option, several) for option in options)):
            if isinstance(section, type) and issubclass(section, BaseModel):
                yield from _key_paths(section, f"{prefix}{name}.{step}")


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _show(value: Any) -> str:
    text = json.dumps(value) if value is None or isinstance(value, bool | int | float | str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
