"""The values every data set becomes: images that can be read in batches, labels, groups and splits.

Legend: N images, C channels, H height, W width, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
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
    """Images that fit into memory, or a file mapped into it, as one uint8 array of shape NCHW."""

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
    """What a source gives: images, attributes, the official test images if there are any, and what was noticed.

    `notes` are sentences for people: how many images were skipped and why. `numbers` are what attributes were made of,
    such as an age in years: copies that differ there are in conflict too.
    """

    images: Images
    attributes: Mapping[str, Attribute]
    is_test_N: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclass(frozen=True)
class GroupedDataset:
    """A data set ready for a trial. `attributes["label"]` is the target; the others are what one may group by.

    `splits` maps train, val and test to sorted image indices; no two splits share an image or a byte-identical copy.
    `mean_C` and `std_C` are those of the training split, for pixels in [0, 1]. `may_flip`: a mirror image keeps its
    label.
    """

    dataset_id: str
    name: str
    task: str
    images: Images = field(repr=False)
    attributes: Mapping[str, Attribute] = field(repr=False)
    splits: Mapping[str, np.ndarray] = field(repr=False)
    mean_C: np.ndarray
    std_C: np.ndarray
    may_flip: bool = True

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

    def normalization(self, mean: Sequence[float] = (), std: Sequence[float] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Return mean_C and std_C for pixels in [0, 1]: what is given, else those of the training split.

        Raises:
            DataError: a number of values that is not the number of channels.
        """
        for name, values in (("mean", mean), ("std", std)):
            if values and len(values) != self.n_channels:
                have = f"the images of {self.name} have {self.n_channels}"
                raise DataError(f"`{name}` must have a number for each channel, got {len(values)}; {have}.")
        given = (np.array(values, dtype=np.float32) for values in (mean, std))
        mean_C, std_C = (
            values_C if len(values_C) else own_C
            for values_C, own_C in zip(given, (self.mean_C, self.std_C), strict=True)
        )
        return mean_C, std_C

    def groups(self, grouping: str) -> Attribute:
        """Return the groups of an attribute, or of an intersection such as "ethnicity*gender"."""
        return cross_attributes(self.attributes, grouping)

    def calibration_indices(self, n: int, seed: int, balance: str = "uniform") -> np.ndarray:
        """Draw `n` training images in random order, the same for the same seed; all where there are fewer.

        `balance` is "uniform", or an attribute or intersection: every group then gives the same number of images, and a
        group that has too few gives all, while the others make up for it.
        """
        train = np.random.default_rng(seed).permutation(self.splits["train"])
        if balance != "uniform":
            codes_N = self.groups(balance).codes_N[train]
            train = train[np.argsort(rank_within(codes_N), kind="stable")]
        return train[:n]


def cross_attributes(attributes: Mapping[str, Attribute], grouping: str) -> Attribute:
    """Return the attribute that holds every combination of the parts of "a*b", named "x*y".

    Raises:
        DataError: a part is not an attribute.
    """
    parts = grouping.split("*")
    for part in parts:
        if part not in attributes:
            known = ", ".join(attributes)
            raise DataError(f"The data has no attribute '{part}' to group by; it has {known}, and crossings as 'a*b'.")
    crossed = attributes[parts[0]]
    for part in parts[1:]:
        codes_N, names = attributes[part]
        pairs = tuple(f"{a}*{b}" for a in crossed.names for b in names)
        crossed = Attribute(crossed.codes_N * len(names) + codes_N, pairs)
    return crossed


def rank_within(codes_N: np.ndarray) -> np.ndarray:
    """Return how many equal codes stand before each position."""
    by_code = np.argsort(codes_N, kind="stable")
    sizes = np.unique(codes_N, return_counts=True)[1]
    rank_N = np.empty(len(codes_N), dtype=np.int64)
    rank_N[by_code] = np.arange(len(codes_N)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rank_N
