"""The 200 MB of `age_gender.csv`, plain or compressed -> labels and pixels.

pandas splits the rows, a thousand at a time, and numpy parses their pixels in one go: about a second for all of them on
one core of an AMD EPYC, where decompressing .bz2 takes 15.
"""

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from quantfair.datasets.progress import Ticker
from quantfair.datasets.types import DataError

LABELS = ("age", "gender", "ethnicity")
SIDE = 48
ROWS = 1000
DAMAGES = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, UnicodeDecodeError)


def read_csv(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels_N3 (age, gender, ethnicity), uint8 images_NCHW, and the line of each row in the file.

    Raises:
        DataError: naming the line of the first row that has no labels or not 48x48 grey values, or for a damaged file.
    """
    parts = []
    try:
        for first, columns in _blocks(file):
            labels_N3 = np.stack([_whole_numbers(columns[name], name, file, first) for name in LABELS], axis=1)
            parts.append((labels_N3, _pixels(columns["pixels"], file, first), first + np.arange(len(labels_N3))))
    except DAMAGES as error:
        raise DataError(f"{file} is damaged or incomplete ({error}): get it again.") from error
    if not parts:
        raise DataError(f"{file} has no rows.")
    labels_N3, images_NCHW, lines_N = (np.concatenate(column) for column in zip(*parts, strict=True))
    return labels_N3, images_NCHW, lines_N


def _blocks(file: Path) -> Iterator[tuple[int, dict[str, list[str]]]]:
    """Yield the line of the first of some rows, and their columns as texts."""
    import pandas as pd

    ticker, size = Ticker(f"parsing {file.name}"), file.stat().st_size
    with ExitStack() as stack:
        raw = stack.enter_context(file.open("rb"))
        text = _decompress(file, raw, stack)
        try:
            reader = pd.read_csv(text, dtype=str, keep_default_na=False, chunksize=ROWS)
            for number, frame in enumerate(stack.enter_context(reader)):
                missing = {*LABELS, "pixels"} - {*frame.columns}
                if missing:
                    names = ", ".join(sorted(missing))
                    raise DataError(f"{file} has no column {names}; age, gender, ethnicity and pixels are needed.")
                if len(frame):
                    yield 2 + number * ROWS, {name: frame[name].tolist() for name in (*LABELS, "pixels")}
                ticker.tick(raw.tell() / size)
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise DataError(f"{file} is not the CSV file that it should be ({error}): get it again.") from error


def _decompress(file: Path, raw: IO[bytes], stack: ExitStack) -> Any:
    match file.suffix:
        case ".gz":
            return stack.enter_context(gzip.GzipFile(fileobj=raw))
        case ".bz2":
            return stack.enter_context(bz2.BZ2File(raw))
        case ".xz":
            return stack.enter_context(lzma.LZMAFile(raw))
        case ".zip":
            archive = stack.enter_context(zipfile.ZipFile(raw))
            members = [name for name in archive.namelist() if name.endswith(".csv") and "__MACOSX" not in name]
            if len(members) != 1:
                raise DataError(f"{file} must hold one CSV file, but holds {len(members)}.")
            return stack.enter_context(archive.open(members[0]))
        case _:
            return raw


def _whole_numbers(texts: list[str], name: str, file: Path, first: int) -> np.ndarray:
    try:
        return np.array([int(text) for text in texts], dtype=np.int64)
    except (ValueError, OverflowError):
        for line, text in enumerate(texts, start=first):
            if not text.strip().removeprefix("-").isdecimal() or len(text) > 18:
                got = f"got '{text}'" if text.strip() else "but it is missing"
                raise DataError(
                    f"{file}, line {line}: {name} must be a whole number, {got}. Correct or remove it."
                ) from None
        raise


def _pixels(texts: list[str], file: Path, first: int) -> np.ndarray:
    """Parse the grey values of all rows at once; only where that fails is each row looked at."""
    n_spaces = SIDE * SIDE - 1
    if all(text.count(" ") == n_spaces for text in texts):
        try:
            values = np.fromstring(" ".join(texts), dtype=np.int64, sep=" ")
        except ValueError:
            values = np.empty(0, dtype=np.int64)
        if len(values) == len(texts) * SIDE * SIDE and values.min() >= 0 and values.max() <= 255:
            return values.astype(np.uint8).reshape(-1, 1, SIDE, SIDE)
    return np.stack([_one_image(text, f"{file}, line {line}") for line, text in enumerate(texts, start=first)])


def _one_image(text: str, where: str) -> np.ndarray:
    words = text.split()
    if len(words) != SIDE * SIDE:
        raise DataError(
            f"{where}: must have {SIDE}x{SIDE} = {SIDE * SIDE} pixels, got {len(words)}. Get the file again."
        )
    for word in words:
        if not (word.isdecimal() and int(word) <= 255):
            raise DataError(f"{where}: pixels must be whole numbers in 0..255, got '{word}'. Get the file again.")
    return np.array(words, dtype=np.uint8).reshape(1, SIDE, SIDE)
