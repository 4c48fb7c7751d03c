"""UTKFace as the well-known `age_gender.csv`: 23,704 grey faces of 48x48 with age, gender and ethnicity.

Terms: non-commercial research only; copyright stays with the owners of the pictures, who are real people, children
among them; never redistribute it. The labels were given by annotators: coarse, and no identities. It is not downloaded.
"""

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets.cache import hash_files, load_converted
from datasets.types import ArrayImages, Attribute, DataError, RawData

SIDE = 48
GENDERS = ("male", "female")
ETHNICITIES = ("White", "Black", "Asian", "Indian", "Others")
AGE_EDGES = (0, 10, 15, 20, 25, 30, 40, 50, 60, 120)  # right-closed: 10 years are in the first bin, 11 in the second
AGE_BINS = tuple(f"{low + 1}-{high}" for low, high in itertools.pairwise(AGE_EDGES))
SUFFIXES = ("", ".gz", ".bz2", ".xz", ".zip")
ROWS_A_CHUNK, SAY_EVERY_S = 2000, 3.0


def fingerprint(folder: Path) -> str:
    """Return sha256 of the CSV. Raises DataError, with where to get it and its terms, if there is none."""
    return hash_files([_find_csv(folder)], folder)


def load(folder: Path) -> RawData:
    """Return all images, N x 1 x 48 x 48, in the order of the file, with gender, ethnicity and age_bin."""
    return load_converted("utkface", fingerprint(folder), folder, lambda: _convert(_find_csv(folder)))


def _find_csv(folder: Path) -> Path:
    places = [place / f"age_gender.csv{suffix}" for place in (folder / "UTKFace", folder) for suffix in SUFFIXES]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(
            f"UTKFace is not in {folder / 'UTKFace'}: put age_gender.csv there, plain or compressed (.gz .bz2 .xz "
            ".zip), or point QUANTFAIR_DATA to the folder that holds it. It is never downloaded: its authors ask for "
            "non-commercial research use only; see https://susanqq.github.io/UTKFace/."
        )
    return found


def _convert(file: Path) -> RawData:
    images, labels, started, said = [], [], time.monotonic(), time.monotonic()
    try:
        with pd.read_csv(file, chunksize=ROWS_A_CHUNK) as chunks:
            for chunk in chunks:
                first_row = sum(map(len, images))
                labels.append(_read_labels(chunk, file))
                images.append(_read_pixels(chunk, file, first_row))
                if time.monotonic() - said > SAY_EVERY_S:
                    said = time.monotonic()
                    n_read = first_row + len(chunk)
                    print(f"reading {file.name}, once: {n_read} faces, {said - started:.0f} s", flush=True)
    except (EOFError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{file} cannot be read ({error}): it is truncated or no age_gender.csv; fetch it again."
        ) from error
    columns = {name: np.concatenate([part[name] for part in labels]) for name in labels[0]}
    names = {"gender": GENDERS, "ethnicity": ETHNICITIES, "age_bin": AGE_BINS}
    attributes = {name: Attribute(columns[name], groups) for name, groups in names.items()}
    return RawData(ArrayImages(np.concatenate(images)), attributes)


def _read_labels(chunk: Any, file: Path) -> dict[str, np.ndarray]:
    """Return codes of a chunk. Rows count from 1, after the header."""
    missing = {"age", "gender", "ethnicity", "pixels"} - set(chunk.columns)
    if missing:
        raise DataError(f"{file} lacks the columns {sorted(missing)}: it must have age, ethnicity, gender, pixels.")
    limits = {"age": (1, AGE_EDGES[-1]), "gender": (0, len(GENDERS) - 1), "ethnicity": (0, len(ETHNICITIES) - 1)}
    for name, (low, high) in limits.items():
        numbers: Any = pd.to_numeric(chunk[name], errors="coerce")
        wrong = ~numbers.between(low, high) | (numbers % 1 != 0)
        if wrong.any():
            row = chunk.index[wrong.to_numpy()][0]
            raise DataError(
                f"{file}, row {row + 1}: `{name}` must be in {low}..{high}, got {chunk[name][row]}; mend it."
            )
    age_bin = np.searchsorted(AGE_EDGES[1:], chunk["age"].to_numpy(np.int64), side="left")
    codes = {name: chunk[name].to_numpy(np.int64) for name in ("gender", "ethnicity")}
    return {**codes, "age_bin": age_bin}


def _read_pixels(chunk: Any, file: Path, first_row: int) -> np.ndarray:
    texts = chunk["pixels"].astype(str).tolist()
    for row, text in enumerate(texts, start=first_row + 1):
        if text.count(" ") != SIDE * SIDE - 1:
            n = len(text.split())
            raise DataError(
                f"{file}, row {row}: `pixels` must hold {SIDE * SIDE} numbers, got {n}; fetch the file again."
            )
    values = np.array(" ".join(texts).split(" "), dtype=np.int32)
    if values.min() < 0 or values.max() > 255:
        row = first_row + 1 + int(np.flatnonzero((values < 0) | (values > 255))[0]) // (SIDE * SIDE)
        raise DataError(f"{file}, row {row}: `pixels` must be in 0..255; fetch the file again.")
    return values.astype(np.uint8).reshape(-1, 1, SIDE, SIDE)
