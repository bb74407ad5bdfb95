"""What a network says about image files: found, read and predicted by several threads, and written down as it comes."""

import csv
import glob
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fastvit.data.reading import IMAGE_SUFFIXES, UnreadableImage, is_image, is_left_out, read_image
from fastvit.errors import DataError, ExportError, RunError
from fastvit.predictor import Prediction, Predictor, Shown

PICTURES, MASKS = (".jpg", ".png"), (".png",)  # the suffixes of what is drawn
BATCHES_AHEAD = 2  # of each thread: done before they are asked for
NAME_BYTES = 240  # bytes of the name of a picture; file systems take 255
JPEG_SIDE = 65_500  # pixels of a picture; JPEG takes no more


@dataclass(frozen=True)
class Predicted:
    """A file and what was said about it, or why nothing could be."""

    path: Path
    prediction: Prediction | None
    reason: str = ""


def find_images(names: Sequence[str | Path] | str | Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The files that a user names, each once: images, folders with all that is in them, patterns as `photos/**/*.jpg`.

    Args:
        names: several, or one.
        suffixes: of the files in a folder that are taken.

    Raises:
        DataError: a name stands for nothing.
    """
    found: dict[Path, None] = {}
    for name in [names] if isinstance(names, str | Path) else names:
        path = Path(name).expanduser()
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if is_image(file, suffixes))
            if not files:
                raise DataError(f"there are no images in {path}: none of its files ends in {', '.join(suffixes)}")
        else:
            # Path.glob takes no absolute patterns.
            matches = [path] if path.exists() else map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207
            files = [match for match in matches if match.is_file()]
            if not files:
                raise DataError(f"there is no image or folder {name}")
        found |= dict.fromkeys(files)
    return list(found)


def left_out(names: Sequence[str]) -> list[str]:
    """What lies in the folders among these names, and is no image by its name."""
    folders = [folder for name in names if (folder := Path(name).expanduser()).is_dir()]
    return sorted(str(path) for folder in folders for path in folder.rglob("*") if is_left_out(path))


def common_folder(paths: Sequence[Path]) -> str:
    """The folder that all files are in. Raises DataError where there is none: on two drives of Windows."""
    try:
        return os.path.commonpath([path.absolute().parent for path in paths])
    except ValueError as error:
        raise DataError(
            "the files are on several drives, with no folder in common: name those of one at a time"
        ) from error


def predict_files(
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    batch: int = 16,
    threads: int | None = None,
    then: Callable[[Predicted], None] = lambda predicted: None,
) -> Iterator[Predicted]:
    """What is said about each file, in their order. Those of which nothing can be said are among them.

    Each thread takes a batch, and reads, prepares and predicts it. On a CPU each computes on one core, so that all are
    busy and none waits for another; torch's own number of threads is afterwards as before.

    Args:
        batch: images at a time.
        threads: by default as many as torch computes with.
        then: what else to do with each, by the same thread.
    """
    cores = torch.get_num_threads()
    threads = threads or cores
    size = max(1, min(batch, -(-len(paths) // threads)))
    batches = [paths[start : start + size] for start in range(0, len(paths), size)]

    def work(some: Sequence[Path]) -> list[Predicted]:
        predicted = _predict(predictor, some)
        for each in predicted:
            then(each)
        return predicted

    with _one_core_each(threads, apply=predictor.side_by_side) as pool:
        for predicted in _in_order(pool, work, batches, ahead=threads * BATCHES_AHEAD):
            yield from predicted


def _predict(predictor: Predictor, paths: Sequence[Path]) -> list[Predicted]:
    prepared, reasons = [], {}
    for path in paths:
        try:
            prepared.append(predictor.prepare(read_image(path)))
        except UnreadableImage as error:
            reasons[path] = error.reason
    with predictor.alone:
        answers = iter(_answers(predictor, prepared))
    predicted = []
    for path in paths:
        answer = reasons[path] if path in reasons else next(answers)
        predicted.append(Predicted(path, None, answer) if isinstance(answer, str) else Predicted(path, answer))
    return predicted


def _answers(predictor: Predictor, prepared: Sequence[Any]) -> list[Prediction | str]:
    """What is said about each, or why an exported file does not take it."""
    if not prepared:
        return []
    try:
        return list(predictor.predict(prepared))
    except ExportError as error:
        if len(prepared) == 1:
            return [str(error)]
        return [answer for each in prepared for answer in _answers(predictor, [each])]


@contextmanager
def _one_core_each(threads: int, *, apply: bool) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads compute on one core each, if that applies. What has not begun at the end is left out."""
    before = torch.get_num_threads()
    if apply:
        torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _in_order(pool: ThreadPoolExecutor, work: Callable[..., Any], items: Sequence[Any], *, ahead: int) -> Iterator[Any]:
    """As `pool.map`, but no more than `ahead` results wait to be taken."""
    left = iter(items)
    waiting: deque[Future] = deque(pool.submit(work, item) for item in islice(left, ahead))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(work, item) for item in islice(left, 1))


