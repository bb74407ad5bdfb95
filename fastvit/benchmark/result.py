"""What was measured, raw: every sample with what it depends on. Everything shown is computed from it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fastvit.benchmark.suite import Suite
from fastvit.errors import RunError
from fastvit.files import as_whole

FILE = "result.json"


class Raw(BaseModel):
    """Base of what is written while measuring."""

    model_config = ConfigDict(extra="forbid")


class Row(Raw):
    """One network in one form, within what it took turns with."""

    network: str
    form: str
    batch_size: int
    image_size: int | None
    facts: dict[str, Any] = {}  # parameters, MACs, bytes moved at least, memory, ...
    error: str = ""  # why it was not measured
    rounds_ms: list[list[float]] = []  # the samples of each round

    @property
    def key(self) -> tuple[str, str, int, int | None]:
        """What it measures, in whichever group."""
        return self.network, self.form, self.batch_size, self.image_size


class Group(Raw):
    """What took turns with each other."""

    rows: list[Row]
    done: bool = False

    def total_seconds(self) -> float:
        """Of all samples."""
        return sum(sum(map(sum, row.rounds_ms)) for row in self.rows) / 1000


class Peak(Raw):
    """Of matrix products in one dtype."""

    flops: float  # a second
    by: str  # the product that reached it


class Limits(Raw):
    """What the machine can do at most."""

    peak: dict[str, Peak]  # by dtype
    bandwidth: float  # bytes a second, to and from memory
    cache: int  # bytes

    def joined(self, other: "Limits") -> "Limits":
        """The higher of both, of the same machine."""
        best = {
            dtype: max(peak, other.peak.get(dtype, peak), key=lambda p: p.flops) for dtype, peak in self.peak.items()
        }
        return Limits(peak=best, bandwidth=max(self.bandwidth, other.bandwidth), cache=self.cache)


class Result(Raw):
    """A suite measured on one machine, in one or several starts."""

    suite: Suite
    quick: bool
    device: str
    environment: dict[str, str | int]
    limits: Limits
    loads: list[float | None] = []  # threads of others that wanted to run before each start
    groups: list[Group] = []
    complete: bool = False

    def rows(self) -> Iterator[Row]:
        """All rows, group by group."""
        for group in self.groups:
            yield from group.rows


def save(result: Result, folder: Path) -> None:
    """Write `result.json` as a whole or not at all, one row a line."""
    folder.mkdir(parents=True, exist_ok=True)
    head = result.model_dump(mode="json", exclude={"groups"}, exclude_defaults=True)
    groups = [group.model_dump(mode="json", exclude_defaults=True) for group in result.groups]
    lines = ["{", *(f'"{key}": {_compact(value)},' for key, value in head.items()), '"groups": [']
    for group in groups:
        rows = ",\n".join(map(_compact, group.pop("rows")))
        rest = "".join(f', "{key}": {_compact(value)}' for key, value in group.items())
        lines.append(f'{{"rows": [\n{rows}\n]{rest}}}{"," if group is not groups[-1] else ""}')
    with as_whole(folder / FILE) as unfinished:
        unfinished.write_text("\n".join([*lines, "]}\n"]), encoding="utf-8")


def load(path: Path) -> Result:
    """Read what `save` wrote. Raises RunError where it is something else."""
    path = path / FILE if path.is_dir() else path
    try:
        return Result.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is no result of `fastvit benchmark`, but no text at all") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise RunError(f"{path} is no result of `fastvit benchmark` ({where}: {problem['msg']})") from error


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
