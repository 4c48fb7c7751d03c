"""The store: nothing torn, nothing silently accepted, the same on a local disk and on any pyarrow filesystem."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from quantfair.results import SCHEMA_VERSION, DamagedError, Store, StoreError
from quantfair.results.schema import LAYERS, PREDICTIONS, TABLES, TRIALS
from quantfair.results.store.files import Files
from quantfair.results.store.rows import conform, rows_to_table

MANIFEST = {"name": "mine", "groupings": {}, "plan": [], "provenance": {}}
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(params=["local", "other"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store on a local disk, and one on a filesystem that is not the local one for all the store can tell."""
    if request.param == "local":
        return Store.open(str(tmp_path))
    other = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    return Store(Files(other, "bucket/sweep", str(tmp_path / "bucket/sweep")))


def test_what_is_written_is_read_back(store: Store) -> None:
    store.write_manifest(MANIFEST)
    store.write_stage("a", b"weights")
    store.write_trial({"trial_id": "a", "status": "ok", "accuracy": 0.5, "seed": 3})
    store.write_trial({"trial_id": "b", "status": "failed", "error": "no"})
    assert store.read_manifest() == {**MANIFEST, "schema_version": SCHEMA_VERSION}
    assert store.read_stage("a") == b"weights"
    assert store.trial_ids() == {"a", "b"}
    assert (store.read_status("a"), store.read_status("b"), store.read_status("c")) == ("ok", "failed", None)
    assert store.read_trials().schema.equals(TRIALS)
    assert store.read_trials()["accuracy"].to_pylist() == [0.5, None]
    store.remove_trial("a")
    assert store.trial_ids() == {"b"}


def test_samples_keep_their_attributes(store: Store) -> None:
    columns = {
        "dataset_id": ["d"],
        "sample_id": [0],
        "split": ["test"],
        "label": [1],
        "source": [None],
        "hair": ["red"],
    }
    attributes = {"label": ["no", "yes"], "hair": ["red", "grey"]}
    assert not store.has_samples("d")
    store.write_samples("d", pa.table(columns), attributes)
    table, again = store.read_samples("d")
    assert store.has_samples("d")
    assert again == attributes
    assert table.to_pylist() == [{name: values[0] for name, values in columns.items()}]


def test_an_empty_store_has_no_trials(store: Store) -> None:
    assert store.trial_ids() == set()
    assert store.read_trials().num_rows == 0


def test_a_store_travels_by_its_location(tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(Store.open(str(tmp_path)))).location == str(tmp_path)


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store.open("runs/x").location == str(tmp_path / "runs" / "x")


def test_a_file_uri_is_a_store(tmp_path: Path) -> None:
    store = Store.open(f"file://{tmp_path}/runs")
    store.write_stage("a", b"1")
    assert (tmp_path / "runs" / "stages" / "a.pt").read_bytes() == b"1"


def test_an_unknown_kind_of_uri_is_an_error() -> None:
    with pytest.raises(StoreError, match=r"`--store` must be a path or a pyarrow filesystem URI, got 'ftp2://x/y'"):
        Store.open("ftp2://x/y")


def test_a_writer_killed_before_the_rename_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal\n"
        "from quantfair.results import Store\n"
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"Store.open({str(tmp_path)!r}).write_trial({{'trial_id': 'a', 'status': 'ok'}})\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert killed.returncode == -9
    assert list((tmp_path / "trials").iterdir()) == []
    assert [path.name.split(".")[0] for path in (tmp_path / ".aside").iterdir()] == ["a"]
    store = Store.open(str(tmp_path))
    assert store.trial_ids() == set()
    assert store.read_trials().num_rows == 0
    with store.locked():
        assert not (tmp_path / ".aside").exists()


def test_a_failed_write_leaves_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Store.open(str(tmp_path)).write_stage("a", b"1")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_writer_whose_file_aside_was_swept_away_writes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, replace = Store.open(str(tmp_path)), Path.replace

    def sweep_once(self: Path, to: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        store.files.sweep_aside()
        return replace(self, to)

    store.write_stage("a", b"1")
    monkeypatch.setattr(Path, "replace", sweep_once)
    store.write_stage("b", b"2")
    assert store.read_stage("b") == b"2"


def test_files_are_synced_before_they_get_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("sync"), sync(handle)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (calls.append("rename"), replace(self, to))[1])
    Store.open(str(tmp_path)).write_stage("a", b"1")  # makes the folders
    calls.clear()
    Store.open(str(tmp_path)).write_stage("a", b"2")
    assert calls == ["sync", "rename", "sync"]


