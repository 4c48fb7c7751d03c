"""Damaged files: each kind is found, whatever byte is wrong, put away, and costs nothing but its own trial."""

import copy
import io
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_results_tables import Sweep

from quantfair.results import DamagedError, Store, find_damage, quarantine, scan_store, update_report
from quantfair.results.schema import TRIALS

HARM: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "last byte lost": lambda data: data[:-1],
    "a bit of a page flipped": lambda data: flip(data, data.index(b"PAR1") + 80),
    "no parquet": lambda data: b"a text",
}


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Three trials of one data set, one of them with curvature and one with sensitivity. Shared: copy it."""
    sweep = Sweep(tmp_path_factory.mktemp("whole"))
    for trial_id, method in (("a", "fp32"), ("b", "ptq"), ("c", "ptq")):
        sweep.add(trial_id, sweep.logits, method=method, reference=None if method == "fp32" else "a")
    n_val = int((sweep.split == "val").sum())
    columns = {"trial_id": ["b"] * n_val, "layer": ["fc"] * n_val, "sample_id": np.arange(600, 600 + n_val)}
    sweep.store.write_layer_predictions(
        "b", [pa.table({**columns, "predicted": [0] * n_val, "float_predicted": [1] * n_val})]
    )
    key = {"trial_id": "a", "grouping": "label", "split": "train", "n": 9, "statistic": "grad_norm"}
    sweep.store.write_mechanism("a", [{**key, "group": name, "value": 0.1} for name in "xy"])
    sweep.tables()
    return sweep


@pytest.fixture
def sweep(whole: Sweep, tmp_path: Path) -> Sweep:
    """The same, to be damaged."""
    shutil.copytree(whole.store.location, tmp_path, dirs_exist_ok=True)
    sweep = copy.copy(whole)
    sweep.store = Store.open(str(tmp_path))
    return sweep


PLACES = {
    "trials/b.parquet": {"b"},
    "predictions/b.torch.parquet": {"b"},
    "layers/b.parquet": {"b"},
    "layers/b.sensitivity.parquet": {"b"},
    "mechanism/a.parquet": {"a"},
    "samples/d.parquet": set(),
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("place", PLACES)
def test_damage_is_named_and_put_away_and_costs_its_own_trial_only(sweep: Sweep, place: str, harm: str) -> None:
    store, file = sweep.store, Path(sweep.store.location, place)
    damaged = HARM[harm](file.read_bytes())
    file.write_bytes(damaged)
    found = find_damage(store)
    assert [error.path for error in found] == [place]
    with pytest.raises(DamagedError, match=rf"{place} is damaged \(.*\)\. `sweep` moves it to corrupt/"):
        raise found[0]
    (said,) = quarantine(store, found)
    assert said.startswith(f"{place} is damaged (")
    assert f": moved to corrupt/{place}; `sweep` " in said
    assert Path(store.location, "corrupt", place).read_bytes() == damaged
    assert not file.exists()
    assert store.trial_ids() == {"a", "b", "c"} - PLACES[place]


def test_every_flipped_byte_of_a_row_is_noticed_or_harmless(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    store.write_trial({"trial_id": "a", "status": "ok", "accuracy": 0.5, "config": '{"x": 1}'})
    file = tmp_path / "trials" / "a.parquet"
    data, row = file.read_bytes(), store.read_trial("a")
    n_noticed = 0
    for place in range(0, len(data), 3):
        file.write_bytes(flip(data, place))
        try:
            assert store.read_trial("a") == row, place
        except DamagedError:
            n_noticed += 1
    assert n_noticed > len(data) / 6


def test_a_row_of_another_trial_is_damage(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    store.write_trial({"trial_id": "a", "status": "ok"})
    (tmp_path / "trials" / "a.parquet").rename(tmp_path / "trials" / "b.parquet")
    with pytest.raises(DamagedError, match=r"trials/b.parquet is damaged \(it is not the row of trial b\)"):
        store.read_trials()


def test_a_column_nobody_knows_is_damage_and_one_that_is_missing_is_an_earlier_versions(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    store.write_trial({"trial_id": "a", "status": "ok", "seed": 3})
    file = tmp_path / "trials" / "a.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop_columns(["preset"]), file)
    assert store.read_trials().schema.equals(TRIALS)
    pq.write_table(table.rename_columns({"seed": "sead"}), file)
    with pytest.raises(DamagedError, match=r"is damaged \(unknown columns \['sead'\]\)"):
        store.read_trials()


@pytest.mark.parametrize("place", ["predictions/b.torch.parquet", "layers/b.parquet"])
@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["missing", "empty"])
def test_a_finished_trial_without_its_files_counts_as_missing(
    sweep: Sweep, place: str, harm: Callable[[Path], object]
) -> None:
    harm(Path(sweep.store.location, place))
    trials, damaged, _ = scan_store(sweep.store)
    assert trials["trial_id"].to_pylist() == ["a", "c"]
    assert [error.path for error in damaged] == [place]


def test_a_second_damaged_file_does_not_overwrite_the_first(sweep: Sweep) -> None:
    file = Path(sweep.store.location, "predictions", "b.torch.parquet")
    for content in (b"first", b"second", b"third"):
        file.write_bytes(content)
        quarantine(sweep.store, find_damage(sweep.store))
        sweep.store.write_trial({"trial_id": "b", "status": "ok", "method": "ptq", "dataset_id": "d"})
    kept = sorted(Path(sweep.store.location, "corrupt", "predictions").iterdir())
    assert [path.name for path in kept] == [f"b.torch.parquet{end}" for end in ("", ".2", ".3")]
    assert [path.read_bytes() for path in kept] == [b"first", b"second", b"third"]


def test_damage_inside_is_met_when_tables_are_built(sweep: Sweep) -> None:
    file = Path(sweep.store.location, "predictions", "b.torch.parquet")
    file.write_bytes(HARM["truncated"](file.read_bytes()))
    with pytest.raises(DamagedError, match=r"predictions/b.torch.parquet is damaged"):
        update_report(sweep.store)
    quarantine(sweep.store, find_damage(sweep.store))
    assert [row["trial_id"] for row in update_report(sweep.store).trials] == ["a", "c"]


def test_two_who_build_tables_at_once_do_it_one_after_the_other(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []

    def write_slowly(store: Store, tables: object) -> str:
        said.append("begins")
        time.sleep(0.3)  # the other one has begun long before the end
        said.append("ends")
        return "report.html"

    monkeypatch.setattr("quantfair.results.page.report.write_report", write_slowly)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: update_report(sweep.store, always=True), range(2))
    assert said == ["begins", "ends"] * 2
    assert first == second


def test_without_the_description_of_its_images_a_data_set_has_no_trials_in_the_tables(sweep: Sweep) -> None:
    Path(sweep.store.location, "samples", "d.parquet").unlink()
    assert [error.path for error in scan_store(sweep.store).damaged] == ["samples/d.parquet"]
    assert update_report(sweep.store).trials == []
    assert sweep.store.trial_ids() == {"a", "b", "c"}


def make_stage() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.randn(1000)}, buffer)
    return buffer.getvalue()


def test_a_stage_that_torch_saved_is_sound(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    store.write_stage("a", make_stage())
    store.check_stage("a")


@pytest.mark.parametrize(
    "harm", [lambda d: b"", lambda d: d[:-20], lambda d: d[:1000], lambda d: flip(d, d.index(b"/data/0") + 1500)]
)
def test_a_stage_that_is_not_whole_is_damage(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    store = Store.open(str(tmp_path))
    store.write_stage("a", harm(make_stage()))
    with pytest.raises(DamagedError, match=r"stages/a.pt is damaged"):
        store.check_stage("a")


def test_a_stage_that_is_missing_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=r"stages/a.pt is missing"):
        Store.open(str(tmp_path)).check_stage("a")
