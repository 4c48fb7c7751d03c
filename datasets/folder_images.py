"""Image files read when they are asked for: sets of any size, decoded by worker threads. Always RGB."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from quantfair.datasets.types import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class FolderImages:
    """The pictures in `files`, all of one size, or resized to `size` x `size` pixels (bilinear, antialiased)."""

    def __init__(self, files: Sequence[Path], size: int | None = None):
        self.files, self.size = files, size
        self.shape_HW = (size, size) if size else _decode(files[0], None).shape[1:]
        self.pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode")

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return uint8 images_NCHW of these indices, in their order.

        Raises:
            DataError: a file is no picture, or has another size than the first one.
        """
        return np.stack(list(self.pool.map(self._read, indices.tolist())))

    def _read(self, index: int) -> np.ndarray:
        file = self.files[index]
        image_CHW = _decode(file, self.size)
        if image_CHW.shape[1:] != self.shape_HW:
            (height, width), (first_height, first_width) = image_CHW.shape[1:], self.shape_HW
            raise DataError(
                f"{file} has {width}x{height} pixels, but {self.files[0].name} has {first_width}x{first_height}: set "
                "`dataset.size` to resize all images to one size."
            )
        return image_CHW


def list_images(folder: Path) -> list[Path]:
    """Return the pictures in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _decode(file: Path, size: int | None) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            picture = picture.convert("RGB")
            if size is not None:
                picture = picture.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(picture).transpose(2, 0, 1)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file} cannot be read as a picture ({error}): replace it or take it away.") from error
