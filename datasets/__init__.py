"""Images with labels, groups and splits. The door: `DatasetSpec` -> `load_dataset` -> `GroupedDataset` -> `Batches`."""

from typing import TYPE_CHECKING, Any

from quantfair.datasets.spec import SOURCES, DatasetSpec, find_target

if TYPE_CHECKING:
    from quantfair.datasets.batches import Batches
    from quantfair.datasets.cache import data_folder
    from quantfair.datasets.describe import describe_dataset, list_sources
    from quantfair.datasets.load import find_dataset_id, load_dataset
    from quantfair.datasets.near_duplicates import NearDuplicates, find_near_duplicates
    from quantfair.datasets.types import ArrayImages, Attribute, DataError, GroupedDataset, RawData

__all__ = [
    "SOURCES",
    "ArrayImages",
    "Attribute",
    "Batches",
    "DataError",
    "DatasetSpec",
    "GroupedDataset",
    "NearDuplicates",
    "RawData",
    "data_folder",
    "describe_dataset",
    "find_dataset_id",
    "find_near_duplicates",
    "find_target",
    "list_sources",
    "load_dataset",
]

_HOMES = {
    "Batches": "batches",
    "data_folder": "cache",
    "describe_dataset": "describe",
    "find_dataset_id": "load",
    "find_near_duplicates": "near_duplicates",
    "list_sources": "describe",
    "load_dataset": "load",
    "NearDuplicates": "near_duplicates",
    "ArrayImages": "types",
    "Attribute": "types",
    "DataError": "types",
    "GroupedDataset": "types",
    "RawData": "types",
}


def __getattr__(name: str) -> Any:
    """Load a name from its file when it is first used, so that reading a sweep file needs no numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'datasets' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"quantfair.datasets.{_HOMES[name]}"), name)
