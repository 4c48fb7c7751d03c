"""What is there, as plain values: behind `python -m orchestrator data list | prepare | check`."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from quantfair.datasets.cache import Prepared, data_folder
from quantfair.datasets.load import load_dataset, read_source
from quantfair.datasets.near_duplicates import find_near_duplicates
from quantfair.datasets.spec import FACTORY, SOURCES, DatasetSpec, SourceInfo, find_source
from quantfair.datasets.splits import find_conflicts
from quantfair.datasets.types import Attribute, DataError, GroupedDataset


def list_sources() -> list[dict[str, Any]]:
    """Return every known data set: its tasks and groupings, whether its files are there, and where to get them."""
    sources = {**SOURCES, "package.module:factory": FACTORY}
    return [
        {
            "name": name,
            "status": _find_status(name, source),
            "tasks": list(source.tasks),
            "attributes": _attribute_names(source),
            "official_test": source.has_official_test,
            "where": source.where,
            "get": source.get,
            "terms": source.terms,
        }
        for name, source in sources.items()
    ]


def describe_dataset(spec: DatasetSpec) -> dict[str, Any]:
    """Return counts of a data set by split and group, its copies, what was skipped, and its terms.

    Raises:
        DataError: files are missing or damaged, or the splits asked for do not fit the data.
    """
    source, dataset = read_source(spec), load_dataset(spec)
    attributes = {name: value for name, value in dataset.attributes.items() if name != "label"}
    everything = np.arange(len(dataset.images))
    return {
        "name": spec.name,
        "task": spec.task,
        "dataset_id": dataset.dataset_id,
        "fingerprint": source.fingerprint,
        "is_published": is_published(spec, source.fingerprint),
        "n_images": len(dataset.images),
        "shape": list(dataset.images.batch(everything[:1]).shape[1:]),
        "groups": _count(attributes, everything),
        "splits": {
            name: {"n_images": len(split), "groups": _count(attributes, split)}
            for name, split in dataset.splits.items()
        },
        "copies": count_copies(source.prepared),
        "near_duplicates": count_near_duplicates(dataset),
        "notes": list(source.prepared.raw.notes),
        "terms": find_source(spec.name).terms,
    }


def count_copies(prepared: Prepared) -> dict[str, int]:
    """Count sets of byte-identical images, the images beyond the first of each, and the sets whose labels differ."""
    sizes = np.bincount(prepared.copy_ids_N)
    conflicts_N = find_conflicts(prepared.raw, prepared.copy_ids_N)
    return {
        "sets": int((sizes > 1).sum()),
        "redundant_images": int((sizes - 1).sum()),
        "conflicting_sets": len(np.unique(prepared.copy_ids_N[conflicts_N])),
    }


def count_near_duplicates(dataset: GroupedDataset) -> dict[str, Any]:
    """Count the test images that have a near duplicate, or say why that cannot be judged."""
    test = dataset.splits["test"]
    found = find_near_duplicates(dataset.images, test)
    return {"n_test_images": len(test), "n_images": found.n_images, "reason": found.reason}


def is_published(spec: DatasetSpec, fingerprint: str) -> bool | None:
    """Whether these are the published files; None where their bytes are not known to us."""
    module = importlib.import_module(find_source(spec.name).module)
    known = getattr(module, "PUBLISHED", {}).get(spec.name)
    return None if known is None else fingerprint == known


def _attribute_names(source: SourceInfo) -> list[str]:
    return sorted({*source.tasks.values(), *source.attributes})


def _find_status(name: str, source: SourceInfo) -> str:
    """Say "found", "missing", "generated", or "yours" where only a setting can tell."""
    module = importlib.import_module(source.module)
    if not source.tasks:
        return "yours"
    if not hasattr(module, "find_files"):
        return "generated"
    try:
        module.find_files(data_folder(), DatasetSpec(name=name, task=next(iter(source.tasks))))
    except DataError:
        return "missing"
    return "found"


def _count(attributes: Mapping[str, Attribute], indices: np.ndarray) -> dict[str, dict[str, int]]:
    return {
        name: dict(zip(names, np.bincount(codes_N[indices], minlength=len(names)).tolist(), strict=True))
        for name, (codes_N, names) in attributes.items()
    }
