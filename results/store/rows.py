"""Rows -> tables of a schema; many rows are collected column by column, a block at a time, constants given once.

Blocks of a few rows wait as they are, and are made into Arrow arrays a thousand at a time: an array for each column of
each block held 300 kB a trial where 90 do (2,000 trials of 17 blocks, pyarrow 26), and took five times as long.
"""

from collections.abc import Iterable, Mapping
from itertools import chain, islice, repeat
from typing import Any, Final

import numpy as np
import pyarrow as pa

from quantfair.results.store.files import StoreError

MOST_BLOCKS: Final = 1000  # and small tables that wait to be joined


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with exactly this schema. Raises StoreError naming columns that are missing or too many."""
    missing, surplus = set(schema.names) - set(table.column_names), set(table.column_names) - set(schema.names)
    if missing or surplus:
        raise StoreError(f"The columns do not fit the schema: missing {sorted(missing)}, unknown {sorted(surplus)}.")
    return table.select(schema.names).cast(schema)


def rows_to_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table; columns a row leaves out are null. Raises StoreError for a column nobody knows."""
    rows = [dict(row) for row in rows]
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise StoreError(f"The columns do not fit the schema: missing [], unknown {sorted(unknown)}.")
    return pa.Table.from_pylist(rows, schema=schema)


def join(tables: Iterable[pa.Table]) -> pa.Table | None:
    """Return small tables as one, or None for none of them; columns that a table does not have are null.

    A thousand are held at a time: a table of one row takes 50 kB, the row itself 500 bytes.
    """
    parts, rest = [], iter(tables)
    while some := list(islice(rest, MOST_BLOCKS)):
        parts.append(pa.concat_tables(some, promote_options="default").combine_chunks())
    return pa.concat_tables(parts, promote_options="default").combine_chunks() if parts else None


class TableBuilder:
    """Blocks of rows of one schema. Columns that a block leaves out are null; NaN becomes null."""

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        self._blocks: list[tuple[int, dict[str, Any]]] = []
        self._joined: list[pa.Table] = []

    def add(self, length: int, /, **columns: Any) -> None:
        """Add `length` rows. A column is one value for all of them, or an array of that length."""
        assert columns.keys() <= set(self.schema.names), columns.keys() - set(self.schema.names)
        self._blocks.append((length, columns))
        if len(self._blocks) == MOST_BLOCKS:
            self._join()

    def table(self) -> pa.Table:
        """Return everything added, in order; in pieces, since to join 2 million rows takes their memory twice."""
        self._join()
        return pa.concat_tables(self._joined) if self._joined else self.schema.empty_table()

    def _join(self) -> None:
        if not self._blocks:
            return
        lengths = [length for length, _ in self._blocks]
        arrays = [_column([block.get(f.name) for _, block in self._blocks], lengths, f.type) for f in self.schema]
        self._joined.append(pa.Table.from_arrays(arrays, schema=self.schema))
        self._blocks = []


def _column(values: list[Any], lengths: list[int], kind: pa.DataType) -> pa.Array:
    """Return one array of what a column holds in each block: None, one value for all rows, or an array."""
    if all(_is_one(value) for value in values):
        return pa.array(values, kind, from_pandas=True).take(pa.array(np.repeat(np.arange(len(values)), lengths)))
    if all(isinstance(value, np.ndarray) for value in values):
        return pa.array(np.concatenate(values), kind, from_pandas=True)
    rows = (repeat(v, length) if _is_one(v) else v for v, length in zip(values, lengths, strict=True))
    return pa.array(list(chain.from_iterable(rows)), kind, from_pandas=True)


def _is_one(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)
