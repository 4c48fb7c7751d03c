"""How each group fares in one trial: accuracy, means and calibration with intervals.

Legend: N test images, G groups. What is said of each class is `classes.py`.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from quantfair.results.schema import IMPORTED
from quantfair.results.statistics.intervals import Interval, mean_interval, wilson_interval
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import Certainty, TrialAnswers
from quantfair.results.tables.groupings import Grouping, TestSet

NO_IMAGES = "no test images in this group"
ONE_IMAGE = "no interval: a t interval needs two images"
ONE_VALUE = "no interval: all images of this group have one value"
N_BINS: Final = 15
MIN_CALIBRATED: Final = 100  # test images: noise alone makes the ECE of fewer look bad
FEW_TO_CALIBRATE = f"fewer than {MIN_CALIBRATED} test images: noise would make most of their calibration error"
NO_ECE_INTERVAL = "no interval: noise biases a calibration error upward, the more the smaller the group"


def add_group_metrics(outcomes: TrialAnswers, certainty: Certainty, test_set: TestSet, metrics: TableBuilder) -> None:
    """Add the rows of one trial to `group_metrics`."""
    for grouping in test_set.groupings:
        _add_accuracy(outcomes, grouping, metrics)
        _add_means(outcomes, certainty, grouping, metrics)
        _add_calibration(outcomes, certainty, grouping, metrics)


def divide(k: np.ndarray, n: np.ndarray) -> np.ndarray:
    """k / n, and NaN where n is 0."""
    return np.divide(k, n, out=np.full(np.shape(n), np.nan), where=np.asarray(n) > 0)


def sum_by_group(values_N: np.ndarray, grouping: Grouping) -> np.ndarray:
    """Sum of a value over the test images of each group."""
    return np.bincount(grouping.test_N, weights=values_N, minlength=len(grouping.names))


def explain(n: np.ndarray, why_null: str) -> list[str | None] | None:
    """Return the reason of each number: `why_null` where it is of no image."""
    return None if n.all() else [None if size else why_null for size in n]


def _add_accuracy(outcomes: TrialAnswers, grouping: Grouping, metrics: TableBuilder) -> None:
    n_G, right_G = grouping.sizes("test"), sum_by_group(outcomes.right_N, grouping)
    ci, reason = wilson_interval(right_G, n_G), explain(n_G, NO_IMAGES)
    add_metric(metrics, outcomes, grouping, "accuracy", divide(right_G, n_G), ci=ci, ci_method="wilson", reason=reason)


def _add_means(outcomes: TrialAnswers, certainty: Certainty, grouping: Grouping, metrics: TableBuilder) -> None:
    means = {
        "loss_nats": outcomes.loss_N.astype(np.float64),
        "confidence": certainty.confidence_N,
        "margin": certainty.margin_N,
        "entropy_nats": certainty.entropy_N,
    }
    for name, values_N in means.items():
        add_mean(outcomes, name, values_N, grouping, metrics)


def add_mean(
    outcomes: TrialAnswers,
    metric: str,
    values_N: np.ndarray,
    grouping: Grouping,
    metrics: TableBuilder,
    *,
    centre: float = 0.0,
) -> None:
    """Add the mean of a value of the images in every group, with its t interval. `centre`: as in `average`."""
    mean_G, ci, reason = average(values_N, grouping, centre=centre)
    add_metric(metrics, outcomes, grouping, metric, mean_G, ci=ci, ci_method="t", reason=reason)


def average(
    values_N: np.ndarray, grouping: Grouping, *, centre: float = 0.0
) -> tuple[np.ndarray, Interval, list[str | None]]:
    """Return the mean of a value over the test images of each group, its t interval, and why one of them is null.

    Values that are all one number have no interval: none of zero width is believed. `centre` is near the values where
    they are far from 0, since their sums of squares would lose the variance.
    """
    n_G, values_N = grouping.sizes("test"), values_N - centre
    total_G, squares_G = sum_by_group(values_N, grouping), sum_by_group(values_N**2, grouping)
    low_G, high_G = (np.asarray(limit_G) for limit_G in mean_interval(total_G, squares_G, n_G))
    has_ci_G = high_G > low_G
    ci = Interval(*(np.where(has_ci_G, centre + limit_G, np.nan) for limit_G in (low_G, high_G)))
    few = {0: NO_IMAGES, 1: ONE_IMAGE}
    has_one_value = None if np.isnan(values_N).any() else ONE_VALUE  # nan is explained elsewhere: `without_logits`
    reason = [None if has_ci else few.get(n, has_one_value) for n, has_ci in zip(n_G.tolist(), has_ci_G, strict=True)]
    return centre + divide(total_G, n_G), ci, reason


def _add_calibration(outcomes: TrialAnswers, certainty: Certainty, grouping: Grouping, metrics: TableBuilder) -> None:
    n_G = grouping.sizes("test")
    ece_G = np.where(n_G >= MIN_CALIBRATED, measure_ece(outcomes.right_N, certainty.confidence_N, grouping), np.nan)
    reason = [NO_ECE_INTERVAL if n >= MIN_CALIBRATED else FEW_TO_CALIBRATE if n else NO_IMAGES for n in n_G]
    add_metric(metrics, outcomes, grouping, "ece", ece_G, reason=reason)


def measure_ece(right_N: np.ndarray, confidence_N: np.ndarray, grouping: Grouping) -> np.ndarray:
    """Return each group's expected calibration error, in [0, 1], over 15 equally wide bins of the confidence.

    sum over bins of n_bin / n * |accuracy - mean confidence|. Noise adds to every term, so it is biased upward.
    Source: Guo et al., On calibration of modern neural networks, ICML 2017, equation 3.
    """
    if np.isnan(confidence_N).any():  # imported without logits
        return np.full(len(grouping.names), np.nan)
    bins_N = find_bins(confidence_N, N_BINS)
    n_cells = len(grouping.names) * N_BINS
    error_GB = np.bincount(grouping.test_N * N_BINS + bins_N, weights=right_N - confidence_N, minlength=n_cells)
    return divide(np.abs(error_GB).reshape(-1, N_BINS).sum(axis=1), grouping.sizes("test"))


def find_bins(confidence_N: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the bin of each image, 0 .. n_bins - 1: equally wide ones, each with its lower edge, the last with both.

    (torchmetrics gives images of confidence exactly 1 a bin of their own.)
    """
    return np.minimum((confidence_N * n_bins).astype(np.int64), n_bins - 1)


