"""Small source files for the tests of data sets: random pictures, none of a person."""

from pathlib import Path

import numpy as np
from PIL import Image

CSV_HEAD = "age,ethnicity,gender,img_name,pixels"


def csv_row(index: int, *, age: object = None, ethnicity: object = None, gender: object = None) -> str:
    """One row of age_gender.csv, with 48x48 grey values that follow from `index`."""
    pixels = np.random.default_rng(index).integers(0, 256, 48 * 48)
    age = 1 + index % 110 if age is None else age
    ethnicity = index % 5 if ethnicity is None else ethnicity
    gender = index % 2 if gender is None else gender
    return f"{age},{ethnicity},{gender},{index}.jpg,{' '.join(map(str, pixels))}"


def write_csv(folder: Path, rows: list[str] | None = None, head: str = CSV_HEAD) -> Path:
    """Write UTKFace/age_gender.csv, by default of 60 rows."""
    file = folder / "UTKFace" / "age_gender.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([head, *([csv_row(i) for i in range(60)] if rows is None else rows)]) + "\n")
    return file


def write_picture(file: Path, seed: int, size: tuple[int, int] = (12, 12)) -> Path:
    """Write one picture of random colours; `size` is width, height."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, quality=95)
    return file


def write_class_folders(folder: Path, n: int = 20, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Write `n` pictures for each class."""
    for row, name in enumerate(classes):
        for index in range(n):
            write_picture(folder / name / f"{index:03}.png", 1000 * row + index)
    return folder
