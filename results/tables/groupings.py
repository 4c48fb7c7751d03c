"""Who belongs to which group: samples and attributes -> codes, names and sizes of every grouping.

`overall` is the grouping with one group, `label` that of the classes, `A*B` the intersection of two attributes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Grouping:
    """One way to look at a data set. Codes index into `names`; G groups, of which some may be empty; V val images."""

    name: str
    names: tuple[str, ...]
    train_N: np.ndarray
    val_V: np.ndarray
    test_N: np.ndarray

    def sizes(self, split: str) -> np.ndarray:
        """Number of images in each group of a split, not to be written to."""
        return self._sizes_by_split[split]

    @cached_property
    def _sizes_by_split(self) -> dict[str, np.ndarray]:
        codes_by_split = {"train": self.train_N, "val": self.val_V, "test": self.test_N}
        return {split: np.bincount(codes, minlength=len(self.names)) for split, codes in codes_by_split.items()}


class TestSet(NamedTuple):
    """What the statistics of a data set's trials share. Images are in the order of their sample_id.

    `val_ids_V` are the images of the val split, whose groups the groupings also know.
    """

    dataset_id: str
    sample_ids_N: np.ndarray
    labels_N: np.ndarray
    n_classes: int
    groupings: tuple[Grouping, ...]
    val_ids_V: np.ndarray

    def grouping(self, name: str) -> Grouping:
        """The grouping of this name."""
        return next(grouping for grouping in self.groupings if grouping.name == name)


def make_test_set(
    dataset_id: str, samples: pa.Table, attributes: dict[str, list[str]], names: Iterable[str]
) -> TestSet:
    """Return the test images of a data set with `overall`, `label` and the groupings asked for."""
    samples = samples.sort_by("sample_id")
    codes_by_attribute = {name: _codes(samples, name, groups) for name, groups in attributes.items()}
    splits = samples["split"].to_numpy()
    wanted = dict.fromkeys(["overall", "label", *names])
    test = splits == "test"
    return TestSet(
        dataset_id,
        samples["sample_id"].to_numpy()[test],
        samples["label"].to_numpy()[test].astype(np.int64),
        len(attributes["label"]),
        tuple(_make_grouping(name, codes_by_attribute, attributes, splits) for name in wanted),
        samples["sample_id"].to_numpy()[splits == "val"],
    )


def _codes(samples: pa.Table, name: str, groups: list[str]) -> np.ndarray:
    if name == "label":
        return samples["label"].to_numpy().astype(np.int64)
    code_by_group = {group: code for code, group in enumerate(groups)}
    codes = np.array([code_by_group.get(group, -1) for group in samples[name].to_pylist()], dtype=np.int64)
    if len(strangers := np.flatnonzero(codes < 0)):
        value = samples[name][int(strangers[0])].as_py()
        raise ValueError(f"samples: `{name}` must be one of {groups}, got {value!r}; list that group in `attributes`.")
    return codes


def _make_grouping(
    name: str, codes: dict[str, np.ndarray], attributes: dict[str, list[str]], splits: np.ndarray
) -> Grouping:
    """Cross the attributes of `A*B`; the first varies slowest."""
    crossed, names = np.zeros(len(splits), dtype=np.int64), ["all"]
    for position, part in enumerate([] if name == "overall" else name.split("*")):
        crossed = crossed * len(attributes[part]) + codes[part]
        names = [f"{a}*{b}" if position else b for a in names for b in attributes[part]]
    return Grouping(name, tuple(names), *(crossed[splits == split] for split in ("train", "val", "test")))
