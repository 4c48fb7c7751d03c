"""Collects the rows of a table column by column: a block of equal length at a time, constants given once."""

from typing import Any

import pyarrow as pa


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
