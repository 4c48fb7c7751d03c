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

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from quantfair.results.statistics.intervals import Floats

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


def observed_minimum_detectable_excess(n_flipped: ArrayLike, n: ArrayLike) -> Floats:
    """Return the same for every group of a trial, from what flipped; the last axis holds all groups of one grouping.

    One flip is added to the group's and to the rest's, so that where nothing flipped not everything is detectable.
    """
    n_flipped, n = np.broadcast_arrays(np.asarray(n_flipped, np.float64), np.asarray(n, np.float64))
    n_rest = n.sum(axis=-1, keepdims=True) - n
    flipped_rest = n_flipped.sum(axis=-1, keepdims=True) - n_flipped
    return minimum_detectable_excess(n, n_rest, (n_flipped + 1) / (n + 1), (flipped_rest + 1) / (n_rest + 1))


def minimum_detectable_disparity(n_G: np.ndarray, flips: float, *, group: int) -> float:
    """Return the smallest drop of one group alone that `measure_evenness` finds; 1 where none is.

    It is found by drawing: where few images flip the statistic is far from chi-squared, whose noncentrality asks for
    15 pp where ten groups of 90 images need 10. There `measure_evenness` finds 76 to 87 % of such drops, and 92 % where
    0.5 % of those 90 flip.
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
    """Return how often the groups are found to differ, at the limit of groups permuted at the expected flips."""
    rng, drop_G = np.random.default_rng(_SEED), np.zeros(len(n_G))
    drop_G[group] = drop
    flips_G = np.maximum(flips, drop_G)
    shares_G3 = np.stack([(flips_G + drop_G) / 2, (flips_G - drop_G) / 2, 1 - flips_G], axis=1)
    drawn = rng.multinomial(n_G, shares_G3, size=(_DRAWS, len(n_G)))
    totals = np.rint((n_G[:, None] * shares_G3).sum(axis=0)).astype(int)
    lost_DG, won_DG = (
        rng.multivariate_hypergeometric(n_G, total, size=_DRAWS, method="marginals") for total in totals[:2]
    )
    limit = np.quantile(_weigh(lost_DG, won_DG, n_G), 1 - LEVEL)
    return float((_weigh(drawn[:, :, 0], drawn[:, :, 1], n_G) > limit).mean())


def _weigh(lost_DG: np.ndarray, won_DG: np.ndarray, n_G: np.ndarray) -> np.ndarray:
    """Return the statistic of `measure_evenness` for D draws of counts."""
    mean_DG = (lost_DG - won_DG) / n_G
    weight_DG = n_G / ((lost_DG + won_DG + 1) / (n_G + 1) - mean_DG**2 * (n_G / (n_G + 1)))
    centre_D1 = (weight_DG * mean_DG).sum(axis=1, keepdims=True) / weight_DG.sum(axis=1, keepdims=True)
    return (weight_DG * (mean_DG - centre_D1) ** 2).sum(axis=1)
