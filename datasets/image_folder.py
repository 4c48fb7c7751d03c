"""Your own pictures: a folder with one folder for each class, or a CSV file with columns path, label and any groups.

Paths in the CSV file are relative to its folder. The label is the attribute `class`; every other column is an attribute
to group by, or to predict. Values are texts; whole numbers are ordered as numbers.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from quantfair.datasets.cache import SourceFiles
from quantfair.datasets.folder_images import FolderImages, list_images
from quantfair.datasets.spec import DatasetSpec
from quantfair.datasets.types import Attribute, DataError, RawData


def find_files(folder: Path, spec: DatasetSpec) -> SourceFiles:
    """Return all pictures, and the CSV file if that is what `path` names."""
    place = _find_place(folder, spec)
    files, _ = _read(place)
    return SourceFiles(files, root=place) if place.is_dir() else SourceFiles([place, *files])


def load(folder: Path, spec: DatasetSpec) -> RawData:
    """Return all pictures, N x 3 x H x W, with `class` and the other columns as attributes."""
    files, columns = _read(_find_place(folder, spec))
    attributes = {name: _to_attribute(values) for name, values in columns.items()}
    return RawData(FolderImages(files, spec.size), attributes)


def _find_place(folder: Path, spec: DatasetSpec) -> Path:
    if spec.path is None:
        raise DataError("`dataset.path` is missing: image_folder needs the folder of pictures or the CSV file.")
    place = folder / Path(spec.path).expanduser()
    if not place.exists():
        raise DataError(f"`dataset.path`: {place} does not exist. Relative paths start at the data folder, {folder}.")
    return place


def _read(place: Path) -> tuple[list[Path], Mapping[str, Sequence[str]]]:
    """Return the pictures and, column by column, what is known about them."""
    return _read_folders(place) if place.is_dir() else _read_table(place)


def _read_folders(place: Path) -> tuple[list[Path], Mapping[str, Sequence[str]]]:
    files, classes = [], []
    for folder in sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if inner := next((path for path in sorted(folder.iterdir()) if path.is_dir()), None):
            raise DataError(
                f"{inner} is a folder, where pictures should be: `path` must name the folder of the classes."
            )
        found = list_images(folder)
        if not found:
            raise DataError(f"{folder} holds no pictures: every folder is a class. Fill it or take it away.")
        files += found
        classes += [folder.name] * len(found)
    if not files:
        raise DataError(f"{place} holds no folders with pictures: it needs one folder for each class.")
    return files, {"class": classes}


def _read_table(place: Path) -> tuple[list[Path], Mapping[str, Sequence[str]]]:
    try:
        with place.open(encoding="utf-8-sig", newline="") as file:
            columns = _read_columns(place, file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{place} is no CSV file in UTF-8 ({error}): save it as one.") from error
    files = [place.parent / path for path in columns.pop("path")]
    if not files:
        raise DataError(f"{place} has no rows.")
    for row, file in enumerate(files, start=1):
        if not file.is_file():
            raise DataError(f"{place}, row {row}: {file} does not exist. Paths are relative to the CSV file's folder.")
    return files, {"class": columns.pop("label"), **columns}


def _read_columns(place: Path, file: Iterable[str]) -> dict[str, list[str]]:
    reader = csv.reader(file)
    header = [name.strip() for name in next(reader, [])]
    _check_header(header, place)
    columns: dict[str, list[str]] = {name: [] for name in header}
    for row in reader:
        if len(row) != len(header) or not all(cell.strip() for cell in row):
            missing = next((name for name, cell in zip(header, row, strict=False) if not cell.strip()), None)
            fault = f"{missing} is missing" if missing else f"has {len(row)} columns, must have {len(header)}"
            raise DataError(f"{place}, line {reader.line_num}: {fault}. Complete the row or remove it.")
        for name, cell in zip(header, row, strict=True):
            columns[name].append(cell.strip())
    return columns


def _check_header(header: Sequence[str], place: Path) -> None:
    for needed in ("path", "label"):
        if needed not in header:
            raise DataError(f"{place} has no column '{needed}'; it has {', '.join(header) or 'none'}.")
    for name in header:
        if header.count(name) > 1 or name == "class" or "*" in name or not name:
            raise DataError(
                f"{place}: a column cannot be named '{name}' (twice, 'class', empty, or with a *). Rename it."
            )


def _to_attribute(values: Sequence[str]) -> Attribute:
    are_numbers = all(value.isdecimal() for value in values)
    names = sorted(set(values), key=int if are_numbers else str)
    code_of = {name: code for code, name in enumerate(names)}
    return Attribute(np.array([code_of[value] for value in values], dtype=np.int64), tuple(names))
