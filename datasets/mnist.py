"""MNIST (LeCun, Cortes and Burges) and Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), as torchvision finds or fetches
them: each 60,000 training and 10,000 test images of 28x28, in four files of one format.
"""  # fmt: skip

from pathlib import Path

import numpy as np

from quantfair.datasets.cache import SourceFiles
from quantfair.datasets.spec import DatasetSpec
from quantfair.datasets.types import ArrayImages, Attribute, DataError, RawData

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}  # torchvision's names of class and folder
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
ATTRIBUTES = {"mnist": ("digit", tuple("0123456789")), "fashion_mnist": ("class", FASHION)}
# sha256 over the four published files, whose archives have torchvision's md5
PUBLISHED = {"mnist": "b2d8f5bf39174ee5ffeefa97e42d673c35432b411bb5d1f74fbbeddae7f1690a"}


def find_files(folder: Path, spec: DatasetSpec) -> SourceFiles:
    """Return the four unpacked files."""
    raw = folder / CLASSES[spec.name] / "raw"
    if not all((raw / name).exists() for name in FILES):
        raise DataError(f"{CLASSES[spec.name]} is not in {raw}.")
    return SourceFiles([raw / name for name in FILES])


def load(folder: Path, spec: DatasetSpec) -> RawData:
    """Return all images, N x 1 x 28 x 28, training images first, with the digit or class as their only attribute."""
    import torchvision

    read = getattr(torchvision.datasets, CLASSES[spec.name])
    try:
        parts = [read(str(folder), train=train) for train in (True, False)]
        images_NCHW = np.concatenate([part.data.numpy() for part in parts])[:, None]
        codes_N = np.concatenate([part.targets.numpy() for part in parts]).astype(np.int64)
    except (AssertionError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise _damaged(folder, spec, str(error)) from error
    if len(images_NCHW) != len(codes_N) or codes_N.max(initial=0) > 9:
        raise _damaged(folder, spec, f"{len(images_NCHW)} images, {len(codes_N)} labels up to {codes_N.max()}")
    name, names = ATTRIBUTES[spec.name]
    is_test_N = np.arange(len(codes_N)) >= len(parts[0])
    return RawData(ArrayImages(images_NCHW), {name: Attribute(codes_N, names)}, is_test_N)


def download(folder: Path, spec: DatasetSpec) -> None:
    """Fetch the archives, check their md5 and unpack them. Raises DataError where they cannot be had."""
    import torchvision

    name = CLASSES[spec.name]
    try:
        getattr(torchvision.datasets, name)(str(folder), download=True)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{name} is not in {folder / name / 'raw'} and could not be downloaded ({reason}). Put its four files "
            f"there, gzipped or plain ({', '.join(FILES)}), or point QUANTFAIR_DATA to the "
            f"folder that holds {name}/raw."
        ) from error


def _damaged(folder: Path, spec: DatasetSpec, reason: str) -> DataError:
    raw = folder / CLASSES[spec.name] / "raw"
    wrong = [name for name in FILES if not _has_its_size(raw / name)]
    cause = f"{' and '.join(wrong)} of the wrong size" if wrong else reason
    return DataError(f"The files in {raw} are damaged ({cause}): remove them, so that they are fetched again.")


def _has_its_size(file: Path) -> bool:
    """Whether as many bytes follow as the head announces: two zeros, a type, the number of sizes, and the sizes."""
    data = np.memmap(file, np.uint8, "r") if file.stat().st_size >= 4 else np.zeros(4, np.uint8)
    n_sizes = int(data[3])
    sizes = data[4 : 4 + 4 * n_sizes].view(">u4").astype(np.int64)
    return n_sizes > 0 and len(data) == 4 + 4 * n_sizes + sizes.prod()
