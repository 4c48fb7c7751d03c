"""Corrections for many tests at once: p values of one family in, corrected ones out, in the same shape.

A nan is a test that was not made: it stays nan and does not count.
"""

import numpy as np
from numpy.typing import ArrayLike


def holm(p: ArrayLike) -> np.ndarray:
    """Return adjusted p: below .05, with a probability of at most .05 that any of those is a false alarm.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65.
    """
    p_T, order_T, tested = _sort(p)
    n_not_smaller_T = len(order_T) - np.arange(len(order_T))
    return _put_back(np.maximum.accumulate(p_T * n_not_smaller_T), order_T, tested)


def benjamini_hochberg(p: ArrayLike) -> np.ndarray:
    """Return q: of the tests with q below .05, at most 5 % are false alarms on average.

    Source: Benjamini and Hochberg, JRSS B 57 (1995) 289.
    """
    p_T, order_T, tested = _sort(p)
    rank_T = 1 + np.arange(len(order_T))
    return _put_back(np.minimum.accumulate((p_T * len(order_T) / rank_T)[::-1])[::-1], order_T, tested)


def _sort(p: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the p of the T tests in rising order, that order, and where tests were made."""
    p = np.asarray(p, dtype=np.float64)
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"`p` must be in 0..1, got {p[(p < 0) | (p > 1)][0]:g}; nan says that nothing was tested.")
    tested = ~np.isnan(p)
    order_T = np.argsort(p[tested], kind="stable")
    return p[tested][order_T], order_T, tested


def _put_back(adjusted_T: np.ndarray, order_T: np.ndarray, tested: np.ndarray) -> np.ndarray:
    found, adjusted = np.full(tested.shape, np.nan), np.empty(len(order_T))
    adjusted[order_T] = np.minimum(adjusted_T, 1)
    found[tested] = adjusted
    return found
