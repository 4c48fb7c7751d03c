"""Optical recognition of handwritten digits: 1,797 real 8x8 images that come with scikit-learn. No download.

Source: E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998 (CC BY 4.0). Grey values 0..16 become 0..255.
"""

import importlib.util
from pathlib import Path

import numpy as np

from quantfair.datasets.cache import SourceFiles
from quantfair.datasets.spec import DatasetSpec
from quantfair.datasets.types import ArrayImages, Attribute, DataError, RawData


def find_files(folder: Path, spec: DatasetSpec) -> SourceFiles:
    """Return scikit-learn's file; `folder` is not needed. Does not import scikit-learn, which takes a second."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("The digits come with scikit-learn, which is not installed: `make install`.")
    return SourceFiles([Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"])


def load(folder: Path, spec: DatasetSpec) -> RawData:
    """Return all images, N x 1 x 8 x 8, with the digit as their only attribute."""
    (file,) = find_files(folder, spec).paths
    table = np.loadtxt(file, delimiter=",")
    images_NCHW = np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    codes_N = table[:, -1].astype(np.int64)
    return RawData(ArrayImages(images_NCHW), {"digit": Attribute(codes_N, tuple("0123456789"))})
