"""The permutation test of evenness: false alarms, power, and what must not change it."""

import numpy as np
import pytest
from scipy import stats

from quantfair.results.statistics.permutation import N_PERMUTATIONS, measure_evenness

SIZES = np.array([2016, 905, 687, 795, 338])


def draw_flips(rates: list[float], *, n_columns: int, seed: int, lost: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes +1, 0, -1 of every image in every column; a flip goes the bad way with the probability `lost`."""
    rng, codes = np.random.default_rng(seed), np.repeat(np.arange(len(SIZES)), SIZES)
    shape = (len(codes), n_columns)
    signs = np.where(rng.random(shape) < lost, 1, -1)
    return (rng.random(shape) < np.array(rates)[codes][:, None]) * signs, codes


@pytest.mark.parametrize("rates", [[0.02] * 5, [0.01, 0.02, 0.02, 0.02, 0.08], [0.08, 0.02, 0.02, 0.02, 0.01]])
def test_false_alarms_are_those_promised_also_where_small_groups_flip_more(rates: list[float]) -> None:
    found = measure_evenness(*draw_flips(rates, n_columns=1500, seed=3), n_groups=5)
    assert 0.03 <= (found.p < 0.05).mean() <= 0.07
    assert (found.spread > found.null_q95).mean() <= 0.07
    assert found.null_mean.mean() == pytest.approx(found.spread.mean(), rel=0.1)


def test_an_even_drop_of_all_groups_is_no_unevenness() -> None:
    values, codes = draw_flips([0.1] * 5, n_columns=1000, seed=4, lost=0.95)
    assert 0.03 <= (measure_evenness(values, codes, 5).p < 0.05).mean() <= 0.07


def test_a_planted_drop_of_the_smallest_group_is_found() -> None:
    values, codes = draw_flips([0.01, 0.02, 0.02, 0.02, 0.08], n_columns=300, seed=5)
    hit = np.flatnonzero(codes == 4)[:24]  # 7 pp
    values[hit] = 1
    found = measure_evenness(values, codes, 5)
    assert ((found.p < 0.05) & (found.spread > found.null_q95)).mean() > 0.8


def test_p_agrees_with_welchs_anova_on_unequal_noise() -> None:
    rng, codes = np.random.default_rng(6), np.repeat(np.arange(4), [400, 150, 300, 90])
    values = rng.normal(size=(len(codes), 200)) * np.array([1, 3, 2, 0.5])[codes][:, None]
    values += np.array([0, 0.1, 0, 0.1])[codes][:, None]
    groups = [values[codes == group] for group in range(4)]
    expected = stats.f_oneway(*groups, equal_var=False).pvalue
    ours = measure_evenness(values, codes, 4).p
    assert np.abs(ours - expected).mean() < 0.015


def test_neither_names_of_groups_nor_other_columns_change_anything() -> None:
    values, codes = draw_flips([0.01, 0.02, 0.02, 0.02, 0.08], n_columns=40, seed=7)
    found = measure_evenness(values, codes, 5)
    renamed = measure_evenness(values, np.array([3, 0, 4, 1, 2])[codes], 5)
    alone = measure_evenness(values[:, 7:8], codes, 5)
    for field in found._fields:
        assert np.allclose(getattr(found, field), getattr(renamed, field), rtol=1e-5)
        assert np.allclose(getattr(found, field)[7], getattr(alone, field)[0], rtol=1e-5)


def test_images_and_groups_that_take_no_part_do_not_count() -> None:
    values, codes = draw_flips([0.02] * 5, n_columns=5, seed=8)
    left_out = np.where(codes == 4, -1, codes)
    values[codes == 4] = 1
    mask = np.array([True, True, True, True, False])[:, None]
    found = measure_evenness(values, left_out, 5)
    assert np.allclose(found.spread, measure_evenness(values, codes, 5, takes_part_GC=mask).spread)
    assert np.isnan(measure_evenness(values, codes, 5, takes_part_GC=np.eye(5, dtype=bool)[:, :1]).p).all()


def test_no_flip_at_all_has_p_1_and_a_floor_above_0() -> None:
    values, codes = np.zeros((sum(SIZES), 1)), np.repeat(np.arange(5), SIZES)
    found = measure_evenness(values, codes, 5)
    assert (found.p[0], found.spread[0], found.variance[0]) == (1, 0, 0)
    assert found.null_q95[0] > 0


def test_the_smallest_p_is_one_over_the_permutations() -> None:
    values, codes = draw_flips([0, 0, 0, 0, 0.9], n_columns=1, seed=9, lost=1)
    assert measure_evenness(values, codes, 5).p[0] == pytest.approx(1 / N_PERMUTATIONS)


def test_the_corrected_variance_is_that_planted_where_the_spread_is_not() -> None:
    rng, codes = np.random.default_rng(10), np.repeat(np.arange(8), 200)
    true_means = np.linspace(-0.1, 0.1, 8)
    values = true_means[codes][:, None] + rng.normal(size=(1600, 400))
    found = measure_evenness(values, codes, 8)
    assert found.variance.mean() == pytest.approx(true_means.var(ddof=1), rel=0.15)
    assert found.spread.mean() > 1.3 * (true_means.max() - true_means.min())
