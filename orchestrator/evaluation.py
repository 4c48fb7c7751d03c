"""Which images every trial is evaluated on, who they are, and how a trial did on them."""

from typing import Any

import numpy as np
import pyarrow as pa

from datasets import GroupedDataset
from results import Store


def list_evaluated(dataset: GroupedDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the val and test images, and the split of each."""
    parts = [(dataset.splits[name], name) for name in ("val", "test")]
    return np.concatenate([part for part, _ in parts]), np.concatenate([[name] * len(part) for part, name in parts])


def score(predictions: pa.Table, dataset: GroupedDataset) -> dict[str, Any]:
    """Return accuracy, mean recall and loss of the test images."""
    test = predictions.to_pandas().query("split == 'test'")
    labels_N = dataset.labels_N[test["sample_id"]]
    right_N = test["predicted"].to_numpy() == labels_N
    n_K = np.bincount(labels_N, minlength=len(dataset.class_names))
    right_K = np.bincount(labels_N, weights=right_N, minlength=len(dataset.class_names))
    return {
        "n_test": len(test),
        "accuracy": right_N.mean(),
        "macro_accuracy": (right_K[n_K > 0] / n_K[n_K > 0]).mean(),
        "loss_nats": test["loss_nats"].astype(np.float64).mean(),
    }


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
