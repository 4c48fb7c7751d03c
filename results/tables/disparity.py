"""How unevenly groups fare: one number for each trial or pair, grouping and metric, with what chance alone would show.

Legend: T trials or pairs of a block, N images, G ranked groups, Y true and K predicted classes.

`corrected` is what noise does not explain: for a largest minus smallest the value less `null_mean`, for a standard
deviation the root of the variance between groups less the mean of their squared standard errors; both at least 0.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np

from quantfair.results.schema import MIN_RANKED
from quantfair.results.statistics.common_accuracy import assess_common_accuracy
from quantfair.results.statistics.common_drop import SpreadTest, assess_common_drop
from quantfair.results.statistics.rates import measure_odds, measure_parity
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import DatasetAnswers, Deployed, TrialAnswers
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.groups import join_reasons
from quantfair.results.tables.pairs import Pair


class Ranked(NamedTuple):
    """The groups of a grouping with MIN_RANKED test images or more: the only ones that take part in a disparity.

    The largest stands first, so that names decide no tie. The code of all other images is -1.
    """

    names_G: np.ndarray
    sizes_G: np.ndarray
    groups_G: np.ndarray
    codes_N: np.ndarray

    @classmethod
    def of(cls, grouping: Grouping) -> "Ranked":
        """Return the ranked groups of a grouping."""
        sizes = grouping.sizes("test")
        order = _sort_groups(grouping.test_N, sizes)
        groups_G, place = order[sizes[order] >= MIN_RANKED], np.full(len(sizes), -1)
        place[groups_G] = np.arange(len(groups_G))
        names_G = np.array(grouping.names, dtype=object)[groups_G]
        return cls(names_G, sizes[groups_G], groups_G, place[grouping.test_N])

    @property
    def n_groups(self) -> int:
        """How many there are."""
        return len(self.names_G)

    def means(self, values_TN: np.ndarray) -> np.ndarray:
        """Return the mean of values in every group, T x G."""
        members_NG = (self.codes_N[:, None] == np.arange(self.n_groups)).astype(np.float32)
        return (values_TN.astype(np.float32) @ members_NG).astype(np.float64) / self.sizes_G


def _sort_groups(codes_N: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the groups by falling size, equal ones by their first image: an order that names do not decide."""
    first = np.array([(codes_N == group).argmax() for group in range(len(sizes))])
    return np.lexsort(np.stack([first, -sizes]))


class DisparityMetric(NamedTuple):
    """One metric of T trials or pairs, each field an array of T or None. `worst_T` and `best_T` index ranked groups.

    `why_null` is one more reason where the value is nan.
    """

    metric: str
    value_T: np.ndarray | None = None
    corrected_T: np.ndarray | None = None
    worst_T: np.ndarray | None = None
    best_T: np.ndarray | None = None
    null_mean_T: np.ndarray | None = None
    null_q95_T: np.ndarray | None = None
    p_T: np.ndarray | None = None
    null_method: str | None = None
    reason: str | None = None
    why_null: str | None = None


def add_measures(
    disparity: TableBuilder,
    measures: Sequence[DisparityMetric],
    ranked: Ranked,
    *,
    keys_T: dict[str, list[str]],
    flags_T: Sequence[str | None] | None = None,
    **shared: str,
) -> None:
    """Add the rows of T trials or pairs, M for each. `flags_T`: reasons to take them with care."""
    n_trials, n_metrics = len(keys_T["trial_id"]), len(measures)

    def interleave(name: str) -> np.ndarray:
        columns = [getattr(measure, name) for measure in measures]
        return np.stack([np.full(n_trials, np.nan) if c is None else c for c in columns], axis=1).ravel()

    def name_groups(name: str) -> np.ndarray:
        columns = [getattr(measure, name) for measure in measures]
        nobody = np.full(n_trials, None)
        names = np.array([*ranked.names_G, None], dtype=object)  # the last one is that of NOBODY
        named = [nobody if column is None else names[column] for column in columns]
        return np.stack(named, axis=1).ravel()

    disparity.add(
        n_trials * n_metrics,
        **{key: np.repeat(np.array(values, dtype=object), n_metrics) for key, values in keys_T.items()},
        **shared,
        metric=np.tile(np.array([measure.metric for measure in measures], dtype=object), n_trials),
        value=interleave("value_T"),
        corrected=interleave("corrected_T"),
        worst_group=name_groups("worst_T"),
        best_group=name_groups("best_T"),
        n_groups=ranked.n_groups,
        null_mean=interleave("null_mean_T"),
        null_q95=interleave("null_q95_T"),
        null_p=interleave("p_T"),
        null_method=[measure.null_method for measure in measures] * n_trials,
        reason=[
            join_reasons(flag, measure.why_null if _is_null(measure, place) else None, measure.reason) or None
            for place, flag in enumerate(flags_T or [None] * n_trials)
            for measure in measures
        ],
    )


