"""A user's own metric, as `package.module:function`: the test images of one trial in, one number for each image out.

    def is_sure_and_wrong(images: pd.DataFrame) -> pd.Series:
        return (images["confidence"] > 0.9) & (images["predicted"] != images["label"])

`images` has the columns sample_id, label, predicted (indices of classes), label_name, predicted_name, loss_nats,
confidence, margin, entropy_nats, and one of text for each attribute and each of the user's own groupings. The tables
then have its means in every group, paired differences, and how unevenly those are spread.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from quantfair.results.store.files import StoreError

TAKEN: Final = (
    *("accuracy", "loss_nats", "confidence", "margin", "entropy_nats", "ece"),
    *("recall", "precision", "f1", "fpr", "prediction_share"),
)
BESIDE: Final = ("trial", "runtime", "grouping", "group")  # columns that stand beside metrics on the page


class OwnMetric(NamedTuple):
    """A user's function, and what it is called: `name` in tables, `path` on the command line."""

    name: str
    path: str
    function: Callable[[pd.DataFrame], Any]


def load_metrics(paths: Sequence[str]) -> list[OwnMetric]:
    """Import the user's functions. Raises StoreError where one cannot be had, or its name is taken."""
    metrics: list[OwnMetric] = []
    for path in dict.fromkeys(paths):
        metric = _load(path)
        if metric.name in (*TAKEN, *BESIDE) or metric.name in {other.name for other in metrics}:
            raise StoreError(f"--metric {path}: the name {metric.name} is taken; give the function another one.")
        metrics.append(metric)
    return metrics


def _load(path: str) -> OwnMetric:
    module, _, name = path.partition(":")
    if not module or not name.isidentifier():
        raise StoreError(f"--metric must be package.module:function, got {path}.")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module is the user's: anything can go wrong in it
        raise StoreError(
            f"--metric {path} cannot be imported ({type(error).__name__}: {error}). Start in the folder that holds it, "
            "or name its folder in PYTHONPATH."
        ) from error
    if not callable(function):
        raise StoreError(f"--metric {path} must be a function, got {type(function).__name__}.")
    return OwnMetric(name, path, function)


def measure(metric: OwnMetric, images: pd.DataFrame, trial_id: str) -> np.ndarray:
    """Return the metric's number for each image of a trial; nan is allowed where the trial came without logits.

    Raises:
        StoreError: the function raises, or returns anything but one finite number for each image.
    """
    try:
        found = metric.function(images.copy())
    except Exception as error:
        raise StoreError(
            f"--metric {metric.path}, trial {trial_id}: it raised {type(error).__name__}: {error}."
        ) from error
    if fault := _find_fault(found, images):
        raise StoreError(
            f"--metric {metric.path}, trial {trial_id}: it must return one finite number for each of the {len(images)} "
            f"images, in their order; {fault}."
        )
    return np.asarray(found, dtype=np.float64)


def _find_fault(found: Any, images: pd.DataFrame) -> str | None:
    try:
        values = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        return f"it returned {type(found).__name__} that is not of numbers"
    if values.shape != (len(images),):
        return f"it returned {type(found).__name__} of shape {values.shape}"
    if isinstance(found, pd.Series) and not found.index.equals(images.index):
        return "it returned a Series with another index"
    allowed = np.isnan(values) & images["loss_nats"].isna().to_numpy()
    if len(wrong := np.flatnonzero(~np.isfinite(values) & ~allowed)):
        return f"that of image {images['sample_id'].iloc[wrong[0]]} is {values[wrong[0]]}"
    return None
