"""Sums over permuted groups: what is counted by rank is what permuting values one by one would give."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from quantfair.results.statistics.permuted_sums import is_outcome, permute, sum_outcomes, sum_ranked

CODES = np.random.default_rng(0).choice(4, 600, p=[0.5, 0.3, 0.15, 0.05])


def add_up(sums: Callable, values: np.ndarray, groups: Sequence[int] = range(4)) -> tuple[np.ndarray, np.ndarray]:
    """Every column's sums and sums of squares, C x G x B."""
    found = list(sums(values, permute(CODES, 50, seed=1), np.array(groups)))
    assert [i for few, *_ in found for i in range(few.start, few.stop)] == list(range(values.shape[1]))
    return np.concatenate([part[1] for part in found]), np.concatenate([part[2] for part in found])


def test_sums_of_outcomes_are_those_of_the_sorted_column_one_by_one() -> None:
    values = np.random.default_rng(2).choice([-1, 0, 1], (600, 70), p=[0.1, 0.8, 0.1])
    total, squares = add_up(sum_outcomes, values)
    ranked = np.sort(values, axis=0)
    for b, codes in enumerate(permute(CODES, 50, seed=1)):
        expected = np.array([ranked[codes == group].sum(axis=0) for group in range(4)])
        assert (total[:, :, b] == expected.T).all()
        assert (squares[:, :, b] == np.array([(ranked[codes == g] ** 2).sum(axis=0) for g in range(4)]).T).all()


@pytest.mark.parametrize("draw", ["exponential", "standard_normal", "standard_cauchy"])
def test_sums_of_other_values_are_nearly_those_of_the_sorted_column(draw: str) -> None:
    values = getattr(np.random.default_rng(3), draw)(size=(600, 30))
    total, squares = add_up(sum_ranked, values)
    ranked = np.sort(values, axis=0)
    for b, codes in enumerate(permute(CODES, 50, seed=1)):
        expected = np.array([ranked[codes == group].sum(axis=0) for group in range(4)]).T
        error = np.abs(total[:, :, b] - expected) / (values.std(axis=0)[:, None] * np.sqrt(np.bincount(CODES)))
        assert error.max() < 0.05
    assert np.allclose(squares.sum(axis=1), (values**2).sum(axis=0)[:, None], rtol=1e-5)


def test_permuted_outcomes_are_hypergeometric() -> None:
    values = np.zeros((600, 1), dtype=np.int8)
    values[:40] = 1
    ((_, total, _),) = sum_outcomes(values, permute(CODES, 4000, seed=4), np.arange(4))
    for group, n in enumerate(np.bincount(CODES)):
        law = stats.hypergeom(600, 40, n)
        counts = np.bincount(total[0, group].astype(int), minlength=41) / 4000
        assert np.abs(counts.cumsum() - law.cdf(np.arange(41))).max() < 0.03


def test_only_the_groups_asked_for_are_summed() -> None:
    values = np.random.default_rng(5).choice([-1, 0, 1], (600, 9))
    all_of_them, some = add_up(sum_outcomes, values)[0], add_up(sum_outcomes, values, [3, 1])[0]
    assert (some == all_of_them[:, [3, 1]]).all()


def test_outcomes_are_told_from_other_values() -> None:
    assert is_outcome(np.array([[0, 1.0, 0.5], [1, -1, 1], [0, 0, 0]])).tolist() == [True, True, False]