def _is_null(measure: DisparityMetric, place: int) -> bool:
    return measure.value_T is None or bool(np.isnan(measure.value_T[place]))


OWN: Final = ("acc_gap_maxmin_pp", "acc_worst", "acc_mean_worst_pp", "acc_std_pp", "acc_minmax_ratio")
PARITY: Final = ("dp_difference", "dp_difference_mean", "eo_difference", "eo_difference_mean")
PAIRED: Final = ("drop_disparity_pp", "drop_std_pp", "eag_max_pp", "gap_change_pp", "phi_loss_nats")
ONE_CLASS: Final = "not defined: the images of a group are of one class, whose recall is accuracy"
NO_ODDS: Final = f"no class of which two groups have {MIN_RANKED} test images, and as many of the other classes"
TOO_FEW: Final = f"fewer than two groups with {MIN_RANKED} test images"
SEE_GAP: Final = "no noise floor: for that see acc_gap_maxmin_pp"
SEE_DROPS: Final = "no noise floor: for that see drop_disparity_pp"
SEE_EAG: Final = "no noise floor: each group has its own test in paired_metrics"
NO_TEST: Final = "no p and no floor: no test holds for means of small groups; for intervals see paired_metrics"
ALL_WRONG: Final = "no ratio: no group has a right answer"
DEALT: Final = "images dealt to the groups anew"
DEALT_BY_NOISE: Final = "normal noise, as if images were dealt to the groups anew"
DRAWN: Final = "counts drawn under one common drop"
NOBODY: Final = -1
_Thing = TypeVar("_Thing")
_BLOCK: Final = 1000  # trials or pairs whose images are compared at once


def add_disparity(measured: DatasetAnswers | Deployed, pairs: Sequence[Pair], disparity: TableBuilder) -> None:
    """Add the rows of one data set, a grouping after the other: of trials, of pairs, of missing pairs."""
    compared = [pair for pair in pairs if pair.columns_by_grouping]
    missing = [pair for pair in pairs if not pair.columns_by_grouping]
    for grouping in measured.test_set.groupings:
        if grouping.name == "overall":
            continue
        ranked = Ranked.of(grouping)
        can_tell = ranked.n_groups >= 2
        for trials in _cut(list(measured.outcomes.values())):
            measures = _explain((*OWN, *PARITY), TOO_FEW)
            if can_tell:
                measures = [*_measure_accuracy(trials, ranked), *_measure_rates(trials, measured.test_set, ranked)]
            keys_T = {name: [getattr(outcomes, name) for outcomes in trials] for name in ("trial_id", "runtime")}
            add_measures(disparity, measures, ranked, keys_T=keys_T, grouping=grouping.name)
        for some in _cut(compared):
            measures = _measure_drops(some, measured, grouping, ranked) if can_tell else _explain(PAIRED, TOO_FEW)
            _add_pairs(disparity, measures, ranked, pairs=some, grouping=grouping.name)
        if missing:
            _add_pairs(disparity, _explain(PAIRED), ranked, pairs=missing, grouping=grouping.name)


def _add_pairs(
    disparity: TableBuilder, measures: list[DisparityMetric], ranked: Ranked, *, pairs: Sequence[Pair], grouping: str
) -> None:
    keys_T = {name: [pair.key[name] for pair in pairs] for name in ("trial_id", "runtime", "comparison")}
    flags_T = [pair.flag for pair in pairs]
    add_measures(disparity, measures, ranked, keys_T=keys_T, flags_T=flags_T, grouping=grouping)


