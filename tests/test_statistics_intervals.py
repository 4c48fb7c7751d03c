"""Statistics of counts against scipy, statsmodels, slow independent versions, and their own coverage."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from quantfair.results.statistics.intervals import drop_interval, excess_gap, mcnemar_p, mean_interval, wilson_interval

UTKFACE_SIZES = np.array([2016, 905, 687, 795, 338])


def paired_counts(n_groups: int | tuple[int, int], most: int = 400) -> st.SearchStrategy[np.ndarray]:
    """Counts of n_groups non-empty groups, last axis (n_rw, n_wr, n), or two numbers of groups to draw from."""
    low, high = (n_groups, n_groups) if isinstance(n_groups, int) else n_groups
    counts = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, most))
    rows = st.lists(counts.filter(lambda c: sum(c) > 0), min_size=low, max_size=high)
    return rows.map(lambda r: np.array([(rw, wr, rw + wr + kept) for rw, wr, kept in r]))


# --- Wilson, McNemar, t: against scipy and statsmodels


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_interval_equals_scipys(confidence: float) -> None:
    k, n = np.array([(k, n) for n in (1, 2, 36, 338) for k in range(0, n + 1, max(1, n // 9))]).T
    ours = wilson_interval(k, n, confidence=confidence)
    for i, (right, total) in enumerate(zip(k.tolist(), n.tolist(), strict=True)):
        theirs = stats.binomtest(right, total).proportion_ci(confidence, method="wilson")
        np.testing.assert_allclose((ours.low[i], ours.high[i]), theirs, rtol=1e-12, atol=1e-15)


@given(n=st.integers(1, 10**6), share=st.floats(0, 1))
def test_wilson_interval_contains_the_share_and_stays_in_0_to_1(n: int, share: float) -> None:
    k = round(share * n)
    low, high = wilson_interval(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert low < high


def test_mcnemar_p_equals_scipys_and_statsmodels() -> None:
    rw, wr = (a.ravel() for a in np.meshgrid(np.arange(14), np.arange(14)))
    ours = mcnemar_p(rw, wr)
    for p, b, c in zip(ours, rw.tolist(), wr.tolist(), strict=True):
        assert p == pytest.approx(mcnemar([[50, b], [c, 50]], exact=True).pvalue, rel=1e-12)  # type: ignore[attr-defined]
        if b + c:
            assert p == pytest.approx(stats.binomtest(b, b + c, 0.5).pvalue, rel=1e-12)
    assert ours[0] == 1


def test_mcnemar_p_is_exact_far_out_in_the_tail() -> None:
    assert mcnemar_p(0, 900) == pytest.approx(2.0**-899, rel=1e-9)


@settings(max_examples=40)
@given(values=arrays(float, st.integers(3, 40), elements=st.floats(-5, 5).map(lambda x: round(x, 3))))
def test_mean_interval_equals_scipys_t_interval(values: np.ndarray) -> None:
    low, high = mean_interval(values.sum(), (values**2).sum(), values.size, confidence=0.9)
    if np.ptp(values) > 0:
        theirs = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
        np.testing.assert_allclose((low, high), theirs, rtol=1e-7, atol=1e-7)
    else:
        np.testing.assert_allclose((low, high), values[0], atol=1e-6)


def test_mean_interval_of_one_value_is_nan() -> None:
    low, high = mean_interval([2.0, 0.0, 4.0], [4.0, 0.0, 10.0], [1, 0, 2])
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [True, True, False]


# --- The paired drop


def slow_drop_interval(rw: int, wr: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Invert Pearson's chi-square of the three cells, fitted by maximising their likelihood numerically."""

    def chi_square(drop: float) -> float:
        def cells(wr_share: float) -> np.ndarray:
            return np.array([wr_share + drop, wr_share, 1 - 2 * wr_share - drop])

        def minus_log_likelihood(wr_share: float) -> float:
            return -sum(k * np.log(max(p, 1e-300)) for k, p in zip(seen, cells(wr_share), strict=True) if k)

        bounds = (max(0.0, -drop), (1 - drop) / 2)
        fitted = optimize.minimize_scalar(
            minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-13}
        )
        expected = n * np.maximum(cells(fitted.x), 1e-300)  # type: ignore[attr-defined]
        return float(((seen - expected) ** 2 / expected).sum())

    seen = np.array([rw, wr, n - rw - wr])
    limit, drop, edge = stats.chi2.ppf(confidence, 1), (rw - wr) / n, 1 - 1e-9

    def outer(end: float) -> float:
        if abs(end - drop) < 1e-6 or chi_square(end) < limit:
            return round(end)
        return optimize.brentq(lambda d: chi_square(d) - limit, drop, end)  # type: ignore[return-value]

    return outer(-edge), outer(edge)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(
    ("rw", "wr", "n"), [(3, 1, 36), (0, 4, 36), (9, 2, 100), (40, 20, 160), (5, 5, 338), (90, 3, 1000), (12, 9, 21)]
)
def test_drop_interval_equals_a_slow_inversion_of_the_score_test(rw: int, wr: int, n: int, confidence: float) -> None:
    ours = drop_interval(rw, wr, n, confidence=confidence)
    np.testing.assert_allclose(ours, slow_drop_interval(rw, wr, n, confidence), atol=2e-5)


