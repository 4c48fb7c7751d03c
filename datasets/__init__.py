"""Images with labels, groups and splits. The door: `DatasetSpec` -> `load_dataset` -> `GroupedDataset` -> `Batches`."""

from typing import TYPE_CHECKING, Any

from datasets.spec import SOURCES, DatasetSpec

if TYPE_CHECKING:
    from datasets.batches import Batches
    from datasets.load import data_folder, find_dataset_id, load_dataset
    from datasets.types import ArrayImages, Attribute, DataError, GroupedDataset

__all__ = [
    "SOURCES",
    "ArrayImages",
    "Attribute",
    "Batches",
    "DataError",
    "DatasetSpec",
    "GroupedDataset",
    "data_folder",
    "find_dataset_id",
    "load_dataset",
]

_HOMES = {
    "Batches": "batches",
    "data_folder": "load",
    "find_dataset_id": "load",
    "load_dataset": "load",
    "ArrayImages": "types",
    "Attribute": "types",
    "DataError": "types",
    "GroupedDataset": "types",
}


def __getattr__(name: str) -> Any:
    """Load a name from its file when it is first used, so that reading a sweep file needs no numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'datasets' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"datasets.{_HOMES[name]}"), name)
