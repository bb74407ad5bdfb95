"""From a YAML file and overrides to validated, typed sections, or one error that lists everything wrong with them.

Generic: recipes, benchmark suites and robustness evaluations are all read by this file, and it knows none of them.
Needs pydantic, which the extra `train` brings.
"""

import copy
import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml

from fastvit import shipped
from fastvit.errors import MissingPackage, RecipeError, nearest

try:
    from pydantic import BaseModel, ConfigDict, ValidationError
    from pydantic.functional_validators import AfterValidator
except ModuleNotFoundError as error:
    raise MissingPackage("reading a recipe", "pydantic", extra="train") from error


class Section(BaseModel):
    """Base of all sections: typed, immutable, and without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def without_folders(section: Section) -> dict[str, Any]:
    """Its plain data to be passed on: of paths the last part alone, since folders are of one machine."""

    def kept(plain: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: one(plain[key], value) for key, value in values.items()}

    def one(plain: Any, value: Any) -> Any:
        if isinstance(value, Path):
            return value.name
        return kept(plain, value) if isinstance(value, Mapping) else plain

    return kept(section.model_dump(mode="json"), section.model_dump())


AnySection = typing.TypeVar("AnySection", bound=Section)

UserPath = Annotated[Path, AfterValidator(Path.expanduser)]  # `~` is the user's home

# On a field that cannot change the result, or that depends on the machine: a run may be resumed with another value.
FREE_ON_RESUME: dict[str, Any] = {"free_on_resume": True}


# ---- from a file to plain data ---------------------------------------------------------------------------------------


def read_file(path: str | Path) -> dict[str, Any]:
    """The plain data of a YAML file, with what it includes.

    The key `include` names another file, or a list of them: beside this one, or one that comes with the package. Their
    keys come first, and this file's own replace or add to them, section by section. An included file includes nothing.

    Raises:
        RecipeError: a file is missing or is not a mapping in YAML, or `include` names none.
    """
    path = Path(path)
    own = _read_mapping(path)
    names = own.pop("include", [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RecipeError(f"{path}: include must be the name of a file, or a list of names, not {_show(names)}")
    merged: dict[str, Any] = {}
    for name in names:
        places = (path.parent / name, *shipped.places(name))  # the same ones in whatever folder the user works
        found = [place for place in places if place.is_file()]
        if not found:
            raise RecipeError(f"{path}: include: there is no file {name} beside it, and none in the package")
        included = _read_mapping(found[0], named_by=path)
        if "include" in included:
            raise RecipeError(f"{path}: include: {name} includes other files itself: name those here instead")
        merged = merge(merged, included)
    return merge(merged, own)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over`, which win; where both have a mapping, key by key."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else value
    return result


def _read_mapping(path: Path, named_by: Path | None = None) -> dict[str, Any]:
    where = f"{named_by}: include: " if named_by else ""
    if not path.is_file():
        known = nearest(str(path), shipped.names())
        raise RecipeError(f"there is no file {path}{known}; fastvit recipes lists those of the package")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{where}{path} cannot be read ({error})") from error
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"{where}{path} must be a mapping of keys to values, not {_show(data)}")
    return data


class _Yaml12Loader(yaml.SafeLoader):
    """YAML 1.2's scalars (PyYAML alone reads `1e-3` as a string, `no` as false, `010` as 8); no key twice."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} occurs twice", problem_mark=key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern in {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}.items():
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), None)
_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def parse_yaml(text: str, source: str) -> Any:
    """Read YAML as people expect it: the scalars of YAML 1.2. `source` names the text in errors."""
    try:
        return yaml.load(text, _Yaml12Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{source}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not valid YAML: {error}") from error


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


# ---- from plain data to a section, and from pydantic's errors to sentences -------------------------------------------


def validate(data: Mapping[str, Any], section_class: type[AnySection], source: str) -> AnySection:
    """The typed section that `data` describes. Raises RecipeError with a line for each problem; `source` names it."""
    try:
        # As JSON: strict mode then still reads a list as a tuple and a string as a path, and an int as a float.
        return section_class.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        paths = [path for path, _ in key_paths(section_class)]
        raise RecipeError("\n".join(f"{source}: {_sentence(problem, paths)}" for problem in error.errors())) from error


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], section_class: type[Section] | None = None
) -> list[str]:
    """Keys (full paths) in which two data differ, as `key: old -> new`; of a section, those that change the result."""
    keys = key_paths(section_class) if section_class else ()
    free = {path for path, extra in keys if extra.get("free_on_resume")}
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return [
        f"{path}: {before.get(path)} -> {after.get(path)}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path) and not any(f"{path}.".startswith(f"{each}.") for each in free)
    ]


def key_paths(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key with its full path and its `json_schema_extra`."""
    for name, field in section.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        yield f"{prefix}{name}", extra
        options = typing.get_args(field.annotation)
        several = "" if isinstance(field.annotation, types.UnionType) else "*."  # a list or a mapping of sections
        for inner, step in ((field.annotation, ""), *((option, several) for option in options)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from key_paths(inner, f"{prefix}{name}.{step}")


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


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _show(value: Any) -> str:
    text = json.dumps(value) if value is None or isinstance(value, bool | int | float | str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
