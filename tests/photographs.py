"""Real photographs in odd sizes: scikit-learn's two, cut and scaled."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images


@cache
def photographs() -> dict[str, Image.Image]:
    china, flower = (Image.fromarray(each) for each in load_sample_images().images)  # 640 x 427
    return {
        "as it is": china,
        "portrait": flower.crop((200, 0, 440, 427)),
        "panorama": china.crop((0, 150, 640, 250)),
        "smaller than the crop": flower.resize((67, 45)),
        "of the resized size": china.crop((0, 0, 71, 71)),
        "one row": china.crop((0, 200, 90, 201)),
        "12 megapixels": flower.resize((4000, 3000)),
    }


def array(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3)."""
    return np.asarray(image.convert("RGB"))


def of_no_text(folder: Path) -> Path:
    """A photograph whose name is no UTF-8, as in old archives; where a file system takes none, the test is skipped."""
    path = folder / os.fsdecode(b"caf\xe9.png")
    try:
        photographs()["smaller than the crop"].save(path)
    except OSError:
        pytest.skip("here all names are UTF-8")
    return path
