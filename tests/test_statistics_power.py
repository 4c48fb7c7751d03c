"""What is said to be detectable is detected in about 80 % of draws, by the tests that are used."""

import numpy as np
import pytest

from quantfair.results.statistics.intervals import drop_interval, excess_gap
from quantfair.results.statistics.permutation import measure_evenness
from quantfair.results.statistics.power import (
    minimum_detectable_disparity,
    minimum_detectable_drop,
    minimum_detectable_excess,
    null_disparity,
    observed_minimum_detectable_excess,
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
    rng, codes = np.random.default_rng(2), np.repeat(np.arange(len(sizes)), sizes)
    drops = np.zeros(len(sizes))
    drops[group] = minimum_detectable_disparity(sizes, flips, group=group)
    chance, flips_G = rng.random((len(codes), 400)), np.maximum(flips, drops)
    lost, won = (((flips_G + sign * drops) / 2)[codes][:, None] for sign in (1, -1))
    values = np.where(chance < lost, 1, np.where(chance < lost + won, -1, 0))
    assert 0.74 <= (measure_evenness(values, codes, len(sizes)).p < 0.05).mean() <= 0.87


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


def test_what_no_group_can_show_is_no_number() -> None:
    found = observed_minimum_detectable_excess([[0, 3, 5]], [[0, 100, 200]])
    assert np.isnan(found[0, 0])
    assert (found[0, 1:] > 0).all()
    assert np.isnan(observed_minimum_detectable_excess([[3]], [[100]])).all()


def test_where_nothing_flipped_not_everything_is_detectable() -> None:
    found = 100 * observed_minimum_detectable_excess([[0, 0]], [[100, 1000]])[0]
    assert found[0] > 3
    assert found[1] > 0.1


def test_the_floor_of_a_disparity_is_that_of_the_permutation_test() -> None:
    codes = np.repeat(np.arange(5), SIZES)
    values = np.where(np.random.default_rng(3).random((len(codes), 200)) < 0.02, 1, 0)
    values *= np.random.default_rng(4).choice([-1, 1], values.shape)
    found, (mean, q95) = measure_evenness(values, codes, 5), null_disparity(SIZES, [0.02] * 5)
    assert mean == pytest.approx(found.null_mean.mean(), rel=0.1)
    assert q95 == pytest.approx(found.null_q95.mean(), rel=0.1)
