"""How many more images, or seeds, would probably settle what cannot be told now.

Legend: everything is an array of rows, one cell of each. A row is settled with POWER if the rates stay those that were
measured. A drop below the limit asks for an upper limit within it, one above it for a lower limit beyond it.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from quantfair.results.statistics.intervals import Floats, score_drop
from quantfair.results.statistics.limits import HALF_IMAGE, LEAST_SHARE, UPPER_LEVEL

POWER: Final = 0.8
MOST_TIMES: Final = 1000  # as many images as there are: more are no advice
MOST_SEEDS: Final = 50
_HALVINGS: Final = 30


def count_more_images(
    n_rw: ArrayLike, n_wr: ArrayLike, n: ArrayLike, *, limit: float, shared_level: ArrayLike
) -> Floats:
    """Return how many more images each cell needs, inf where MOST_TIMES as many would not do.

    The counts are those of the cell, `shared_level` the level of its lower limit. The limit at a power of 80 % is that
    of a smaller level, whose normal quantile is larger by the one of the power.
    """
    rw, wr, n = np.broadcast_arrays(*(np.asarray(part, dtype=np.float64) for part in (n_rw, n_wr, n)))
    upper_level, lower_level = (_add_power(level) for level in (UPPER_LEVEL, shared_level))

    def is_settled(times: Floats) -> np.ndarray:
        # A limit is within another number where the score test rejects that number.
        within = score_drop(times * rw, times * wr, times * n, limit) <= special.ndtri(upper_level)
        lost = np.maximum(times * rw - HALF_IMAGE, 0)
        beyond = score_drop(lost, times * wr, times * n, limit) > -special.ndtri(lower_level)
        return within | beyond

    return np.ceil((_find_least(is_settled, rw.shape, MOST_TIMES) - 1) * n)


def count_more_seeds(
    drop: ArrayLike, image_variance: ArrayLike, seed_variance: ArrayLike, n_seeds: ArrayLike, *,
    limit: float, shared_level: ArrayLike,
) -> Floats:  # fmt: skip
    """Return how many more seeds each cell needs on the same images, inf where MOST_SEEDS would not do.

    It is inf, too, where seeds are enough as they are, so that only more images can help.

    `image_variance` is the squared standard error of the drop that the images cause, `seed_variance` the variance of
    the drop of one seed.
    """
    drop, of_images, of_seeds, n_seeds, shared_level = np.broadcast_arrays(
        *(np.asarray(part, dtype=np.float64) for part in (drop, image_variance, seed_variance, n_seeds, shared_level))
    )
    level = np.where(drop < limit, UPPER_LEVEL, shared_level)

    def is_settled(n: Floats) -> np.ndarray:
        error = np.sqrt(of_images + of_seeds / n)
        share = np.divide(of_seeds / n, error**2, out=np.zeros_like(error), where=error > 0)
        freedom = (n - 1) / np.maximum(share, LEAST_SHARE)
        reach = special.stdtrit(freedom, 1 - level) + special.stdtrit(freedom, POWER)
        return np.abs(drop - limit) >= reach * error

    needed = np.full(drop.shape, np.inf)
    for more in range(MOST_SEEDS, 0, -1):
        needed = np.where(is_settled(n_seeds + more), more, needed)
    return np.where(is_settled(n_seeds), np.inf, needed)


def _add_power(level: ArrayLike) -> Floats:
    return special.ndtr(special.ndtri(np.asarray(level, dtype=np.float64)) - special.ndtri(POWER))


def _find_least(is_settled: Callable[[Floats], np.ndarray], shape: tuple[int, ...], most: float) -> Floats:
    """Return the smallest factor from 1 to `most` that settles each row, inf where none does."""
    low, high = np.zeros(shape), np.full(shape, np.log(most))
    found, is_now = is_settled(np.exp(high)), is_settled(np.ones(shape))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        settled = is_settled(np.exp(middle))
        low, high = np.where(settled, low, middle), np.where(settled, middle, high)
    return np.where(is_now, 1, np.where(found, np.exp(high), np.inf))
