"""Spearman's rank correlation over a few groups, with the p of permutations: that of a t is wrong for five groups."""

import itertools
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from scipy.stats import rankdata

MOST_EXACT: Final = 7  # values of which all 5,040 permutations are tried
N_RANDOM: Final = 9_999  # permutations of more; the smallest p then is 1 / 10,000
_SEED: Final = 20_240_613


class Correlation(NamedTuple):
    """Spearman's rho, in [-1, 1], and its two-sided p."""

    rho: float
    p: float


def correlate_ranks(x: np.ndarray, y: np.ndarray) -> Correlation:
    """Return the correlation of two columns of at least three values; nan where one is constant. Ties share their rank.

    Source: Spearman, American Journal of Psychology 15 (1904) 72.
    """
    ranks_x, ranks_y = _standardize(x), _standardize(y)
    if np.isnan(ranks_x).any() or np.isnan(ranks_y).any():
        return Correlation(np.nan, np.nan)
    rho, null = float(ranks_x @ ranks_y), _find_null(tuple(np.sort(ranks_x)), tuple(np.sort(ranks_y)))
    return Correlation(rho, float(np.mean(np.abs(null) >= abs(rho) - 1e-9)))


def _standardize(values: np.ndarray) -> np.ndarray:
    ranks = rankdata(values)
    ranks -= ranks.mean()
    length = np.linalg.norm(ranks)
    return ranks / length if length > 0 else np.full(len(ranks), np.nan)


@lru_cache(maxsize=1000)
def _find_null(ranks_x: tuple[float, ...], ranks_y: tuple[float, ...]) -> np.ndarray:
    """Return rho under permutations, all of them or random ones with the identity: it depends on the ties alone."""
    n = len(ranks_x)
    if n <= MOST_EXACT:
        orders = np.array(list(itertools.permutations(range(n))))
        return np.array(ranks_x)[orders] @ np.array(ranks_y)
    random = np.random.default_rng(_SEED).permuted(np.tile(np.array(ranks_x), (N_RANDOM, 1)), axis=1)
    return np.append(random @ np.array(ranks_y), 1.0)  # one more, as extreme as any: p is never 0
