"""A table that a user wrote, CSV or Parquet, as a frame in which nothing was changed without a word.

Pandas on its own takes "None", "NA" and "null" for missing values, and 7.4 for 7 where whole numbers are asked for.
Here only an empty cell is missing, and every number that is none is refused by name.
"""

import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from quantfair.results.store.files import StoreError

PARQUET = b"PAR1"  # how such a file begins
_WHOLE = re.compile(r"[+-]?\d+(\.0*)?")  # pandas writes 3.0 for 3 once a column has had a missing value
_LARGEST_EXACT = 2**53
_LARGEST_ID = 2**63 - 1


def read_user_table(data: bytes, *, source: str, required: Sequence[str]) -> Any:
    """Return the columns of a CSV as texts without spaces around them, or those of a Parquet file as they are.

    The index of a Parquet file is a column like others where it has a name. Raises StoreError where the file is neither
    of the two, or lacks one of the columns that are required.
    """
    try:
        if data.startswith(PARQUET):
            table: Any = pq.read_table(io.BytesIO(data)).to_pandas()
            named = [name for name in table.index.names if name is not None and name not in table]
            table = table.reset_index(level=named).reset_index(drop=True)
        else:
            table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, encoding="utf-8-sig")
            table = pd.DataFrame({name: table[name].str.strip() for name in table})
            table.columns = [str(name).strip() for name in table.columns]
    except (ValueError, pa.ArrowException, OSError) as error:
        raise StoreError(f"{source} is neither CSV nor Parquet ({error}).") from error
    names = [str(name) for name in table.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StoreError(f"{source} has the columns {', '.join(twice)} twice, spaces aside; rename one of each.")
    if missing := [name for name in required if name not in table]:
        raise StoreError(f"{source} has no column {' and no column '.join(missing)}: it has {list(table.columns)}.")
    return table


def parse_sample_ids(values: Any, *, source: str) -> Any:
    """Return sample ids as whole numbers. Raises StoreError naming the first that is none."""
    ids = [parse_whole(value) for value in values]
    for value, sample_id in zip(values, ids, strict=True):
        if sample_id is None or abs(sample_id) > _LARGEST_ID:
            raise StoreError(
                f"{source}: sample_id must be a whole number, got {value!r}: take those of samples.parquet."
            )
    return pd.Series(ids, index=values.index, dtype="int64")


def parse_whole(value: Any) -> int | None:
    """Return a whole number given as a number or as a text (3, 3.0, "3", "3.0"), or None where it is none."""
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        # Beyond 2^53 a float may stand for another whole number than the one that was meant.
        return int(value) if np.isfinite(value) and value == round(value) and abs(value) < _LARGEST_EXACT else None
    text = str(value).strip()
    return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None


def sort_names(names: Iterable[str]) -> list[str]:
    """Return names in their order: as numbers where all are finite numbers (5, 10, 100), else as texts."""
    by_text = sorted(names)
    try:
        numbers = [float(name) for name in by_text]
    except ValueError:
        return by_text
    if not np.isfinite(numbers).all():  # "nan" stands in no order with numbers
        return by_text
    return sorted(by_text, key=float)
