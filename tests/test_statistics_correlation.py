"""Rank correlations against scipy's."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from results.statistics.correlation import correlate_ranks

spearman: Any = stats.spearmanr


@pytest.mark.parametrize("n", [5, 6, 7])
@pytest.mark.parametrize("ties", [False, True])
def test_few_groups_have_the_exact_p_of_all_permutations(n: int, ties: bool) -> None:
    rng = np.random.default_rng(n)
    for _ in range(3):
        x, y = rng.integers(0, 3, n) if ties else rng.normal(size=n), rng.normal(size=n)
        x[0], x[1] = 0, 2

        def statistic(x: np.ndarray, y: np.ndarray = y) -> float:
            return spearman(x, y).statistic

        exact: Any = np.inf
        expected = stats.permutation_test((x,), statistic, permutation_type="pairings", n_resamples=exact)
        found = correlate_ranks(x, y)
        assert found.rho == pytest.approx(spearman(x, y).statistic, abs=1e-12)
        extreme = np.abs(expected.null_distribution) >= abs(found.rho) - 1e-9
        assert found.p == pytest.approx(extreme.mean(), abs=1e-12)


def test_more_groups_have_a_p_near_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.normal(size=28)
        y = x + 2 * rng.normal(size=28)
        expected = spearman(x, y)
        found = correlate_ranks(x, y)
        assert found.rho == pytest.approx(expected.statistic, abs=1e-12)
        assert found.p == pytest.approx(expected.pvalue, abs=0.02)


def test_a_constant_column_has_no_correlation() -> None:
    assert np.isnan(correlate_ranks(np.ones(6), np.arange(6))).all()


def test_five_groups_in_the_same_order_are_no_proof() -> None:
    assert correlate_ranks(np.arange(5), np.arange(5)) == pytest.approx((1, 2 / 120))
