"""How many more images or seeds are said to be needed: so many settle a cell in about four of five draws."""

import numpy as np
import pytest
from grid import draw, make_cell
from grid_errors import limits_of

from quantfair.results.statistics.crossed import Counts
from quantfair.results.statistics.decisions import LIMIT
from quantfair.results.statistics.intervals import upper_drop_limit
from quantfair.results.statistics.limits import LOWER_LEVEL, UPPER_LEVEL, lower_limit
from quantfair.results.statistics.needed import count_more_images, count_more_seeds

SHARED = LOWER_LEVEL / 6


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(0, 0, 100), (3, 3, 300), (10, 10, 500), (12, 4, 400), (30, 5, 1000), (16, 2, 500)]
)
def test_so_many_images_settle_a_cell_in_about_four_of_five_draws(lost: int, won: int, n: int) -> None:
    more = float(count_more_images(lost, won, n, limit=LIMIT, shared_level=SHARED))
    shares = np.array([lost, won, n - lost - won]) / n
    drawn = np.random.default_rng(1).multinomial(round(n + more), shares, size=4000)
    counts = Counts(drawn[:, 0].astype(float), drawn[:, 1].astype(float), np.full(4000, float(round(n + more))))
    if (lost - won) / n < LIMIT:
        settled = upper_drop_limit(*counts, level=UPPER_LEVEL) <= LIMIT
    else:
        settled = lower_limit(counts, level=SHARED) > LIMIT
    assert more > 0
    assert settled.mean() == 1 if lost == 0 else 0.72 <= settled.mean() <= 0.9


def test_a_loss_at_the_limit_needs_more_images_than_are_any_advice() -> None:
    assert count_more_images(10, 0, 1000, limit=LIMIT, shared_level=SHARED) == np.inf


def test_what_is_settled_with_power_needs_none() -> None:
    assert count_more_images([0, 100], [0, 0], [5000, 1000], limit=LIMIT, shared_level=SHARED).tolist() == [0, 0]


def test_so_many_seeds_settle_a_recipe_in_about_four_of_five_draws() -> None:
    """Seeds vary by 1 pp, and images hardly: five groups of 20,000 with flips of 1 %."""
    of_images = 0.01 / 20_000
    more = int(count_more_seeds(0.0, of_images, 0.01**2, 3, limit=LIMIT, shared_level=SHARED))
    assert 3 <= more <= 15
    cell = make_cell("five of 2000", "10", "nothing", n_seeds=3 + more, spread_pp=1)
    cell = cell._replace(sizes_G=cell.sizes_G * 10, flips_G=np.full(5, 0.03))
    found = limits_of(cell, draw(cell, 150, np.random.default_rng(2)))
    assert 0.65 <= (found.upper_C[:, 0] <= LIMIT).mean() <= 0.95


def test_seeds_do_not_help_where_images_are_few_or_no_seed_differs() -> None:
    few_images = count_more_seeds(0.0, 0.01**2, 0.001**2, 3, limit=LIMIT, shared_level=SHARED)
    alike = count_more_seeds(0.0, 1e-8, 0.0, 3, limit=LIMIT, shared_level=SHARED)
    assert few_images == np.inf
    assert alike == np.inf
