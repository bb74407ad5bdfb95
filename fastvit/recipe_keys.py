"""What each key of a recipe means, read from the classes that validate it: nothing is written down twice.

A key's meaning is the comment beside it, or in the lines above it; that of a section, the docstring of its class.
"""

import ast
import inspect
import json
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fastvit.errors import RecipeError, nearest
from fastvit.recipes import TASKS, recipe_class

WORDS = {"integer": "whole number", "number": "number", "boolean": "true, false", "string": "text", "null": "null"}
BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


class Key(NamedTuple):
    """A key of a recipe.

    Attributes:
        path: with its sections, such as `optimizer.lr`.
        kind: what it can be, in words; "" for a section.
        default: as it is written in YAML; None where the key must be given; "" for a section with defaults of its own.
        meaning: in one line.
    """

    path: str
    kind: str
    default: str | None
    meaning: str


def recipe_keys(task: str) -> list[Key]:
    """Every key of the recipes of a task, section by section. Raises RecipeError if there is no such task."""
    if task not in TASKS:
        raise RecipeError(f"the tasks are {', '.join(TASKS)}, and none is {task!r}{nearest(task, TASKS)}")
    return list(_keys(recipe_class(task)))


def _keys(section: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """First those that are values, then the sections with their own."""
    schema = section.model_json_schema()["properties"]
    inner = {name: part for name, field in section.model_fields.items() if (part := _section_of(field))}
    for name, field in section.model_fields.items():
        if name not in inner:
            default = None if field.is_required() else json.dumps(schema[name].get("default"), ensure_ascii=False)
            yield Key(f"{prefix}{name}", _words(schema[name]), default, _meanings(section)[name])
    for name, part in inner.items():
        left_out = "null" if section.model_fields[name].default is None else ""
        yield Key(f"{prefix}{name}", "", left_out, (inspect.getdoc(part) or "").partition("\n")[0])
        yield from _keys(part, f"{prefix}{name}.")


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    choices = (field.annotation, *typing.get_args(field.annotation))
    return next((each for each in choices if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _words(schema: Mapping[str, Any]) -> str:
    """A value by its JSON schema."""
    if "anyOf" in schema:
        return ", or ".join(map(_words, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema["type"] == "array":
        inner = {_words(each) for each in schema.get("prefixItems", [schema.get("items", {})])}
        count = schema.get("maxItems")
        return f"list of {f'{count} x ' if count else ''}{' and '.join(sorted(inner))}"
    word = "path" if schema.get("format") == "path" else WORDS[schema["type"]]
    return " ".join(
        [word, ", ".join(f"{sign} {schema[name]:.10g}" for name, sign in BOUNDS.items() if name in schema)]
    ).strip()


@cache
def _meanings(section: type[BaseModel]) -> dict[str, str]:
    """The comment of each key, those of the classes before this one included."""
    found: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if owner is not BaseModel and issubclass(owner, BaseModel):
            found |= _comments(inspect.getsource(owner))
    return found


def _comments(source: str) -> dict[str, str]:
    lines = source.splitlines()
    fields = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AnnAssign)]
    return {field.target.id: _comment(lines, field.lineno - 1, field.end_lineno) for field in fields}


def _comment(lines: list[str], first: int, after: int) -> str:
    """Of the key in `lines[first:after]`: what stands behind it, or else above it."""
    behind = [comment for line in lines[first:after] if (comment := line.partition("  # ")[2])]
    above = []
    while not behind and lines[first - 1].lstrip().startswith("# "):
        first -= 1
        above.insert(0, lines[first].lstrip().removeprefix("# "))
    return " ".join(behind or above)
