"""The values every data set becomes: images that can be read in batches, labels, groups and splits.

Legend: N images, C channels, H height, W width, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np


class DataError(ValueError):
    """The data is missing, damaged or too small for what was asked; the message says what to do."""


class Images(Protocol):
    """Anything with a length that gives uint8 images by index."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return uint8 images_NCHW of these indices, in their order."""
        ...


class ArrayImages(NamedTuple):
    """Images that fit into memory, as one uint8 array of shape NCHW."""

    images_NCHW: np.ndarray

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return uint8 images_NCHW of these indices, in their order."""
        return self.images_NCHW[indices]


class Attribute(NamedTuple):
    """A column with a name for every value: codes_N index into `names`."""

    codes_N: np.ndarray
    names: tuple[str, ...]


class RawData(NamedTuple):
    """What a source file gives: images, attributes, and the official test images if there are any."""

    images: Images
    attributes: Mapping[str, Attribute]
    is_test_N: np.ndarray | None = None


@dataclass(frozen=True)
class GroupedDataset:
    """A data set ready for a trial. `attributes["label"]` is the target; the others are what one may group by.

    `splits` maps train, val and test to sorted image indices; no two splits share an image or a byte-identical copy.
    `mean_C` and `std_C` are those of the training split, for pixels in [0, 1].
    """

    dataset_id: str
    name: str
    task: str
    images: Images = field(repr=False)
    attributes: Mapping[str, Attribute] = field(repr=False)
    splits: Mapping[str, np.ndarray] = field(repr=False)
    mean_C: np.ndarray
    std_C: np.ndarray

    @property
    def labels_N(self) -> np.ndarray:
        """Class index of every image of every split."""
        return self.attributes["label"].codes_N

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the logits."""
        return self.attributes["label"].names

    @property
    def n_channels(self) -> int:
        """C of images_NCHW."""
        return self.images.batch(np.arange(1)).shape[1]

    def calibration_indices(self, n: int, seed: int) -> np.ndarray:
        """Draw up to `n` training images in random order, disjoint from val and test, the same for the same seed."""
        return np.random.default_rng(seed).permutation(self.splits["train"])[:n]
