"""UTKFace (Zhang, Song and Qi 2017): faces with age, gender and ethnicity, as a CSV file or as a folder of pictures.

`age_gender.csv` has the columns age, ethnicity, gender and pixels (48x48 grey values), and may be compressed.
Pictures are named `age_gender_race_time.jpg.chip.jpg`. The codes are the authors', the labels those of annotators.
An image whose age is in no bin (0, or above 120) and a picture whose name lacks a label are skipped and counted.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from quantfair.datasets.cache import SourceFiles
from quantfair.datasets.folder_images import FolderImages, list_images
from quantfair.datasets.spec import DatasetSpec
from quantfair.datasets.types import ArrayImages, Attribute, DataError, RawData
from quantfair.datasets.utkface_csv import read_csv

GENDERS = ("Male", "Female")
ETHNICITIES = ("White", "Black", "Asian", "Indian", "Others")
AGE_EDGES = (0, 10, 15, 20, 25, 30, 40, 50, 60, 120)  # right-closed: (0,10] (10,15] ... (60,120]
AGE_BINS = tuple(f"({low},{high}]" for low, high in pairwise(AGE_EDGES))
CSV_NAMES = tuple(f"age_gender.csv{suffix}" for suffix in ("", ".gz", ".bz2", ".xz", ".zip"))
NO_IMAGES = ArrayImages(np.empty((0, 1, 1, 1), np.uint8))
PICTURE_NAME = re.compile(r"(\d+)_(\d+)_(\d+)_[^_]*\.jpg(\.chip\.jpg)?")


def find_files(folder: Path, spec: DatasetSpec) -> SourceFiles:
    """Return the CSV file, or all pictures: what `path` names, else the first that is there."""
    place = _find_place(folder, spec)
    return SourceFiles(list_images(place), root=place) if place.is_dir() else SourceFiles([place])


def load(folder: Path, spec: DatasetSpec) -> RawData:
    """Return all faces that have labels: N x 1 x 48 x 48 of a CSV file, N x 3 x H x W of pictures."""
    place = _find_place(folder, spec)
    if place.is_dir():
        return _load_pictures(list_images(place), spec)
    if spec.size is not None:
        raise DataError(f"`dataset.size` is for folders of pictures; {place.name} has 48x48 pixels. Remove it.")
    labels_N3, images_NCHW, lines_N = read_csv(place)
    where = [f"{place}, line {line}" for line in lines_N]
    keep_N, columns = _describe_faces(labels_N3, where)
    return columns._replace(images=ArrayImages(images_NCHW[keep_N]))


def _find_place(folder: Path, spec: DatasetSpec) -> Path:
    if spec.path is not None:
        place = folder / Path(spec.path).expanduser()
        if place.is_file() or (place.is_dir() and list_images(place)):
            return place
        raise DataError(f"`dataset.path`: {place} is neither a file nor a folder with pictures.")
    files = [base / name for base in (folder / "UTKFace", folder) for name in CSV_NAMES]
    folders = [folder / "UTKFace", folder / "UTKFace" / "images"]
    for place in (*files, *folders):
        if place.is_file() or (place.is_dir() and any(place.glob("*.jpg"))):
            return place
    raise DataError(
        f"UTKFace is not in {folder / 'UTKFace'}. It is never downloaded for you: its terms (non-commercial research "
        "only, no redistribution) want your consent. Get the images from https://susanqq.github.io/UTKFace, or "
        f"age_gender.csv made of them, and put there age_gender.csv (or {', '.join(CSV_NAMES[1:])}) or "
        "the *.jpg.chip.jpg files, set `path`, or point QUANTFAIR_DATA to the folder that holds UTKFace."
    )


def _load_pictures(files: Sequence[Path], spec: DatasetSpec) -> RawData:
    matches = [(file, match) for file in files if (match := PICTURE_NAME.fullmatch(file.name))]
    if not matches:
        raise DataError(f"No picture in {files[0].parent} is named age_gender_race_time.jpg.chip.jpg.")
    strangers = [file.name for file in files if not PICTURE_NAME.fullmatch(file.name)]
    labels_N3 = np.array([[int(code) for code in match.group(1, 2, 3)] for _, match in matches])
    keep_N, columns = _describe_faces(labels_N3, [str(file) for file, _ in matches])
    images = FolderImages([matches[i][0] for i in np.flatnonzero(keep_N)], spec.size)
    skipped = f"skipped {len(strangers)} pictures whose names lack a label, such as {strangers[0]}" if strangers else ""
    return columns._replace(images=images, notes=(*columns.notes, *filter(None, [skipped])))


def _describe_faces(labels_N3: np.ndarray, where: Sequence[str]) -> tuple[np.ndarray, RawData]:
    """Check age, gender and ethnicity; return keep_N and, still without images, what is known of the kept faces."""
    age_N, gender_N, ethnicity_N = labels_N3.T
    for name, codes_N, names in (("gender", gender_N, GENDERS), ("ethnicity", ethnicity_N, ETHNICITIES)):
        wrong = np.flatnonzero((codes_N < 0) | (codes_N >= len(names)))
        if len(wrong):
            meaning = ", ".join(f"{code} {word}" for code, word in enumerate(names))
            raise DataError(f"{where[wrong[0]]}: {name} must be one of {meaning}, got {codes_N[wrong[0]]}. Correct it.")
    if (age_N < 0).any():
        first = int(np.flatnonzero(age_N < 0)[0])
        raise DataError(f"{where[first]}: age must be at least 0, got {age_N[first]}. Correct it.")
    keep_N = (age_N > AGE_EDGES[0]) & (age_N <= AGE_EDGES[-1])
    if not keep_N.any():
        raise DataError(f"{where[0]} and all others: no age is in (0,120]. Is this the right file?")
    notes = (f"ages {age_N[keep_N].min()}..{age_N[keep_N].max()}",)
    if not keep_N.all():
        first = int(np.flatnonzero(~keep_N)[0])
        notes += (f"skipped {(~keep_N).sum()} faces whose age is in no bin, the first in {where[first]}",)
    bins_N = np.searchsorted(AGE_EDGES, age_N[keep_N], side="left") - 1
    columns = ((ethnicity_N[keep_N], ETHNICITIES), (gender_N[keep_N], GENDERS), (bins_N, AGE_BINS))
    names = ("ethnicity", "gender", "age_bin")
    attributes = {name: Attribute(*column) for name, column in zip(names, columns, strict=True)}
    return keep_N, RawData(NO_IMAGES, attributes, notes=notes, numbers={"age": age_N[keep_N]})
