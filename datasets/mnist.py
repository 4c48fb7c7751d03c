"""MNIST (LeCun, Cortes and Burges): 60,000 training and 10,000 test images of 28x28, md5-checked by torchvision.

Terms: CC BY-SA 3.0 is claimed by its mirrors.
"""

import hashlib
from pathlib import Path

import numpy as np

from datasets.types import ArrayImages, Attribute, DataError, RawData

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def fingerprint(folder: Path) -> str:
    """Return sha256 over the four unpacked files; they are downloaded first if they are missing."""
    raw = folder / "MNIST" / "raw"
    if not all((raw / name).exists() for name in FILES):
        _download(folder)
    digest = hashlib.sha256()
    for name in FILES:
        digest.update((raw / name).read_bytes())
    return digest.hexdigest()


def load(folder: Path) -> RawData:
    """Return all images, N x 1 x 28 x 28, training images first, with the digit as their only attribute."""
    import torchvision

    parts = [torchvision.datasets.MNIST(str(folder), train=train) for train in (True, False)]
    images_NCHW = np.concatenate([part.data.numpy() for part in parts])[:, None]
    digits = np.concatenate([part.targets.numpy() for part in parts]).astype(np.int64)
    is_test_N = np.arange(len(digits)) >= len(parts[0])
    return RawData(ArrayImages(images_NCHW), {"digit": Attribute(digits, tuple("0123456789"))}, is_test_N)


def _download(folder: Path) -> None:
    import torchvision

    try:
        torchvision.datasets.MNIST(str(folder), download=True)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"MNIST is not in {folder / 'MNIST' / 'raw'} and could not be downloaded ({reason}). Put its four files "
            f"there, gzipped or plain ({', '.join(FILES)}), or point QUANTFAIR_DATA to the folder that holds MNIST/raw."
        ) from error
