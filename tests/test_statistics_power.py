"""What is said to be detectable is detected in about 80 % of draws, by the tests that are used."""

import numpy as np
import pytest
from grid import draw as draw_cell
from grid import make_cell
from grid_errors import limits_of

from quantfair.results.statistics.common_drop import assess_common_drop
from quantfair.results.statistics.intervals import drop_interval, excess_gap, upper_drop_limit
from quantfair.results.statistics.limits import measure_limits
from quantfair.results.statistics.power import (
    images_for_no,
    minimum_detectable_disparity,
    minimum_detectable_drop,
    minimum_detectable_excess,
    null_disparity,
    seeds_for_no,
    smallest_group_for_no,
)

SIZES = np.array([2016, 905, 687, 795, 338])


def draw(n: int, flips: float, drop: float, rng: np.random.Generator, size: int) -> np.ndarray:
    """Lost and won images of `size` trials."""
    flips = max(flips, drop)
    shares = [(flips + drop) / 2, (flips - drop) / 2, 1 - flips]
    return rng.multinomial(n, shares, size=size)


@pytest.mark.parametrize("flips", [0.005, 0.02, 0.08])
@pytest.mark.parametrize("n", [100, 338, 1000, 4738])
def test_a_drop_of_that_size_is_found_in_about_four_of_five_draws(n: int, flips: float) -> None:
    drop = float(minimum_detectable_drop(n, flips))
    lost, won, _ = draw(n, flips, drop, np.random.default_rng(0), 8_000).T
    power = (drop_interval(lost, won, n).low > 0).mean()
    assert 0.75 <= power <= 0.87, power


@pytest.mark.parametrize("flips", [0.005, 0.02, 0.08])
@pytest.mark.parametrize("group", [0, 2, 4])
def test_an_excess_gap_of_that_size_is_found_in_about_four_of_five_draws(group: int, flips: float) -> None:
    rng, n_rest = np.random.default_rng(1), SIZES.sum() - SIZES[group]
    gap = float(minimum_detectable_excess(SIZES[group], n_rest, flips, flips))
    drops = np.zeros(5)
    drops[group] = gap * SIZES.sum() / n_rest
    parts = [draw(n, flips, drop, rng, 3000) for n, drop in zip(SIZES, drops, strict=True)]
    found = excess_gap(np.stack([p[:, 0] for p in parts], 1), np.stack([p[:, 1] for p in parts], 1), SIZES)
    power = (found.p[:, group] < 0.05).mean()
    assert 0.75 <= power <= 0.87, power


@pytest.mark.parametrize(
    ("sizes", "flips", "group"),
    [
        (SIZES, 0.02, 0),
        (SIZES, 0.005, 4),
        (SIZES, 0.05, 4),
        (np.full(10, 90), 0.02, 0),
        (np.array([60, 500, 500]), 0.02, 0),
    ],
)
def test_a_disparity_of_that_size_is_found_in_about_four_of_five_draws(
    sizes: np.ndarray, flips: float, group: int
) -> None:
    rng, drops = np.random.default_rng(2), np.zeros(len(sizes))
    drops[group] = minimum_detectable_disparity(sizes, flips, group=group)
    parts = [draw(n, flips, drop, rng, 400) for n, drop in zip(sizes, drops, strict=True)]
    lost, won = (np.stack([part[:, way] for part in parts], axis=1) for way in (0, 1))
    assert 0.74 <= (assess_common_drop(lost, won, sizes).p < 0.05).mean() <= 0.87


def test_a_disparity_can_be_seen_where_nothing_else_flips_and_needs_more_where_groups_are_small() -> None:
    found = [minimum_detectable_disparity(SIZES, flips, group=4) for flips in (0, 0.005, 0.05)]
    assert 0.01 < found[0] < found[1] < found[2]
    assert minimum_detectable_disparity(SIZES, 0.02, group=0) < minimum_detectable_disparity(SIZES, 0.02, group=4)
    assert minimum_detectable_disparity(np.array([3, 3]), 0.02, group=0) == 1


def test_more_images_and_fewer_flips_show_smaller_drops() -> None:
    by_n = minimum_detectable_drop(np.array([50, 500, 5000]), 0.02)
    by_flips = minimum_detectable_drop(1000, np.array([0.08, 0.02, 0.005]))
    assert (np.diff(by_n) < 0).all()
    assert (np.diff(by_flips) < 0).all()


def test_the_floor_of_a_disparity_is_that_of_the_test() -> None:
    parts = [draw(n, 0.02, 0, np.random.default_rng(3 + place), 200) for place, n in enumerate(SIZES)]
    lost, won = (np.stack([part[:, way] for part in parts], axis=1) for way in (0, 1))
    found, (mean, q95) = assess_common_drop(lost, won, SIZES), null_disparity(SIZES, [0.02] * 5)
    assert mean == pytest.approx(found.null_mean.mean(), rel=0.1)
    assert q95 == pytest.approx(found.null_q95.mean(), rel=0.1)


def test_a_group_of_that_size_is_the_smallest_that_rules_out_the_limit_where_nothing_flips() -> None:
    for limit in (0.005, 0.01, 0.03):
        n = smallest_group_for_no(limit)
        upper = upper_drop_limit([0, 0], [0, 0], [n - 1, n], level=0.05)
        assert upper[1] <= limit < upper[0]
    assert smallest_group_for_no(0.01) == 268


@pytest.mark.parametrize(("n_groups", "flips"), [(5, 0.002), (5, 0.02), (10, 0.01)])
def test_so_many_images_rule_out_a_loss_in_about_four_of_five_draws(n_groups: int, flips: float) -> None:
    needed = images_for_no(n_groups, flips, limit=0.01)
    shares = []
    for n in (int(0.85 * needed), needed):
        lost, won = (np.random.default_rng(seed).binomial(n, flips / 2, (2000, n_groups)) for seed in (5, 6))
        shares.append((measure_limits(lost, won, np.full(n_groups, n)).upper_C <= 0.01).all(axis=1).mean())
    assert shares[0] < 0.8
    assert 0.77 <= shares[1] <= 0.91, "a step where few images flip: one image more lets one more flip pass"


def test_so_many_seeds_rule_out_a_loss_and_fewer_do_not_in_four_of_five() -> None:
    cell = make_cell("five of 2000", "1", "nothing", n_seeds=3, spread_pp=0.5)
    cell = cell._replace(sizes_G=cell.sizes_G * 5, flips_G=np.full(5, 0.02))
    n_seeds = seeds_for_no(cell.sizes_G, 0.02, 0.005, limit=0.01)
    assert n_seeds is not None
    shares = []
    for seeds in (n_seeds - 2, n_seeds):
        drawn = draw_cell(cell._replace(n_seeds=seeds), 200, np.random.default_rng(7))
        shares.append((limits_of(cell._replace(n_seeds=seeds), drawn).upper_C[:, :-1] <= 0.01).all(axis=1).mean())
    assert shares[0] < 0.78
    assert 0.68 <= shares[1] <= 0.95


def test_no_number_of_seeds_makes_up_for_images() -> None:
    assert seeds_for_no(SIZES, 0.02, 0.005, limit=0.01) is None
