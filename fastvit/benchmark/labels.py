"""Where names go beside their points so that no name covers another, or a point."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ANGLES = tuple(math.radians(degrees) for degrees in (20, 160, -20, 200, 90, -90, 50, 130, -50, 230, 0, 180))
STEP = 4.0  # how much farther from its point each next ring of places is


class Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "Box") -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.bottom < other.top and other.bottom < self.top

    def within(self, other: "Box") -> bool:
        across = other.left <= self.left and self.right <= other.right
        return across and other.bottom <= self.bottom and self.top <= other.top


class Name(NamedTuple):
    """A name to place, all in the same units, such as pixels."""

    x: float  # of its point
    y: float
    width: float
    height: float
    reach: float  # how far from its point it may be


def place(names: Sequence[Name], obstacles: Sequence[Box], bounds: Box) -> list[Box | None]:
    """A box for each name, the first ones first; None where there is no room within its reach."""
    taken: list[Box] = list(obstacles)
    placed: list[Box | None] = []
    for name in names:
        free = (box for box in _places(name) if box.within(bounds) and not any(box.meets(other) for other in taken))
        box = next(free, None)
        placed.append(box)
        if box:
            taken.append(box)
    return placed


def _places(name: Name) -> Iterator[Box]:
    """Boxes around the point, the nearest first."""
    for ring in range(1, int(name.reach / STEP) + 1):
        for angle in ANGLES:
            # The box's middle is as far out that its edge, seen from the point, is at the ring.
            x = name.x + math.cos(angle) * (ring * STEP + name.width / 2)
            y = name.y + math.sin(angle) * (ring * STEP + name.height / 2)
            yield Box(x - name.width / 2, y - name.height / 2, x + name.width / 2, y + name.height / 2)
