"""Which data sets there are, and what is in them."""

from collections.abc import Sequence
from typing import Any

from quantfair.datasets import data_folder, describe_dataset, find_dataset_id, list_sources
from quantfair.orchestrator.config.spec import read_dataset


def list_data() -> dict[str, Any]:
    """Return the folder of the data, and every known data set with its status, tasks, attributes and terms."""
    return {"data_folder": str(data_folder()), "sources": list_sources()}


def prepare_data(name: str, settings: Sequence[str] = ()) -> str:
    """Find or download a data set, convert it, and return its dataset_id; `settings` are `key=value` texts.

    Raises:
        RequestError: there is no such data set or setting.
        DataError: its files are missing or not what they must be.
    """
    return find_dataset_id(read_dataset(name, list(settings)))


def check_data(name: str, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Return the images of every split and group, and what is known of copies. Raises as `prepare_data`."""
    return describe_dataset(read_dataset(name, list(settings)))
