"""Which classes a trial predicts more or less often than another trial, in every group.

Legend: P pairs, G groups, K classes; C = G x K cells, class varying fastest. A shift is of the share of images
predicted as a class: where predictions move from one class to another, images of the first lose, of the second gain.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quantfair.results.statistics.intervals import Interval, drop_interval
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import Compared, DatasetAnswers, Deployed, TrialAnswers
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.groups import NO_IMAGES, divide, join_reasons


def add_shifts(measured: DatasetAnswers | Deployed, flags: Mapping[tuple[str, str], str], rows: TableBuilder) -> None:
    """Add a row for each comparison, group and class of one data set.

    `flags`: a reason to take a comparison with care, by trial and comparison.
    """
    test_set, known = measured.test_set, []
    for pair in measured.compared():
        if pair.other is not None:
            known.append((pair.outcomes, pair.other, pair))
            continue
        for grouping in test_set.groupings:
            _add(rows, pair, test_set, grouping, reason=pair.why_missing)
    if not known:
        return
    inferred = {grouping.name: _infer(known, test_set, grouping) for grouping in test_set.groupings}
    for index, (_, _, pair) in enumerate(known):
        flag = flags.get((pair.outcomes.trial_id, pair.comparison))
        for grouping in test_set.groupings:
            columns = {name: values_PC[index] for name, values_PC in inferred[grouping.name].items()}
            reasons = [join_reasons(flag, None if n else NO_IMAGES) or None for n in grouping.sizes("test")]
            reason = [reason for reason in reasons for _ in range(test_set.n_classes)]
            _add(rows, pair, test_set, grouping, **columns, reason=reason)


def _add(rows: TableBuilder, pair: Compared, test_set: TestSet, grouping: Grouping, **columns: Any) -> None:
    n_classes = test_set.n_classes
    rows.add(
        len(grouping.names) * n_classes,
        **pair.key,
        grouping=grouping.name,
        group=[name for name in grouping.names for _ in range(n_classes)],
        **{"class": test_set.grouping("label").names * len(grouping.names)},
        other_trial_id=pair.other_trial_id,
        n=np.repeat(grouping.sizes("test"), n_classes),
        **columns,
    )


def _infer(
    known: Sequence[tuple[TrialAnswers, TrialAnswers, Compared]], test_set: TestSet, grouping: Grouping
) -> dict[str, np.ndarray]:
    """Return shares, shift and interval of every pair, P x C: the shift is a paired difference of two proportions."""
    counts = [_count(outcomes, other, grouping, test_set.n_classes) for outcomes, other, _ in known]
    other_PC, became_PC, left_PC = (np.stack(column) for column in zip(*counts, strict=True))
    n_PC = np.broadcast_to(np.repeat(grouping.sizes("test"), test_set.n_classes), other_PC.shape)
    ci = _find_intervals(became_PC, left_PC, n_PC)
    return {
        "other_share": divide(other_PC, n_PC),
        "share": divide(other_PC + became_PC - left_PC, n_PC),
        "shift_pp": 100 * divide(became_PC - left_PC, n_PC),
        "ci_low_pp": 100 * ci.low,
        "ci_high_pp": 100 * ci.high,
    }


def _count(outcomes: TrialAnswers, other: TrialAnswers, grouping: Grouping, n_classes: int) -> tuple[np.ndarray, ...]:
    """Return the images that the other side predicted as each class, that became it, and that left it, each C."""
    flipped_N = outcomes.predicted_N != other.predicted_N

    def count(codes_N: np.ndarray, predicted_N: np.ndarray) -> np.ndarray:
        return np.bincount(codes_N * n_classes + predicted_N, minlength=len(grouping.names) * n_classes)

    flipped_codes_N = grouping.test_N[flipped_N]
    return (
        count(grouping.test_N, other.predicted_N),
        count(flipped_codes_N, outcomes.predicted_N[flipped_N]),
        count(flipped_codes_N, other.predicted_N[flipped_N]),
    )


def _find_intervals(became: np.ndarray, left: np.ndarray, n: np.ndarray) -> Interval:
    """Return Tango's intervals of (became - left) / n, found once for all cells of the same three counts."""
    base = int(n.max(initial=0)) + 1
    keys, where = np.unique((n * base + became) * base + left, return_inverse=True)
    ci = drop_interval(keys // base % base, keys % base, keys // base**2)
    return Interval(ci.low[where].reshape(n.shape), ci.high[where].reshape(n.shape))
