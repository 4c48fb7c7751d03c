"""Rank correlations against scipy's."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from quantfair.results.statistics.correlation import correlate_ranks

spearman: Any = stats.spearmanr


def draw(n: int, *, ties: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten pairs of columns that go together somewhat."""
    rng = np.random.default_rng(seed)
    x_CG = rng.integers(0, 3, (10, n)) if ties else rng.normal(size=(10, n))
    x_CG[:, :2] = 0, 2
    return x_CG, x_CG + 2 * rng.normal(size=(10, n))


@pytest.mark.parametrize("n", [5, 6, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("ties", [False, True])
def test_few_groups_have_the_exact_p_of_all_permutations(n: int, ties: bool) -> None:
    x_CG, y_CG = draw(n, ties=ties, seed=n)
    found = correlate_ranks(x_CG, y_CG)
    for x, y, rho, p in list(zip(x_CG, y_CG, *found, strict=True))[: 1 if n == 7 else 3]:

        def statistic(x: np.ndarray, y: np.ndarray = y) -> float:
            return abs(spearman(x, y).statistic)

        shared: Any = {"permutation_type": "pairings", "n_resamples": np.inf, "alternative": "greater"}
        expected = stats.permutation_test((x,), statistic, **shared)
        assert rho == pytest.approx(spearman(x, y).statistic, abs=1e-12)
        assert p == pytest.approx((expected.null_distribution >= abs(rho) - 1e-9).mean(), abs=1e-12)
        if not ties:
            assert p == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_more_groups_have_a_p_near_that_of_scipy(ties: bool) -> None:
    x_CG, y_CG = draw(28, ties=ties, seed=0)
    expected, found = [spearman(x, y) for x, y in zip(x_CG, y_CG, strict=True)], correlate_ranks(x_CG, y_CG)
    assert found.rho_C == pytest.approx([one.statistic for one in expected], abs=1e-12)
    assert found.p_C == pytest.approx([one.pvalue for one in expected], abs=0.02)


def test_pairs_do_not_change_each_other_and_the_order_of_groups_changes_nothing() -> None:
    x_CG, y_CG = draw(12, ties=True, seed=1)
    order = np.random.default_rng(0).permutation(12)
    together, permuted = correlate_ranks(x_CG, y_CG), correlate_ranks(x_CG[:, order], y_CG[:, order])
    alone = [correlate_ranks(x_CG[[i]], y_CG[[i]]) for i in range(10)]
    assert np.array_equal(together, permuted)
    assert np.array_equal(together, np.concatenate(alone, axis=1))


def test_a_p_of_random_permutations_is_uniform_where_nothing_goes_together_and_never_0() -> None:
    rng = np.random.default_rng(2)
    p_C = correlate_ranks(rng.normal(size=(2000, 9)), rng.normal(size=(2000, 9))).p_C
    assert 0.035 < (p_C < 0.05).mean() < 0.065
    assert correlate_ranks(np.arange(20)[None], -np.arange(20)[None]).p_C == pytest.approx(1 / 10_000)


def test_a_constant_column_has_no_correlation() -> None:
    assert np.isnan(correlate_ranks(np.ones((1, 6)), np.arange(6)[None])).all()


def test_five_groups_in_the_same_order_are_no_proof() -> None:
    found = correlate_ranks(np.arange(5)[None], np.arange(5)[None])
    assert (found.rho_C, found.p_C) == (pytest.approx(1), pytest.approx(2 / 120))
