"""Image files: everything that reads them reads them here, so that the same file is the same picture everywhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from fastvit.errors import DataError

IMAGE_SUFFIXES = (*IMG_EXTENSIONS, ".avif", ".gif")
ADVICE = "repair it or leave it out"
HANDED = "that the network was called with"  # an image without a file, in messages
# What brings the stored pixels upright, by EXIF's orientation; 1 is upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # height and width change places


class UnreadableImage(DataError):
    """A file that is no image, or a damaged one; why is in `reason`."""

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason


def too_far_from_square(resized: str) -> UnreadableImage:
    """The error about an image that cannot be resized; `resized` says what would come of it."""
    reason = f"it is too far from square: {resized}"
    return UnreadableImage(f"an image cannot be resized ({reason}); {ADVICE}", reason)


def is_image(path: str | Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> bool:
    """Whether a file in a folder is taken for an image, by its name.

    Where a file system has no room for it, macOS keeps what it knows about x.jpg in a file ._x.jpg: that is none.
    """
    path = Path(path)
    return path.suffix.lower() in suffixes and not path.name.startswith("._")


def is_left_out(path: Path) -> bool:
    """Whether a user may believe that this file is read, and it is not: it is no image by its name, and not hidden."""
    foreign = not is_image(path) and not path.name.startswith(".") and path.name != "Thumbs.db"
    return foreign and path.is_file()  # asked last: each answer is a call of the file system


def read_image(file: str | Path | BinaryIO, *, upright: bool = True, advice: str = ADVICE) -> Image.Image:
    """The picture in a file that Pillow reads, in RGB with 8 bits each.

    Of an animation it is the first frame. Transparency is left out, as timm and torchvision do. Of 16 bits the upper 8
    are taken: Pillow does so for colors, while it turns gray images white.

    Args:
        upright: turn the picture as its EXIF orientation says, which is how phones turn photographs. (Pillow turns TIFF
            files by itself.)
        advice: the end of the sentence about a file that cannot be read.

    Raises:
        UnreadableImage: a sentence that names the file.
    """
    with _explained(file, advice), Image.open(file) as image:
        return _in_rgb(image, upright)


def read_mask(path: Path, *, advice: str = ADVICE) -> Image.Image:
    """A file whose pixels are no colors but numbers: as it is stored, in the mode that it has."""
    with _explained(path, advice), Image.open(path) as image:
        image.load()
        return image


def as_rgb(image: Image.Image, *, upright: bool, name: str = "of the data set") -> Image.Image:
    """As `read_image`, of an image that is opened already. What is upright stays so, however often it is asked for."""
    with _explained(name, ADVICE):
        return _in_rgb(image, upright)


def read_annotated(path: Path, size: tuple[int, int], *, advice: str = ADVICE) -> Image.Image:
    """The picture as its mask or its boxes were drawn, which their size (width, height) tells.

    It is upright, as nearly every program shows it. Where only the pixels as they are stored have the size, it is not
    turned. An image that has neither size is upright: the caller compares.
    """
    image = read_image(path, advice=advice)
    return read_image(path, upright=False, advice=advice) if image.size == size[::-1] != size else image


def annotated_size(path: Path, size: tuple[int, int], *, advice: str = ADVICE) -> tuple[int, int]:
    """The size of what `read_annotated` gives, from the head of the file."""
    with _explained(path, advice), Image.open(path) as image:
        if image.size == size or _orientation(image) not in SIDEWAYS:
            return image.size
        return image.size[::-1]


@contextmanager
def _explained(file: str | Path | BinaryIO, advice: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise all kinds of errors about damaged files
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "Pillow knows no such kind of image" if unknown else str(error) or type(error).__name__
        raise UnreadableImage(f"image {file} cannot be read ({reason}); {advice}", reason) from error


def _in_rgb(image: Image.Image, upright: bool) -> Image.Image:
    image.load()  # first, because that is when Pillow turns a TIFF file, and what it says of its orientation
    picture = _in_8_bits(image)
    turn = TURNS.get(_orientation(image)) if upright else None
    if turn is None:
        return picture
    turned = picture.transpose(turn)
    turned.info = {}  # it still said how to turn the picture, in EXIF or XMP
    return turned


def _in_8_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("its pixels are numbers of 32 bits, whose black and white are unknown: save it with 8 or 16")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colors, and Pillow does not warn
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF: the picture itself is sound
        return None
