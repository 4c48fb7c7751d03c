"""One-sided limits of drops: against two-sided intervals, by hand, over seeds, and how often they miss the truth."""

import numpy as np
import pytest
from grid import Cell, draw, make_cell
from grid_errors import limits_of
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from quantfair.results.statistics.intervals import drop_interval, upper_drop_limit
from quantfair.results.statistics.limits import Limits, SeedSpread, measure_limits

SIZES = np.array([2016, 905, 687, 795, 338])
LOST = np.array([30, 14, 12, 9, 20])
WON = np.array([25, 12, 10, 11, 3])


# --- one model ---


@pytest.mark.parametrize("level", [0.05, 0.025, 0.001])
def test_an_upper_limit_is_the_end_of_a_two_sided_interval_of_twice_the_level(level: float) -> None:
    expected = drop_interval(LOST, WON, SIZES, confidence=1 - 2 * level).high
    assert upper_drop_limit(LOST, WON, SIZES, level=level) == pytest.approx(expected, abs=1e-12)
    assert upper_drop_limit(LOST, WON, SIZES, level=np.full(5, level)) == pytest.approx(expected, abs=1e-12)


def test_limits_are_those_of_the_formulas() -> None:
    found = measure_limits(LOST, WON, SIZES)
    lost, won, n = (np.append(part, part.sum()) for part in (LOST, WON, SIZES))
    assert found.drop_C == pytest.approx((lost - won) / n)
    assert found.upper_C == pytest.approx(drop_interval(lost, won, n, confidence=0.90).high, abs=1e-12)
    shared = 1 - 2 * 0.025 / 6  # five groups and all images
    assert found.lower_C == pytest.approx(drop_interval(lost - 0.5, won, n, confidence=shared).low, abs=1e-12)

    # Of the smallest group by hand: MOVER on its own lower limit and the upper limit of the others.
    others = drop_interval(LOST[:4].sum(), WON[:4].sum(), SIZES[:4].sum(), confidence=shared).high
    drop, drop_others = 17 / 338, (65 - 58) / SIZES[:4].sum()
    reach = np.hypot(drop - found.lower_C[4], others - drop_others)
    assert found.excess_G[4] == pytest.approx(drop - drop_others)
    assert found.excess_lower_G[4] == pytest.approx(drop - drop_others - reach)


def test_a_group_that_takes_no_part_is_no_cell_and_no_correction_but_stays_among_all_images() -> None:
    takes_part = np.array([True, True, True, True, False])
    whole, fewer = (measure_limits(LOST, WON, SIZES, takes_part=part) for part in (None, takes_part))
    assert np.isnan(fewer.lower_C[4])
    assert np.isnan(fewer.upper_C[4])
    assert np.isnan(fewer.excess_lower_G[4])
    assert fewer.drop_C == pytest.approx(whole.drop_C)
    assert fewer.upper_C[:4] == pytest.approx(whole.upper_C[:4])
    assert (fewer.lower_C[:4] > whole.lower_C[:4]).all(), "five cells share the level, not six"
    assert fewer.upper_C[5] == pytest.approx(whole.upper_C[5])
    assert fewer.excess_G == pytest.approx(whole.excess_G)


def test_a_group_without_images_has_no_limits_and_changes_no_other() -> None:
    plain = measure_limits(LOST, WON, SIZES)
    lost, won, n = (np.append(part, 0) for part in (LOST, WON, SIZES))
    empty = measure_limits(lost, won, n)
    for name in ("drop_C", "lower_C", "upper_C"):
        here, there = getattr(plain, name), getattr(empty, name)
        assert np.isnan(there[5])
        assert np.delete(there, 5) == pytest.approx(here)
    assert np.isnan(empty.excess_lower_G[5])
    assert empty.excess_lower_G[:5] == pytest.approx(plain.excess_lower_G)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 500)), min_size=2, max_size=6))
