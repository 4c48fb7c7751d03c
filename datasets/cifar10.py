"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test colour images of 32x32, md5-checked by torchvision."""

from pathlib import Path

import numpy as np

from datasets.cache import hash_files, load_converted
from datasets.types import ArrayImages, Attribute, DataError, RawData

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
FOLDER = "cifar-10-batches-py"


def fingerprint(folder: Path) -> str:
    """Return sha256 over the seven files; they are downloaded first if they are missing."""
    files = [folder / FOLDER / name for name in FILES]
    if not all(file.exists() for file in files):
        _download(folder)
    return hash_files(files, folder)


def load(folder: Path) -> RawData:
    """Return all images, N x 3 x 32 x 32, training images first, with the object as their only attribute."""
    return load_converted("cifar10", fingerprint(folder), folder, lambda: _convert(folder))


def _convert(folder: Path) -> RawData:
    import torchvision

    try:
        parts = [torchvision.datasets.CIFAR10(str(folder), train=train) for train in (True, False)]
    except RuntimeError as error:
        raise DataError(f"{folder / FOLDER} is damaged ({error}): delete it, and it is fetched anew.") from error
    images_NCHW = np.concatenate([part.data for part in parts]).transpose(0, 3, 1, 2)
    codes_N = np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in parts])
    is_test_N = np.arange(len(codes_N)) >= len(parts[0])
    return RawData(ArrayImages(np.ascontiguousarray(images_NCHW)), {"object": Attribute(codes_N, NAMES)}, is_test_N)


def _download(folder: Path) -> None:
    import torchvision

    try:
        torchvision.datasets.CIFAR10(str(folder), download=True)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"CIFAR-10 is not in {folder / FOLDER} and could not be downloaded ({reason}). Unpack "
            f"cifar-10-python.tar.gz in {folder}, or point QUANTFAIR_DATA to the folder that holds {FOLDER}."
        ) from error
