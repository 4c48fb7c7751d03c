"""A test of "all groups drop alike" for one model, and the spread of drops that chance alone shows, from counts.

Legend: G groups, B draws; leading axes are models. The null hypothesis: every group has the same drop, and each keeps
its own share of images that flip. A permutation of images among groups cannot test it. It mixes the flips of all
groups, so that a small group that flips more than the mass meets a reference distribution without such flips: up to 68
% false alarms at a nominal 5 %. So the distribution of the statistic is drawn from the counts: every group is given
the common drop and draws its lost and won images anew (a parametric bootstrap: Davison and Hinkley, Bootstrap Methods
and their Application, 1997, section 4.2). `tests/test_common_drop.py` measures the false alarms on a grid.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from quantfair.results.statistics.intervals import Floats

N_DRAWS: Final = 999  # with the observed counts 1,000
_SEED: Final = 20_261_201
_TIE: Final = 1 - 1e-9  # a draw of the observed counts has the observed statistic, whatever the last digit
_LEAST: Final = 1e-12
_FIELDS: Final = ("p", "spread", "null_mean", "null_q95")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonDropTest:
    """The p of "all groups drop alike", and the largest minus the smallest drop: as seen, and by chance.

    `null_mean` and `null_q95` are the mean and the 95 % quantile of the same draws as p.

    All are nan where fewer than two groups take part.
    """

    p: Floats
    spread: Floats
    null_mean: Floats
    null_q95: Floats


def assess_common_drop(lost: ArrayLike, won: ArrayLike, n: ArrayLike) -> CommonDropTest:
    """Return the test for each model from the counts of its groups, M x G or G. The groups need not be all groups.

    Equal counts give equal numbers, whatever the other models and whatever the order of the groups.
    """
    counts_3MG = np.stack(np.broadcast_arrays(*(np.asarray(part, dtype=np.int64) for part in (lost, won, n))))
    shape, counts_M3G = counts_3MG.shape[1:-1], counts_3MG.reshape(3, -1, counts_3MG.shape[-1]).swapaxes(0, 1)
    found = {}  # many models of a sweep have the same counts, most often none
    for counts_3G in counts_M3G:
        key = counts_3G.tobytes()
        if key not in found:
            found[key] = _assess(counts_3G)
    columns = np.array([found[counts_3G.tobytes()] for counts_3G in counts_M3G]).reshape(-1, 4)
    return CommonDropTest(**{name: columns[:, place].reshape(shape) for place, name in enumerate(_FIELDS)})


def _assess(counts_3G: np.ndarray) -> tuple[float, float, float, float]:
    counts_3G = counts_3G[:, counts_3G[2] > 0]
    if counts_3G.shape[1] < 2:
        return np.nan, np.nan, np.nan, np.nan

    # An order of the groups that their names do not decide: draws are made group by group.
    lost_G, won_G, n_G = (part[:, None] for part in counts_3G[:, np.lexsort(counts_3G)])
    drop_G = (lost_G - won_G) / n_G
    spread = float(np.ptp(drop_G))

    flips_G = (lost_G + won_G + 0.5) / (n_G + 1)
    weight_G = n_G / np.maximum(flips_G - drop_G**2, _LEAST)
    common = (weight_G * drop_G).sum() / weight_G.sum()
    flips_G = np.clip(np.maximum(flips_G, abs(common)), 0, 1)

    rng = np.random.default_rng(_SEED)
    shape = (len(n_G), N_DRAWS)
    flipped_GB = rng.binomial(n_G, flips_G, size=shape)
    lost_GB = rng.binomial(flipped_GB, (1 + common / flips_G) / 2)
    drop_GB = (2 * lost_GB - flipped_GB) / n_G

    observed = _weigh(drop_G, lost_G + won_G, n_G)
    drawn_B = _weigh(drop_GB, flipped_GB, n_G)
    p = (1 + np.count_nonzero(drawn_B >= observed * _TIE)) / (1 + N_DRAWS)
    spread_B = np.ptp(drop_GB, axis=0)
    return p, spread, float(spread_B.mean()), float(np.quantile(spread_B, 0.95))


def _weigh(drop_GB: np.ndarray, flipped_GB: np.ndarray, n_G: np.ndarray) -> np.ndarray:
    """Return the sum over groups of w (drop - weighted mean)^2, w being one over the squared standard error.

    The variance is that of one image more, which flipped, so that it is never 0.
    """
    variance_GB = (flipped_GB + 1) / (n_G + 1) - drop_GB**2 * (n_G / (n_G + 1))
    weight_GB = n_G / np.maximum(variance_GB, _LEAST)
    centre_B = (weight_GB * drop_GB).sum(axis=0) / weight_GB.sum(axis=0)
    return (weight_GB * (drop_GB - centre_B) ** 2).sum(axis=0)
