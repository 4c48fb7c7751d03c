"""Intervals over seeds and images cover what they promise; their parts are those of independent code."""

import numpy as np
import pytest
from scipy import stats

from quantfair.results.statistics.crossed import (
    Counts,
    crossed_interval,
    interval_of_counts,
    resample_drops,
    subtract,
    t_interval,
)
from quantfair.results.statistics.intervals import Interval, drop_interval
from quantfair.results.statistics.resampling import resample_means, widen

ABLE = 0.5  # how often an image that can flip does, on average over seeds


def simulate(n: int, n_seeds: int, flips: float, sd: float, n_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses of images in draws and seeds, N x K x S, and the true drop of each draw.

    Seeds share the images that can flip; how often these do is a seed's own, a beta variable around ABLE with the
    standard deviation `sd`. Of one seed the truth is its own, since nothing is known of others.
    """
    rng = np.random.default_rng([n, n_seeds, int(1e4 * flips), int(100 * sd)])
    able_NK = rng.random((n, n_draws)) < flips / ABLE
    rate_KS = np.full((n_draws, n_seeds), ABLE)
    if sd:
        total = ABLE * (1 - ABLE) / sd**2 - 1
        rate_KS = rng.beta(ABLE * total, (1 - ABLE) * total, rate_KS.shape)
    lost_NKS = able_NK[:, :, None] & (rng.random((n, n_draws, n_seeds)) < rate_KS)
    true_K = np.full(n_draws, flips) if n_seeds > 1 else flips / ABLE * rate_KS[:, 0]
    return lost_NKS.astype(np.int8), true_K


def cover(n: int, n_seeds: int, flips: float, sd: float, n_draws: int) -> float:
    """How often the interval, made as the tables make it, holds the truth."""
    lost_NKS, true_K = simulate(n, n_seeds, flips, sd, n_draws)
    values_NT = np.concatenate([lost_NKS.reshape(n, -1), np.zeros((n, 1), np.int8)], axis=1)
    means_BGT = resample_means(values_NT, np.zeros(n, dtype=np.int64), 1)
    columns_KS = np.arange(n_draws * n_seeds).reshape(n_draws, n_seeds)
    drawn_BK = resample_drops(means_BGT, columns_KS, np.full_like(columns_KS, n_draws * n_seeds))[:, 0]
    counts = Counts(lost_NKS.sum(axis=0).mean(axis=1), np.zeros(n_draws), np.full(n_draws, n))
    low, high = widen(crossed_interval(drawn_BK, lost_NKS.mean(axis=0).T), interval_of_counts(counts))
    assert (high > low).all()
    return float(((low <= true_K + 1e-12) & (high >= true_K - 1e-12)).mean())


@pytest.mark.parametrize("n_seeds", [1, 3, 5])
@pytest.mark.parametrize(("n", "flips"), [(36, 0.001), (36, 0.08), (338, 0.01), (1000, 0.05)])
def test_the_interval_covers_down_to_36_images_and_flips_of_a_thousandth(n: int, flips: float, n_seeds: int) -> None:
    assert cover(n, n_seeds, flips, sd=0.1, n_draws=200) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [1, 3, 5])
@pytest.mark.parametrize("sd", [0, 0.05, 0.1, 0.15])
@pytest.mark.parametrize("flips", [0.001, 0.01, 0.08])
@pytest.mark.parametrize("n", [36, 100, 338, 2000])
def test_the_interval_covers_at_all_sizes_and_spreads_of_seeds(n: int, flips: float, sd: float, n_seeds: int) -> None:
    assert cover(n, n_seeds, flips, sd, n_draws=1000) >= 0.93


def test_the_bootstrap_alone_does_not_cover_where_few_images_flip() -> None:
    lost_NKS, true_K = simulate(100, 3, 0.01, 0.0, 200)
    means_BGT = resample_means(lost_NKS.reshape(100, -1), np.zeros(100, dtype=np.int64), 1)
    columns_KS = np.arange(600).reshape(200, 3)
    low, high = crossed_interval(means_BGT[:, 0, columns_KS].mean(axis=2), lost_NKS.mean(axis=0).T)
    assert ((low <= true_K) & (high >= true_K)).mean() < 0.85


def test_resampled_drops_are_weighted_means_over_seeds() -> None:
    means_BGT = np.random.default_rng(0).random((1000, 2, 6)).astype(np.float32)
    one_seed = resample_drops(means_BGT, np.array([[0], [2]]), np.array([[1], [3]]))
    assert np.allclose(one_seed, means_BGT[:, :, [0, 2]] - means_BGT[:, :, [1, 3]], atol=1e-6)
    equal = np.broadcast_to(means_BGT[:1], means_BGT.shape)
    three = resample_drops(equal, np.array([[0, 1, 2]]), np.array([[3, 4, 5]]))[:, 0, 0]
    drops = (means_BGT[0, 0, :3] - means_BGT[0, 0, 3:]).astype(np.float64)
    assert three.var() == pytest.approx(drops.var(ddof=1) / 3, rel=0.15)


def test_where_only_seeds_vary_the_interval_is_at_least_students() -> None:
    by_seed = np.array([0.01, 0.03, 0.02])
    weights = np.random.default_rng(0).multinomial(2, np.full(3, 1 / 3), 100_000) / 2
    low, high = crossed_interval(weights @ by_seed, by_seed)
    student = stats.ttest_1samp(by_seed, 0).confidence_interval()
    assert low == pytest.approx(student.low, abs=2e-4)
    assert high == pytest.approx(student.high, abs=2e-4)


def test_the_t_interval_is_scipys() -> None:
    by_seed = np.array([[0.01, 0.5], [0.03, 0.1], [0.02, 0.3], [0.0, 0.3]])
    expected = stats.ttest_1samp(by_seed, 0).confidence_interval()
    assert np.allclose(t_interval(by_seed), [expected.low, expected.high], atol=1e-12)
    assert np.isnan(t_interval(np.full((3, 1), 0.02))).all()


def test_a_difference_of_independent_normal_estimates_has_the_usual_interval() -> None:
    a, b = Interval(np.array(0.0), np.array(0.2)), Interval(np.array(0.3), np.array(0.5))
    low, high = subtract(a, np.array(0.1), b, np.array(0.4))
    assert (low, high) == pytest.approx((-0.3 - np.hypot(0.1, 0.1), -0.3 + np.hypot(0.1, 0.1)))


def test_real_valued_counts_have_intervals_between_those_of_their_neighbours_and_never_of_width_0() -> None:
    low, high = interval_of_counts(Counts(np.array([3, 3.5, 4]), np.array([1, 1, 1]), np.array([100, 100, 100])))
    assert (np.diff(low) > 0).all()
    assert (np.diff(high) > 0).all()
    nothing = Counts(np.zeros(1), np.zeros(1), np.full(1, 50))
    low, high = interval_of_counts(nothing, nothing)
    assert high == -low == pytest.approx(np.sqrt(2) * drop_interval(0, 0, 50).high)
