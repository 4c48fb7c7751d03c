"""The tables and the page of a stored sweep are those of yesterday.

The store and its tables were written by `golden_files.py`, whose docstring says when they may be written again.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from golden_files import FLOAT32_COLUMNS, GOLDEN, derive_golden, describe_page, find_differences, list_tables

from quantfair.results import TABLES, Store

GOLDEN_TABLES = sorted(path.stem for path in (GOLDEN / "tables").iterdir())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A copy of the golden store with the tables and the page that today's code makes of it."""
    return derive_golden(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def tables(store: Store) -> dict[str, pa.Table]:
    """The tables of today."""
    return list_tables(store)


def test_every_table_of_the_schema_is_golden() -> None:
    assert set(GOLDEN_TABLES) == set(TABLES) - {"predictions"}  # they are read as they were written, trial by trial


def test_the_golden_store_is_whole_and_nothing_of_it_is_put_away(store: Store, tables: dict[str, pa.Table]) -> None:
    assert tables["trials"]["status"].to_pylist() == ["ok"] * 12
    assert not Path(store.location, "corrupt").exists()


# Also the columns that differ between two runs of a plan: both tables are of one run.
@pytest.mark.parametrize("name", GOLDEN_TABLES)
def test_a_table_of_the_golden_store_is_that_of_yesterday(name: str, tables: dict[str, pa.Table]) -> None:
    golden = pq.read_table(GOLDEN / "tables" / f"{name}.parquet")
    assert find_differences(tables[name], golden, float32=FLOAT32_COLUMNS.get(name, ())) == []


def test_the_page_of_the_golden_store_carries_tables_of_the_same_form(store: Store) -> None:
    golden = (GOLDEN / "page.txt").read_text()
    assert describe_page(store.read_report()).splitlines() == golden.splitlines()


# That a difference is seen, and said.


def test_a_difference_between_tables_is_named_with_its_column_and_row() -> None:
    golden = pa.table({"n": [1, 2], "value": [0.5, 0.25], "seeds": [[1.0], [2.0]], "word": ["even", None]})

    def changed(name: str, values: list[object]) -> list[str]:
        place = golden.column_names.index(name)
        return find_differences(golden.set_column(place, name, pa.array(values)), golden)

    assert find_differences(golden, golden) == []
    assert changed("value", [0.5, 0.25 * (1 + 1e-10)]) == []
    assert changed("value", [0.5, 0.25 * (1 + 1e-8)]) == [
        "value: 1 of 2 rows differ, first row 1: 0.2500000025, golden has 0.25"
    ]
    assert changed("value", [None, 0.25]) == ["value: 1 of 2 rows differ, first row 0: None, golden has 0.5"]
    assert changed("seeds", [[1.0], [2.5]]) == ["seeds: 1 of 2 rows differ, first row 1: [2.5], golden has [2.0]"]
    assert changed("seeds", [[1.0, 1.0], [2.0]]) == [
        "seeds: 1 of 2 rows differ, first row 0: [1.0, 1.0], golden has [1.0]"
    ]
    assert changed("word", ["even", "uneven"]) == ["word: 1 of 2 rows differ, first row 1: 'uneven', golden has None"]
    assert changed("n", [1.0, 2.0]) == ["n: double, golden has int64"]


def test_another_number_of_rows_and_other_columns_are_named() -> None:
    golden = pa.table({"n": [1, 2], "value": [0.5, 0.25]})
    assert find_differences(golden.slice(1), golden) == ["1 rows, golden has 2"]
    (said,) = find_differences(golden.rename_columns(["n", "share"]), golden)
    assert said.startswith("columns: missing ['value'], new ['share']")
    (said,) = find_differences(golden.select(["value", "n"]), golden)
    assert said.startswith("columns: missing [], new []")


def test_only_columns_of_float32_sums_may_differ_by_float32_rounding() -> None:
    golden = pa.table({"null_mean": [0.5]})
    near = pa.table({"null_mean": [0.5 * (1 + 1e-6)]})
    far = pa.table({"null_mean": [0.5 * (1 + 1e-4)]})
    assert find_differences(near, golden, float32=["null_mean"]) == []
    assert len(find_differences(near, golden)) == 1
    assert len(find_differences(far, golden, float32=["null_mean"])) == 1
