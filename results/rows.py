"""Rows -> tables of a schema; many rows are collected column by column, a block at a time, constants given once."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from results.files import StoreError


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with exactly this schema. Raises StoreError naming columns that are missing or too many."""
    missing, surplus = set(schema.names) - set(table.column_names), set(table.column_names) - set(schema.names)
    if missing or surplus:
        raise StoreError(f"The columns do not fit the schema: missing {sorted(missing)}, unknown {sorted(surplus)}.")
    return table.select(schema.names).cast(schema)


def table_of(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table; columns a row leaves out are null. Raises StoreError for a column nobody knows."""
    rows = [dict(row) for row in rows]
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise StoreError(f"The columns do not fit the schema: missing [], unknown {sorted(unknown)}.")
    return pa.Table.from_pylist(rows, schema=schema)


class Rows:
    """Blocks of rows of one schema. Columns that a block leaves out are null; NaN becomes null."""

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        self._blocks: list[pa.Table] = []

    def add(self, length: int, /, **columns: Any) -> None:
        """Add `length` rows. A column is one value for all of them, or an array of that length."""
        assert columns.keys() <= set(self.schema.names), columns.keys() - set(self.schema.names)
        arrays = [_column(columns.get(field.name), length, field.type) for field in self.schema]
        self._blocks.append(pa.Table.from_arrays(arrays, schema=self.schema))

    def table(self) -> pa.Table:
        """Return everything added, in order."""
        return pa.concat_tables(self._blocks).combine_chunks() if self._blocks else self.schema.empty_table()


def _column(value: Any, length: int, kind: pa.DataType) -> pa.Array:
    if value is None:
        return pa.nulls(length, kind)
    if isinstance(value, str | int | float):
        return pa.repeat(pa.scalar(value, kind), length)
    return pa.array(value, kind, from_pandas=True)
