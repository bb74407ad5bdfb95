"""A teacher's answers to the training images of every epoch, in a file.

Two lines, the name of the format and a header in JSON, and then for each epoch a record of fixed size: the answers in
the order of the epoch, the digests of a few images, and the CRC-32 of both. A record is written as a whole or not at
all, so that a recording that was interrupted goes on with the next epoch.
"""

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fastvit.errors import RunError
from fastvit.files import as_whole

MAGIC = b"fastvit answers 1\n"
CHECKED = 32  # images of each epoch whose digests are kept
DIGEST_BYTES, CRC_BYTES = 8, 4


@dataclass(frozen=True)
class Header:
    """What the answers are, and to what.

    Attributes:
        images: the fingerprint of the images.
        teacher: which network, and which weights.
        kind: of the answers. hard: the most probable class. soft: the `classes` most probable ones with their
            probabilities at a temperature.
        classes: how many are kept for each image.
        num_classes: of how many.
        epoch_images: images in an epoch.
        made_with: versions of what makes the images, to explain a difference.
    """

    images: dict[str, Any]
    teacher: dict[str, Any]
    kind: Literal["hard", "soft"]
    classes: int
    temperature: float
    num_classes: int
    epoch_images: int
    made_with: dict[str, str]

    @property
    def identity(self) -> dict[str, Any]:
        """What two recordings must have in common to be one."""
        return {**self.images, **self.teacher, "kind of answers": self.kind, "temperature": self.temperature}

    def known_of(self, teacher: Mapping[str, Any]) -> dict[str, Any]:
        """What of a teacher's description this one has, too: those of early files say less."""
        return {key: value for key, value in teacher.items() if key in self.teacher}

    @property
    def dtype(self) -> np.dtype:
        """Of one answer: class numbers and, if soft, probabilities in half precision, both by falling probability."""
        number = "<u2" if self.num_classes <= 2**16 else "<u4"
        fields = [("classes", number, (self.classes,))]
        return np.dtype(fields if self.kind == "hard" else [*fields, ("probabilities", "<f2", (self.classes,))])

    @property
    def checked(self) -> list[int]:
        """Positions in the order of an epoch of the images that are checked."""
        return sorted({number * self.epoch_images // CHECKED for number in range(CHECKED)})

    @property
    def record_bytes(self) -> int:
        """Size of the record of an epoch."""
        return self.epoch_images * self.dtype.itemsize + len(self.checked) * DIGEST_BYTES + CRC_BYTES

    def encoded(self) -> bytes:
        """As the file begins."""
        return MAGIC + json.dumps(asdict(self)).encode() + b"\n"


class Epoch(NamedTuple):
    """The answers of an epoch, in its order, and the digests of the checked images."""

    answers: np.ndarray
    digests: list[bytes]


class AnswersFile:
    """A file of answers, to read from or to add to.

    Raises:
        RunError: there is no such file, or it is none of answers.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as file:
                if file.readline() != MAGIC:
                    raise RunError(f"{path} is not a file that `fastvit teach` has written")
                line = file.readline()
                self.start = file.tell()
            self.header = Header(**json.loads(line))
        except OSError as error:
            raise RunError(f"the answers {path} cannot be read ({error.strerror})") from error
        except (ValueError, TypeError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(f"{path} is damaged: its header cannot be read") from error

    @classmethod
    def create(cls, path: Path, header: Header) -> "AnswersFile":
        """A new file without an epoch. Raises RunError where it cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with as_whole(path) as unfinished:
                unfinished.write_bytes(header.encoded())
        except OSError as error:
            raise RunError(f"{path} cannot be written ({error.strerror})") from error
        return cls(path)

    @property
    def epochs(self) -> int:
        """How many epochs are complete."""
        return (self.path.stat().st_size - self.start) // self.header.record_bytes

    @property
    def is_truncated(self) -> bool:
        """Whether the file ends in the middle of an epoch."""
        return self.path.stat().st_size != self.size_with(self.epochs)

    def size_with(self, epochs: int) -> int:
        """Bytes of the file when it has this many epochs."""
        return self.start + epochs * self.header.record_bytes

    def append(self, number: int, epoch: Epoch) -> None:
        """Add an epoch, the next one.

        Args:
            number: which one it is, counted from 0.

        Raises:
            RunError: it is not the next one, or cannot be written; the epochs before are whole.
        """
        if self.epochs != number:
            raise RunError(
                f"{self.path} has {self.epochs} epochs, where it had {number}: another `fastvit teach` writes into it, "
                "too; let one of them go on"
            )
        content = epoch.answers.astype(self.header.dtype).tobytes() + b"".join(epoch.digests)
        content += zlib.crc32(content).to_bytes(CRC_BYTES, "little")
        assert len(content) == self.header.record_bytes
        end = self.size_with(number)
        try:
            with self.path.open("r+b") as file:
                file.seek(end)  # over what an earlier kill left of an epoch
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written ({error.strerror}); what was there before is whole"
            ) from error

    def read(self, epoch: int) -> Epoch:
        """The answers of an epoch, counted from 0.

        Raises:
            RunError: the file is damaged.
        """
        header = self.header
        with self.path.open("rb") as file:
            file.seek(self.size_with(epoch))
            content = file.read(header.record_bytes)
        if len(content) < header.record_bytes:
            raise RunError(f"{self.path} is truncated: it ends before epoch {epoch + 1} does")
        if zlib.crc32(content[:-CRC_BYTES]) != int.from_bytes(content[-CRC_BYTES:], "little"):
            raise RunError(f"{self.path} is damaged: the answers of epoch {epoch + 1} are not those that were written")
        end = header.epoch_images * header.dtype.itemsize
        digests = content[end:-CRC_BYTES]
        return Epoch(
            np.frombuffer(content[:end], header.dtype),
            [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)],
        )
