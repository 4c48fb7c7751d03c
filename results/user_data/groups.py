"""New groupings for images that were measured already: a CSV of sample_id and columns, joined when tables are made.

The file is kept in the store as `groups.csv`, so every later report has it too.
"""

from typing import Any

import pyarrow as pa

from quantfair.results.store.files import StoreError
from quantfair.results.store.store import Store
from quantfair.results.user_data.user_table import PARQUET, parse_sample_ids, read_user_table, sort_names

UNKNOWN = "unknown"  # the group of images whose cell is empty


Described = tuple[pa.Table, dict[str, list[str]]]  # the samples of a data set, and the group names of each attribute


def import_groups(store: Store, data: bytes, *, source: str) -> None:
    """Check a CSV against the images and keep it in the store.

    Columns: sample_id, then one for each new grouping; `dataset_id` as well where the store holds several data sets.
    Raises:
        StoreError: the file does not fit; the message names column, image and remedy.
    """
    table = _parse(data, source)
    known = sorted({row["dataset_id"] for row in store.read_manifest()["plan"]})
    if "dataset_id" not in table and len(known) > 1:
        raise StoreError(f"{source} needs a column dataset_id: this store holds the data sets {known}.")
    for dataset_id in filter(store.has_samples, known):
        _join(table, dataset_id, store.read_samples(dataset_id), source)
    store.write_groups_csv(data)


def add_custom_groups(store: Store, dataset_id: str) -> tuple[pa.Table, dict[str, list[str]], list[str]]:
    """Return samples and attributes with the columns of the store's `groups.csv`, and the names of those columns."""
    described, data = store.read_samples(dataset_id), store.read_groups_csv()
    if data is None:
        return (*described, [])
    samples, attributes = _join(_parse(data, "groups.csv"), dataset_id, described, "groups.csv")
    return samples, attributes, [name for name in attributes if name not in described[1]]


def _join(table: Any, dataset_id: str, described: Described, source: str) -> Described:
    samples, attributes = described
    if "dataset_id" in table:
        table = table[table["dataset_id"] == dataset_id].drop(columns="dataset_id")
    by_sample = table.set_index("sample_id")
    ids = samples["sample_id"].to_pylist()
    if len(by_sample) and not by_sample.index.isin(ids).any():
        raise StoreError(f"{source} names no image of data set {dataset_id}: its sample_id is that of samples.parquet.")
    for name in by_sample.columns:
        if name in attributes or name in samples.column_names or name == "overall" or "*" in name:
            raise StoreError(f"{source}: a column may not be called `{name}`; that name is taken. Rename it.")
        values = by_sample[name].reindex(ids, fill_value="").replace("", UNKNOWN).tolist()
        samples = samples.append_column(name, pa.array(values, pa.string()))
        known = sort_names(set(values) - {UNKNOWN})
        attributes = {**attributes, name: [*known, *({UNKNOWN} & set(values))]}
    return samples, attributes


def _parse(data: bytes, source: str) -> Any:
    """Read the CSV as texts, and its sample_id as numbers that stand once."""
    if data.startswith(PARQUET):
        raise StoreError(f"{source} must be a CSV, and it is a Parquet file: write it with to_csv(index=False).")
    table = read_user_table(data, source=source, required=["sample_id"])
    table["sample_id"] = parse_sample_ids(table["sample_id"], source=source)
    keys = [name for name in ("dataset_id", "sample_id") if name in table]
    if table.duplicated(keys).any():
        twice = table.loc[table.duplicated(keys), "sample_id"].iloc[0]
        raise StoreError(f"{source} names image {twice} twice; give each sample_id one row.")
    if len(table.columns) == len(keys):
        raise StoreError(f"{source} has no column beside {', '.join(keys)}: add one for each new grouping.")
    return table