def test_limits_enclose_drops_and_many_models_at_once_are_each_alone(rows: list[tuple[int, int, int]]) -> None:
    lost, won, kept = np.array(rows).T
    n = lost + won + kept
    found = measure_limits(lost, won, n)
    assert (found.lower_C <= found.drop_C + 1e-12).all()
    assert (found.drop_C <= found.upper_C).all()
    assert (found.excess_lower_G <= found.excess_G).all()
    twice = measure_limits([lost, won], [won, lost], n)
    for name in ("drop_C", "lower_C", "upper_C", "excess_G", "excess_lower_G"):
        assert getattr(twice, name)[0] == pytest.approx(getattr(found, name), abs=1e-12)


# --- over seeds ---


def test_seeds_that_are_one_model_are_hardly_wider_than_that_model() -> None:
    drops_SG = np.stack([(LOST - WON) / SIZES] * 3)
    seeds = SeedSpread(drops_SG=drops_SG, squares_G=(LOST + WON).astype(float))
    one, three = (measure_limits(LOST, WON, SIZES, seeds=spread) for spread in (None, seeds))
    assert (three.upper_C >= one.upper_C).all()
    assert three.upper_C == pytest.approx(one.upper_C, abs=0.001)
    assert three.excess_lower_G == pytest.approx(one.excess_lower_G, abs=0.006)


def test_seeds_that_differ_have_the_t_limits_of_their_mean() -> None:
    """With endless images only the seeds vary, so the limits are those of a t test over seeds."""
    rng = np.random.default_rng(1)
    n = np.array([10**9, 10**9])
    drops_SG = rng.normal(0.02, 0.01, (5, 2))
    lost = drops_SG.mean(axis=0) * n
    seeds = SeedSpread(drops_SG=drops_SG, squares_G=lost)
    found = measure_limits(lost, np.zeros(2), n, seeds=seeds)
    of_groups = stats.ttest_1samp(drops_SG, 0, axis=0)
    assert found.upper_C[:2] == pytest.approx(of_groups.confidence_interval(0.90).high, rel=1e-3)
    assert found.lower_C[:2] == pytest.approx(of_groups.confidence_interval(1 - 2 * 0.025 / 3).low, rel=1e-2)
    of_excess = stats.ttest_1samp(drops_SG[:, 0] - drops_SG[:, 1], 0).confidence_interval(1 - 2 * 0.025 / 3).low
    assert found.excess_lower_G[0] == pytest.approx(of_excess, rel=1e-2)
    assert found.upper_C[2] == pytest.approx(
        stats.ttest_1samp(drops_SG.mean(axis=1), 0).confidence_interval(0.90).high, rel=1e-3
    )


# --- how often they miss ---

CELLS = [
    make_cell("UTKFace", "small 8, large 1", "smallest loses the limit"),
    make_cell("60, 3000", "small 5, large 0.1", "nothing"),
    make_cell("ten of 90", "4", "smallest loses the limit"),
    make_cell("500, 500", "0", "all lose the limit", one_way=True),
    make_cell("UTKFace", "1", "nothing", n_seeds=3, spread_pp=1),
    make_cell("60 to 2600", "4", "smallest loses the limit", n_seeds=5, spread_pp=0.5),
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_upper_limits_miss_in_5_percent_and_all_lower_ones_together_in_half_of_that(cell: Cell) -> None:
    found = limits_of(cell, draw(cell, 2000, np.random.default_rng(7)))
    true_C = np.append(cell.drops_G, cell.overall)
    assert (found.upper_C < true_C - 1e-12).mean(axis=0).max() <= 0.07
    assert (found.lower_C > true_C + 1e-12).any(axis=1).mean() <= 0.04
    assert (found.excess_lower_G > cell.excess_G + 1e-12).any(axis=1).mean() <= 0.04


def test_a_loss_is_found() -> None:
    cell = make_cell("UTKFace", "1", "smallest loses 5 pp")
    found: Limits = limits_of(cell, draw(cell, 500, np.random.default_rng(8)))
    assert (found.lower_C[:, 4] > 0.01).mean() > 0.9
