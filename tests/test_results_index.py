"""The index of trial rows: never another answer than the files give, whatever happened to them, and far fewer reads."""

import os
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from quantfair.results import Store
from quantfair.results.store import trial_index
from quantfair.results.store.files import Files

N = 60


def write_rows(store: Store, names: list[str], *, seed: int = 0, age_s: float = 100) -> None:
    """Write rows as if that long ago."""
    for name in names:
        store.write_trial({"trial_id": name, "status": "ok", "seed": seed})
        set_age(Path(store.location, "trials", f"{name}.parquet"), age_s)


def set_age(file: Path, age_s: float) -> None:
    now = os.stat(file).st_ctime_ns
    os.utime(file, ns=(now, int(now - age_s * 1e9)))


def seeds_of(store: Store) -> dict[str, int]:
    rows = store.read_trials()
    assert rows["trial_id"].to_pylist() == sorted(rows["trial_id"].to_pylist())
    return dict(zip(rows["trial_id"].to_pylist(), rows["seed"].to_pylist(), strict=True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


@pytest.fixture
def n_opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rows that were read from their files."""
    opened: list[str] = []
    read = trial_index.read_row
    monkeypatch.setattr(trial_index, "read_row", lambda files, name: (opened.append(name), read(files, name))[1])
    return opened


NAMES = [f"t{number:03d}" for number in range(N)]


def test_rows_that_did_not_change_are_read_from_the_index(store: Store, n_opened: list[str]) -> None:
    write_rows(store, NAMES)
    write_rows(store, ["z"], age_s=0)
    for n_expected in (N + 1, 1, 1):
        assert seeds_of(store) == dict.fromkeys([*NAMES, "z"], 0)
        assert len(n_opened) == n_expected
        n_opened.clear()


def test_the_index_may_be_deleted_or_damaged_at_any_time(store: Store) -> None:
    write_rows(store, NAMES)
    expected, index = seeds_of(store), Path(store.location, trial_index.NAME)
    whole = index.read_bytes()
    for content in (None, b"", whole[:-30], whole[:100], b"x" * 100):
        index.unlink() if content is None else index.write_bytes(content)
        assert seeds_of(store) == expected
        assert index.read_bytes() != content


def test_a_row_that_is_rewritten_deleted_or_added_is_noticed(store: Store) -> None:
    write_rows(store, NAMES)
    write_rows(store, ["z"], age_s=0)
    seeds_of(store)
    write_rows(store, [NAMES[3]], seed=1, age_s=50)
    store.remove_trial(NAMES[4])
    write_rows(store, ["new"], seed=2)
    expected = {**dict.fromkeys([*NAMES, "z"], 0), NAMES[3]: 1, "new": 2}
    del expected[NAMES[4]]
    assert seeds_of(store) == expected


def test_a_row_rewritten_in_the_same_tick_of_the_clock_is_noticed(store: Store) -> None:
    write_rows(store, NAMES, age_s=10)
    for name in NAMES:  # all in one tick, and nothing later
        os.utime(Path(store.location, "trials", f"{name}.parquet"), ns=(10**18, 10**18))
    assert seeds_of(store) == dict.fromkeys(NAMES, 0)
    file = Path(store.location, "trials", f"{NAMES[0]}.parquet")
    before = file.stat()
    store.write_trial({"trial_id": NAMES[0], "status": "ok", "seed": 1})
    os.utime(file, ns=(10**18, 10**18))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert seeds_of(store)[NAMES[0]] == 1


def test_any_order_of_changes_and_reads_gives_what_the_files_say(tmp_path: Path) -> None:
    other = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    rng, expected = random.Random(0), {}
    store = Store(Files(other, "sweep", str(tmp_path / "sweep")))
    for step in range(400):
        name = f"t{rng.randrange(80):02d}"
        match rng.randrange(8):
            case 0:
                assert seeds_of(store) == expected
            case 1:
                store.remove_trial(name)
                expected.pop(name, None)
            case _:
                write_rows(store, [name], seed=step, age_s=rng.choice([0, 1, 5, 100]) + step / 1000)
                expected[name] = step
    assert Path(store.location, trial_index.NAME).exists()


def test_a_row_that_goes_between_listing_and_reading_is_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(store, ["a", "b"])
    listed = trial_index.list_rows(store.files)
    store.remove_trial("a")
    monkeypatch.setattr(trial_index, "list_rows", lambda files: listed)
    assert list(seeds_of(store)) == ["b"]


def test_a_reader_that_may_not_write_reads_all_the_same(store: Store) -> None:
    write_rows(store, NAMES)
    Path(store.location, ".aside").rmdir()
    Path(store.location, ".aside").write_text("in the way")
    assert seeds_of(store) == dict.fromkeys(NAMES, 0)
    assert not Path(store.location, trial_index.NAME).exists()


def test_a_row_of_an_earlier_version_without_a_column_has_null_there(store: Store) -> None:
    write_rows(store, NAMES)
    file = Path(store.location, "trials", f"{NAMES[0]}.parquet")
    pq.write_table(pq.read_table(file).drop_columns(["preset"]), file)
    assert seeds_of(store) == dict.fromkeys(NAMES, 0)
    assert seeds_of(store) == dict.fromkeys(NAMES, 0)
