"""What data has to say about itself, gathered from several processes, and told in sentences."""

from collections.abc import Iterable
from typing import NamedTuple

from fastvit.errors import some


class LeftOut(NamedTuple):
    """A file or a sample that is not used, and why: what those of a kind are, in the plural."""

    why: str
    name: str


Notice = str | LeftOut  # a sentence, or one of many things that make one sentence


def sentences(notices: Iterable[Notice]) -> list[str]:
    """The sentences as they are, then one for each reason to leave something out, with how many there are."""
    told, names = [], {}
    for notice in notices:
        if isinstance(notice, LeftOut):
            names.setdefault(notice.why, []).append(notice.name)
        else:
            told.append(notice)
    return [*told, *(f"{why}: {len(of_kind)}, such as {some(of_kind, 3)}" for why, of_kind in names.items())]
