"""Pictures for people to click on, out of a dataset."""

from pathlib import Path
from typing import Any

from fastvit.errors import DataError

LONGEST_SIDE = 640


def save_some(samples: Any, count: int, folder: Path) -> list[Path]:
    """Write `count` images of a dataset into a folder, as far apart in it as can be, reduced if they are large.

    Args:
        samples: a `fastvit.data.images.TransformedImages`, whose images as they are get written.

    Raises:
        DataError: the dataset is of another kind, or has too few.
    """
    source = getattr(samples, "source", None)
    if source is None or not hasattr(source, "__getitem__"):
        raise DataError("this dataset gives no single images: give pictures with --examples FILE ...")
    if not 1 <= count <= len(source):
        raise DataError(f"there are {len(source)} validation images: {count} examples cannot be taken from them")
    paths = []
    for i in range(count):
        image = source[i * len(source) // count][0].convert("RGB")
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        paths.append(folder / f"{i + 1}.png")
        image.save(paths[-1])
    return paths
