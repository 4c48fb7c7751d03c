"""The test of "all groups drop alike": false alarms, power, an independent version, and what must not change it."""

import numpy as np
import pytest
from grid import Cell, draw, make_cell
from scipy import stats

from quantfair.results.statistics.common_drop import N_DRAWS, SpreadTest, assess_common_drop

SIZES = np.array([2016, 905, 687, 795, 338])
LOST = np.array([30, 14, 12, 9, 20])
WON = np.array([25, 12, 10, 11, 3])
FIELDS = ("p", "spread", "null_mean", "null_q95")


def assess(cell: Cell, n_draws: int, seed: int = 3) -> SpreadTest:
    drawn = draw(cell, n_draws, np.random.default_rng(seed))
    return assess_common_drop(drawn.lost, drawn.won, cell.sizes_G)


EVEN = [
    make_cell("three of 60, 5000", "small 5, large 0.1", "nothing"),
    make_cell("60, 3000", "small 5, large 0.1", "nothing"),
    make_cell("55 to 4000", "small 0, large 5", "nothing"),
    make_cell("UTKFace", "small 8, large 1", "nothing"),
    make_cell("UTKFace", "small 1, large 8", "nothing"),
    make_cell("ten of 90", "10", "all lose 5 pp"),
    make_cell("500, 500", "0", "all lose the limit", one_way=True),
]


@pytest.mark.parametrize("cell", EVEN, ids=lambda cell: cell.name)
def test_false_alarms_are_those_promised(cell: Cell) -> None:
    found = assess(cell, 500)
    assert (found.p < 0.05).mean() <= 0.08
    assert (found.p < 0.01).mean() <= 0.025
    assert (found.spread > found.null_q95).mean() <= 0.08


def test_a_planted_loss_of_one_group_is_found() -> None:
    assert (assess(make_cell("UTKFace", "1", "smallest loses 5 pp"), 200).p < 0.05).mean() > 0.9
    assert (assess(make_cell("ten of 1000", "1", "smallest loses 5 pp"), 200).p < 0.05).mean() > 0.95


def test_with_many_flips_p_is_that_of_a_chi_squared_test() -> None:
    rng, sizes = np.random.default_rng(4), np.array([20_000, 30_000, 15_000])
    lost, won = (rng.binomial(sizes, share, size=(40, 3)) for share in (0.06, 0.05))
    drop = (lost - won) / sizes
    weight = sizes / ((lost + won) / sizes - drop**2)
    centre = (weight * drop).sum(axis=1, keepdims=True) / weight.sum(axis=1, keepdims=True)
    expected = stats.chi2.sf((weight * (drop - centre) ** 2).sum(axis=1), df=2)
    found = assess_common_drop(lost, won, sizes).p
    assert found == pytest.approx(expected, abs=0.06)
    assert np.abs(found - expected).mean() < 0.015


def test_chance_shows_the_spread_that_a_simulation_shows() -> None:
    """Draw images one by one, each lost or won or neither, with the drop and the flips that were seen."""
    found = assess_common_drop(LOST, WON, SIZES)
    rng = np.random.default_rng(5)
    flips = (LOST + WON) / SIZES
    common = (LOST - WON).sum() / SIZES.sum()  # nearly the weighted one
    spread = []
    for _ in range(2000):
        drops = []
        for n, f in zip(SIZES, flips, strict=True):
            chance = rng.random(n)
            drops.append(((chance < (f + common) / 2).sum() - (chance > 1 - (f - common) / 2).sum()) / n)
        spread.append(np.ptp(drops))
    assert found.spread == pytest.approx(np.ptp((LOST - WON) / SIZES))
    assert found.null_mean == pytest.approx(np.mean(spread), rel=0.08)
    assert found.null_q95 == pytest.approx(np.quantile(spread, 0.95), rel=0.08)


def test_order_of_groups_and_other_models_change_nothing() -> None:
    alone = assess_common_drop(LOST, WON, SIZES)
    order = np.array([3, 0, 4, 1, 2])
    renamed = assess_common_drop(LOST[order], WON[order], SIZES[order])
    among = assess_common_drop([WON, LOST, LOST], [LOST, WON, WON], SIZES)
    for name in FIELDS:
        assert getattr(renamed, name) == getattr(alone, name)
        assert (getattr(among, name)[1:] == getattr(alone, name)).all()
    assert among.p.shape == (3,)


def test_nothing_flipped_is_no_sign_of_anything() -> None:
    found = assess_common_drop(np.zeros(5), np.zeros(5), SIZES)
    assert found.p == 1
    assert found.spread == 0
    assert 0 < found.null_mean <= found.null_q95


@pytest.mark.parametrize("sizes", [[100], [100, 0]])
def test_one_group_with_images_cannot_be_compared(sizes: list[int]) -> None:
    found = assess_common_drop(np.zeros(len(sizes)), np.zeros(len(sizes)), sizes)
    assert all(np.isnan(getattr(found, name)) for name in FIELDS)


def test_the_smallest_p_is_one_draw() -> None:
    found = assess_common_drop([0, 90], [0, 0], [1000, 100])
    assert found.p == 1 / (N_DRAWS + 1)
