"""Rows of finished trials, one small file each, and an index that saves opening them all.

`trials.index.parquet` holds the rows with the time and size of the file that each came from. It can be deleted at any
time, and is never believed against the folder: a row whose file has another time or size is read from its file.

A file that is rewritten within the resolution of the filesystem's clock, at the same size, keeps its time and size (git
calls such an entry racy). So a row goes into the index only when the filesystem itself has shown a time that is
`SETTLED_NS` later: had its file been rewritten in that same instant, the listing would have shown it.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow as pa

from quantfair.results.schema import TRIALS
from quantfair.results.store.files import DamagedError, Files, MissingError, Version, WriteError
from quantfair.results.store.rows import join

NAME = "trials.index.parquet"
INDEX = pa.schema([*TRIALS, ("mtime_ns", pa.int64()), ("n_bytes", pa.int64())], metadata=TRIALS.metadata)
SETTLED_NS = 2 * 10**9  # the coarsest clocks (FAT, some object stores) tick every 2 s
SUFFIX = ".parquet"


def list_rows(files: Files) -> dict[str, Version]:
    """Return the trials that have a row, with the version of its file."""
    return {name.removesuffix(SUFFIX): v for name, v in files.list_folder("trials").items() if name.endswith(SUFFIX)}


def read_row(files: Files, trial_id: str) -> pa.Table:
    """Return a row from its file. Raises MissingError, or DamagedError."""
    path = f"trials/{trial_id}{SUFFIX}"
    table = files.read_parquet(path, TRIALS)
    if table["trial_id"].to_pylist() != [trial_id]:
        raise DamagedError(path, files.describe(path), f"is damaged (it is not the row of trial {trial_id})")
    return table


def read_rows(files: Files) -> tuple[pa.Table, list[DamagedError]]:
    """Return the rows of all trials, in the order of their ids, and the files that are damaged.

    Brings the index up to date where much has changed. A row that is removed meanwhile is left out.
    """
    clock = files.version(NAME)  # asked for before the folder is listed
    listed, (index, versions) = list_rows(files), _read_index(files)
    kept = [number for number, (trial_id, version) in enumerate(versions) if listed.get(trial_id) == version]
    rest = sorted(listed.keys() - {versions[number][0] for number in kept})
    damaged: list[DamagedError] = []
    with ThreadPoolExecutor(4 if files.is_local else 16) as pool:
        rows = join(_keep_sound(pool.map(lambda trial_id: _try_to_read(files, trial_id), rest), damaged))
    n_read = 0 if rows is None else len(rows)
    whole = index if len(kept) == len(versions) and rows is None else _join(index, kept, rows)
    whole = TRIALS.empty_table() if whole is None else whole
    if _is_worth_writing(n_changed=len(versions) - len(kept) + n_read, n_rows=len(whole)):
        times = [version.mtime_ns for version in (*listed.values(), clock) if version is not None]
        _write_index(files, whole, listed, until_ns=max(times, default=0) - SETTLED_NS)
    return whole, [error for error in damaged if not isinstance(error, MissingError)]


def _read_index(files: Files) -> tuple[pa.Table | None, list[tuple[str, Version]]]:
    """Return its rows, and the trial and the version of the file of each."""
    try:
        index = files.read_parquet(NAME, INDEX).select(INDEX.names)
    except (DamagedError, KeyError):  # none yet, or of no use: it is made anew
        return None, []
    columns = (index[name].to_pylist() for name in ("trial_id", *Version._fields))
    return index.select(TRIALS.names), [(t, Version(*version)) for t, *version in zip(*columns, strict=True)]


def _try_to_read(files: Files, trial_id: str) -> pa.Table | DamagedError:
    try:
        return read_row(files, trial_id)
    except DamagedError as error:
        return error


def _keep_sound(read: Iterable[pa.Table | DamagedError], damaged: list[DamagedError]) -> Iterator[pa.Table]:
    """Yield the rows, and add what is damaged to `damaged`."""
    for one in read:
        if isinstance(one, DamagedError):
            damaged.append(one)
        else:
            yield one


def _join(index: pa.Table | None, kept: list[int], rows: pa.Table | None) -> pa.Table | None:
    """Concatenate and sort; a column that a row does not have is null, since an earlier version wrote it.

    Without an index no array is made of Python values here, for which pyarrow would load pandas (0.2 s).
    """
    known = None if index is None else index.take(pa.array(kept, pa.int64()))
    parts = [part for part in (known, rows) if part is not None]
    if not parts:
        return None
    joined = pa.concat_tables(parts, promote_options="default").combine_chunks().sort_by("trial_id")
    if joined.column_names != TRIALS.names:
        joined = pa.concat_tables([TRIALS.empty_table(), joined], promote_options="default")
    return joined


def _is_worth_writing(*, n_changed: int, n_rows: int) -> bool:
    """Whether opening the changed rows again costs more (1 ms each) than writing the index (some 7 us a row)."""
    return n_changed >= 20 + n_rows // 100


def _write_index(files: Files, whole: pa.Table, listed: dict[str, Version], *, until_ns: int) -> None:
    """Write the settled rows; with none of them too, since its own time settles the rest for the next reader."""
    versions = [listed[trial_id] for trial_id in whole["trial_id"].to_pylist()]
    for name in Version._fields:
        whole = whole.append_column(name, pa.array([getattr(version, name) for version in versions], pa.int64()))
    settled = [number for number, version in enumerate(versions) if version.mtime_ns <= until_ns]
    with suppress(WriteError):  # a convenience: a reader that may not write here reads all the same
        files.write_parquet(NAME, whole.take(pa.array(settled, pa.int64())))
