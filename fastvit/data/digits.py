"""The embedded demo data: 1,797 real handwritten digits, 8x8 scans, that come with scikit-learn."""

from PIL import Image
from torch.utils.data import Dataset


class Digits(Dataset):
    """Handwritten digits (the test part of UCI's "Optical Recognition of Handwritten Digits") as RGB images.

    The split is fixed and stratified: 1,257 images to train on and 540 held out, the classes equally frequent in both.

    Args:
        train: the training part, else the held-out part.
        image_size: the scans are enlarged to this many pixels on a side.
    """

    classes = tuple("0123456789")

    def __init__(self, *, train: bool, image_size: int):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        scans, labels = load_digits(return_X_y=True)  # (1797, 64) from 0 to 16, (1797,)
        split = train_test_split(scans, labels, test_size=0.3, stratify=labels, random_state=0)
        scans, labels = (split[0], split[2]) if train else (split[1], split[3])
        pixels = (scans.reshape(-1, 8, 8) * 255 / 16).round().astype("uint8")
        size = (image_size, image_size)
        self.images = [Image.fromarray(scan).resize(size, Image.Resampling.BICUBIC).convert("RGB") for scan in pixels]
        self.labels = self.targets = [int(label) for label in labels]  # torchvision's name, too

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.images[index], self.labels[index]