# ---- written down ----------------------------------------------------------------------------------------------------


class Table:
    """A new file of predictions, .csv or .jsonl, in which each is written at once. Raises RunError if it cannot be."""

    def __init__(self, path: Path, columns: Sequence[str], shown: Shown):
        self.path, self.shown = path, shown
        self.is_csv = path.suffix == ".csv"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A file name may be no text: in CSV it stays as it is, in JSON it is escaped.
            errors = "surrogateescape" if self.is_csv else "backslashreplace"
            self.file = path.open("w", newline="", encoding="utf-8", errors=errors)
        except OSError as error:
            raise RunError(f"{path} cannot be written ({error.strerror})") from error
        self.rows = csv.writer(self.file, lineterminator="\n")
        if self.is_csv:
            self.rows.writerow(("image", *columns))

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, predicted: Predicted) -> None:
        """Add a prediction. Where there is none, JSON says why; in CSV the image has no row."""
        said = predicted.prediction
        try:
            if not self.is_csv:
                content = said.to_dict(self.shown) if said else {"error": predicted.reason}
                self.file.write(json.dumps({"image": str(predicted.path), **content}, ensure_ascii=False) + "\n")
            elif said:
                self.rows.writerows((predicted.path, *row) for row in said.rows(self.shown))
            self.file.flush()
        except OSError as error:
            raise RunError(f"{self.path} cannot be written ({error.strerror}); what came before is there") from error


def picture_names(paths: Sequence[Path], suffixes: Sequence[str] = PICTURES) -> dict[Path, str]:
    """A name for the picture of each image: its path below the folder that all are in.

    Args:
        suffixes: that a picture may have; one of another kind gets the first.
    """
    absolute = {path: path.absolute() for path in paths}
    top = common_folder(paths)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path, each in absolute.items():
        name = "-".join(each.relative_to(top).parts)
        name = _short(name if name.lower().endswith(tuple(suffixes)) else f"{name}{suffixes[0]}")
        while name in taken:  # a/b.jpg and a-b.jpg
            name = f"_{name}"
        taken.add(name)
        names[path] = name
    return names


def _short(name: str) -> str:
    """The name, or its end after a digest of the whole where it is too long for a file."""
    whole = os.fsencode(name)
    if len(whole) <= NAME_BYTES:
        return name
    digest = hashlib.sha256(whole).hexdigest()[:16]
    return f"{digest}-{whole[len(digest) + 1 - NAME_BYTES :].decode(errors='ignore')}"


def places(folder: Path | None, paths: Sequence[Path], suffixes: Sequence[str] = PICTURES) -> dict[Path, Path]:
    """Where the picture of each image goes; none has a place without a folder."""
    return {path: folder / name for path, name in picture_names(paths, suffixes).items()} if folder else {}


def require_apart(paths: Sequence[Path], targets: Iterable[Path]) -> None:
    """Raise RunError if a file that is to be written is one of the images, by whatever name."""
    there = [target for target in targets if target.exists()]
    images = {_identity(path): path for path in paths if path.exists()} if there else {}
    for target in there:
        if image := images.get(_identity(target)):
            raise RunError(f"what goes to {target} would replace the image {image}: name another place")


def _identity(path: Path) -> tuple[int, int]:
    """The same for all names of a file: links, and other letters where the file system does not tell them apart."""
    said = path.stat()
    return said.st_dev, said.st_ino


def draw(predicted: Predicted, target: Path, shown: Shown) -> None:
    """Write the picture of a prediction. Raises RunError."""
    if predicted.prediction is None:
        return
    picture = predicted.prediction.draw(read_image(predicted.path), shown)  # read again: many at once are too large
    picture.thumbnail((JPEG_SIDE, JPEG_SIDE))
    _save(picture, target, quality=90)


def draw_explained(predictor: Predictor, predicted: Predicted, target: Path, shown: Shown) -> None:
    """As `draw`, of the part of the image that a classifier sees, colored where it has looked. Raises RunError."""
    if predicted.prediction is not None:
        image = read_image(predicted.path)
        with predictor.alone:
            explained = predictor.explain(image)
        _save(predicted.prediction.draw(explained, shown), target, quality=90)


def require_explainable(predictor: Predictor, source: str) -> None:
    """Raise RunError before the long work if there are no such pictures of this network, which the user calls so."""
    try:
        predictor.explain(Image.new("RGB", (64, 64)))
    except RunError as error:
        raise RunError(f"--explain: {source}: {error}") from error


def save_mask(predicted: Predicted, target: Path) -> None:
    """Write the classes of the pixels into a .png. Raises RunError, also if it is not pixels that are predicted."""
    if predicted.prediction is None:
        return
    mask = predicted.prediction.mask()
    if mask is None:
        raise RunError("--masks is for segmentation: these predictions have no classes of pixels")
    _save(mask, target)


def _save(picture: Image.Image, target: Path, **options: Any) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target, **options)
    except OSError as error:
        raise RunError(f"the picture {target} cannot be written ({error})") from error
