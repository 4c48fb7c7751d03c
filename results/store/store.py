"""Every path a sweep writes: what lies where in a store, in which order trials write it, and what is derived from it.

A trial's row is written last: that it exists means the trial is finished. How bytes reach a filesystem whole is
`files.py`, who may write `lock.py`.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import pyarrow as pa

from quantfair.results.schema import (
    LAYER_PREDICTIONS,
    LAYERS,
    MECHANISM,
    PREDICTIONS,
    RUNTIMES,
    SAMPLES,
    SCHEMA_VERSION,
    TABLES,
    TRIALS,
)
from quantfair.results.store import lock, trial_index
from quantfair.results.store.files import DamagedError, Files, MissingError, StoreError, Version
from quantfair.results.store.rows import conform, rows_to_table

Folder = Literal["trials", "predictions", "runtimes", "layers", "mechanism", "samples", "tables"]


class Store:
    """The folder of one sweep. `Store.open(location)`; workers open the same location again."""

    def __init__(self, files: Files):
        self.files, self.location = files, files.location

    @classmethod
    def open(cls, location: str) -> "Store":
        """Open a path, made absolute, or a pyarrow filesystem URI such as s3://bucket/folder. Creates nothing."""
        return cls(Files.open(location))

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.open, (self.location,)

    # Who writes.

    @contextmanager
    def locked(self, **facts: Any) -> Iterator[None]:
        """Be the only driver here while inside; `facts` are what `find_driver` says besides host, pid, started_utc.

        What writers that were killed left half is removed.

        Raises:
            StoreError: another driver runs a sweep here, or the folder cannot be made.
            WriteError: the disk is full.
        """
        with lock.hold_lock(self.files, facts):
            self.files.sweep_aside()
            yield

    def locked_tables(self) -> AbstractContextManager[None]:
        """Be the only one who builds tables here while inside; waits for whoever does. Not on object stores."""
        return lock.hold_tables(self.files)

    def find_driver(self) -> dict[str, Any] | None:
        """Return what is known of the driver that runs a sweep here now (by its lock, not by a file), or None."""
        return lock.find_holder(self.files)

    # The manifest: what was asked for.

    def has_manifest(self) -> bool:
        """Whether a sweep was begun here."""
        return self.files.exists("manifest.json")

    def refuse_strangers(self, name: str) -> None:
        """Raise StoreError where a newer version, or a sweep of another name, has written this store."""
        if self.has_manifest() and (other := self.read_manifest().get("name")) != name:
            raise StoreError(f"{self.location} holds the sweep '{other}', not '{name}': choose another --store.")

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the request and the plan.

        Raises:
            StoreError: a newer version, or a sweep of another name, has written this store; or it cannot be written.
        """
        self.refuse_strangers(manifest["name"])
        self.files.write("manifest.json", json.dumps({"schema_version": SCHEMA_VERSION, **manifest}).encode())

    def read_manifest(self) -> dict[str, Any]:
        """Return the manifest. Raises StoreError where there is none, or one of a newer version."""
        manifest: Any = None
        try:
            data = self.files.read("manifest.json")
        except FileNotFoundError:
            raise StoreError(
                f"{self.location} holds no sweep (no manifest.json): name the folder that `sweep` printed."
            ) from None
        try:
            manifest = json.loads(data)
            missing = {"schema_version", "name", "groupings", "plan", "provenance"} - set(manifest)
        except (ValueError, TypeError) as error:
            missing = {str(error)}
        if missing and not (isinstance(manifest, dict) and manifest.get("schema_version", 0) > SCHEMA_VERSION):
            what = f"{self.files.describe('manifest.json')} is damaged or no manifest ({', '.join(sorted(missing))})"
            raise StoreError(f"{what}: delete it and run the sweep again; finished trials are kept.")
        if manifest["schema_version"] > SCHEMA_VERSION:
            raise StoreError(
                f"{self.location} has schema version {manifest['schema_version']}, and this program knows "
                f"{SCHEMA_VERSION}: update the program, or choose another --store."
            )
        if manifest["schema_version"] < SCHEMA_VERSION:
            raise StoreError(
                f"{self.location} was written by an earlier version of this program, whose predictions lack columns: "
                "choose another --store."
            )
        return manifest

    def read_sources(self) -> tuple[bytes, bytes]:
        """Return the bytes of the manifest and of the user's own groupings. Raises StoreError as `read_manifest`."""
        self.read_manifest()
        return self.files.read("manifest.json"), self.read_groups_csv() or b""

    def write_groups_csv(self, data: bytes) -> None:
        """Keep a user's own groupings of the images."""
        self.files.write("groups.csv", data)

    def read_groups_csv(self) -> bytes | None:
        """Return a user's own groupings, or None."""
        return self.files.read("groups.csv") if self.files.exists("groups.csv") else None

    # What trials leave behind, in the order in which they write it.

    def list_files(self, folder: Folder) -> dict[str, Version]:
        """Return the files of a folder by name, with what tells their content from the next."""
        return self.files.list_folder(folder)

    def quarantine(self, path: str) -> str | None:
        """Move a damaged file to corrupt/, under a name of its own, and return that; None where the file is missing."""
        if not self.files.exists(path):
            return None
        places = (f"corrupt/{path}{end}" for end in ("", *map(".{}".format, range(2, 1000))))
        place = next(place for place in places if not self.files.exists(place))
        self.files.move(path, place)
        return place

    def has_samples(self, dataset_id: str) -> bool:
        """Whether the images of a data set are described."""
        return self.files.exists(f"samples/{dataset_id}.parquet")

    def write_samples(self, dataset_id: str, table: pa.Table, attributes: Mapping[str, list[str]]) -> None:
        """Describe the images of a data set: SAMPLES plus a text column for each attribute but `label`.

        `attributes` maps each attribute, `label` among them, to its group names in order.
        """
        extra = [pa.field(name, pa.string()) for name in attributes if name != "label"]
        table = conform(table, pa.schema([*SAMPLES, *extra], metadata=SAMPLES.metadata))
        metadata = {**(SAMPLES.metadata or {}), b"attributes": json.dumps(attributes).encode()}
        self.files.write_parquet(f"samples/{dataset_id}.parquet", table.replace_schema_metadata(metadata))

    def read_samples(self, dataset_id: str) -> tuple[pa.Table, dict[str, list[str]]]:
        """Return the images of a data set and the group names of every attribute."""
        path = f"samples/{dataset_id}.parquet"
        table = self.files.read_parquet(path, None)
        try:
            attributes = json.loads((table.schema.metadata or {})[b"attributes"])
            sound = set(table.column_names) == {*SAMPLES.names, *attributes}
        except (KeyError, ValueError):
            sound, attributes = False, {}
        if not sound:
            raise DamagedError(path, self.files.describe(path), "is damaged (its columns are not its attributes)")
        return table, attributes

    def write_stage(self, trial_id: str, data: bytes) -> None:
        """Keep the weights of a float stage, or the scales and zero points of a quantized one."""
        self.files.write(f"stages/{trial_id}.pt", data)

    def read_stage(self, trial_id: str) -> bytes:
        """Return what `write_stage` kept. Raises DamagedError where it is missing."""
        path = f"stages/{trial_id}.pt"
        try:
            return self.files.read(path)
        except FileNotFoundError:
            raise MissingError(path, self.files.describe(path)) from None

    def check_stage(self, trial_id: str) -> None:
        """Raise DamagedError where what `write_stage` kept is missing or damaged: torch's files are zip archives."""
        path = f"stages/{trial_id}.pt"
        try:
            with zipfile.ZipFile(io.BytesIO(self.read_stage(trial_id))) as archive:
                damaged = archive.testzip()
        except zipfile.BadZipFile as error:
            damaged = str(error)
        if damaged is not None:
            raise DamagedError(path, self.files.describe(path), f"is damaged ({damaged})")

    def write_predictions(self, trial_id: str, runtime: str, table: pa.Table) -> None:
        """Keep one row for each val and test image."""
        self.files.write_parquet(f"predictions/{trial_id}.{runtime}.parquet", conform(table, PREDICTIONS))

    def read_predictions(self, trial_id: str, runtime: str, columns: list[str] | None = None) -> pa.Table:
        """Return the predictions of a trial in one runtime."""
        return self.files.read_parquet(f"predictions/{trial_id}.{runtime}.parquet", PREDICTIONS, columns)

    def write_runtime(self, trial_id: str, runtime: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep how a trial does in a deployed runtime: written last, so that it exists means this runtime is done."""
        named = ({"trial_id": trial_id, "runtime": runtime, **row} for row in rows)
        self.files.write_parquet(f"runtimes/{trial_id}.{runtime}.parquet", rows_to_table(named, RUNTIMES))

    def read_runtime(self, trial_id: str, runtime: str) -> pa.Table | None:
        """Return the rows that `write_runtime` kept, or None for a runtime that is not done."""
        try:
            return self.files.read_parquet(f"runtimes/{trial_id}.{runtime}.parquet", RUNTIMES)
        except MissingError:
            return None

    def remove_runtime(self, trial_id: str, runtime: str) -> None:
        """Forget that a runtime of a trial is done."""
        self.files.remove(f"runtimes/{trial_id}.{runtime}.parquet")

    def artifacts_path(self, trial_id: str, runtime: str) -> str:
        """Where a person finds what is to be shipped of a trial."""
        return self.files.describe(f"artifacts/{trial_id}/{runtime}")

    def write_layers(self, trial_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep what was done to each layer."""
        self.files.write_parquet(f"layers/{trial_id}.parquet", rows_to_table(rows, LAYERS))

    def read_layers(self, trial_id: str) -> pa.Table:
        """Return what was done to each layer."""
        return self.files.read_parquet(f"layers/{trial_id}.parquet", LAYERS)

    def write_layer_predictions(self, trial_id: str, tables: Iterable[pa.Table]) -> None:
        """Keep what the network predicts of the val images with each layer alone quantized: a table for each layer."""
        tables = [LAYER_PREDICTIONS.empty_table(), *(conform(table, LAYER_PREDICTIONS) for table in tables)]
        self.files.write_parquet(f"layers/{trial_id}.sensitivity.parquet", pa.concat_tables(tables))

    def read_layer_predictions(self, trial_id: str) -> pa.Table | None:
        """Return what `write_layer_predictions` kept, or None for a trial that did not measure it."""
        try:
            return self.files.read_parquet(f"layers/{trial_id}.sensitivity.parquet", LAYER_PREDICTIONS)
        except MissingError:
            return None

    def write_mechanism(self, trial_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep what was measured of each group at the weights of a float model."""
        self.files.write_parquet(f"mechanism/{trial_id}.parquet", rows_to_table(rows, MECHANISM))

    def read_mechanism(self, trial_id: str) -> pa.Table | None:
        """Return what `write_mechanism` kept, or None for a trial that did not measure it."""
        try:
            return self.files.read_parquet(f"mechanism/{trial_id}.parquet", MECHANISM)
        except MissingError:
            return None

    def write_log(self, trial_id: str, text: str) -> None:
        """Keep what a trial said: nothing depends on it, so it is not synced."""
        self.files.write(f"logs/{trial_id}.log", text.encode(), sync=False)

    def add_to_log(self, trial_id: str, text: str) -> None:
        """Add to what a trial said before it was ended."""
        self.write_log(trial_id, self.read_log(trial_id) + text)

    def read_log(self, trial_id: str) -> str:
        """Return what a trial said, or nothing where it left no log."""
        try:
            return self.files.read(f"logs/{trial_id}.log").decode()
        except FileNotFoundError:
            return ""

    def log_path(self, trial_id: str) -> str:
        """Where a person finds the log of a trial."""
        return self.files.describe(f"logs/{trial_id}.log")

    def write_trial(self, row: Mapping[str, Any]) -> None:
        """Write the row of a trial, by which it is finished; columns that the row leaves out are null."""
        self.files.write_parquet(f"trials/{row['trial_id']}.parquet", rows_to_table([row], TRIALS))

    def remove_trial(self, trial_id: str) -> None:
        """Forget that a trial is finished."""
        self.files.remove(f"trials/{trial_id}.parquet")

    def trial_ids(self) -> set[str]:
        """Ids of the finished trials, ok or failed."""
        return set(trial_index.list_rows(self.files))

    def finish_times(self) -> dict[str, float]:
        """Return when the row of each finished trial was written, in seconds since 1970."""
        return {trial_id: v.mtime_ns / 1e9 for trial_id, v in trial_index.list_rows(self.files).items()}

    def read_status(self, trial_id: str) -> Literal["ok", "failed"] | None:
        """Return ok or failed, or None for a trial that is not finished."""
        row = self.read_trial(trial_id)
        return None if row is None else row["status"]

    def read_trial(self, trial_id: str) -> dict[str, Any] | None:
        """Return the row of a trial, or None for one that is not finished."""
        try:
            return trial_index.read_row(self.files, trial_id).to_pylist()[0]
        except MissingError:
            return None

    def read_trials(self, *, damaged: list[DamagedError] | None = None) -> pa.Table:
        """Return the rows of all finished trials, in the order of their ids.

        Files that are damaged are added to `damaged`. Raises the first of them as DamagedError where that is not given.
        """
        table, found = trial_index.read_rows(self.files)
        if damaged is None and found:
            raise found[0]
        if damaged is not None:
            damaged += found
        return table

    def measure_trial(self, trial_id: str, runtimes: Iterable[str]) -> int:
        """Return the bytes of everything a trial left behind."""
        names = [
            *(f"{folder}/{trial_id}.{name}.parquet" for name in runtimes for folder in ("predictions", "runtimes")),
            *(f"layers/{trial_id}.parquet", f"layers/{trial_id}.sensitivity.parquet"),
            f"mechanism/{trial_id}.parquet",
            *(f"stages/{trial_id}.pt", f"logs/{trial_id}.log", f"trials/{trial_id}.parquet"),
        ]
        return sum(version.n_bytes for name in names if (version := self.files.version(name)))

    # Whether all machines see one place.

    def write_probe(self, name: str) -> None:
        """Leave a mark that another machine looks for."""
        self.files.write(f".probes/{name}", b"")

    def has_probe(self, name: str) -> bool:
        """Whether a mark is there."""
        return self.files.exists(f".probes/{name}")

    def remove_probes(self) -> None:
        """Leave no mark behind."""
        for name in self.files.list_folder(".probes"):
            self.files.remove(f".probes/{name}")

    # What is derived, and can be rebuilt at any time.

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write one of the derived tables."""
        schema = table.schema if name == "samples" else TABLES[name]
        self.files.write_parquet(f"tables/{name}.parquet", conform(table, schema))

    def read_table(self, name: str) -> pa.Table:
        """Return one of the derived tables. Raises DamagedError where it is none: `report` makes it anew."""
        return self.files.read_parquet(f"tables/{name}.parquet", None if name == "samples" else TABLES[name])

    @property
    def report_path(self) -> str:
        """Where a person finds the dashboard."""
        return self.files.describe("report.html")

    def write_report(self, html: str) -> str:
        """Write the dashboard and return where it is."""
        self.files.write("report.html", html.encode())
        return self.report_path

    def format_comparison(self, html: str, tables: Mapping[str, pa.Table]) -> list[str]:
        """Write a page and tables that compare this store with another one, and return where they are."""
        for name, table in tables.items():
            self.files.write_parquet(f"exports/{name}.parquet", table)
        self.files.write("exports/differences.html", html.encode())
        names = ("differences.html", *(f"{name}.parquet" for name in tables))
        return [self.files.describe(f"exports/{name}") for name in names]

    def read_report(self) -> str:
        """Return the dashboard. Raises FileNotFoundError where none was written: `report` does."""
        return self.files.read("report.html").decode()

    def write_built(self, record: Mapping[str, Any]) -> None:
        """Keep what the tables and the dashboard were built from."""
        self.files.write("tables/built.json", json.dumps(record).encode())

    def read_built(self) -> Any:
        """Return what `write_built` kept, or None."""
        try:
            return json.loads(self.files.read("tables/built.json"))
        except (FileNotFoundError, ValueError):
            return None

    def list_derived(self) -> dict[str, Version | None]:
        """Return the tables and the dashboard, with what tells their content from the next."""
        tables = {name: v for name, v in self.files.list_folder("tables").items() if name.endswith(".parquet")}
        return {**dict(sorted(tables.items())), "report.html": self.files.version("report.html")}
