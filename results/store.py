"""Every path a sweep writes, and the only code that opens them, on a local disk or any pyarrow filesystem.

Local files are written aside, synced and renamed, so a killed writer leaves nothing under a final name; elsewhere one
upload makes a whole object. A trial's row is written last: that it exists means the trial is finished.
"""

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from results.schema import LAYER_PREDICTIONS, LAYERS, PREDICTIONS, SAMPLES, SCHEMA_VERSION, TABLES, TRIALS


class StoreError(ValueError):
    """A store is missing, damaged, or not of this program's version; the message says what to do."""


class WriteError(OSError):
    """A file of a store cannot be written: the disk is full, or not ours to write."""


class Store:
    """The folder of one sweep. `Store.open(location)`; workers open the same location again."""

    def __init__(self, filesystem: fs.FileSystem, root: str, location: str):
        self._fs, self._root, self.location = filesystem, root.rstrip("/"), location

    @classmethod
    def open(cls, location: str) -> "Store":
        """Open a path, made absolute, or a pyarrow filesystem URI such as s3://bucket/folder. Creates nothing."""
        if "://" not in location:
            location = str(Path(location).expanduser().absolute())
            return cls(fs.LocalFileSystem(), location, location)
        try:
            filesystem, root = fs.FileSystem.from_uri(location)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise StoreError(
                f"`--store` must be a path or a pyarrow filesystem URI, got {location!r}: {error}"
            ) from error
        return cls(filesystem, root, location)

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.open, (self.location,)

    # The manifest: what was asked for.

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the request and the plan.

        Raises:
            StoreError: a newer version, or a sweep of another name, has written this store; or it cannot be written.
        """
        if self._exists("manifest.json") and (name := self.read_manifest().get("name")) != manifest["name"]:
            raise StoreError(
                f"{self.location} holds the sweep '{name}', not '{manifest['name']}': choose another --store."
            )
        text = json.dumps({"schema_version": SCHEMA_VERSION, **manifest}, indent=1)
        try:
            self._write("manifest.json", text.encode())
        except OSError as error:
            raise StoreError(f"{self.location} cannot be written ({error}): choose another --store.") from error

    def read_manifest(self) -> dict[str, Any]:
        """Return the manifest. Raises StoreError where there is none, or one of a newer version."""
        manifest: Any = None
        if not self._exists("manifest.json"):
            raise StoreError(
                f"{self.location} holds no sweep (no manifest.json): name the folder that `sweep` printed."
            )
        try:
            manifest = json.loads(self._read("manifest.json"))
            missing = {"schema_version", "name", "groupings", "plan", "provenance"} - set(manifest)
        except (ValueError, TypeError) as error:
            missing = {str(error)}
        if missing and not (isinstance(manifest, dict) and manifest.get("schema_version", 0) > SCHEMA_VERSION):
            what = f"{self.location}/manifest.json is damaged or no manifest ({', '.join(sorted(missing))})"
            raise StoreError(f"{what}: delete it and run the sweep again; finished trials are kept.")
        if manifest["schema_version"] > SCHEMA_VERSION:
            raise StoreError(
                f"{self.location} has schema version {manifest['schema_version']}, and this program knows "
                f"{SCHEMA_VERSION}: update the program, or choose another --store."
            )
        return manifest

    def write_groups_csv(self, data: bytes) -> None:
        """Keep a user's own groupings of the images."""
        self._write("groups.csv", data)

    def read_groups_csv(self) -> bytes | None:
        """Return a user's own groupings, or None."""
        return self._read("groups.csv") if self._exists("groups.csv") else None

    # What trials leave behind, in the order in which they write it.

    def has_samples(self, dataset_id: str) -> bool:
        """Whether the images of a data set are described."""
        return self._exists(f"samples/{dataset_id}.parquet")

    def write_samples(self, dataset_id: str, table: pa.Table, attributes: Mapping[str, list[str]]) -> None:
        """Describe the images of a data set: SAMPLES plus a text column for each attribute but `label`.

        `attributes` maps each attribute, `label` among them, to its group names in order.
        """
        extra = [pa.field(name, pa.string()) for name in attributes if name != "label"]
        table = conform(table, pa.schema([*SAMPLES, *extra], metadata=SAMPLES.metadata))
        metadata = {**(SAMPLES.metadata or {}), b"attributes": json.dumps(attributes).encode()}
        self._write_parquet(f"samples/{dataset_id}.parquet", table.replace_schema_metadata(metadata))

    def read_samples(self, dataset_id: str) -> tuple[pa.Table, dict[str, list[str]]]:
        """Return the images of a data set and the group names of every attribute."""
        table = self._read_parquet(f"samples/{dataset_id}.parquet")
        return table, json.loads((table.schema.metadata or {})[b"attributes"])

    def write_stage(self, trial_id: str, data: bytes) -> None:
        """Keep the weights of a float stage, or the scales and zero points of a quantized one."""
        self._write(f"stages/{trial_id}.pt", data)

    def read_stage(self, trial_id: str) -> bytes:
        """Return what `write_stage` kept. Raises StoreError where it is missing."""
        path = f"stages/{trial_id}.pt"
        if not self._exists(path):
            remedy = f"delete trials/{trial_id}.parquet and run the sweep again with --retry-failed"
            raise StoreError(f"{self.location}/{path} is missing: {remedy}.")
        return self._read(path)

    def write_predictions(self, trial_id: str, runtime: str, table: pa.Table) -> None:
        """Keep one row for each val and test image."""
        self._write_parquet(f"predictions/{trial_id}.{runtime}.parquet", conform(table, PREDICTIONS))

    def read_predictions(self, trial_id: str, runtime: str, columns: list[str] | None = None) -> pa.Table:
        """Return the predictions of a trial in one runtime."""
        return self._read_parquet(f"predictions/{trial_id}.{runtime}.parquet", columns)

    def write_layers(self, trial_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep what was done to each layer."""
        self._write_parquet(f"layers/{trial_id}.parquet", table_of(rows, LAYERS))

    def read_layers(self, trial_id: str) -> pa.Table:
        """Return what was done to each layer."""
        return self._read_parquet(f"layers/{trial_id}.parquet")

    def write_layer_predictions(self, trial_id: str, tables: Iterable[pa.Table]) -> None:
        """Keep what the network predicts of the val images with each layer alone quantized: a table for each layer."""
        tables = [LAYER_PREDICTIONS.empty_table(), *(conform(table, LAYER_PREDICTIONS) for table in tables)]
        self._write_parquet(f"layers/{trial_id}.sensitivity.parquet", pa.concat_tables(tables))

    def read_layer_predictions(self, trial_id: str) -> pa.Table | None:
        """Return what `write_layer_predictions` kept, or None for a trial that did not measure it."""
        path = f"layers/{trial_id}.sensitivity.parquet"
        return self._read_parquet(path) if self._exists(path) else None

    def write_log(self, trial_id: str, text: str) -> None:
        """Keep what a trial said."""
        self._write(f"logs/{trial_id}.log", text.encode())

    def log_path(self, trial_id: str) -> str:
        """Where a person finds the log of a trial."""
        return f"{self.location}/logs/{trial_id}.log"

    def write_trial(self, row: Mapping[str, Any]) -> None:
        """Write the row of a trial, by which it is finished; columns that the row leaves out are null."""
        self._write_parquet(f"trials/{row['trial_id']}.parquet", table_of([row], TRIALS))

    def remove_trial(self, trial_id: str) -> None:
        """Forget that a trial is finished."""
        self._fs.delete_file(self._full(f"trials/{trial_id}.parquet"))

    def trial_ids(self) -> set[str]:
        """Ids of the finished trials, ok or failed."""
        selector = fs.FileSelector(self._full("trials"), allow_not_found=True)
        try:
            names = [info.base_name for info in self._fs.get_file_info(selector)]
        except OSError as error:
            raise StoreError(f"{self.location} cannot be read ({error}): choose another --store.") from error
        return {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}

    def read_status(self, trial_id: str) -> Literal["ok", "failed"] | None:
        """Return ok or failed, or None for a trial that is not finished."""
        path = f"trials/{trial_id}.parquet"
        return self._read_parquet(path, ["status"])["status"][0].as_py() if self._exists(path) else None

    def read_trial(self, trial_id: str) -> dict[str, Any] | None:
        """Return the row of a trial, or None for one that is not finished."""
        path = f"trials/{trial_id}.parquet"
        return self._read_parquet(path).to_pylist()[0] if self._exists(path) else None

    def read_trials(self) -> pa.Table:
        """Return the rows of all finished trials, in the order of their ids."""
        rows = [self._read_parquet(f"trials/{trial_id}.parquet") for trial_id in sorted(self.trial_ids())]
        return pa.concat_tables(rows) if rows else TRIALS.empty_table()

    # Whether all machines see one place.

    def write_probe(self, name: str) -> None:
        """Leave a mark that another machine looks for."""
        self._write(f".probes/{name}", b"")

    def has_probe(self, name: str) -> bool:
        """Whether a mark is there."""
        return self._exists(f".probes/{name}")

    def remove_probes(self) -> None:
        """Leave no mark behind."""
        folder = self._full(".probes")
        if self._fs.get_file_info(folder).type == fs.FileType.Directory:
            self._fs.delete_dir(folder)

    # What is derived, and can be rebuilt at any time.

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write one of the derived tables."""
        schema = table.schema if name == "samples" else TABLES[name]
        self._write_parquet(f"tables/{name}.parquet", conform(table, schema))

    def read_table(self, name: str) -> pa.Table:
        """Return one of the derived tables."""
        return self._read_parquet(f"tables/{name}.parquet")

    def write_report(self, html: str) -> str:
        """Write the dashboard and return where it is."""
        self._write("report.html", html.encode())
        return f"{self.location}/report.html"

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _exists(self, path: str) -> bool:
        return self._fs.get_file_info(self._full(path)).type == fs.FileType.File

    def _read(self, path: str) -> bytes:
        with self._fs.open_input_stream(self._full(path)) as stream:
            return stream.read()

    def _read_parquet(self, path: str, columns: list[str] | None = None) -> pa.Table:
        try:
            return pq.read_table(pa.BufferReader(self._read(path)), columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(f"{self.location}/{path} is missing or damaged ({error}).{_remedy(path)}") from error

    def _write_parquet(self, path: str, table: pa.Table) -> None:
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        self._write(path, buffer.getvalue().to_pybytes())

    def _write(self, path: str, data: bytes) -> None:
        full = self._full(path)
        try:
            self._fs.create_dir(full.rpartition("/")[0], recursive=True)
            if isinstance(self._fs, fs.LocalFileSystem):
                _write_aside_and_rename(Path(full), data)
            else:
                with self._fs.open_output_stream(full) as stream:
                    stream.write(data)
        except OSError as error:
            raise WriteError(f"{self.location}/{path} cannot be written ({error})") from error


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with exactly this schema. Raises StoreError naming columns that are missing or too many."""
    missing, surplus = set(schema.names) - set(table.column_names), set(table.column_names) - set(schema.names)
    if missing or surplus:
        raise StoreError(f"The columns do not fit the schema: missing {sorted(missing)}, unknown {sorted(surplus)}.")
    return table.select(schema.names).cast(schema)


def table_of(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table; columns a row leaves out are null. Raises StoreError for a column nobody knows."""
    rows = [dict(row) for row in rows]
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise StoreError(f"The columns do not fit the schema: missing [], unknown {sorted(unknown)}.")
    return pa.Table.from_pylist(rows, schema=schema)


def _remedy(path: str) -> str:
    folder, _, name = path.partition("/")
    if folder == "tables":
        return " `report` makes it anew."
    if folder == "samples":
        return " Delete it and any one file of trials/, and run the sweep again: the trial that runs makes it anew."
    trial_id = name.partition(".")[0]
    return f" Delete trials/{trial_id}.parquet and run the sweep again: only that trial runs."


def _write_aside_and_rename(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
