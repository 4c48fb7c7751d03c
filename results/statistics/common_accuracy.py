"""A test of "all groups have one accuracy" for one trial, and the spread that chance alone shows, from counts.

Legend: G groups, B draws; leading axes are trials. If all groups have one accuracy, an image that is answered rightly
is as likely to be in any group as another one. So the right answers of each group are drawn as if images were dealt to
the groups anew: a permutation test (Fisher, The Design of Experiments, 1935, section 21), exact for any sizes. The
statistic is Pearson's chi-squared, up to a factor that all draws share.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from quantfair.results.statistics.common_drop import TIE, SpreadTest

N_DRAWS: Final = 999  # with the observed counts 1,000
_SEED: Final = 20_240_611


def assess_common_accuracy(n_right: ArrayLike, n: ArrayLike) -> SpreadTest:
    """Return the test for each trial from the right answers of its groups, T x G or G, of `n` images each.

    Equal counts give equal numbers, whatever the other trials.
    """
    right, n = np.broadcast_arrays(np.asarray(n_right, dtype=np.int64), np.asarray(n, dtype=np.int64))
    shape = right.shape[:-1]
    rows = zip(right.reshape(-1, right.shape[-1]), n.reshape(-1, n.shape[-1]), strict=True)
    columns = np.array([_assess(right_G, n_G) for right_G, n_G in rows]).reshape(-1, 4)
    p, spread, null_mean, null_q95 = (column.reshape(shape) for column in columns.T)
    return SpreadTest(p=p, spread=spread, null_mean=null_mean, null_q95=null_q95)


def _assess(right_G: np.ndarray, n_G: np.ndarray) -> tuple[float, float, float, float]:
    right_G, n_G = right_G[n_G > 0], n_G[n_G > 0]
    if len(n_G) < 2:
        return np.nan, np.nan, np.nan, np.nan

    rng = np.random.default_rng(_SEED)
    drawn_BG = rng.multivariate_hypergeometric(n_G, int(right_G.sum()), size=N_DRAWS, method="marginals")
    observed, drawn_B = _weigh(right_G, n_G), _weigh(drawn_BG, n_G)
    p = (1 + np.count_nonzero(drawn_B >= observed * TIE)) / (1 + N_DRAWS)
    spread_B = np.ptp(drawn_BG / n_G, axis=1)
    return p, float(np.ptp(right_G / n_G)), float(spread_B.mean()), float(np.quantile(spread_B, 0.95))


def _weigh(right_G: np.ndarray, n_G: np.ndarray) -> np.ndarray:
    """Return the sum over groups, the last axis, of n (accuracy - accuracy of all)^2."""
    total = right_G.sum(axis=-1, keepdims=True) / n_G.sum()
    return (n_G * (right_G / n_G - total) ** 2).sum(axis=-1)
