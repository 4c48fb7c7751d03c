"""Which images every trial is evaluated on, who they are, and how a trial did on them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from quantfair.datasets import GroupedDataset
from quantfair.results import MIN_RANKED, Store, score_answers


class LargestDrop(NamedTuple):
    """The group of test images that lost most accuracy against the reference, such as "ethnicity Others"."""

    drop_pp: float
    group: str
    n: int

    def __str__(self) -> str:
        return f"{self.drop_pp:.1f} pp for {self.group}, n = {self.n}"


def list_evaluated(dataset: GroupedDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the val and test images, and the split of each."""
    parts = [(dataset.splits[name], name) for name in ("val", "test")]
    return np.concatenate([part for part, _ in parts]), np.concatenate([[name] * len(part) for part, name in parts])


def score(predictions: pa.Table, dataset: GroupedDataset) -> dict[str, Any]:
    """Return accuracy, mean recall and loss of the test images."""
    test = predictions.filter(pc.field("split") == "test")
    labels_N = dataset.labels_N[test["sample_id"].to_numpy()]
    return score_answers(test["predicted"].to_numpy(), labels_N, loss_nats_N=test["loss_nats"].to_numpy())


def find_largest_drop(
    predictions: pa.Table, reference_NK: np.ndarray, dataset: GroupedDataset, groupings: Iterable[str]
) -> LargestDrop | None:
    """Return the largest `drop_pp` of `paired_metrics`, or None where no group has MIN_RANKED test images.

    `reference_NK` are the logits of the reference, of the images of `predictions` in their order.
    """
    test_N = predictions["split"].to_numpy() == "test"
    indices = predictions["sample_id"].to_numpy()[test_N]
    labels_N = dataset.labels_N[indices]
    right_N = predictions["predicted"].to_numpy()[test_N] == labels_N
    lost_N = (reference_NK[test_N].argmax(1) == labels_N).astype(int) - right_N  # 1 lost, 0 as before, -1 won
    drops = []
    for grouping in groupings:
        codes_N, names = dataset.groups(grouping)
        n_G = np.bincount(codes_N[indices], minlength=len(names))
        lost_G = np.bincount(codes_N[indices], weights=lost_N, minlength=len(names))
        ranked = np.flatnonzero(n_G >= MIN_RANKED)
        drops += [LargestDrop(float(100 * (lost_G[g] / n_G[g])), f"{grouping} {names[g]}", int(n_G[g])) for g in ranked]
    return max(drops, key=lambda drop: drop.drop_pp, default=None)


def write_samples(dataset: GroupedDataset, store: Store) -> None:
    """Write who the images are, once for each data set: two writers would write the same bytes."""
    if store.has_samples(dataset.dataset_id):
        return
    parts = [(name, dataset.splits[name]) for name in ("train", "val", "test")]
    indices = np.concatenate([part for _, part in parts])
    columns = {
        "dataset_id": pa.repeat(dataset.dataset_id, len(indices)),
        "sample_id": indices,
        "split": np.concatenate([[name] * len(part) for name, part in parts]),
        "label": dataset.labels_N[indices],
        "source": pa.nulls(len(indices), pa.string()),
    }
    others = {name: value for name, value in dataset.attributes.items() if name != "label"}
    columns |= {name: np.array(column.names)[column.codes_N[indices]] for name, column in others.items()}
    attributes = {name: list(column.names) for name, column in dataset.attributes.items()}
    store.write_samples(dataset.dataset_id, pa.table(columns), attributes)
