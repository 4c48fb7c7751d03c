"""What a trial changed, image by image, against another trial: the reference, the control, or another runtime.

Legend: P pairs, G groups, N images. Intervals and tests are computed for all pairs of a data set at once: they are
found by bisection, whose cost is in the steps and not in the number of pairs.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from results.rows import Rows
from results.schema import COMPARISONS
from results.statistics.intervals import drop_interval, excess_gap, mcnemar_p
from results.tables.groupings import Grouping, TestSet
from results.tables.groups import NO_IMAGES, add_extremes, divide, join_reasons, sum_by_group
from results.tables.outcomes import Measured, Outcomes
from results.tables.refits import NO_REFIT, compare_refits, count_refits

NO_Q = "eag_q: the correction over the whole family of tests is not computed"
PAIRED_GAPS = {"drop_disparity_pp": "drop_pp", "eag_max_pp": "eag_pp"}  # the metric -> the column it is taken from

Columns = Mapping[str, np.ndarray]


class Pair(NamedTuple):
    """A trial against another: the key of its rows, and for each grouping the columns that are counts and means.

    `flag` is a reason to take all of its numbers with care.
    """

    key: dict[str, str]
    other_trial_id: str
    columns_by_grouping: dict[str, Columns]
    flag: str | None = None


def compare(
    outcomes: Outcomes, other: Outcomes, test_set: TestSet, *, comparison: str, flag: str | None = None
) -> Pair:
    """Count what one trial changed in every group of every grouping. `other` is the other side."""
    cell_N = 2 * ~other.right_N + ~outcomes.right_N  # 0 rr, 1 rw, 2 wr, 3 ww: the other side's letter first
    flipped_N = outcomes.predicted_N != other.predicted_N
    means = {"excess_loss_nats": outcomes.loss_N.astype(np.float64) - other.loss_N}
    if comparison == "reference":
        means["kl_nats"] = outcomes.kl_N.astype(np.float64)

    def count(grouping: Grouping) -> Columns:
        cells = np.bincount(grouping.test_N * 4 + cell_N, minlength=4 * len(grouping.names)).reshape(-1, 4)
        n_G = cells.sum(axis=1)
        return {
            "n": n_G,
            **dict(zip(("n_rr", "n_rw", "n_wr", "n_ww"), cells.T, strict=True)),
            "n_flip": sum_by_group(flipped_N, grouping).astype(np.int64),
            **{name: divide(sum_by_group(values_N, grouping), n_G) for name, values_N in means.items()},
            **count_refits(outcomes, other, test_set, grouping),
        }

    key = {"trial_id": outcomes.trial_id, "runtime": outcomes.runtime, "comparison": comparison}
    return Pair(key, other.trial_id, {grouping.name: count(grouping) for grouping in test_set.groupings}, flag)


def add_pairs(measured: Measured, flags: Mapping[tuple[str, str], str], *, paired: Rows, disparity: Rows) -> None:
    """Add the rows of all pairs of one data set to `paired_metrics` and `disparity`.

    `flags`: a reason to take a pair with care, by trial and comparison.
    """
    test_set, pairs = measured.test_set, []
    for row in measured.trials:
        for comparison, column in COMPARISONS.items():
            outcomes, other_id = measured.outcomes[row["trial_id"]], row[column]
            if other_id in measured.outcomes:
                flag = flags.get((row["trial_id"], comparison))
                other = measured.outcomes[other_id]
                pairs.append(compare(outcomes, other, test_set, comparison=comparison, flag=flag))
            elif other_id:
                key = {"trial_id": row["trial_id"], "runtime": outcomes.runtime, "comparison": comparison}
                add_missing_pair(key, other_id, test_set, paired=paired, disparity=disparity)
    if not pairs:
        return
    inferred = {
        grouping.name: _infer([pair.columns_by_grouping[grouping.name] for pair in pairs])
        for grouping in test_set.groupings
    }
    for index, pair in enumerate(pairs):
        for grouping in test_set.groupings:
            columns = {name: values_PG[index] for name, values_PG in inferred[grouping.name].items()}
            columns |= pair.columns_by_grouping[grouping.name]
            no_refit = NO_REFIT if np.isnan(columns["refit_n_rw"]).all() else None
            reasons = [join_reasons(pair.flag, _reason(grouping.name, n), no_refit) for n in columns["n"]]
            shared = {**pair.key, "grouping": grouping.name, "group": list(grouping.names)}
            paired.add(len(reasons), **shared, other_trial_id=pair.other_trial_id, **columns, reason=reasons)
            if grouping.name != "overall":
                gaps = {metric: columns[column] for metric, column in PAIRED_GAPS.items()}
                add_extremes(disparity, grouping, gaps, flag=pair.flag, **pair.key)


def add_missing_pair(
    key: dict[str, str], other_trial_id: str, test_set: TestSet, *, paired: Rows, disparity: Rows
) -> None:
    """Add the rows of a comparison with a trial that has no result: null, with the reason."""
    reason = f"the {key['comparison']} trial {other_trial_id} failed or has not run"
    for grouping in test_set.groupings:
        shared = {**key, "grouping": grouping.name, "reason": reason}
        n_G = grouping.sizes("test")
        paired.add(len(n_G), **shared, group=list(grouping.names), other_trial_id=other_trial_id, n=n_G)
        if grouping.name != "overall":
            disparity.add(len(PAIRED_GAPS), **shared, metric=list(PAIRED_GAPS))


def _infer(columns: Sequence[Columns]) -> Columns:
    """Drop and EAG with their intervals and tests, each P x G, from the counts of every pair in one grouping."""
    n_PG, rw_PG, wr_PG = (np.stack([column[name] for column in columns]) for name in ("n", "n_rw", "n_wr"))
    drop_ci, eag = drop_interval(rw_PG, wr_PG, n_PG), excess_gap(rw_PG, wr_PG, n_PG)
    return {
        "drop_pp": 100 * divide(rw_PG - wr_PG, n_PG),
        "drop_ci_low_pp": 100 * drop_ci.low,
        "drop_ci_high_pp": 100 * drop_ci.high,
        "eag_pp": 100 * eag.value,
        "eag_ci_low_pp": 100 * eag.low,
        "eag_ci_high_pp": 100 * eag.high,
        "eag_p": eag.p,
        "mcnemar_p": np.where(n_PG > 0, mcnemar_p(rw_PG, wr_PG), np.nan),
        **compare_refits(columns),
    }


def _reason(grouping: str, n: int) -> str:
    if n == 0:
        return NO_IMAGES
    return "eag: a single group has no rest to be compared with" if grouping == "overall" else NO_Q
