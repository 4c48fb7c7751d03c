"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32x32 in colour, as torchvision finds or
fetches them. torchvision checks the md5 of every file when it reads them.
"""  # fmt: skip

import pickle
from pathlib import Path

import numpy as np

from quantfair.datasets.cache import SourceFiles
from quantfair.datasets.spec import DatasetSpec
from quantfair.datasets.types import ArrayImages, Attribute, DataError, RawData

FOLDER = "cifar-10-batches-py"
FILES = (*(f"data_batch_{part}" for part in range(1, 6)), "test_batch", "batches.meta")
# sha256 over these files, which have torchvision's md5
PUBLISHED = {"cifar10": "62f75217f6f8ddd3c962c2c03e5df88181c2375ce99c87cb24f8fcbf58c5b2e9"}
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def find_files(folder: Path, spec: DatasetSpec) -> SourceFiles:
    """Return the seven unpacked files."""
    paths = [folder / FOLDER / name for name in FILES]
    for path in paths:
        if not path.exists():
            raise DataError(f"CIFAR-10 is not complete: {path} is missing.")
    return SourceFiles(paths)


def load(folder: Path, spec: DatasetSpec) -> RawData:
    """Return all images, N x 3 x 32 x 32, training images first, with the class as their only attribute."""
    import torchvision
    from torchvision.datasets.utils import check_md5

    try:
        parts = [torchvision.datasets.CIFAR10(str(folder), train=train) for train in (True, False)]
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        published = [*torchvision.datasets.CIFAR10.train_list, *torchvision.datasets.CIFAR10.test_list]
        wrong = [name for name, md5 in published if not check_md5(folder / FOLDER / name, md5)]
        raise DataError(
            f"The files in {folder / FOLDER} are not the published ones ({', '.join(wrong) or error}): "
            "torchvision's md5 does not fit. Remove them, so that they are fetched again."
        ) from error
    images_NCHW = np.ascontiguousarray(np.concatenate([part.data for part in parts]).transpose(0, 3, 1, 2))
    codes_N = np.concatenate([part.targets for part in parts]).astype(np.int64)
    is_test_N = np.arange(len(codes_N)) >= len(parts[0].targets)
    return RawData(ArrayImages(images_NCHW), {"class": Attribute(codes_N, NAMES)}, is_test_N)


def download(folder: Path, spec: DatasetSpec) -> None:
    """Fetch the archive, check its md5 and unpack it. Raises DataError where it cannot be had."""
    import torchvision

    try:
        torchvision.datasets.CIFAR10(str(folder), download=True)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"CIFAR-10 is not in {folder / FOLDER} and could not be downloaded ({reason}). Put its seven files there "
            f"({', '.join(FILES)}), or point QUANTFAIR_DATA to the folder that holds {FOLDER}."
        ) from error
