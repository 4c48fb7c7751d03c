"""The reference of columns is that of the schema, and its keys tell the rows of real tables apart."""

import pandas as pd
import pyarrow.parquet as pq
import pytest
from golden_files import GOLDEN
from table_reference import KEYS, PAGE, format_page

from quantfair.results import TABLES

STORED = sorted(path.stem for path in (GOLDEN / "tables").glob("*.parquet"))


def test_the_page_is_what_the_schema_says() -> None:
    again = "run: python tests/support/table_reference.py"
    assert PAGE.read_text(encoding="utf-8") == format_page(), again


def test_the_page_names_every_table_and_column() -> None:
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")
    by_name = {section.partition("\n")[0].strip("`"): section for section in sections}
    for name, schema in TABLES.items():
        rows = [line for line in by_name[name].splitlines() if line.startswith("| `")]
        assert [row.split("`")[1] for row in rows] == schema.names


def test_every_table_has_a_key_of_its_columns() -> None:
    assert set(KEYS) == set(TABLES)
    for name, key in KEYS.items():
        assert set(key) <= set(TABLES[name].names), name


@pytest.mark.parametrize("name", STORED)
def test_no_two_rows_of_a_stored_table_have_one_key(name: str) -> None:
    key = list(KEYS[name])
    rows: pd.DataFrame = pq.read_table(GOLDEN / "tables" / f"{name}.parquet").to_pandas()
    if key:
        assert not rows.duplicated(key).any()
