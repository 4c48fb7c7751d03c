"""DatasetSpec -> GroupedDataset, and the `dataset_id` that stands for its content."""

import hashlib
import importlib
import json
import os
from pathlib import Path
from types import ModuleType

import numpy as np

from datasets.spec import SOURCES, DatasetSpec
from datasets.splits import cross, find_copies, make_splits
from datasets.types import GroupedDataset, Images


def data_folder() -> Path:
    """The folder with data sets: `QUANTFAIR_DATA`, by default ~/.cache/quantfair."""
    return Path(os.environ.get("QUANTFAIR_DATA", "~/.cache/quantfair")).expanduser().absolute()


def find_dataset_id(spec: DatasetSpec) -> str:
    """Return 16 hex digits over the content of the source files and the task, split and subset asked for.

    Raises:
        DataError: the source files are missing; the message says where to put what.
    """
    identity = {"content": _source(spec).fingerprint(data_folder()), **spec.identity()}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def load_dataset(spec: DatasetSpec) -> GroupedDataset:
    """Read, split and describe a data set.

    Raises:
        DataError: files are missing, or the splits asked for do not fit the data.
    """
    raw = _source(spec).load(data_folder())
    label = raw.attributes[SOURCES[spec.name].tasks[spec.task]]
    cells_N = cross(attribute.codes_N for attribute in raw.attributes.values())
    splits = make_splits(spec, cells_N=cells_N, copy_ids_N=find_copies(raw.images), is_test_N=raw.is_test_N)
    mean_C, std_C = _pixel_statistics(raw.images, splits["train"])
    return GroupedDataset(
        dataset_id=find_dataset_id(spec),
        name=spec.name,
        task=spec.task,
        images=raw.images,
        attributes={"label": label, **raw.attributes},
        splits=splits,
        mean_C=mean_C,
        std_C=std_C,
    )


def _source(spec: DatasetSpec) -> ModuleType:
    return importlib.import_module(SOURCES[spec.name].module)


def _pixel_statistics(images: Images, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel over pixels in [0, 1], in float32; a constant channel gets std 1."""
    total = squares = np.zeros(images.batch(indices[:1]).shape[1])
    count = 0
    for chunk in np.array_split(indices, max(1, len(indices) // 4096)):
        pixels = images.batch(chunk).astype(np.float64) / 255
        total, squares = total + pixels.sum((0, 2, 3)), squares + (pixels**2).sum((0, 2, 3))
        count += pixels[:, 0].size
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)
