"""What of a store is there and sound, and what is not: damaged files are named, put away, and made anew by a sweep.

A trial without its files counts as missing, whatever its row says. Nothing is deleted: damaged files go to corrupt/.
"""

import json
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import pyarrow as pa

from quantfair.results.schema import DEPLOYED, EXACT, IMPORTED
from quantfair.results.store.files import DamagedError, MissingError
from quantfair.results.store.store import Folder, Store


class StoreScan(NamedTuple):
    """The rows of finished trials whose files are there, in the order of their ids, and the files that are not.

    `runtimes` holds the status of every deployed runtime of such a trial, by trial_id and runtime.
    """

    trials: pa.Table
    damaged: list[DamagedError]
    runtimes: dict[tuple[str, str], str]


def scan_store(store: Store) -> StoreScan:
    """Look at every row, and whether the files of the finished trials are there. Writes nothing but the index.

    What is inside predictions and layers is not read: `find_damage` does.
    """
    damaged: list[DamagedError] = []
    trials = store.read_trials(damaged=damaged)
    ids, statuses = trials["trial_id"].to_pylist(), trials["status"].to_pylist()
    ok = [trial_id for trial_id, status in zip(ids, statuses, strict=True) if status == "ok"]
    found = list(_find_missing(store, ok))
    lost = {error.path.split("/")[1].partition(".")[0] for error in found}
    if lost:
        trials = trials.filter(pa.array([trial_id not in lost for trial_id in ids], pa.bool_()))
    known = zip(trials["dataset_id"].to_pylist(), trials["status"].to_pylist(), strict=True)
    described = store.list_files("samples")
    for dataset_id in sorted({dataset_id for dataset_id, status in known if status == "ok" and dataset_id}):
        if f"{dataset_id}.parquet" not in described:
            found.append(MissingError(path := f"samples/{dataset_id}.parquet", store.files.describe(path)))
    present = {trial_id for trial_id in ids if trial_id not in lost}
    runtimes, unsound = _survey_runtimes(store, present)
    return StoreScan(trials, [*damaged, *found, *unsound], runtimes)


def find_damage(store: Store) -> list[DamagedError]:
    """Return what `scan_store` finds, and what reading every file of the finished trials finds."""
    trials, damaged, runtimes = scan_store(store)
    rows = zip(*(trials[name].to_pylist() for name in ("trial_id", "status", "dataset_id")), strict=True)
    ok = [(trial_id, dataset_id) for trial_id, status, dataset_id in rows if status == "ok"]
    with ThreadPoolExecutor(4) as pool:
        of_trials = pool.map(lambda one: list(_read_all(store, one[0])), ok)
        found = [error for errors in of_trials for error in errors]
        deployed = [key for key, status in runtimes.items() if status == "ok"]
        of_runtimes = pool.map(lambda key: list(_read_runtime(store, *key)), deployed)
        found += [error for errors in of_runtimes for error in errors]
    for dataset_id in sorted({dataset_id for _, dataset_id in ok if dataset_id}):
        if store.has_samples(dataset_id):
            try:
                store.read_samples(dataset_id)
            except DamagedError as error:
                found.append(error)
    return damaged + found


def is_of_samples(error: DamagedError) -> bool:
    """Whether it is the description of a data set's images, which no single trial makes anew."""
    return error.path.startswith("samples/")


def quarantine(store: Store, damaged: Iterable[DamagedError]) -> list[str]:
    """Move damaged files to corrupt/ and forget the rows of their trials; return a sentence for each file."""
    said = []
    for error in {error.path: error for error in damaged}.values():
        place = store.quarantine(error.path)
        trial_id = error.path.split("/")[1].partition(".")[0]
        if is_of_samples(error):
            remedy = "`sweep` describes the images anew, and their trials count as missing until then"
        elif (runtime := _find_runtime(error.path)) is not None:
            remedy = f"`sweep` measures trial {trial_id} in {runtime} again"
            store.remove_runtime(trial_id, runtime)
        else:
            remedy = _format_remedy(store, trial_id)
            store.remove_trial(trial_id)
        said.append(f"{error.path} {error.why}{f': moved to {place}' if place else ''}; {remedy}.")
    return said


def _find_runtime(path: str) -> str | None:
    """Return the deployed runtime whose file this is, or None."""
    folder, name = path.split("/")[:2]
    runtime = name.split(".")[1].removesuffix("_exact")
    return runtime if folder in ("predictions", "runtimes") and runtime in DEPLOYED else None


def _survey_runtimes(store: Store, trial_ids: Set[str]) -> tuple[dict[tuple[str, str], str], list[DamagedError]]:
    """Return the statuses of the deployed runtimes of trials, and what is damaged of them."""
    names = [name.removesuffix(".parquet").split(".") for name in store.list_files("runtimes")]
    keys = [(trial_id, runtime) for trial_id, runtime in names if trial_id in trial_ids]
    predicted, found, damaged = store.list_files("predictions"), {}, []

    def read(key: tuple[str, str]) -> str | DamagedError:
        try:
            table = store.read_runtime(*key)
        except DamagedError as error:
            return error
        assert table is not None
        return table["status"][0].as_py()

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(read, keys))
    for key, status in zip(keys, statuses, strict=True):
        path = f"predictions/{'.'.join(key)}.parquet"
        if status == "ok" and f"{'.'.join(key)}.parquet" not in predicted:
            status = MissingError(path, store.files.describe(path))
        if isinstance(status, DamagedError):
            damaged.append(status)
        else:
            found[key] = status
    return dict(sorted(found.items())), damaged


def _read_runtime(store: Store, trial_id: str, runtime: str) -> Iterator[DamagedError]:
    """Yield what is damaged of the predictions of a runtime."""
    for name in (runtime, *([EXACT] if runtime == "onnxruntime" else [])):
        try:
            store.read_predictions(trial_id, name)
        except DamagedError as error:
            yield error


def _format_remedy(store: Store, trial_id: str) -> str:
    """Say how a trial comes back; no sweep makes predictions that came from elsewhere."""
    with suppress(DamagedError):
        row = store.read_trial(trial_id)
        if row is not None and row["method"] == IMPORTED:
            return f"`import` {json.loads(row['config'])[IMPORTED]['file']} again, of which trial {trial_id} was made"
    return f"`sweep` runs trial {trial_id} again"


def _find_missing(store: Store, ok: list[str]) -> Iterator[DamagedError]:
    """Yield the files that every finished trial has, where they are missing or empty."""
    places: tuple[tuple[Folder, str], ...] = (("predictions", ".torch.parquet"), ("layers", ".parquet"))
    for folder, suffix in places:
        listed = store.list_files(folder)
        for trial_id in ok:
            path, version = f"{folder}/{trial_id}{suffix}", listed.get(trial_id + suffix)
            if version is None:
                yield MissingError(path, store.files.describe(path))
            elif version.n_bytes == 0:
                yield DamagedError(path, store.files.describe(path), "is damaged (it is empty)")


def _read_all(store: Store, trial_id: str) -> Iterator[DamagedError]:
    readers = (
        lambda: store.read_predictions(trial_id, "torch"),
        lambda: store.read_layers(trial_id),
        lambda: store.read_layer_predictions(trial_id),
        lambda: store.read_mechanism(trial_id),
    )
    for read in readers:
        try:
            read()
        except DamagedError as error:
            yield error