def _cut(things: Sequence[_Thing]) -> Iterator[Sequence[_Thing]]:
    return (things[at : at + _BLOCK] for at in range(0, len(things), _BLOCK))


def _explain(metrics: Sequence[str], reason: str | None = None) -> list[DisparityMetric]:
    return [DisparityMetric(metric, reason=reason) for metric in metrics]


def _measure_accuracy(trials: Sequence[TrialAnswers], ranked: Ranked) -> list[DisparityMetric]:
    """The gap of accuracies, and what else is said of them.

    Sources: mean less worst: FairQuant, arXiv 2602.23192; corrected variance: Lum, Zhang and Bower, FAccT 2022.
    """
    right_TN = np.stack([outcomes.right_N for outcomes in trials])
    accuracy_TG, n_G = ranked.means(right_TN), ranked.sizes_G
    right_TG = np.rint(accuracy_TG * n_G)
    test = assess_common_accuracy(right_TG, n_G)
    squared_error_TG = _add_one_image(right_TG, accuracy_TG, n_G)
    worst_T, best_T = accuracy_TG.argmin(axis=1), accuracy_TG.argmax(axis=1)
    low_T, high_T = accuracy_TG.min(axis=1), accuracy_TG.max(axis=1)
    ends = {"worst_T": worst_T, "best_T": best_T}
    ratio_T = np.divide(low_T, high_T, out=np.full(len(low_T), np.nan), where=high_T > 0)
    known_worst_T, known_best_T = (np.where(high_T > 0, end_T, NOBODY) for end_T in (worst_T, best_T))
    return [
        _measure_spread("acc_gap_maxmin_pp", 100 * accuracy_TG, test, method=DEALT, worst_is_low=True),
        DisparityMetric("acc_worst", low_T, **ends, reason=SEE_GAP),
        DisparityMetric("acc_mean_worst_pp", 100 * (accuracy_TG.mean(axis=1) - low_T), **ends, reason=SEE_GAP),
        DisparityMetric("acc_std_pp", *_measure_std(accuracy_TG, squared_error_TG), **ends, reason=SEE_GAP),
        DisparityMetric(
            "acc_minmax_ratio",
            ratio_T,
            worst_T=known_worst_T,
            best_T=known_best_T,
            reason=SEE_GAP,
            why_null=ALL_WRONG,
        ),
    ]


def _measure_rates(trials: Sequence[TrialAnswers], test_set: TestSet, ranked: Ranked) -> list[DisparityMetric]:
    """Demographic parity and equalized odds. No group is the worst: a rate of predictions is neither good nor bad."""
    n_classes, members = test_set.n_classes, ranked.codes_N >= 0
    cells_N = (ranked.codes_N * n_classes + test_set.labels_N)[members] * n_classes
    shape = (ranked.n_groups, n_classes, n_classes)
    n_cells = ranked.n_groups * n_classes**2
    counts = [np.bincount(cells_N + outcomes.predicted_N[members], minlength=n_cells) for outcomes in trials]
    counts_TGYK = np.stack(counts).reshape(-1, *shape)
    if (np.count_nonzero(counts_TGYK[0].sum(axis=2), axis=1) <= 1).all():
        return _explain(PARITY, ONE_CLASS)
    odds = measure_odds(counts_TGYK)
    by_name = [*zip(PARITY, measure_parity(counts_TGYK), strict=False)]
    by_name += [*zip(PARITY[2:], odds or (), strict=False)]
    measures = [
        DisparityMetric(
            name,
            gap.value,
            _correct(gap.value, gap.null_mean),
            null_mean_T=gap.null_mean,
            null_q95_T=gap.null_q95,
            p_T=gap.p,
            null_method=DEALT_BY_NOISE,
        )
        for name, gap in by_name
    ]
    return [*measures, *_explain(PARITY[len(measures) :], NO_ODDS)]


