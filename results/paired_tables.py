"""What a trial changed, image by image, against another trial: the reference, the control, or another runtime."""

import numpy as np

from results.group_tables import NO_IMAGES, Outcomes, add_extremes, divide, sum_by_group
from results.groupings import TestSet
from results.rows import Rows
from results.statistics import drop_interval, excess_gap, mcnemar_p

NO_Q = "eag_q: the correction over the whole family of tests is not computed"


def add_paired_metrics(
    outcomes: Outcomes, other: Outcomes, test_set: TestSet, *, comparison: str, paired: Rows, disparity: Rows
) -> None:
    """Add one trial's rows of one comparison to `paired_metrics` and `disparity`. `other` is the other side."""
    cell_N = 2 * ~other.right_N + ~outcomes.right_N  # 0 rr, 1 rw, 2 wr, 3 ww: the other side's letter first
    for grouping in test_set.groupings:
        groups = len(grouping.names)
        n_G = grouping.sizes("test")
        counts = np.bincount(grouping.test_N * 4 + cell_N, minlength=4 * groups).reshape(groups, 4)
        n_rr, n_rw, n_wr, n_ww = counts.T
        drop, drop_ci, eag = divide(n_rw - n_wr, n_G), drop_interval(n_rw, n_wr, n_G), excess_gap(n_rw, n_wr, n_G)
        means = {"excess_loss_nats": outcomes.loss_N - other.loss_N}
        if comparison == "reference":
            means["kl_nats"] = outcomes.kl_N
        paired.add(
            groups,
            trial_id=outcomes.trial_id,
            runtime=outcomes.runtime,
            comparison=comparison,
            grouping=grouping.name,
            group=list(grouping.names),
            other_trial_id=other.trial_id,
            n=n_G,
            n_rr=n_rr,
            n_rw=n_rw,
            n_wr=n_wr,
            n_ww=n_ww,
            n_flip=sum_by_group(outcomes.predicted_N != other.predicted_N, grouping).astype(np.int64),
            drop_pp=100 * drop,
            drop_ci_low_pp=100 * drop_ci.low,
            drop_ci_high_pp=100 * drop_ci.high,
            eag_pp=100 * eag.value,
            eag_ci_low_pp=100 * eag.low,
            eag_ci_high_pp=100 * eag.high,
            eag_p=eag.p,
            mcnemar_p=np.where(n_G > 0, mcnemar_p(n_rw, n_wr), np.nan),
            **{name: divide(sum_by_group(values_N, grouping), n_G) for name, values_N in means.items()},
            reason=[_reason(grouping.name, n) for n in n_G],
        )
        if grouping.name != "overall":
            metrics = {"drop_disparity_pp": 100 * drop, "eag_max_pp": 100 * eag.value}
            add_extremes(disparity, outcomes, grouping, comparison, metrics)


def _reason(grouping: str, n: int) -> str:
    if n == 0:
        return NO_IMAGES
    return "eag: a single group has no rest to be compared with" if grouping == "overall" else NO_Q
