"""How each class fares in every group of one trial: recall, precision, F1, FPR and the share predicted as it.

Legend: G groups, K classes. A cell is a class in a group; the last letter C stands for cells, class varying fastest.

All are one class against the rest, so recall is the true positive rate and the share the selection rate. Where the
groups are the classes themselves, a group has recall, precision and F1 of its own class only, over *all* test images:
within the group there are no images of another class that could be taken for it. Its shares are a row of the confusion
matrix.
"""

from typing import NamedTuple

import numpy as np

from quantfair.results.statistics.intervals import Interval, wilson_interval
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import TrialAnswers
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.groups import NO_IMAGES, add_metric, divide, explain

OWN_CLASS = ("recall", "precision", "f1")  # what a group that is a class has
MACRO = ("recall", "precision", "f1")
WHY_NULL = {
    "recall": "no test images of this class in this group",
    "precision": "no test image of this group is predicted as this class",
    "f1": "no test image of this group is of this class or predicted as it",
    "fpr": "no test images of other classes in this group",
    "prediction_share": NO_IMAGES,
}
NO_MACRO_INTERVAL = "no interval: it is a mean over classes"


class _Cells(NamedTuple):
    """Test images of each cell: of the class and predicted as it, of the class, predicted as it, and in the group.

    The last two are training images: of the class, and in the group.
    """

    hit_C: np.ndarray
    actual_C: np.ndarray
    predicted_C: np.ndarray
    n_C: np.ndarray
    trained_C: np.ndarray
    n_train_C: np.ndarray


def add_class_metrics(outcomes: TrialAnswers, test_set: TestSet, metrics: TableBuilder) -> None:
    """Add the rows of one trial to `group_metrics`: one for each metric and cell, and the macro averages."""
    label = test_set.grouping("label")
    for grouping in test_set.groupings:
        cells = _count(outcomes, test_set, grouping)
        groups_C = np.repeat(grouping.names, test_set.n_classes).tolist()
        classes_C = list(label.names) * len(grouping.names)
        if grouping.name == "label":
            _add(outcomes, "label", cells, metrics, ("prediction_share",), group=groups_C, classes=classes_C)
            cells, groups_C, classes_C = (
                _count(outcomes, test_set, test_set.grouping("overall")),
                label.names,
                label.names,
            )
            _add(outcomes, "label", cells, metrics, OWN_CLASS, group=groups_C, classes=classes_C)
        else:
            _add(outcomes, grouping.name, cells, metrics, tuple(WHY_NULL), group=groups_C, classes=classes_C)
            _add_macro(outcomes, grouping, cells, metrics)


def _count(outcomes: TrialAnswers, test_set: TestSet, grouping: Grouping) -> _Cells:
    n_groups, n_classes = len(grouping.names), test_set.n_classes

    def count(codes_N: np.ndarray, classes_N: np.ndarray) -> np.ndarray:
        return np.bincount(codes_N * n_classes + classes_N, minlength=n_groups * n_classes)

    right_N = outcomes.right_N
    return _Cells(
        count(grouping.test_N[right_N], test_set.labels_N[right_N]),
        count(grouping.test_N, test_set.labels_N),
        count(grouping.test_N, outcomes.predicted_N),
        np.repeat(grouping.sizes("test"), n_classes),
        count(grouping.train_N, test_set.grouping("label").train_N),
        np.repeat(grouping.sizes("train"), n_classes),
    )


def _proportion(metric: str, cells: _Cells) -> tuple[np.ndarray, np.ndarray]:
    """Return k and n of the proportion k / n of each cell; of `f1` those of TP / (TP + FP + FN)."""
    hit, actual, predicted, n, _, _ = cells
    return {
        "recall": (hit, actual),
        "precision": (hit, predicted),
        "f1": (hit, actual + predicted - hit),
        "fpr": (predicted - hit, n - actual),
        "prediction_share": (predicted, n),
    }[metric]


def _to_f1(share: np.ndarray) -> np.ndarray:
    """F1 = 2 TP / (2 TP + FP + FN) from J = TP / (TP + FP + FN), of which it is the increasing function 2 J / (1 + J).

    So limits of J are limits of F1. Source: Lam, Gopal and Qian, arXiv 2309.14621, the indirect Wilson method.
    """
    return 2 * share / (1 + share)


def _add(
    outcomes: TrialAnswers,
    grouping: str,
    cells: _Cells,
    metrics: TableBuilder,
    names: tuple[str, ...],
    *,
    group: tuple[str, ...] | list[str],
    classes: tuple[str, ...] | list[str],
) -> None:
    n_train_by_metric = {"fpr": cells.n_train_C - cells.trained_C, "prediction_share": cells.n_train_C}
    for metric in names:
        k_C, n_C = _proportion(metric, cells)
        value_C, ci = divide(k_C, n_C), wilson_interval(k_C, n_C)
        if metric == "f1":
            value_C, ci = _to_f1(value_C), Interval(_to_f1(ci.low), _to_f1(ci.high))
        metrics.add(
            len(n_C),
            trial_id=outcomes.trial_id,
            runtime=outcomes.runtime,
            grouping=grouping,
            group=group,
            metric=metric,
            **{"class": classes},
            n=n_C,
            n_train=n_train_by_metric.get(metric, cells.trained_C),
            value=value_C,
            ci_low=ci.low,
            ci_high=ci.high,
            ci_method="wilson",
            reason=explain(n_C, WHY_NULL[metric]),
        )


def _add_macro(outcomes: TrialAnswers, grouping: Grouping, cells: _Cells, metrics: TableBuilder) -> None:
    """Add means over the classes that have images in the group; a class never predicted has precision 0, as its F1."""
    actual_GK = cells.actual_C.reshape(len(grouping.names), -1)
    has_GK = actual_GK > 0
    reason = [NO_MACRO_INTERVAL if n else NO_IMAGES for n in grouping.sizes("test")]
    for metric in MACRO:
        k_C, n_C = _proportion(metric, cells)
        value_GK = np.nan_to_num(divide(k_C, n_C)).reshape(actual_GK.shape)
        value_GK = _to_f1(value_GK) if metric == "f1" else value_GK
        macro_G = divide((value_GK * has_GK).sum(axis=1), has_GK.sum(axis=1))
        add_metric(metrics, outcomes, grouping, metric, macro_G, reason=reason)
