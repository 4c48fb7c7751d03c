"""Spearman's rank correlation over a few groups, with the p of permutations: that of a t is wrong for five groups.

Legend: C pairs of columns of G values each, B permutations. All pairs share the permutations, so that a thousand
configurations take one matrix product for each way in which a column's values tie.
"""

import itertools
from typing import Final, NamedTuple

import numpy as np
from scipy.stats import rankdata

MOST_EXACT: Final = 7  # values of which all 5,040 permutations are tried
N_RANDOM: Final = 9_999  # permutations of more; the smallest p then is 1 / 10,000
_SEED: Final = 20_240_613
_MOST_PAIRS: Final = 500  # at once: 40 MB of products


class Correlation(NamedTuple):
    """Spearman's rho, in [-1, 1], and its two-sided p, one per pair."""

    rho_C: np.ndarray
    p_C: np.ndarray


def correlate_ranks(x_CG: np.ndarray, y_CG: np.ndarray) -> Correlation:
    """Return the correlation of each row of x with that of y; nan where one is constant. Ties share their rank.

    p is the share of all permutations whose |rho| is as large, or, of random ones, that with one more that counts, so
    that it is never 0. It depends on rho and the ties alone: the order of the groups changes nothing.
    Sources: Spearman, American Journal of Psychology 15 (1904) 72; random permutations: Phipson and Smyth, Statistical
    Applications in Genetics and Molecular Biology 9 (2010) 39, equation 2.
    """
    x_CG, y_CG = _center_ranks(x_CG), _center_ranks(y_CG)
    lengths_C = np.linalg.norm(x_CG, axis=1) * np.linalg.norm(y_CG, axis=1)
    products_C = (x_CG * y_CG).sum(axis=1)
    varies_C = lengths_C > 0
    rho_C, p_C = np.full((2, len(x_CG)), np.nan)
    rho_C[varies_C] = products_C[varies_C] / lengths_C[varies_C]
    if varies_C.any():
        p_C[varies_C] = _find_p(np.sort(x_CG[varies_C]), np.sort(y_CG[varies_C]), products_C[varies_C])
    return Correlation(rho_C, p_C)


def _center_ranks(values_CG: np.ndarray) -> np.ndarray:
    """Return ranks minus their mean: multiples of a half, whose products and sums are exact."""
    return rankdata(values_CG, axis=1) - (values_CG.shape[1] + 1) / 2


def _find_p(x_CG: np.ndarray, y_CG: np.ndarray, products_C: np.ndarray) -> np.ndarray:
    """Return p from sorted ranks, which say only how values tie, and the products that were found."""
    n_pairs, n_values = x_CG.shape
    orders_BG, is_exact = _find_orders(n_values), n_values <= MOST_EXACT
    kinds, kind_C = np.unique(x_CG, axis=0, return_inverse=True)
    n_extreme_C = np.empty(n_pairs)
    for index, kind in enumerate(kinds):
        permuted_BG, rows = kind[orders_BG], np.flatnonzero(kind_C == index)
        for some in np.array_split(rows, np.arange(_MOST_PAIRS, len(rows), _MOST_PAIRS)):
            n_extreme_C[some] = (np.abs(permuted_BG @ y_CG[some].T) >= np.abs(products_C[some])).sum(axis=0)
    return n_extreme_C / len(orders_BG) if is_exact else (n_extreme_C + 1) / (len(orders_BG) + 1)


def _find_orders(n_values: int) -> np.ndarray:
    if n_values <= MOST_EXACT:
        return np.array(list(itertools.permutations(range(n_values))))
    return np.random.default_rng(_SEED).permuted(np.tile(np.arange(n_values), (N_RANDOM, 1)), axis=1)