@pytest.mark.parametrize(
    "write", [lambda s, t: s.write_predictions("a", "torch", t), lambda s, t: s.write_table("layers", t)]
)
def test_columns_must_be_those_of_the_schema(tmp_path: Path, write) -> None:
    with pytest.raises(StoreError, match=r"do not fit the schema: missing \[.*'trial_id'.*unknown \['colour'\]"):
        write(Store.open(str(tmp_path)), pa.table({"colour": ["red"]}))


def test_a_row_with_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"unknown \['acuracy'\]"):
        Store.open(str(tmp_path)).write_trial({"trial_id": "a", "acuracy": 1.0})


def test_a_value_that_does_not_fit_its_column_is_refused() -> None:
    table = PREDICTIONS.empty_table()
    wrong = table.set_column(2, "sample_id", pa.array([], pa.string()))
    assert conform(wrong, PREDICTIONS).schema.equals(PREDICTIONS)  # nothing to convert
    with pytest.raises(pa.ArrowInvalid):
        conform(pa.table({name: ["x"] for name in LAYERS.names}), LAYERS)


def test_tables_say_their_schema_version(tmp_path: Path) -> None:
    Store.open(str(tmp_path)).write_table("layers", rows_to_table([], LAYERS))
    metadata = pq.read_schema(tmp_path / "tables" / "layers.parquet").metadata
    assert metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
    assert all(schema.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode() for schema in TABLES.values())


def test_a_missing_manifest_says_which_folder_to_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no sweep \(no manifest.json\): name the folder"):
        Store.open(str(tmp_path)).read_manifest()


@pytest.mark.parametrize("method", ["read_manifest", "write_manifest"])
def test_a_store_of_a_newer_version_is_refused(tmp_path: Path, method: str) -> None:
    store = Store.open(str(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1}))
    arguments = [{"name": "x"}] if method == "write_manifest" else []
    with pytest.raises(StoreError, match=f"has schema version {SCHEMA_VERSION + 1}, and this program knows"):
        getattr(store, method)(*arguments)


def test_a_store_of_another_sweep_is_refused(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    store.write_manifest(MANIFEST)
    store.write_manifest({**MANIFEST, "plan": [1, 2]})
    with pytest.raises(StoreError, match=r"holds the sweep 'mine', not 'yours': choose another --store"):
        store.write_manifest({**MANIFEST, "name": "yours"})


@pytest.mark.parametrize("place", ["file", "file/store"])
def test_a_place_that_cannot_be_a_store_says_so(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    store = Store.open(str(tmp_path / place))
    with pytest.raises(StoreError, match=rf"{place} cannot be written .*choose another --store"), store.locked():
        pass


def test_a_store_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    old = {**MANIFEST, "schema_version": SCHEMA_VERSION - 1}
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    with pytest.raises(StoreError, match=r"was written by an earlier version of this program.*choose another --store"):
        Store.open(str(tmp_path)).read_manifest()


@pytest.mark.parametrize("text", ["{", "x{", "{}", "[1]", '{"schema_version": 1}', "null"])
def test_a_damaged_manifest_is_named_with_a_remedy_that_works(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    store = Store.open(str(tmp_path))
    with pytest.raises(StoreError, match=r"manifest.json is damaged .*delete it and run the sweep again"):
        store.read_manifest()
    (tmp_path / "manifest.json").unlink()
    store.write_manifest(MANIFEST)
    assert store.read_manifest()["name"] == "mine"


def test_missing_pieces_are_named(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    for read, name in (
        (lambda: store.read_stage("a"), "stages/a.pt"),
        (lambda: store.read_predictions("a", "torch"), "predictions/a.torch.parquet"),
        (lambda: store.read_layers("a"), "layers/a.parquet"),
        (lambda: store.read_samples("d"), "samples/d.parquet"),
        (lambda: store.read_table("trials"), "tables/trials.parquet"),
    ):
        with pytest.raises(DamagedError, match=rf"{name} is missing\. `sweep` makes it anew"):
            read()
    assert store.read_layer_predictions("a") is None  # not every trial measures it
