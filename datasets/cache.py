"""Source files -> memory-mapped uint8 images that open in milliseconds and whose pages all workers share.

    <data folder>/.quantfair/<name>-<16 hex digits>/images.npy, columns.npz, meta.json
    <data folder>/.quantfair/index/<64 hex digits>     sha256 of the files whose paths, sizes and mtimes the digits name

A conversion is written aside and renamed, under a lock that the system releases when its holder dies: whoever holds it
may remove what a killed conversion left. The folder can be deleted at any time. Where the data folder is read-only, it
is in ~/.cache/quantfair, or else in the folder for temporary files.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quantfair.datasets.progress import Ticker, say
from quantfair.datasets.types import ArrayImages, Attribute, DataError, Images, RawData

FORMAT = 1  # raise it when the same source files become different images or columns
STREAM_ABOVE_BYTES = 16 * 2**30  # larger sets are decoded anew in every epoch
CHUNK = 1024


class SourceFiles(NamedTuple):
    """The files of a source. Where their names carry labels, `root` is the folder that the names are relative to."""

    paths: list[Path]
    root: Path | None = None


class Prepared(NamedTuple):
    """Raw data with what one pass over its pixels finds: copies (equal ids: equal bytes), sums and sums of squares."""

    raw: RawData
    copy_ids_N: np.ndarray
    sums_NC: np.ndarray
    squares_NC: np.ndarray


def data_folder() -> Path:
    """The folder with data sets: `QUANTFAIR_DATA`, by default ~/.cache/quantfair."""
    return Path(os.environ.get("QUANTFAIR_DATA", "~/.cache/quantfair")).expanduser().absolute()


def cache_folder() -> Path:
    """The first folder that can be written of the three that the head of this file names."""
    user = f"quantfair-{os.getuid()}"
    for base in (data_folder(), Path("~/.cache/quantfair").expanduser(), Path(tempfile.gettempdir(), user)):
        folder = base / ".quantfair"
        try:
            (folder / "index").mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise DataError("No folder for converted data can be written: point QUANTFAIR_DATA to a folder that can.")


def fingerprint_files(files: SourceFiles) -> str:
    """Return sha256 over the files' bytes (and names, where they count), reading only files that changed since."""
    seen = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files.paths]
    entry = cache_folder() / "index" / hashlib.sha256(json.dumps([str(files.root), seen]).encode()).hexdigest()
    if entry.exists():
        return entry.read_text()
    digest, ticker = hashlib.sha256(), Ticker(f"reading {len(seen)} files")
    for done, path in enumerate(files.paths):
        if files.root is not None:
            digest.update(f"\n{path.relative_to(files.root).as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        ticker.tick(done / len(seen))
    aside = entry.with_name(f"{entry.name}.{os.getpid()}.tmp")
    aside.write_text(digest.hexdigest())
    aside.replace(entry)
    return digest.hexdigest()


def open_or_convert(name: str, key: str, load: Callable[[], RawData]) -> Prepared:
    """Return the conversion of a source; `key` stands for its content. `load` reads the source where it is needed."""
    home = cache_folder()
    folder = home / f"{name}-{key}"
    if not folder.exists():
        with _locked(home / "lock"):
            for remains in home.glob("*.tmp"):
                shutil.rmtree(remains)
            if not folder.exists():
                _convert(load(), folder, name)
    return _open(folder, load)


def measure(raw: RawData, *, out: np.ndarray | None = None, what: str = "measuring") -> Prepared:
    """Pass over all pixels once; `out` gets a copy of them."""
    digests, sums, squares, ticker = [], [], [], Ticker(what)
    for start, pixels in _chunks(raw.images):
        if out is not None:
            out[start : start + len(pixels)] = pixels
        digests += [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in pixels]
        flat_NCP = pixels.reshape(*pixels.shape[:2], -1)
        sums.append(flat_NCP.sum(2, dtype=np.int64))
        squares.append(np.square(flat_NCP, dtype=np.uint32).sum(2, dtype=np.int64))
        ticker.tick(len(digests) / len(raw.images))
    copy_ids_N = np.unique(np.array(digests, dtype="V16"), return_inverse=True)[1]
    return Prepared(raw, copy_ids_N, np.concatenate(sums), np.concatenate(squares))


def _chunks(images: Images) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(images), CHUNK):
        yield start, images.batch(np.arange(start, min(start + CHUNK, len(images))))


def _convert(raw: RawData, folder: Path, name: str) -> None:
    for note in raw.notes:
        say(f"{name}: {note}")
    aside = folder.with_name(f"{folder.name}.tmp")
    aside.mkdir()
    try:
        _write(raw, aside, f"converting {name}")
        _sync(aside.iterdir())
        aside.rename(folder)
    except BaseException:  # Ctrl-C too: nothing may be left
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _write(raw: RawData, folder: Path, what: str) -> None:
    shape = (len(raw.images), *raw.images.batch(np.arange(1)).shape[1:])
    streams = int(np.prod(shape, dtype=np.int64)) > STREAM_ABOVE_BYTES
    out = None if streams else np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    prepared = measure(raw, out=out, what=what)
    columns = {f"codes:{name}": attribute.codes_N for name, attribute in raw.attributes.items()}
    columns |= {f"numbers:{name}": numbers_N for name, numbers_N in raw.numbers.items()}
    if raw.is_test_N is not None:
        columns["is_test"] = raw.is_test_N
    arrays = {name: getattr(prepared, name) for name in ("copy_ids_N", "sums_NC", "squares_NC")}
    np.savez(folder / "columns.npz", **columns, **arrays)
    names = {name: list(attribute.names) for name, attribute in raw.attributes.items()}
    meta = {"names": names, "notes": list(raw.notes)}
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _open(folder: Path, load: Callable[[], RawData]) -> Prepared:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    with np.load(folder / "columns.npz", allow_pickle=False) as columns:
        attributes = {name: Attribute(columns[f"codes:{name}"], tuple(names)) for name, names in meta["names"].items()}
        numbers = {name.partition(":")[2]: columns[name] for name in columns if name.startswith("numbers:")}
        is_test_N = columns.get("is_test")
        measures = [columns[name] for name in ("copy_ids_N", "sums_NC", "squares_NC")]
    file = folder / "images.npy"
    images = ArrayImages(np.asarray(np.load(file, mmap_mode="r"))) if file.exists() else load().images
    return Prepared(RawData(images, attributes, is_test_N, tuple(meta["notes"]), numbers), *measures)


def _sync(files: Iterable[Path]) -> None:
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
