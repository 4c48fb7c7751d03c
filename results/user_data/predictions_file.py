"""A file of predictions from elsewhere -> arrays in the order of the images, checked against who the images are.

CSV or Parquet with a row for each test image, and for all val images or none: sample_id, predicted (a class index or a
class name) and, where they are known, logits: columns logit_0 to logit_{K-1}, or in Parquet one list column `logits`.
Legend: N images, in the order of their sample_id, K classes.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from quantfair.results.store.files import StoreError
from quantfair.results.user_data.user_table import PARQUET, parse_sample_ids, parse_whole, read_user_table


class Given(NamedTuple):
    """What a file says of each image, and what the data set does.

    `logits_NK` is None where the file has none. `not_used` names the columns of the file that mean nothing here.
    """

    sample_ids_N: np.ndarray
    splits_N: np.ndarray
    labels_N: np.ndarray
    predicted_N: np.ndarray
    logits_NK: np.ndarray | None
    not_used: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return sha256 over what the file says, the same for every order of its rows and either format."""
        parts = [self.sample_ids_N.astype(np.int64), self.predicted_N.astype(np.int64)]
        parts += [] if self.logits_NK is None else [self.logits_NK.astype(np.float64)]
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def read_given(data: bytes, samples: pa.Table, class_names: list[str], *, source: str) -> Given:
    """Read and check a file. Raises StoreError naming what is wrong and the remedy; `source` is the file's name."""
    table = _parse(data, source)
    table = table.sort_values("sample_id", ignore_index=True)
    splits_N, labels_N = _match(table["sample_id"], samples, source)
    predicted_N = _read_classes(table["predicted"], class_names, source, is_csv=not data.startswith(PARQUET))
    logits_NK = _read_logits(table, len(class_names), source)
    if logits_NK is not None:
        _check_largest(logits_NK, predicted_N, table["sample_id"], class_names, source)
    not_used = tuple(str(name) for name in table if not _is_used(str(name)))
    return Given(table["sample_id"].to_numpy(), splits_N, labels_N, predicted_N, logits_NK, not_used)


def _is_used(column: str) -> bool:
    return column in ("sample_id", "predicted", "logits") or column.startswith("logit_")


def _parse(data: bytes, source: str) -> Any:
    """Read the columns, of a CSV as texts, and its sample_id as whole numbers that stand once."""
    table = read_user_table(data, source=source, required=["sample_id", "predicted"])
    table["sample_id"] = parse_sample_ids(table["sample_id"], source=source)
    if (twice := table["sample_id"].duplicated()).any():
        image = table["sample_id"][twice.idxmax()]
        raise StoreError(f"{source} names image {image} twice; give each sample_id one row.")
    return table


def _match(ids: Any, samples: pa.Table, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Return split and label of the images. Raises StoreError if they are not the test images, with or without val."""
    known: Any = samples.select(["sample_id", "split", "label"]).to_pandas().set_index("sample_id")
    places = f"images of data set {samples['dataset_id'][0]}"
    if len(unknown := ids[~ids.isin(known.index)]):
        raise StoreError(
            f"{source} names {len(unknown)} images that are no {places}, the first {unknown.iloc[0]}: "
            "take sample_id from samples.parquet."
        )
    found = known.loc[ids]
    if len(trained := ids[(found["split"] == "train").to_numpy()]):
        raise StoreError(
            f"{source} names {len(trained)} training {places}, the first {trained.iloc[0]}: leave them out."
        )
    for split in ("test", "val"):
        wanted = known.index[known["split"] == split]
        lost = wanted[~wanted.isin(ids)]
        if len(lost) and (split == "test" or len(lost) < len(wanted)):
            remedy = "predict them all" if split == "test" else "predict them all, or leave all val images out"
            raise StoreError(
                f"{source} lacks {len(lost)} of {len(wanted)} {split} {places}, the first {lost[0]}: {remedy}."
            )
    return found["split"].to_numpy(dtype=str), found["label"].to_numpy(dtype=np.int64)


def _read_classes(values: Any, class_names: list[str], source: str, *, is_csv: bool) -> np.ndarray:
    """Return class indices of what may be indices or names; in Parquet a number is an index, and a text a name."""
    is_number = pd.api.types.is_numeric_dtype(values)
    texts = [f"{value:g}" if is_number else str(value).strip() for value in values]
    by_name = {} if is_number else {name: index for index, name in enumerate(class_names)}
    indices = range(len(class_names) if is_csv or is_number else 0)
    readings = [
        [by_name.get(text) for text in texts],
        [index if index in indices else None for index in map(parse_whole, texts)],
    ]
    complete = [reading for reading in readings if None not in reading]
    if not complete:
        named, indexed = readings
        bad = next((t for t, a, b in zip(texts, named, indexed, strict=True) if a is None and b is None), texts[0])
        raise StoreError(
            f"{source}: `predicted` must be one of the names {class_names} for all images, or one of the indices 0 to "
            f"{len(class_names) - 1} for all, got {bad!r}."
        )
    if len(complete) == 2 and complete[0] != complete[1]:
        raise StoreError(
            f"{source}: `predicted` may be indices or the names {class_names}, which differ: give a Parquet file, in "
            "which a number is an index and a text a name."
        )
    return np.array(complete[0], dtype=np.int64)


def _check_largest(logits_NK: np.ndarray, predicted_N: np.ndarray, ids: Any, names: list[str], source: str) -> None:
    """Raise StoreError where the class predicted has not the largest logit, so the two are in different orders."""
    wrong = np.flatnonzero(logits_NK[np.arange(len(ids)), predicted_N] < logits_NK.max(axis=1))
    if len(wrong):
        raise StoreError(
            f"{source}: {len(wrong)} images are not predicted as the class with the largest logit, the first "
            f"{ids[wrong[0]]} as {names[predicted_N[wrong[0]]]!r}. Logits stand in the order {names}: correct them, or "
            "leave them out."
        )


def _read_logits(table: Any, n_classes: int, source: str) -> np.ndarray | None:
    names = [f"logit_{index}" for index in range(n_classes)]
    found = {str(name) for name in table if str(name).startswith("logit_")}
    if "logits" not in table and not found:
        return None
    what = f"{source}: logits must be {n_classes} finite numbers for each image"
    if found and found != set(names):
        raise StoreError(f"{what}, in columns {names[0]} to {names[-1]}; got {sorted(found)}.")
    try:
        rows = table[names].to_numpy() if found else list(table["logits"])
        logits_NK = np.asarray([[float(value) for value in row] for row in rows], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{what} ({error}); in a CSV they have columns {names[0]} to {names[-1]}.") from error
    if logits_NK.shape != (len(table), n_classes) or not np.isfinite(logits_NK).all():
        bad = next(i for i, row in enumerate(rows) if len(row) != n_classes or not np.isfinite(logits_NK[i]).all())
        raise StoreError(f"{what}, got {list(rows[bad])} for image {table['sample_id'][bad]}.")
    return logits_NK