def add_metric(
    metrics: TableBuilder,
    outcomes: TrialAnswers,
    grouping: Grouping,
    metric: str,
    value_G: np.ndarray,
    *,
    ci: Interval | None = None,
    ci_method: str | None = None,
    reason: Sequence[str | None] | None,
) -> None:
    """Add one number for each group."""
    metrics.add(
        len(grouping.names),
        trial_id=outcomes.trial_id,
        runtime=outcomes.runtime,
        grouping=grouping.name,
        group=list(grouping.names),
        metric=metric,
        n=grouping.sizes("test"),
        n_train=grouping.sizes("train"),
        value=value_G,
        ci_low=None if ci is None else ci.low,
        ci_high=None if ci is None else ci.high,
        ci_method=ci_method,
        reason=reason,
    )


def join_reasons(*reasons: str | None) -> str:
    """Return the reasons that there are, as the one text of the column `reason`."""
    return "; ".join(reason for reason in reasons if reason)


NO_LOGITS: Final = "imported without logits"


NO_PAIR: Final = "loss and KL: one side was imported without logits"


def explain_missing_logits(tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Return the tables, in three of them with a reason for what is null for want of logits."""
    trials = zip(*(tables["trials"][name].to_pylist() for name in ("trial_id", "method", "loss_nats")), strict=True)
    without = {trial_id for trial_id, method, loss in trials if method == IMPORTED and loss is None}
    if not without:
        return tables
    metrics, paired, disparity = (tables[name] for name in ("group_metrics", "paired_metrics", "disparity"))
    one_sided = _is_in(paired, "trial_id", without) | _is_in(paired, "other_trial_id", without)
    touched = set(paired.filter(pa.array(one_sided))["trial_id"].to_pylist())
    of_trial = _is_in(metrics, "trial_id", without) & _is_null(metrics, "value") & _is_null(metrics, "class")
    of_loss = np.array([metric.endswith("_nats") for metric in disparity["metric"].to_pylist()], bool)
    return {
        **tables,
        "group_metrics": _explain(metrics, of_trial & (metrics["n"].to_numpy() > 0), NO_LOGITS),
        "paired_metrics": _explain(paired, one_sided & _is_null(paired, "excess_loss_nats"), NO_PAIR),
        "disparity": _explain(
            disparity, of_loss & _is_in(disparity, "trial_id", touched) & _is_null(disparity, "value"), NO_PAIR
        ),
    }


def _is_in(table: pa.Table, column: str, ids: set[str]) -> np.ndarray:
    return np.array([value in ids for value in table[column].to_pylist()], bool)


def _is_null(table: pa.Table, column: str) -> np.ndarray:
    return table[column].is_null().to_numpy()


def _explain(table: pa.Table, holds_N: np.ndarray, reason: str) -> pa.Table:
    """Put `reason` before the reasons of the rows where `holds_N`."""
    reasons, place = table["reason"].to_pylist(), table.column_names.index("reason")
    for row in np.flatnonzero(holds_N):
        reasons[row] = join_reasons(reason, reasons[row])
    return table.set_column(place, table.schema.field("reason"), pa.array(reasons, pa.string()))
