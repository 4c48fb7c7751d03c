"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, MIT): 60,000 training and 10,000 test images of clothes, 28x28."""

from pathlib import Path

from datasets.idx import IdxSource
from datasets.types import RawData

NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_SOURCE = IdxSource("FashionMNIST", attribute="garment", names=NAMES)


def fingerprint(folder: Path) -> str:
    """Return sha256 over the four unpacked files; they are downloaded first if they are missing."""
    return _SOURCE.fingerprint(folder)


def load(folder: Path) -> RawData:
    """Return all images, N x 1 x 28 x 28, training images first, with the garment as their only attribute."""
    return _SOURCE.load(folder)
