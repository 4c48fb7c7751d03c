"""Slow sources are converted once, to memory-mapped files that all workers share.

They lie in `.quantfair/` under the data folder (under ~/.cache/quantfair where that cannot be written), in a folder
named by the content, so a changed source is converted anew. An index by path, size and time saves hashing files again.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.types import ArrayImages, Attribute, RawData


def hash_files(files: Iterable[Path], folder: Path) -> str:
    """Return sha256 over the content of files, in their order; `folder` is the data folder."""
    index_file = _cache_folder(folder) / "index.json"
    index = json.loads(index_file.read_text()) if index_file.exists() else {}
    digests = []
    for file in files:
        status = file.stat()
        key = f"{file.absolute()} {status.st_size} {status.st_mtime_ns}"
        if key not in index:
            index[key] = _hash_file(file)
            _write_aside(index_file, json.dumps(index))
        digests.append(index[key])
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def load_converted(name: str, fingerprint: str, folder: Path, convert: Callable[[], RawData]) -> RawData:
    """Return the converted source; `convert` is called if this content was not converted yet."""
    home = _cache_folder(folder) / f"{name}-{fingerprint[:16]}"
    if not home.exists():
        _write_converted(home, convert())
    images = ArrayImages(np.load(home / "images.npy", mmap_mode="r"))
    names = json.loads((home / "names.json").read_text())
    with np.load(home / "codes.npz") as codes:
        attributes = {name: Attribute(codes[f"codes_{name}"], tuple(groups)) for name, groups in names.items()}
        return RawData(images, attributes, codes.get("is_test"))


def _write_converted(home: Path, raw: RawData) -> None:
    """Write into a folder aside and rename it; if another process was faster, its files stay."""
    aside = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        np.save(aside / "images.npy", raw.images.batch(np.arange(len(raw.images))))
        arrays: dict[str, Any] = {f"codes_{name}": attribute.codes_N for name, attribute in raw.attributes.items()}
        if raw.is_test_N is not None:
            arrays["is_test"] = raw.is_test_N
        np.savez(aside / "codes.npz", **arrays)
        names = {name: attribute.names for name, attribute in raw.attributes.items()}
        (aside / "names.json").write_text(json.dumps(names))
        try:
            aside.rename(home)
        except OSError:
            if not home.exists():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _cache_folder(folder: Path) -> Path:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    home = folder if os.access(existing, os.W_OK) else Path("~/.cache/quantfair").expanduser()
    cache = home / ".quantfair"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_aside(file: Path, text: str) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    aside.write_text(text)
    aside.replace(file)
