"""Sources in MNIST's IDX format, as torchvision lays them out: NAME/raw/ with four files, gzipped or plain."""

import gzip
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.cache import hash_files
from datasets.types import ArrayImages, Attribute, DataError, RawData

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class IdxSource:
    """A torchvision class that reads IDX files, and the names of its classes."""

    name: str
    attribute: str
    names: tuple[str, ...]

    def fingerprint(self, folder: Path) -> str:
        """Return sha256 over the four plain files; they are unpacked or downloaded first if they are missing."""
        files = [self._raw(folder) / name for name in FILES]
        for file in files:
            _unpack(file)
        if not all(file.exists() for file in files):
            self._download(folder)
        return hash_files(files, folder)

    def load(self, folder: Path) -> RawData:
        """Return all images, N x 1 x 28 x 28, training images first."""
        import torchvision

        data_set = getattr(torchvision.datasets, self.name)
        parts = [data_set(str(folder), train=train) for train in (True, False)]
        images_NCHW = np.concatenate([part.data.numpy() for part in parts])[:, None]
        codes_N = np.concatenate([part.targets.numpy() for part in parts]).astype(np.int64)
        is_test_N = np.arange(len(codes_N)) >= len(parts[0])
        return RawData(ArrayImages(images_NCHW), {self.attribute: Attribute(codes_N, self.names)}, is_test_N)

    def _raw(self, folder: Path) -> Path:
        return folder / self.name / "raw"

    def _download(self, folder: Path) -> None:
        import torchvision

        try:
            getattr(torchvision.datasets, self.name)(str(folder), download=True)
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{self.name} is not in {self._raw(folder)} and could not be downloaded ({reason}). Put its four files "
                f"there, gzipped or plain ({', '.join(FILES)}), or point QUANTFAIR_DATA to the folder that holds "
                f"{self.name}/raw."
            ) from error


def _unpack(file: Path) -> None:
    """Unpack file.gz beside itself, aside first, if only that is there."""
    packed = file.with_name(f"{file.name}.gz")
    if file.exists() or not packed.exists():
        return
    aside = file.with_name(f".{file.name}.tmp")
    try:
        with gzip.open(packed) as source, aside.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (OSError, EOFError) as error:
        aside.unlink(missing_ok=True)
        raise DataError(f"{packed} is damaged or cannot be unpacked ({error}): fetch it again.") from error
    aside.replace(file)
