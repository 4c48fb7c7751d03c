"""Whole files or none, in and out of one folder on a local disk or any pyarrow filesystem.

A local file is written aside, synced and renamed, so a killed writer leaves nothing under a final name; what it leaves
in `.aside/` the next driver sweeps away. Elsewhere one upload makes a whole object, and nothing is renamed. Parquet
carries a checksum for each page, and reading verifies it: a flipped bit is an error, never a wrong number.
"""

import errno
import os
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

ASIDE = ".aside"


class StoreError(ValueError):
    """A store is missing, damaged, or not of this program's version; the message says what to do."""


class WriteError(OSError):
    """A file of a store cannot be written: the disk is full, or not ours to write."""


class DamagedError(StoreError):
    """A file of a store is damaged, or missing where one must be: `path` in the store, `place` for people."""

    remedy = "`sweep` moves it to corrupt/ and makes it anew."

    def __init__(self, path: str, place: str, why: str):
        super().__init__(f"{place} {why}. {self.remedy}")
        self.path, self.why = path, why


class MissingError(DamagedError):
    """A file is not there."""

    remedy = "`sweep` makes it anew."

    def __init__(self, path: str, place: str):
        super().__init__(path, place, "is missing")


class Version(NamedTuple):
    """What tells one content of a file from the next, as far as a filesystem says."""

    mtime_ns: int
    n_bytes: int


