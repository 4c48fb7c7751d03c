"""What can be seen before it is measured: the smallest drops that a test finds, from group sizes and flip rates.

Legend: G groups; arrays of any one shape in, the same shape out. `flips` is the share of images that turn from right to
wrong or back; a drop that is larger than it needs flips that all go one way. Everywhere: two-sided at 5 %, power 80 %,
all as fractions. Seeds share their test images, so they add no images: n is that of one seed.

With d the drop, f the flips and r = d / f, the score (lost - won) / sqrt(lost + won) of n images is about normal with
the mean d sqrt(n / f) and, by the delta method, the variance 1 - 3/4 r^2: the more one way flips go, the more a large
drop is also a large error. So the smallest drop solves d sqrt(n / f) = z_level + z_power sqrt(1 - 3/4 r^2). After
Miettinen, Biometrics 24 (1968) 339, section 2, who takes the error of no drop and the variance 1 - r^2 f, and asks for
7.8 lost images where all flips go one way; 5.5 are enough. The tests reach 75 to 87 % there (tests/).
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from quantfair.results.statistics.common_drop import draw_counts, fit_common_drop, weigh_drops
from quantfair.results.statistics.intervals import Floats, upper_drop_limit
from quantfair.results.statistics.limits import LEAST_SHARE, UPPER_LEVEL
from quantfair.results.statistics.needed import MOST_SEEDS

LEVEL: Final = 0.05
POWER: Final = 0.8
_Z_LEVEL: Final = float(special.ndtri(1 - LEVEL / 2))
_Z_POWER: Final = float(special.ndtri(POWER))
_HALVINGS: Final = 40
_DRAWS: Final = 2000
_STEPS: Final = 12  # of the search from here to 1, each of which halves a logarithm
_SMALLEST: Final = 1e-4
_SEED: Final = 20_240_617


def minimum_detectable_drop(n: ArrayLike, flips: ArrayLike) -> Floats:
    """Return the smallest drop of n images that the interval of `drop_interval` tells from 0; 1 where none is."""
    nothing = np.zeros(np.shape(n))
    return _solve(np.asarray(n, np.float64), np.asarray(flips, np.float64), nothing)


def minimum_detectable_excess(n: ArrayLike, n_rest: ArrayLike, flips: ArrayLike, flips_rest: ArrayLike) -> Floats:
    """Return the smallest excess accuracy gap of a group that `excess_gap` finds, nan without a rest.

    `n_rest` and `flips_rest` are those of all other images. The gap is the share of the rest times how much more the
    group drops than the rest, as the overall drop has the group in it.
    """
    n, n_rest = np.asarray(n, np.float64), np.asarray(n_rest, np.float64)
    n, n_rest = np.where(n > 0, n, np.nan), np.where(n_rest > 0, n_rest, np.nan)
    more = _solve(n, np.asarray(flips, np.float64), np.asarray(flips_rest, np.float64) / n_rest)
    return n_rest / (n + n_rest) * more


def minimum_detectable_disparity(n_G: np.ndarray, flips: float, *, group: int) -> float:
    """Return the smallest drop of one group alone that `assess_common_drop` finds; 1 where none is.

    It is found by drawing: where few images flip the statistic is far from chi-squared, whose noncentrality asks for
    15 pp where ten groups of 90 images need 10.
    """
    low, high = np.log(_SMALLEST), 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        is_found = _draw_power(n_G, flips, group=group, drop=float(np.exp(middle))) >= POWER
        low, high = (low, middle) if is_found else (middle, high)
    return float(np.exp(high))


def null_disparity(n: ArrayLike, flips: ArrayLike) -> tuple[float, float]:
    """Return the mean and the 95 % quantile of the largest minus smallest drop of groups that all drop alike."""
    error = np.sqrt(np.asarray(flips, np.float64) / np.asarray(n, np.float64))
    spread = np.ptp(np.random.default_rng(0).standard_normal((20_000, len(error))) * error, axis=1)
    return float(spread.mean()), float(np.quantile(spread, 0.95))


def smallest_group_for_no(limit: float) -> int:
    """Return the images of the smallest group of which a loss above `limit` can be ruled out without a gain.

    Nothing flips: then the upper limit is z^2 / (n + z^2), see `drop_interval`.
    """
    z = -float(special.ndtri(UPPER_LEVEL))
    return math.ceil(z**2 / limit - z**2)


def images_for_no(n_groups: int, flips: float, *, limit: float) -> int:
    """Return the images that each of several groups needs, so that losses above `limit` are ruled out for all.

    They are, with a power of 80 %, where nothing is lost: found by drawing models, whose lost and won images are as
    many. All images together are one cell more, and need fewer.
    """
    low, high = smallest_group_for_no(limit), smallest_group_for_no(limit)
    while _draw_share_of_no(high, n_groups, flips, limit) < POWER:
        low, high = high, 2 * high
    while high - low > high / 200:
        middle = (low + high) // 2
        is_enough = _draw_share_of_no(middle, n_groups, flips, limit) >= POWER
        low, high = (low, middle) if is_enough else (middle, high)
    return high


def seeds_for_no(n_G: np.ndarray, flips: float, spread: float, *, limit: float) -> int | None:
    """Return the seeds that a recipe needs, so that losses above `limit` are ruled out for all groups.

    None where MOST_SEEDS are too few: then only more images help.
    Each seed moves the drop of each group by a normal effect of the standard deviation `spread`, and shares the images.
    With a power of 80 %, where nothing is lost and groups are independent.
    """
    of_images_G = flips / np.asarray(n_G, np.float64)
    power_of_each = POWER ** (1 / len(of_images_G))
    for n_seeds in range(3, MOST_SEEDS + 1):
        error_G = np.sqrt(of_images_G + spread**2 / n_seeds)
        share_G = spread**2 / n_seeds / error_G**2
        freedom_G = (n_seeds - 1) / np.maximum(share_G, LEAST_SHARE)
        reach_G = special.stdtrit(freedom_G, 1 - UPPER_LEVEL) + special.stdtrit(freedom_G, power_of_each)
        if (reach_G * error_G <= limit).all():
            return n_seeds
    return None


def _draw_share_of_no(n: int, n_groups: int, flips: float, limit: float) -> float:
    """Return how often all groups of `n` images are within the limit."""
    rng = np.random.default_rng(_SEED)
    flipped_D = rng.binomial(n, flips, size=_DRAWS)
    lost_D = rng.binomial(flipped_D, 0.5)
    within = upper_drop_limit(lost_D, flipped_D - lost_D, n, level=UPPER_LEVEL) <= limit
    return float(within.mean() ** n_groups)


def _solve(n: Floats, flips: Floats, noise: Floats) -> Floats:
    """`noise`: what else varies, as a squared standard error."""

    def is_seen(drop: Floats) -> np.ndarray:
        own = np.maximum(flips, drop) / n  # the squared standard error of the group's drop
        total = own + noise
        variance = 1 - (drop / n / total) ** 2 * (1 - own / (4 * total))
        return drop >= np.sqrt(total) * (_Z_LEVEL + _Z_POWER * np.sqrt(np.maximum(variance, 0)))

    drop = _bisect(is_seen, np.broadcast_shapes(n.shape, flips.shape, noise.shape))
    return np.where(np.isnan(n + noise), np.nan, drop)


def _bisect(is_seen: Callable[[Floats], np.ndarray], shape: tuple[int, ...]) -> Floats:
    low, high = np.zeros(shape), np.ones(shape)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        seen = is_seen(middle)
        low, high = np.where(seen, low, middle), np.where(seen, middle, high)
    return high


def _draw_power(n_G: np.ndarray, flips: float, *, group: int, drop: float) -> float:
    """Return how often the groups are found to differ.

    The test would draw a thousand times for each model that is drawn here. One draw for each, and the quantile over all
    models, do as well: Giacomini, Politis and White, Econometric Theory 29 (2013) 567.
    """
    rng, drop_G = np.random.default_rng(_SEED), np.zeros(len(n_G))
    drop_G[group] = drop
    flips_G = np.maximum(flips, drop_G)
    lost_DG, won_DG = draw_counts(n_G, (flips_G + drop_G) / 2, (flips_G - drop_G) / 2, n_draws=_DRAWS, rng=rng)
    null = draw_counts(n_G, *fit_common_drop(lost_DG, won_DG, n_G), n_draws=_DRAWS, rng=rng)
    limit = np.quantile(weigh_drops(*null, n_G), 1 - LEVEL)
    return float((weigh_drops(lost_DG, won_DG, n_G) > limit).mean())
