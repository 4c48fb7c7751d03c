"""Optical recognition of handwritten digits: 1,797 real 8x8 images that come with scikit-learn. No download.

Source: E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998 (CC BY 4.0). Grey values 0..16 become 0..255.
"""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from datasets.types import ArrayImages, Attribute, DataError, RawData


def fingerprint(folder: Path) -> str:
    """Return sha256 of scikit-learn's file; `folder` is not needed. Reads 57 kB and does not import scikit-learn."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("The digits come with scikit-learn, which is not installed: `make install`.")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def load(folder: Path) -> RawData:
    """Return all images, N x 1 x 8 x 8, with the digit as their only attribute."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    images_NCHW = np.rint(np.reshape(pixels, (-1, 1, 8, 8)) * (255 / 16)).astype(np.uint8)
    codes_N = np.asarray(digits, dtype=np.int64)
    return RawData(ArrayImages(images_NCHW), {"digit": Attribute(codes_N, tuple("0123456789"))})