def test_drop_interval_equals_a_published_one() -> None:
    # Fagerland, Lydersen, Laake: Recommended tests and confidence intervals for paired binomial proportions, Statistics
    # in Medicine 33 (2014) 2850: hyper-responsiveness of 21 children, 1 and 7 of whom changed; Tango's interval.
    np.testing.assert_allclose(drop_interval(1, 7, 21), (-0.517, -0.026), atol=5e-4)


@pytest.mark.parametrize("n", [1, 36, 2016])
def test_drop_interval_of_no_flip_is_z2_over_n_plus_z2(n: int) -> None:
    edge = 1.959963984540054**2 / (n + 1.959963984540054**2)
    np.testing.assert_allclose(drop_interval(0, 0, n), (-edge, edge), rtol=1e-12)


@pytest.mark.parametrize("one_way", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("n", [36, 100, 338, 1000])
@pytest.mark.parametrize("flips", [0.001, 0.002, 0.005, 0.01, 0.03, 0.08])
def test_drop_interval_covers_the_true_drop(n: int, flips: float, one_way: float) -> None:
    rw_share, wr_share = flips * one_way, flips * (1 - one_way)
    reach = np.arange(min(n, int(n * flips + 8 * np.sqrt(n * flips) + 12)) + 1)
    rw, wr = (a.ravel() for a in np.meshgrid(reach, reach))
    rw, wr = rw[rw + wr <= n], wr[rw + wr <= n]
    weight = stats.multinomial.pmf(np.stack([rw, wr, n - rw - wr], axis=-1), n, [rw_share, wr_share, 1 - flips])
    assert weight.sum() == pytest.approx(1, abs=1e-6)
    low, high = drop_interval(rw, wr, n)
    coverage = weight[(low <= rw_share - wr_share) & (rw_share - wr_share <= high)].sum()
    assert coverage >= 0.93
    if n * flips >= 8:  # where there is something to see, the interval must not be merely wide
        assert coverage <= 0.97


@given(counts=paired_counts((1, 6), most=5000), confidence=st.sampled_from([0.5, 0.95, 0.999]))
def test_drop_interval_contains_the_drop_and_is_never_a_point(counts: np.ndarray, confidence: float) -> None:
    rw, wr, n = counts.T
    low, high = drop_interval(rw, wr, n, confidence=confidence)
    assert np.all((low >= -1) & (low <= (rw - wr) / n) & ((rw - wr) / n <= high) & (high <= 1))
    assert np.all(high - low > 1e-6)


@given(counts=paired_counts((1, 6)))
def test_swapping_the_sides_mirrors_the_drop_interval(counts: np.ndarray) -> None:
    rw, wr, n = counts.T
    low, high = drop_interval(rw, wr, n)
    swapped = drop_interval(wr, rw, n)
    np.testing.assert_array_equal(swapped, (-high, -low))


@given(counts=paired_counts((1, 6)), times=st.integers(2, 9))
def test_drop_interval_scales_as_a_score_interval(counts: np.ndarray, times: int) -> None:
    """Tango's z grows with the root of the counts, so more images and a larger z cancel."""
    confidence = float(1 - 2 * stats.norm.sf(1.0 * np.sqrt(times)))
    more = drop_interval(*(counts * times).T, confidence=confidence)
    np.testing.assert_allclose(more, drop_interval(*counts.T, confidence=float(1 - 2 * stats.norm.sf(1.0))), atol=1e-9)


@given(counts=paired_counts(1, most=1000))
def test_drop_interval_at_0_agrees_with_mcnemars_z(counts: np.ndarray) -> None:
    rw, wr, n = counts[0].tolist()
    z = (rw - wr) / np.sqrt(max(rw + wr, 1))
    low, high = drop_interval(rw, wr, n)
    assert (low > 0 or high < 0) == (abs(z) > 1.959963984540054)


# --- The excess gap


def test_excess_gap_equals_mover_on_slow_intervals() -> None:
    rw, wr, n = np.array([[9, 2, 400], [3, 3, 150], [7, 0, 60]]).T
    ours = excess_gap(rw, wr, n)
    for g in range(3):
        b, c, m = (int(a.sum() - a[g]) for a in (rw, wr, n))
        drop, rest = (rw[g] - wr[g]) / n[g], (b - c) / m
        low, high = slow_drop_interval(int(rw[g]), int(wr[g]), int(n[g]))
        rest_low, rest_high = slow_drop_interval(b, c, m)
        expected = drop - (rw - wr).sum() / n.sum()
        share = m / n.sum()
        np.testing.assert_allclose(ours.value[g], expected, atol=1e-12)
        np.testing.assert_allclose(ours.low[g], expected - share * np.hypot(drop - low, rest_high - rest), atol=4e-5)
        np.testing.assert_allclose(ours.high[g], expected + share * np.hypot(high - drop, rest - rest_low), atol=4e-5)


@settings(max_examples=25)
@given(counts=paired_counts(2))
def test_excess_gap_p_is_the_level_at_which_the_interval_meets_0(counts: np.ndarray) -> None:
    (rw, wr, n), (rest_rw, rest_wr, rest_n) = counts.tolist()
    difference = (rw - wr) / n - (rest_rw - rest_wr) / rest_n
    if difference < 0:
        rw, wr, rest_rw, rest_wr, difference = wr, rw, rest_wr, rest_rw, -difference

    def nearer_limit(z: float) -> float:
        confidence = float(1 - 2 * stats.norm.sf(z))
        low, _ = drop_interval(rw, wr, n, confidence=confidence)
        _, high = drop_interval(rest_rw, rest_wr, rest_n, confidence=confidence)
        return difference - float(np.hypot((rw - wr) / n - low, high - (rest_rw - rest_wr) / rest_n))

    p = excess_gap(*counts.T).p[0]
    if difference == 0:
        assert p == pytest.approx(1)
    elif nearer_limit(7.5) > 0:
        assert p < 1e-12
    else:
        z = optimize.brentq(nearer_limit, 1e-6, 7.5)
        assert p == pytest.approx(2 * stats.norm.sf(z), rel=1e-3, abs=1e-11)  # type: ignore[arg-type]


@given(counts=paired_counts((2, 7), most=3000))
def test_excess_gap_p_is_below_5_percent_where_the_interval_leaves_out_0(counts: np.ndarray) -> None:
    gap = excess_gap(*counts.T)
    np.testing.assert_array_equal(gap.p < 0.05, (gap.low > 0) | (gap.high < 0))
    assert np.all((gap.p >= 0) & (gap.p <= 1) & (gap.low <= gap.value) & (gap.value <= gap.high) & (gap.low < gap.high))


@given(counts=paired_counts((2, 7)))
def test_excess_gaps_weighted_by_n_sum_to_0_and_leave_the_overall_drop(counts: np.ndarray) -> None:
    rw, wr, n = counts.T
    value = excess_gap(rw, wr, n).value
    np.testing.assert_allclose((n * value).sum() / n.sum(), 0, atol=1e-12)
    np.testing.assert_allclose((rw - wr) / n - value, (rw - wr).sum() / n.sum(), atol=1e-12)


@given(counts=paired_counts((2, 7)))
def test_swapping_the_sides_mirrors_the_excess_gap(counts: np.ndarray) -> None:
    rw, wr, n = counts.T
    gap, swapped = excess_gap(rw, wr, n), excess_gap(wr, rw, n)
    np.testing.assert_array_equal((swapped.value, swapped.low, swapped.high), (-gap.value, -gap.high, -gap.low))
    np.testing.assert_allclose(swapped.p, gap.p, rtol=1e-6, atol=1e-12)


@given(counts=paired_counts((2, 7)), times=st.integers(2, 9))
def test_more_images_keep_the_excess_gap_and_narrow_its_interval(counts: np.ndarray, times: int) -> None:
    gap, more = excess_gap(*counts.T), excess_gap(*(counts * times).T)
    np.testing.assert_allclose(more.value, gap.value, atol=1e-12)
    assert np.all((more.low >= gap.low - 1e-12) & (more.high <= gap.high + 1e-12))
    assert np.all(more.high - more.low < gap.high - gap.low)
    assert np.all(more.p <= gap.p + 1e-9)


def test_leading_axes_are_trials_that_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(0)
    rw, wr = rng.integers(0, 30, (2, 4, 3, 5))
    together = excess_gap(rw, wr, UTKFACE_SIZES)
    assert together.p.shape == (4, 3, 5)
    for field, alone in zip(together, excess_gap(rw[2, 1], wr[2, 1], UTKFACE_SIZES), strict=True):
        np.testing.assert_array_equal(field[2, 1], alone)


def test_an_empty_group_is_nan_and_does_not_disturb_the_others() -> None:
    with_empty = excess_gap([3, 0, 8], [1, 0, 2], [50, 0, 90])
    without = excess_gap([3, 8], [1, 2], [50, 90])
    for padded, plain in zip(with_empty, without, strict=True):
        assert np.isnan(padded[1])
        np.testing.assert_array_equal(padded[[0, 2]], plain)


@pytest.mark.parametrize("n", [[100], [100, 0], [0, 0]])
def test_a_group_without_a_rest_has_no_excess_gap(n: list[int]) -> None:
    for field in excess_gap(np.minimum(n, 3), np.zeros(len(n)), n):
        assert np.isnan(field).all()


def test_empty_groups_have_no_intervals() -> None:
    for low, high in (wilson_interval([0, 1], [0, 2]), drop_interval([0, 1], [0, 0], [0, 2])):
        assert np.isnan(low).tolist() == np.isnan(high).tolist() == [True, False]


def draw_gaps(flips: np.ndarray, drops: np.ndarray, n_draws: int = 6_000) -> Any:
    rng = np.random.default_rng(20)
    rw = rng.binomial(UTKFACE_SIZES, (flips + drops) / 2, size=(n_draws, 5))
    wr = rng.binomial(UTKFACE_SIZES - rw, (flips - drops) / 2 / (1 - (flips + drops) / 2))
    return excess_gap(rw, wr, UTKFACE_SIZES)


SMALLEST_FLIPS_MOST = np.array([0.01, 0.02, 0.02, 0.02, 0.08])


@pytest.mark.parametrize(
    ("flips", "drop"), [(SMALLEST_FLIPS_MOST, 0.0), (SMALLEST_FLIPS_MOST[::-1], 0.0), (SMALLEST_FLIPS_MOST + 0.1, 0.09)]
)
def test_an_even_drop_raises_false_alarms_at_the_nominal_rate(flips: np.ndarray, drop: float) -> None:
    gap = draw_gaps(flips, np.full(5, drop))
    alarms = (gap.p < 0.05).mean(axis=0)
    assert np.all(alarms <= 0.06), alarms
    assert np.all(alarms[UTKFACE_SIZES * flips > 8] >= 0.04), alarms
    assert np.all((gap.p < 0.001).mean(axis=0) <= 0.002)


def test_few_one_way_flips_raise_no_more_false_alarms() -> None:
    for drop in (0.002, 0.01):
        alarms = (draw_gaps(np.full(5, drop), np.full(5, drop)).p < 0.05).mean(axis=0)
        assert np.all(alarms <= 0.06), alarms


def test_a_drop_in_the_smallest_group_is_found_and_its_gap_covered() -> None:
    drops = np.array([0, 0, 0, 0, 0.05])
    gap = draw_gaps(SMALLEST_FLIPS_MOST, drops)
    true = drops - (UTKFACE_SIZES * drops).sum() / UTKFACE_SIZES.sum()
    coverage = ((gap.low <= true) & (true <= gap.high)).mean(axis=0)
    assert np.all((coverage >= 0.94) & (coverage <= 0.965)), coverage
    assert (gap.p[:, -1] < 0.05).mean() > 0.9


# --- Refusals


@pytest.mark.parametrize("function", [drop_interval, excess_gap])
def test_impossible_paired_counts_are_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"`n_rw` and `n_wr` must be at least 0"):
        function([-1, 2], [0, 2], [5, 5])
    with pytest.raises(ValueError, match=r"`n_rw \+ n_wr` must be at most `n`, got 6 of 5"):
        function([1, 4], [0, 2], [5, 5])


def test_impossible_counts_and_confidences_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`k` must be in 0..n, got 4"):
        wilson_interval([1, 4], [3, 3])
    with pytest.raises(ValueError, match=r"`n_rw` and `n_wr` must be at least 0"):
        mcnemar_p([-1], [3])
    for confidence in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match=r"`confidence` must be between 0 and 1"):
            drop_interval(1, 1, 5, confidence=confidence)
