"""A test of "all groups drop alike" for one model, and the spread of drops that chance alone shows, from counts.

Legend: G groups, B draws; leading axes are models. The null hypothesis: every group has the same drop, and each keeps
its own share of images that flip. A permutation of images among groups cannot test it. It mixes the flips of all
groups, so that a small group that flips more than the mass meets a reference distribution without such flips: up to 68
% false alarms at a nominal 5 %. So the distribution of the statistic is drawn from the counts: every group is given
the common drop and draws its lost and won images anew (a parametric bootstrap: Davison and Hinkley, Bootstrap Methods
and their Application, 1997, section 4.2). `tests/test_common_drop.py` measures the false alarms on a grid.

The common drop and the flips of the groups are those of the largest likelihood under the null hypothesis. A mean of
the drops, each weighted by its own variance, would not do: groups that happened to flip little weigh most, so that the
mean is too small where all flips go one way, and the draws are too calm (14.5 % false alarms with twenty groups of 300
images that lose 1 % each).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from quantfair.results.statistics.intervals import Floats, find_won_share

N_DRAWS: Final = 999  # with the observed counts 1,000
_SEED: Final = 20_261_201
TIE: Final = 1 - 1e-9  # a draw of the observed counts has the observed statistic, whatever the last digit
_PRIOR: Final = 0.1  # lost and won images that each group is given, so that no group is without noise
_HALVINGS: Final = 40
_LEAST: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadTest:
    """The p of "all groups have one value", and the largest minus the smallest value: as seen, and by chance.

    `null_mean` and `null_q95` are the mean and the 95 % quantile of the same draws as p. All are nan where fewer than
    two groups take part.
    """

    p: Floats
    spread: Floats
    null_mean: Floats
    null_q95: Floats


def assess_common_drop(n_rw: ArrayLike, n_wr: ArrayLike, n: ArrayLike) -> SpreadTest:
    """Return the test for each model from the counts of its groups, M x G or G. The groups need not be all groups.

    `n_rw` images of each group were lost, `n_wr` won, of `n`. Equal counts give equal numbers, whatever the other
    models and whatever the order of the groups.
    """
    counts_3MG = np.stack(np.broadcast_arrays(*(np.asarray(part, dtype=np.int64) for part in (n_rw, n_wr, n))))
    shape = counts_3MG.shape[1:-1]
    counts_M3G = counts_3MG.reshape(3, -1, counts_3MG.shape[-1]).swapaxes(0, 1)

    # Many models of a sweep have the same counts. An order of the groups that their names do not decide comes first,
    # since draws are made group by group; empty groups are last.
    ordered = [counts_3G[:, np.lexsort(counts_3G)[::-1]] for counts_3G in counts_M3G]
    keys = [counts_3G.tobytes() for counts_3G in ordered]
    known = dict(zip(keys, ordered, strict=True))
    found = dict(zip(known, _assess(np.array(list(known.values()))), strict=True))

    columns = np.array([found[key] for key in keys]).reshape(-1, 4)
    p, spread, null_mean, null_q95 = (column.reshape(shape) for column in columns.T)
    return SpreadTest(p=p, spread=spread, null_mean=null_mean, null_q95=null_q95)


_Found = tuple[float, float, float, float]


def _assess(counts_M3G: np.ndarray) -> Iterator[_Found]:
    """Yield the fields of the test of each model, whose groups with images come first."""
    n_MG = counts_M3G[:, 2]
    shares = fit_common_drop(counts_M3G[:, 0], counts_M3G[:, 1], n_MG)
    for counts_3G, lost_share_G, won_share_G, n_G in zip(counts_M3G, *shares, n_MG, strict=True):
        n_groups = np.count_nonzero(n_G)
        if n_groups < 2:
            yield np.nan, np.nan, np.nan, np.nan
        else:
            lost_G, won_G, n_G = counts_3G[:, :n_groups]
            yield _draw_null(lost_G, won_G, n_G, lost_share_G[:n_groups], won_share_G[:n_groups])


def _draw_null(
    lost_G: np.ndarray, won_G: np.ndarray, n_G: np.ndarray, lost_share_G: np.ndarray, won_share_G: np.ndarray
) -> _Found:
    rng = np.random.default_rng(_SEED)
    lost_BG, won_BG = draw_counts(n_G, lost_share_G, won_share_G, n_draws=N_DRAWS, rng=rng)
    observed = weigh_drops(lost_G, won_G, n_G)
    drawn_B = weigh_drops(lost_BG, won_BG, n_G)
    p = (1 + np.count_nonzero(drawn_B >= observed * TIE)) / (1 + N_DRAWS)
    spread_B = np.ptp((lost_BG - won_BG) / n_G, axis=1)
    spread = float(np.ptp((lost_G - won_G) / n_G))
    return p, spread, float(spread_B.mean()), float(np.quantile(spread_B, 0.95))


def fit_common_drop(n_rw: ArrayLike, n_wr: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Return the shares of lost and won images of each group, the last axis, that are most likely under one drop.

    For a given drop d, the likelihood of a group is largest where Tango's share of won images is (see `intervals`).
    Then its derivative in d is (lost - won - n d) / v, v being the variance of one image. The sum over the groups falls
    as d rises, and is 0 at the common drop. Groups without images do not count.
    """
    prior = np.where(np.asarray(n) > 0, _PRIOR, 0)
    lost, won, n = np.asarray(n_rw) + prior, np.asarray(n_wr) + prior, np.asarray(n) + 2 * prior
    n = np.where(n > 0, n, np.nan)
    high = np.ones((*lost.shape[:-1], 1))
    low = -high
    for _ in range(_HALVINGS):
        drop = (low + high) / 2
        variance = np.maximum(2 * find_won_share(lost, won, n, drop) + drop * (1 - drop), _LEAST)
        is_too_low = np.nansum((lost - won - n * drop) / variance, axis=-1, keepdims=True) > 0
        low, high = np.where(is_too_low, drop, low), np.where(is_too_low, high, drop)
    won_share = find_won_share(lost, won, n, low)
    return np.clip(won_share + low, 0, 1), np.clip(won_share, 0, 1)


def draw_counts(
    n: ArrayLike, lost_share: ArrayLike, won_share: ArrayLike, *, n_draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lost and the won images of every group, the last axis, in each draw, the first one.

    The shares are of one model, or of each of `n_draws` models.
    """
    n, lost_share, won_share = np.asarray(n), np.asarray(lost_share), np.asarray(won_share)
    n_lost = rng.binomial(n, lost_share, size=(n_draws, len(n)))
    kept_share = np.maximum(1 - lost_share, _LEAST)
    n_won = rng.binomial(n - n_lost, np.minimum(won_share / kept_share, 1))
    return n_lost, n_won


def weigh_drops(n_rw: np.ndarray, n_wr: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the sum over groups, the last axis, of w (drop - weighted mean)^2.

    The weight w is one over the squared standard error. Its variance is that of one image more, which flipped, so that
    it is never 0.
    """
    drop = (n_rw - n_wr) / n
    variance = (n_rw + n_wr + 1) / (n + 1) - drop**2 * (n / (n + 1))
    weight = n / variance
    centre = (weight * drop).sum(axis=-1, keepdims=True) / weight.sum(axis=-1, keepdims=True)
    return (weight * (drop - centre) ** 2).sum(axis=-1)