def is_full(error: OSError) -> bool:
    """Whether a disk or a quota has no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class Files:
    """The files under `root`; their paths are relative to it. People know the folder as `location`."""

    def __init__(self, filesystem: fs.FileSystem, root: str, location: str):
        self._filesystem, self.root, self.location = filesystem, root.rstrip("/"), location
        self.is_local = isinstance(filesystem, fs.LocalFileSystem)
        self._made: set[str] = set()

    @classmethod
    def open(cls, location: str) -> "Files":
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

    def describe(self, path: str) -> str:
        """Return where a person finds a file; the options of a URI stay at its end."""
        if "://" not in self.location:
            return f"{self.location}/{path}"
        folder, mark, options = self.location.partition("?")
        return f"{folder}/{path}{mark}{options}"

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return self.version(path) is not None

    def version(self, path: str) -> Version | None:
        """Return what tells this content of a file from the next, or None where there is no such file."""
        info = self._filesystem.get_file_info(self._full(path))
        return Version(info.mtime_ns or 0, info.size) if info.type == fs.FileType.File else None

    def list_folder(self, folder: str) -> dict[str, Version]:
        """Return the files of a folder by name, hidden ones left out; empty where there is no folder."""
        try:
            found = self._scan(folder) if self.is_local else self._ask(folder)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreError(f"{self.location} cannot be read ({error}): choose another --store.") from error
        return {name: version for name, version in found if not name.startswith(".")}

    def read(self, path: str) -> bytes:
        """Return the bytes of a file. Raises FileNotFoundError, or StoreError where it is there and cannot be read."""
        try:
            with self._filesystem.open_input_stream(self._full(path)) as stream:
                return stream.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.describe(path)} cannot be read ({error}).") from error

    def write(self, path: str, data: bytes, *, sync: bool = True) -> None:
        """Write a file whole, by default to the disk itself. Raises WriteError, and leaves what was there before."""
        try:
            self._rename_into(path, data, sync=sync) if self.is_local else self._upload(path, data)
        except OSError as error:
            room = self._format_room(len(data)) if is_full(error) else ""
            failure = WriteError(f"{self.describe(path)} cannot be written ({error}){room}")
            failure.errno = error.errno
            raise failure from error

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        try:
            self._filesystem.delete_file(self._full(path))
        except FileNotFoundError:
            return

    def move(self, path: str, to: str) -> None:
        """Give a file another place, if it is there; needs no room on a local disk."""
        source, target = self._full(path), self._full(to)
        try:
            self._filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            if self.is_local:
                Path(source).replace(target)
            else:
                self._filesystem.copy_file(source, target)
                self._filesystem.delete_file(source)
        except FileNotFoundError:
            return
        except OSError as error:
            raise WriteError(f"{self.describe(path)} cannot be moved to {to} ({error})") from error

    def sweep_aside(self) -> None:
        """Remove what killed writers left. A writer that lives notices, and writes again."""
        shutil.rmtree(self._full(ASIDE), ignore_errors=True)

    def read_parquet(self, path: str, schema: pa.Schema | None, columns: list[str] | None = None) -> pa.Table:
        """Return a table whose columns are those of the schema, or fewer of them (an earlier version wrote it).

        Without a schema any column will do. Raises DamagedError where there is no such sound file.
        """
        try:
            data = self.read(path)
        except FileNotFoundError:
            raise MissingError(path, self.describe(path)) from None
        try:
            return _decode(data, schema, columns)
        except Exception as error:  # whatever it raises, it is of these bytes
            why = str(error).partition("\n")[0] if data else "it is empty"
            raise DamagedError(path, self.describe(path), f"is damaged ({why})") from error

    def write_parquet(self, path: str, table: pa.Table) -> None:
        """Write a table, with checksums."""
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
        self.write(path, buffer.getvalue().to_pybytes())

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}"

    def _scan(self, folder: str) -> list[tuple[str, Version]]:
        """With the standard library: pyarrow's listing fails when a file goes while it looks."""
        found = []
        with os.scandir(self._full(folder)) as entries:
            for entry in entries:
                try:
                    stat = entry.stat()
                except FileNotFoundError:
                    continue
                if entry.is_file():
                    found.append((entry.name, Version(stat.st_mtime_ns, stat.st_size)))
        return found

    def _ask(self, folder: str) -> list[tuple[str, Version]]:
        infos = self._filesystem.get_file_info(fs.FileSelector(self._full(folder), allow_not_found=True))
        return [(i.base_name, Version(i.mtime_ns or 0, i.size)) for i in infos if i.type == fs.FileType.File]

    def _rename_into(self, path: str, data: bytes, *, sync: bool) -> None:
        target = Path(self._full(path))
        aside = Path(self._full(ASIDE), f"{target.name}.{uuid.uuid4().hex}")
        try:
            _write_aside_and_rename(aside, target, data, sync=sync)
        except FileNotFoundError:  # the folders are not there yet, or a driver that starts has swept `.aside` away
            for folder in (aside.parent, target.parent):
                folder.mkdir(parents=True, exist_ok=True)
            _write_aside_and_rename(aside, target, data, sync=sync)

    def _upload(self, path: str, data: bytes) -> None:
        folder = self._full(path).rpartition("/")[0]
        if folder not in self._made:
            self._filesystem.create_dir(folder, recursive=True)
            self._made.add(folder)
        with self._filesystem.open_output_stream(self._full(path)) as stream:
            stream.write(data)

    def _format_room(self, n_bytes: int) -> str:
        if not self.is_local:
            return ""
        free = shutil.disk_usage(self.root).free
        return f": {free / 2**20:.1f} MiB are free there, and this file needs {n_bytes / 2**20:.1f} MiB. Make room"


def _decode(data: bytes, schema: pa.Schema | None, columns: list[str] | None) -> pa.Table:
    """Read in this thread alone: a process that ends right after it has woken Arrow's threads may abort (1 in 75)."""
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    if schema is None:
        return file.read(columns, use_threads=False)
    names = file.schema_arrow.names
    if unknown := set(names) - set(schema.names):
        raise ValueError(f"unknown columns {sorted(unknown)}")
    wanted = [name for name in names if columns is None or name in columns]
    kept = pa.schema([schema.field(name) for name in wanted], metadata=schema.metadata)
    return file.read(wanted, use_threads=False).cast(kept)


def _write_aside_and_rename(aside: Path, target: Path, data: bytes, *, sync: bool) -> None:
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    if not sync:
        return
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
