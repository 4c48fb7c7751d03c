"""MNIST (LeCun, Cortes and Burges): 60,000 training and 10,000 test images of 28x28, md5-checked by torchvision.

Terms: CC BY-SA 3.0 is claimed by its mirrors.
"""

from pathlib import Path

from datasets.idx import IdxSource
from datasets.types import RawData

_SOURCE = IdxSource("MNIST", attribute="digit", names=tuple("0123456789"))


def fingerprint(folder: Path) -> str:
    """Return sha256 over the four unpacked files; they are downloaded first if they are missing."""
    return _SOURCE.fingerprint(folder)


def load(folder: Path) -> RawData:
    """Return all images, N x 1 x 28 x 28, training images first, with the digit as their only attribute."""
    return _SOURCE.load(folder)
