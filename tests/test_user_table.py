"""Files that users wrote: nothing in them is changed without a word."""

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated_sweep import make_store

from quantfair.results import Store, StoreError, import_groups
from quantfair.results.user_data.groups import add_custom_groups
from quantfair.results.user_data.user_table import parse_sample_ids, parse_whole, read_user_table, sort_names


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("digits")
    return make_store(folder, datasets=("digits",), seeds=(0,), bits=(8,), observers=("minmax",))


def join(store: Store, values: list[str], name: str = "own") -> tuple[dict[int, str], list[str]]:
    """Return the group of each image in a new grouping, and its groups in their order."""
    lines = [f"{place},{value}" for place, value in enumerate(values)]
    import_groups(store, "\n".join([f"sample_id,{name}", *lines]).encode(), source="own.csv")
    dataset_id = store.read_manifest()["plan"][0]["dataset_id"]
    samples, attributes, names = add_custom_groups(store, dataset_id)
    assert names == [name]
    return dict(zip(samples["sample_id"].to_pylist(), samples[name].to_pylist(), strict=True)), attributes[name]


# --- cells ---


def test_only_an_empty_cell_is_missing(store: Store) -> None:
    words = ["None", "NA", "null", "N/A", "nan", "NULL", "-", "", "Muslim"]
    groups, names = join(store, words, "religion")
    assert [groups[place] for place in range(len(words))] == [word or "unknown" for word in words]
    assert names == [*sorted(set(words) - {""}), "unknown"]


def test_spaces_around_a_cell_do_not_make_another_group(store: Store) -> None:
    groups, names = join(store, ["x", "x ", " x", "y"])
    assert [groups[place] for place in range(4)] == ["x", "x", "x", "y"]
    assert names == ["x", "y", "unknown"]


def test_numbers_are_in_the_order_of_numbers(store: Store) -> None:
    assert join(store, ["10", "5", "100", "20"], "age")[1] == ["5", "10", "20", "100", "unknown"]
    assert sort_names(["10", "9", "b"]) == ["10", "9", "b"]
    assert sort_names(["1.5", "-2", "1e1"]) == ["-2", "1.5", "1e1"]


@pytest.mark.parametrize("odd", ["nan", "inf"])
def test_a_name_that_is_no_finite_number_makes_all_of_them_texts(odd: str) -> None:
    for names in (["10", odd, "9"], [odd, "9", "10"], ["9", "10", odd]):
        assert sort_names(names) == ["10", "9", odd]


# --- whole numbers ---


@pytest.mark.parametrize("value", [3, 3.0, "3", "3.0", " 3 ", "3.", "+3", np.int64(3), np.float32(3)])
def test_a_whole_number_may_be_written_in_many_ways(value: object) -> None:
    assert parse_whole(value) == 3


@pytest.mark.parametrize(
    "value", [7.4, "7.4", "inf", np.inf, np.nan, "nan", "", "x", "1e3", True, 1e300, None, "3.0.0"]
)
def test_what_is_no_whole_number_is_not_made_one(value: object) -> None:
    assert parse_whole(value) is None


@pytest.mark.parametrize("value", ["0.4", "inf", "", "1e9", "x", "9" * 30])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_sample_id_that_is_none_is_refused_by_name(value: str, kind: str) -> None:
    frame: Any = pd.DataFrame({"sample_id": ["0", value, "2"], "own": ["a", "b", "c"]})
    data = frame.to_csv(index=False).encode() if kind == "csv" else to_parquet(frame)
    table = read_user_table(data, source="own.csv", required=["sample_id"])
    with pytest.raises(StoreError, match=rf"own\.csv: sample_id must be a whole number, got '{value}': take those of"):
        parse_sample_ids(table["sample_id"], source="own.csv")


def test_a_groups_file_with_half_an_id_is_refused_and_not_kept(store: Store) -> None:
    before = store.read_groups_csv()
    with pytest.raises(StoreError, match=r"own\.csv: sample_id must be a whole number, got '7\.4'"):
        import_groups(store, b"sample_id,own\n7.4,a\n", source="own.csv")
    assert store.read_groups_csv() == before


def test_a_parquet_file_of_groups_is_refused(store: Store) -> None:
    data = to_parquet(pd.DataFrame({"sample_id": [0, 1], "age": [10, 20]}))
    with pytest.raises(StoreError, match=r"own\.parquet must be a CSV, and it is a Parquet file: write it with to_csv"):
        import_groups(store, data, source="own.parquet")


# --- columns ---


def test_columns_whose_names_differ_in_spaces_alone_are_refused() -> None:
    with pytest.raises(StoreError, match=r"own has the columns own twice, spaces aside; rename one of each"):
        read_user_table(b"sample_id,own,own \n1,a,b\n", source="own", required=["sample_id"])


def test_a_file_without_rows_keeps_its_columns() -> None:
    table = read_user_table(b"sample_id,own\n", source="own", required=["sample_id"])
    assert table.columns.tolist() == ["sample_id", "own"]
    assert parse_sample_ids(table["sample_id"], source="own").tolist() == []


def to_parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


def test_the_index_of_a_parquet_file_is_a_column() -> None:
    frame = pd.DataFrame({"sample_id": [4, 2], "predicted": [0, 1]})
    table = read_user_table(to_parquet(frame.set_index("sample_id")), source="own", required=["sample_id"])
    pd.testing.assert_frame_equal(table, frame)
    filtered = frame.loc[[1]]  # an index without a name, and with a gap
    table = read_user_table(to_parquet(filtered), source="own", required=["sample_id"])
    assert table["sample_id"].tolist() == [2]


def test_a_byte_order_mark_and_spaces_belong_to_no_name() -> None:
    table = read_user_table(
        b"\xef\xbb\xbfsample_id , predicted\n1, 0\n", source="own", required=["sample_id", "predicted"]
    )
    assert table.to_dict("list") == {"sample_id": ["1"], "predicted": ["0"]}