def _measure_drops(
    pairs: Sequence[Pair], measured: DatasetAnswers | Deployed, grouping: Grouping, ranked: Ranked
) -> list[DisparityMetric]:
    """How unevenly drops and losses are spread.

    Sources of phi: Liu et al., ICML 2025 (PMLR 267:39106); as xi: Tran et al., NeurIPS 2022.
    """
    columns = {
        name: np.stack([pair.columns_by_grouping[grouping.name][name] for pair in pairs])[:, ranked.groups_G]
        for name in ("n_rr", "n_rw", "n_wr", "excess_loss_nats")
    }
    drop_TG = (columns["n_rw"] - columns["n_wr"]) / ranked.sizes_G
    other_TG, own_TG = ((columns["n_rr"] + columns[name]) / ranked.sizes_G for name in ("n_rw", "n_wr"))
    overall = [pair.columns_by_grouping["overall"] for pair in pairs]
    overall_T = np.array([(counts["n_rw"] - counts["n_wr"])[0] / counts["n"][0] for counts in overall])
    test = assess_common_drop(columns["n_rw"], columns["n_wr"], ranked.sizes_G)
    squared_error_TG = _add_one_image(columns["n_rw"] + columns["n_wr"], drop_TG, ranked.sizes_G)
    ends = {"worst_T": drop_TG.argmax(axis=1), "best_T": drop_TG.argmin(axis=1)}
    gap_change_T = np.ptp(own_TG, axis=1) - np.ptp(other_TG, axis=1)
    return [
        _measure_spread("drop_disparity_pp", 100 * drop_TG, test, method=DRAWN),
        DisparityMetric("drop_std_pp", *_measure_std(drop_TG, squared_error_TG), **ends, reason=SEE_DROPS),
        DisparityMetric("eag_max_pp", 100 * (drop_TG.max(axis=1) - overall_T), **ends, reason=SEE_EAG),
        DisparityMetric("gap_change_pp", 100 * gap_change_T, reason=SEE_DROPS),
        _measure_phi(columns["excess_loss_nats"]),
    ]


def _measure_phi(loss_TG: np.ndarray) -> DisparityMetric:
    """Return the largest minus the smallest excess loss; nothing of pairs whose losses are not known."""
    value_T, is_known_T = np.ptp(loss_TG, axis=1), ~np.isnan(loss_TG).any(axis=1)
    worst_T, best_T = (np.where(is_known_T, end, NOBODY) for end in (loss_TG.argmax(axis=1), loss_TG.argmin(axis=1)))
    return DisparityMetric("phi_loss_nats", value_T, worst_T=worst_T, best_T=best_T, reason=NO_TEST)


def _add_one_image(n_values_TG: np.ndarray, mean_TG: np.ndarray, n_G: np.ndarray) -> np.ndarray:
    """Return the squared standard error of means of 1, 0 and -1, with one image more whose value is not 0.

    So it is never 0. `n_values_TG` are the images whose value is not 0.
    """
    variance_TG = (n_values_TG + 1) / (n_G + 1) - mean_TG**2 * (n_G / (n_G + 1))
    return variance_TG / n_G


def _measure_spread(
    metric: str, value_TG: np.ndarray, test: SpreadTest, *, method: str, worst_is_low: bool = False
) -> DisparityMetric:
    """Return the largest minus the smallest of values in percentage points, with what chance alone would show."""
    low_T, high_T = value_TG.argmin(axis=1), value_TG.argmax(axis=1)
    worst_T, best_T = (low_T, high_T) if worst_is_low else (high_T, low_T)
    value_T, null_mean_T = np.ptp(value_TG, axis=1), 100 * test.null_mean
    floor = (null_mean_T, 100 * test.null_q95, test.p)
    corrected_T = _correct(value_T, null_mean_T)
    return DisparityMetric(metric, value_T, corrected_T, worst_T, best_T, *floor, null_method=method)


def _measure_std(fraction_TG: np.ndarray, squared_error_TG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard deviation over groups, and the one that noise does not explain, in percentage points."""
    variance_T = fraction_TG.var(axis=1, ddof=1)
    corrected_T = np.maximum(variance_T - squared_error_TG.mean(axis=1), 0)
    return 100 * np.sqrt(variance_T), 100 * np.sqrt(corrected_T)


def _correct(value_T: np.ndarray, null_mean_T: np.ndarray) -> np.ndarray:
    return np.maximum(value_T - null_mean_T, 0)
