"""How each group fares in one trial: accuracy, recall and means with intervals."""

import numpy as np

from results.rows import Rows
from results.statistics.intervals import Interval, mean_interval, wilson_interval
from results.tables.groupings import Grouping, TestSet
from results.tables.outcomes import Certainty, Outcomes

NO_IMAGES = "no test images in this group"


def add_group_metrics(outcomes: Outcomes, certainty: Certainty, test_set: TestSet, metrics: Rows) -> None:
    """Add the rows of one trial to `group_metrics`."""
    for grouping in test_set.groupings:
        _add_accuracy(outcomes, grouping, metrics)
        _add_means(outcomes, certainty, grouping, metrics)
        _add_by_class(outcomes, test_set, grouping, metrics)


def divide(k: np.ndarray, n: np.ndarray) -> np.ndarray:
    """k / n, and NaN where n is 0."""
    return np.divide(k, n, out=np.full(np.shape(n), np.nan), where=np.asarray(n) > 0)


def sum_by_group(values_N: np.ndarray, grouping: Grouping) -> np.ndarray:
    """Sum of a value over the test images of each group."""
    return np.bincount(grouping.test_N, weights=values_N, minlength=len(grouping.names))


def _add_accuracy(outcomes: Outcomes, grouping: Grouping, metrics: Rows) -> None:
    n_G, right_G = grouping.sizes("test"), sum_by_group(outcomes.right_N, grouping)
    _add(metrics, outcomes, grouping, "accuracy", divide(right_G, n_G), wilson_interval(right_G, n_G), "wilson")


def _add_means(outcomes: Outcomes, certainty: Certainty, grouping: Grouping, metrics: Rows) -> None:
    n_G = grouping.sizes("test")
    for name, values_N in (("loss_nats", outcomes.loss_N.astype(np.float64)), ("confidence", certainty.confidence_N)):
        total_G, squares_G = sum_by_group(values_N, grouping), sum_by_group(values_N**2, grouping)
        _add(metrics, outcomes, grouping, name, divide(total_G, n_G), mean_interval(total_G, squares_G, n_G), "t")


def _add(
    metrics: Rows, outcomes: Outcomes, grouping: Grouping, metric: str, value_G: np.ndarray, ci: Interval, method: str
) -> None:
    n_G = grouping.sizes("test")
    metrics.add(
        len(grouping.names),
        trial_id=outcomes.trial_id,
        runtime=outcomes.runtime,
        grouping=grouping.name,
        group=list(grouping.names),
        metric=metric,
        n=n_G,
        n_train=grouping.sizes("train"),
        value=value_G,
        ci_low=ci.low,
        ci_high=ci.high,
        ci_method=method,
        reason=[None if n else NO_IMAGES for n in n_G],
    )


def _add_by_class(outcomes: Outcomes, test_set: TestSet, grouping: Grouping, metrics: Rows) -> None:
    """Recall of each class and share of the images predicted as it, in every group: two rows a cell.

    Where the groups are the classes, a group has the recall of its own class only.
    """
    n_classes = test_set.n_classes
    label = next(g for g in test_set.groupings if g.name == "label")

    def count(codes_N: np.ndarray, classes_N: np.ndarray) -> np.ndarray:
        return np.bincount(codes_N * n_classes + classes_N, minlength=len(grouping.names) * n_classes)

    def add(
        metric: str, k: np.ndarray, n: np.ndarray, *, n_train: np.ndarray, cells: np.ndarray, why_null: str
    ) -> None:
        k, n = k[cells], n[cells]
        ci = wilson_interval(k, n)
        metrics.add(
            len(cells),
            trial_id=outcomes.trial_id,
            runtime=outcomes.runtime,
            grouping=grouping.name,
            group=[grouping.names[cell // n_classes] for cell in cells],
            metric=metric,
            **{"class": [label.names[cell % n_classes] for cell in cells]},
            n=n,
            n_train=n_train[cells],
            value=divide(k, n),
            ci_low=ci.low,
            ci_high=ci.high,
            ci_method="wilson",
            reason=[None if size else why_null for size in n],
        )

    all_cells = np.arange(len(grouping.names) * n_classes)
    right_N = outcomes.right_N
    add(
        "recall",
        count(grouping.test_N[right_N], test_set.labels_N[right_N]),
        count(grouping.test_N, test_set.labels_N),
        n_train=count(grouping.train_N, label.train_N),
        cells=all_cells[:: n_classes + 1] if grouping.name == "label" else all_cells,
        why_null="no test images of this class in this group",
    )
    add(
        "prediction_share",
        count(grouping.test_N, outcomes.predicted_N),
        np.repeat(grouping.sizes("test"), n_classes),
        n_train=np.repeat(grouping.sizes("train"), n_classes),
        cells=all_cells,
        why_null=NO_IMAGES,
    )


def join_reasons(*reasons: str | None) -> str:
    """Return the reasons that there are, as the one text of the column `reason`."""
    return "; ".join(reason for reason in reasons if reason)
