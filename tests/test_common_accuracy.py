"""The test of "all groups have one accuracy": against scipy, false alarms, and what must not change it."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from quantfair.results.statistics.common_accuracy import N_DRAWS, assess_common_accuracy

SIZES = np.array([2016, 905, 687, 795, 338])


def test_p_is_that_of_a_chi_squared_test_where_there_are_many_images() -> None:
    right = np.random.default_rng(1).binomial(SIZES, 0.8, (60, 5))
    tests: list[Any] = [stats.chi2_contingency(np.stack([row, SIZES - row])) for row in right]
    expected = [test.pvalue for test in tests]
    found = assess_common_accuracy(right, SIZES).p
    assert found == pytest.approx(np.array(expected), abs=0.06)
    assert np.abs(found - expected).mean() < 0.015


def test_p_of_two_small_groups_is_fishers() -> None:
    sizes = np.array([60, 90])
    for right in ([58, 80], [50, 85], [60, 90], [55, 83]):
        table = np.stack([right, sizes - right])
        found = assess_common_accuracy(right, sizes).p
        exact: Any = stats.fisher_exact(table)
        assert found == pytest.approx(exact.pvalue, abs=0.06)


@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.99])
def test_false_alarms_are_those_promised_where_groups_are_small(accuracy: float) -> None:
    sizes = np.array([60, 60, 60, 5000])
    found = assess_common_accuracy(np.random.default_rng(2).binomial(sizes, accuracy, (800, 4)), sizes)
    assert 0.02 <= (found.p < 0.05).mean() <= 0.07
    assert (found.spread > found.null_q95).mean() <= 0.07


@pytest.mark.parametrize("right", [[58, 80], [50, 85], [31, 40]])
def test_the_spread_by_chance_is_that_of_the_hypergeometric_distribution(right: list[int]) -> None:
    sizes, total = np.array([60, 90]), sum(right)
    first = np.arange(61)
    share = stats.hypergeom.pmf(first, sizes.sum(), total, sizes[0])
    spread = np.abs(first / sizes[0] - (total - first) / sizes[1])
    mean = (share * spread).sum()
    error = np.sqrt((share * (spread - mean) ** 2).sum() / N_DRAWS)
    found = assess_common_accuracy(right, sizes)
    assert found.spread == pytest.approx(abs(right[0] / 60 - right[1] / 90))
    assert found.null_mean == pytest.approx(mean, abs=4 * error)

    # The quantile lies where 3 to 7 % of the distribution are above it.
    assert share[spread > found.null_q95 + 1e-9].sum() <= 0.07
    assert share[spread >= found.null_q95 - 1e-9].sum() >= 0.03


def test_a_group_that_is_worse_is_found() -> None:
    found = assess_common_accuracy([1800, 810, 615, 710, 270], SIZES)
    assert found.p == 1 / (N_DRAWS + 1)
    assert found.spread > found.null_q95 > found.null_mean > 0


def test_other_trials_change_nothing_and_one_group_has_no_test() -> None:
    right = np.random.default_rng(3).binomial(SIZES, 0.9, (4, 5))
    together, alone = assess_common_accuracy(right, SIZES), assess_common_accuracy(right[2], SIZES)
    order = np.array([2, 0, 3, 1])
    reordered = assess_common_accuracy(right[order], SIZES)
    for name in ("p", "spread", "null_mean", "null_q95"):
        assert getattr(together, name)[2] == getattr(alone, name)
        assert (getattr(together, name)[order] == getattr(reordered, name)).all()
    assert len(np.unique(together.p)) > 1, "trials differ, so that an order can be wrong"
    assert np.isnan(assess_common_accuracy([5, 0], [10, 0]).p)
