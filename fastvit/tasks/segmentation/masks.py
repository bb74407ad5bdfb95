"""Images with a mask of the same size each, whose pixel values are class indices: ADE20K, and any folders of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from fastvit.data.reading import annotated_size, is_image, read_annotated, read_mask
from fastvit.errors import DataError, some

UNLABELLED = 255  # of pixels that count neither in the loss nor in the metrics

FOLDER_LAYOUT = "expected <root>/{train,val}/images/*.jpg and <root>/{train,val}/masks/*.png of the same names"
ADE20K_LAYOUT = "expected ADEChallengeData2016 with images/{training,validation} and annotations/{training,validation}"
ADVICE = "repair it, or remove it and its mask"  # about a file that cannot be read


class MaskedImages(Dataset):
    """Pairs of an RGB image and its mask (mode L): class indices from 0, and `UNLABELLED`.

    Args:
        pairs: the files.
        num_classes: in the masks, besides what is not labelled.
        zero_is_unlabelled: in the files 0 means "not labelled", and class i is i + 1 (ADE20K's convention).
    """

    def __init__(self, pairs: Sequence[tuple[Path, Path]], num_classes: int, *, zero_is_unlabelled: bool = False):
        self.pairs, self.num_classes, self.zero_is_unlabelled = list(pairs), num_classes, zero_is_unlabelled

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        image_path, mask_path = self.pairs[index]
        values = self._values(mask_path)
        size = values.shape[::-1]
        image = read_annotated(image_path, size, advice=ADVICE)
        if image.size != size:
            raise _other_size(mask_path, size, image_path, image.size)
        return image, Image.fromarray(self._labels(values))

    def check(self) -> None:
        """Read every mask, and the size of every image.

        Raises:
            DataError: the first mask that is not as it should be, by name.
        """
        with ThreadPoolExecutor() as threads:  # decoding runs outside of Python's lock
            for _ in threads.map(self._check_pair, range(len(self))):
                pass

    def _check_pair(self, index: int) -> None:
        image_path, mask_path = self.pairs[index]
        size = self._values(mask_path).shape[::-1]
        of_image = annotated_size(image_path, size, advice=ADVICE)
        if of_image != size:
            raise _other_size(mask_path, size, image_path, of_image)

    def _values(self, path: Path) -> np.ndarray:
        """(H, W), as they are in the file, checked."""
        mask = read_mask(path, advice=ADVICE)
        values = np.asarray(mask)
        if values.ndim != 2:
            raise DataError(
                f"mask {path} is a color picture (mode {mask.mode}): its pixels must be class indices, in one channel"
            )
        first = int(self.zero_is_unlabelled)
        wrong = values[(values >= self.num_classes + first) & (values != UNLABELLED)]
        if len(wrong):
            unlabelled = "0 or 255" if self.zero_is_unlabelled else "255"
            raise DataError(
                f"mask {path} has the value {wrong[0]} ({len(wrong)} pixels above {self.num_classes + first - 1}), but "
                f"the {self.num_classes} classes are {first} to {self.num_classes + first - 1}, and {unlabelled} where "
                "there is no label: set data.num_classes, or repair the mask"
            )
        return values.astype(np.uint8)

    def _labels(self, values: np.ndarray) -> np.ndarray:
        if not self.zero_is_unlabelled:
            return values
        return np.where((values == 0) | (values == UNLABELLED), UNLABELLED, values - 1).astype(np.uint8)


def open_ade20k(root: Path, split: str, num_classes: int = 150) -> MaskedImages:
    """The scene parsing benchmark on ADE20K, "train" or "val": 20,210 and 2,000 images, 150 classes.

    Raises:
        DataError: folders or files are missing.
    """
    name = {"train": "training", "val": "validation"}[split]
    pairs = _pairs(root, root / "images" / name, root / "annotations" / name, ADE20K_LAYOUT)
    return MaskedImages(pairs, num_classes, zero_is_unlabelled=True)


def ade20k_class_names(root: Path) -> list[str] | None:
    """The short names of the classes, from the dataset's own objectInfo150.txt if it is there."""
    table = root / "objectInfo150.txt"
    if not table.is_file():
        return None
    _, *rows = table.read_text(encoding="utf-8").splitlines()
    return [row.split("\t")[-1].split(",")[0].strip() for row in rows if row.strip()]


def open_mask_folder(root: Path, split: str, num_classes: int, *, zero_is_unlabelled: bool = False) -> MaskedImages:
    """Any images with masks, "train" or "val".

    Raises:
        DataError: folders or files are missing.
    """
    pairs = _pairs(root, root / split / "images", root / split / "masks", FOLDER_LAYOUT)
    return MaskedImages(pairs, num_classes, zero_is_unlabelled=zero_is_unlabelled)


def _pairs(root: Path, image_folder: Path, mask_folder: Path, layout: str) -> list[tuple[Path, Path]]:
    """Images and masks of the same name, sorted."""
    for folder in (root, image_folder, mask_folder):
        if not folder.is_dir():
            what, where = ("data.root ", "; say where yours is: data.root=FOLDER") if folder == root else ("", "")
            raise DataError(f"{what}{folder} is not a folder; {layout}{where}")
    images, masks = _by_name(image_folder), _by_name(mask_folder)
    for found, others, what, other in ((images, masks, "images", "mask"), (masks, images, "masks", "image")):
        alone = [found[name].name for name in sorted(found.keys() - others.keys())]
        if alone:
            folder = next(iter(found.values())).parent
            raise DataError(f"{folder} has {what} without {other}: {some(alone, 3)}; {layout}")
    if not images:
        raise DataError(f"{image_folder} has no images; {layout}")
    return [(images[name], masks[name]) for name in sorted(images)]


def _by_name(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder.iterdir() if is_image(path)}


def _other_size(mask: Path, size: tuple[int, int], image: Path, image_size: tuple[int, int]) -> DataError:
    return DataError(
        f"mask {mask} is {size[0]}x{size[1]} pixels, but its image {image.name} is {image_size[0]}x{image_size[1]}: "
        "a mask must have the size of its image"
    )
