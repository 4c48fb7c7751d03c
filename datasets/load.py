"""DatasetSpec -> GroupedDataset, and the `dataset_id` that stands for its content."""

import hashlib
import importlib
import json
from types import ModuleType
from typing import NamedTuple

import numpy as np

from quantfair.datasets.cache import (
    FORMAT,
    Prepared,
    SourceFiles,
    data_folder,
    fingerprint_files,
    measure,
    open_or_convert,
)
from quantfair.datasets.spec import DatasetSpec, find_source, find_target
from quantfair.datasets.splits import find_conflicts, make_splits
from quantfair.datasets.types import Attribute, DataError, GroupedDataset, cross_attributes


class Source(NamedTuple):
    """The content of a data set, before any split, and sha256 over where it comes from."""

    prepared: Prepared
    fingerprint: str


def find_dataset_id(spec: DatasetSpec) -> str:
    """Return 16 hex digits over the content of the source files and the task, split and subset asked for.

    Converts the data at its first use, and makes the splits, so that whatever is wrong is found before a trial starts.

    Raises:
        DataError: the source files are missing or damaged, or the splits asked for do not fit the data.
    """
    return load_dataset(spec).dataset_id


def load_dataset(spec: DatasetSpec) -> GroupedDataset:
    """Read, split and describe a data set.

    Raises:
        DataError: files are missing or damaged, or the splits asked for do not fit the data.
    """
    source = read_source(spec)
    attributes = find_attributes(spec, source.prepared)
    for grouping in spec.group_by:
        cross_attributes(attributes, grouping)
    raw, copy_ids_N = source.prepared.raw, source.prepared.copy_ids_N
    splits = make_splits(
        spec,
        attributes,
        copy_ids_N=copy_ids_N,
        is_test_N=raw.is_test_N,
        is_conflicting_N=find_conflicts(raw, copy_ids_N) if spec.exclude_conflicts else None,
    )
    mean_C, std_C = _pixel_statistics(source.prepared, splits["train"])
    identity = {"content": source.fingerprint, **spec.identity()}
    return GroupedDataset(
        dataset_id=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16],
        name=spec.name,
        task=spec.task,
        images=raw.images,
        attributes=attributes,
        splits=splits,
        mean_C=mean_C,
        std_C=std_C,
        may_flip=find_source(spec.name).may_flip,
    )


def read_source(spec: DatasetSpec) -> Source:
    """Open the conversion of the source files, made at their first use, or ask the source for its images."""
    module, folder = _module(spec), data_folder()
    if not hasattr(module, "find_files"):
        prepared = measure(module.load(folder, spec))
        return Source(prepared, _fingerprint(prepared))
    fingerprint = fingerprint_files(_find_or_download(module, spec))
    key = hashlib.sha256(json.dumps([FORMAT, fingerprint, spec.size]).encode()).hexdigest()[:16]
    return Source(open_or_convert(spec.name, key, lambda: module.load(folder, spec)), fingerprint)


def find_attributes(spec: DatasetSpec, prepared: Prepared) -> dict[str, Attribute]:
    """Return the columns of the source, with the one that the task predicts as "label"."""
    attributes, target = prepared.raw.attributes, find_target(spec.name, spec.task)
    if target not in attributes:
        raise DataError(f"`dataset.task` must be one of {', '.join(attributes)} for {spec.name}, got '{spec.task}'.")
    if len(names := attributes[target].names) < 2:
        only = f"only one class, {', '.join(names)}"
        raise DataError(f"`dataset.task` {spec.task} of {spec.name} has {only}: a classifier needs at least two.")
    return {"label": attributes[target], **attributes}


def _module(spec: DatasetSpec) -> ModuleType:
    return importlib.import_module(find_source(spec.name).module)


def _find_or_download(module: ModuleType, spec: DatasetSpec) -> SourceFiles:
    folder = data_folder()
    try:
        return module.find_files(folder, spec)
    except DataError:
        if not hasattr(module, "download"):
            raise
    module.download(folder, spec)
    return module.find_files(folder, spec)


def _fingerprint(prepared: Prepared) -> str:
    """Return sha256 over images and columns that come from no file."""
    raw, digest = prepared.raw, hashlib.sha256()
    for start in range(0, len(raw.images), 1024):
        digest.update(raw.images.batch(np.arange(start, min(start + 1024, len(raw.images)))).tobytes())
    for name, attribute in raw.attributes.items():
        digest.update(json.dumps([name, attribute.names]).encode() + attribute.codes_N.astype(np.int64).tobytes())
    digest.update(b"" if raw.is_test_N is None else raw.is_test_N.tobytes())
    return digest.hexdigest()


def _pixel_statistics(prepared: Prepared, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel over pixels in [0, 1], in float32; a constant channel gets std 1."""
    count = len(indices) * np.prod(prepared.raw.images.batch(indices[:1]).shape[2:]) * 255
    mean = prepared.sums_NC[indices].sum(0) / count
    mean_square = prepared.squares_NC[indices].sum(0) / (count * 255)
    std = np.sqrt(np.maximum(mean_square - mean**2, 0))
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)
