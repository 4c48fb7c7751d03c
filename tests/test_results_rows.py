"""Blocks of rows -> one table, against the same rows one by one."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from quantfair.results.store.rows import MOST_BLOCKS, TableBuilder

SCHEMA = pa.schema({"name": pa.string(), "n": pa.int32(), "value": pa.float64()})
NAMES = st.none() | st.text(max_size=3)
COUNTS = st.integers(-9, 9)
VALUES = st.floats(allow_infinity=False)  # NaN among them


@st.composite
def blocks(draw: st.DrawFn):
    length = draw(st.integers(0, 3))

    def many(one: st.SearchStrategy):
        return st.lists(one, min_size=length, max_size=length)

    block = {
        "name": draw(NAMES | many(NAMES)),
        "n": draw(st.none() | COUNTS | many(COUNTS).map(lambda n: np.array(n, np.int64))),
        "value": draw(st.none() | VALUES | many(VALUES).map(lambda v: np.array(v, np.float64))),
    }
    return length, block


@given(st.lists(blocks(), max_size=8))
def test_rows_come_out_as_they_were_added(added):
    for n_copies in (1, MOST_BLOCKS // 3):  # with three blocks the second one has joined before it is asked
        rows, expected = TableBuilder(SCHEMA), []
        for length, block in added * n_copies:
            rows.add(length, **block)
            for number in range(length):
                row = {k: v[number] if isinstance(v, list | np.ndarray) else v for k, v in block.items()}
                expected.append({k: None if v is None or v != v else v for k, v in row.items()})
        assert rows.table().to_pylist() == expected
        assert rows.table().schema == SCHEMA
