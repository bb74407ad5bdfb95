"""FreiHAND: 130,240 training and 3,960 evaluation images of right hands, as its authors lay them out.

Zimmermann et al., "FreiHAND", ICCV 2019; https://lmb.informatik.uni-freiburg.de/projects/freihand. For research only.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from fastvit.data.reading import read_image
from fastvit.errors import DataError
from fastvit.models.rotations import rotation_matrix
from fastvit.tasks.hand_mesh.sample import HandSample

# Each training hand is there four times, with other backgrounds: green screen, harmonised, colored by sampling, and
# colored automatically. The images of a version follow those of the one before.
VERSIONS = ("gs", "hom", "sample", "auto")
DOWNLOAD = "download FreiHAND_pub_v2.zip and FreiHAND_pub_v2_eval.zip and unpack both there"
SPACE = re.compile(r"\s*")
POSE, SHAPE = slice(0, 48), slice(48, 58)  # in a row of training_mano.json; the root in the image and a scale follow


class FreiHand(Dataset):
    """One part of FreiHAND.

    Layout: <root>/training/rgb/00000000.jpg ..., <root>/training_{K,xyz,verts,mano}.json, and for the evaluation
    <root>/evaluation/rgb/00000000.jpg ..., <root>/evaluation_{K,xyz,verts}.json.

    The vertices of the training part are a file of about a gigabyte: half a minute, and twice its size in memory.

    Args:
        root: the folder of the data.
        train: the training part, else the evaluation part.
        versions: of the training images.
        mean_pose: (15, 3), MANO's, to which the poses in the file are relative; None to leave pose and shape out, which
            the evaluation part has none of.

    Raises:
        DataError: a file is missing or does not fit the others.
    """

    def __init__(
        self, root: Path, *, train: bool, versions: Sequence[str] = VERSIONS[:1], mean_pose: np.ndarray | None = None
    ):
        if not root.is_dir():
            raise DataError(f"data.root {root} is not a folder; {DOWNLOAD}, or say where they are: data.root=FOLDER")
        part = "training" if train else "evaluation"
        self.folder = root / part / "rgb"
        self.intrinsics = _read(root / f"{part}_K.json", np.float64)  # (N, 3, 3)
        self.joints = _read(root / f"{part}_xyz.json", np.float32)  # (N, 21, 3)
        self.vertices = _read(root / f"{part}_verts.json", np.float32)  # (N, 778, 3)
        lengths = {len(each) for each in (self.intrinsics, self.joints, self.vertices)}
        self.rotations = self.shapes = None
        if mean_pose is not None:
            rows = _read(root / f"{part}_mano.json", np.float32)
            lengths.add(len(rows))
            rows = rows.reshape(len(rows), -1)  # (N, 61)
            self.rotations, self.shapes = _rotations(rows[:, POSE], mean_pose), rows[:, SHAPE]
        if len(lengths) > 1:
            raise DataError(f"the files {root / part}_*.json are about different numbers of images; {DOWNLOAD}")
        self.offsets = [VERSIONS.index(version) * len(self.joints) for version in versions] if train else [0]
        last = self._path(len(self) - 1)
        if not last.is_file():
            raise DataError(f"there is no image {last}, which {root / part}_K.json asks for; {DOWNLOAD}")

    def __len__(self) -> int:
        return len(self.joints) * len(self.offsets)

    def __getitem__(self, index: int) -> HandSample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        hand = index % len(self.joints)
        return HandSample(
            image=read_image(self._path(index), upright=False, advice=DOWNLOAD),
            intrinsics=self.intrinsics[hand],
            joints=self.joints[hand],
            vertices=self.vertices[hand],
            rotations=None if self.rotations is None else self.rotations[hand],
            shape=None if self.shapes is None else self.shapes[hand],
        )

    def _path(self, index: int) -> Path:
        version, hand = divmod(index, len(self.joints))
        return self.folder / f"{self.offsets[version] + hand:08d}.jpg"


def _rotations(poses: np.ndarray, mean_pose: np.ndarray) -> np.ndarray:
    """(N, 16, 3, 3) from poses (N, 48), axis times angle relative to the mean pose."""
    vectors = poses.reshape(-1, 16, 3).copy()
    vectors[:, 1:] += mean_pose
    return rotation_matrix(torch.from_numpy(vectors)).numpy()


def _read(path: Path, dtype: Any) -> np.ndarray:
    try:
        return np.stack([np.array(row, dtype=dtype) for row in _rows(path.read_text(encoding="utf-8"))])
    except FileNotFoundError as error:
        hint = " (public since 2022)" if path.name.startswith("evaluation") else ""
        raise DataError(f"there is no file {path}{hint}; {DOWNLOAD}") from error
    except (ValueError, IndexError) as error:  # no JSON, cut off, or rows of different lengths
        raise DataError(f"{path} is damaged ({error}); {DOWNLOAD}") from error


def _rows(text: str) -> Iterator[Any]:
    """The elements of a JSON list one by one: all of the vertices as Python's numbers would take 7 GB."""
    decoder, position = json.JSONDecoder(), SPACE.match(text).end()
    if text[position] != "[":
        raise ValueError("it is not a list")
    while text[position] != "]":
        row, position = decoder.raw_decode(text, SPACE.match(text, position + 1).end())
        yield row
        position = SPACE.match(text, position).end()
