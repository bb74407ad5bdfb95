"""Which images are to train on, to validate on and to test on, where nobody has said so."""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastvit.data.listing import Listing, Row
from fastvit.errors import DataError


@dataclass(frozen=True)
class Division:
    """How a list of images is divided that does not say it.

    Attributes:
        val_share, test_share: of the images of each class.
        seed: of the choice.
        kept: the table of an earlier division, which counts if it is there.
    """

    val_share: float
    test_share: float
    seed: int
    kept: Path

    def of(self, listing: Listing) -> Listing:
        """The list with a split for each image. Raises DataError if the earlier division is of other images."""
        if listing.is_divided:
            return listing
        if self.kept.is_file():
            return self._as_kept(listing)
        shares = {"train": 1 - self.val_share - self.test_share, "validation": self.val_share, "test": self.test_share}
        rows = divided(listing.rows, {name: share for name, share in shares.items() if share}, self.seed)
        counts = Counter(row.split for row in rows)
        sizes = ", ".join(f"{name} {counts[name]}" for name in shares if counts[name])
        said = "has no folders train and val" if listing.source.is_dir() else "has no column split"
        return replace(listing, rows=rows, notices=(f"{listing.source} {said}: divided by seed {self.seed}, {sizes}",))

    def _as_kept(self, listing: Listing) -> Listing:
        with self.kept.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            kept = {row["path"]: row["split"] for row in csv.DictReader(file)}
        rows = tuple(replace(row, split=kept.get(row.path)) for row in listing.rows)
        new = sum(row.split is None for row in rows)
        if new == len(rows):
            raise DataError(
                f"the images of {listing.source} are not those that {self.kept} divides: train into another output, "
                "evaluate on all of them with data.val_split=all, or give a table with a column split"
            )
        notice = f"images of {listing.source} that are left out, since they are not in {self.kept}: {new}"
        return replace(listing, rows=rows, notices=(notice,) if new else ())


def divided(rows: Sequence[Row], shares: Mapping[str, float], seed: int) -> tuple[Row, ...]:
    """The images with a split each, so that every label has its share of each split, as nearly as that can be.

    A label of at least as many images as there are splits is in each. With several labels an image, the images of the
    rarest label are dealt first, each to the split that lacks most of it (Sechidis et al., "On the stratification of
    multi-label data", 2011; there the rarest is looked for again after each label).

    Args:
        shares: of each split, which sum to 1, the largest first.
        seed: of the order in which images are dealt. The order of the rows does not matter.
    """
    of_label: dict[str | None, list[int]] = defaultdict(list)  # the images of each label, in random order
    by_name = sorted(range(len(rows)), key=lambda index: rows[index].path)
    for place in np.random.default_rng(seed).permutation(len(rows)):
        for label in rows[by_name[place]].labels or (None,):
            of_label[label].append(by_name[place])
    wanted = {label: _wanted(len(images), shares) for label, images in of_label.items()}
    in_all = {split: share * len(rows) for split, share in shares.items()}
    chosen: dict[int, str] = {}
    for label in sorted(of_label, key=lambda label: (len(of_label[label]), label or "")):
        for index in of_label[label]:
            if index in chosen:
                continue
            split = max(shares, key=lambda split: (wanted[label][split], in_all[split]))
            chosen[index] = split
            in_all[split] -= 1
            for each in rows[index].labels or (None,):
                wanted[each][split] -= 1
    return tuple(replace(row, split=chosen[index]) for index, row in enumerate(rows))


def _wanted(count: int, shares: Mapping[str, float]) -> dict[str, float]:
    """Of a label: how many images each split is to have. The first split gives where others would have none."""
    least = 1.0 if count >= len(shares) else 0.0
    first, *others = shares
    wanted = {split: max(shares[split] * count, least) for split in others}
    return {first: count - sum(wanted.values()), **wanted}
