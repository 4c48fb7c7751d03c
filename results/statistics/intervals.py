"""Intervals and tests from counts: arrays of groups in, arrays of the same shape out; nan where nothing can be said.

Legend: G groups. `n_rw`: right on the other side and wrong in the trial; `n_wr`: the reverse; `n`: images of the group.
The formulas were chosen by what they do at this tool's sizes (numpy 2 and scipy 1, fixed seeds; pp: percentage points):

- Drop, nominal 95 %, exact coverage (the multinomial summed up, not drawn) at n = 36, 100, 338, 1000, flips of 0.1 to
  8 %, half to all of them in one direction: Tango 93.3 to 100 %. Agresti-Min is shorter (n = 100, 1 % flips: half width
  2.6 against 4.1 pp) but falls to 86 % where about two flips are expected, all one way, as quantization makes them: it
  is not used. Tango is conservative, above 98 %, where at most two flips are expected.
- Excess gap, groups of 2016, 905, 687, 795, 338 images flipping 1, 2, 2, 2, 8 %, nominal 5 %, 100,000 draws: with no
  drop 4.6, 4.6, 4.7, 4.8, 4.9 % false alarms; with an even drop of 9 pp on top 4.9, 5.0, 5.0, 5.0, 5.1 %; with an even
  1 pp whose flips all go one way 4.5, 4.9, 4.7, 4.9, 3.1 %; at 0.2 % flips everywhere 2.6 % in the largest group and
  less than 0.1 % in the smallest. At p < .001, which corrections for many groups need: at most 0.11 %. A drop of 5 pp
  in the smallest group alone is found in 93 % of draws at 8 % flips there (20,000 draws). Intervals built from
  Agresti-Min limits do much the same at these sizes, but give 6.1 % at n = 100 with 2 % one-way flips (Tango: 1.0).
"""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats: TypeAlias = NDArray[np.float64]
_Z95: Final = float(special.ndtri(0.975))
_HALVINGS: Final = 54  # brings any bracket of at most 2 down to the spacing of float64


class Interval(NamedTuple):
    """Lower and upper limits, one per group."""

    low: np.ndarray
    high: np.ndarray


class ExcessGap(NamedTuple):
    """Excess accuracy gap of each group, as fractions, its 95 % interval, and the p of "no gap"."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def wilson_interval(k: ArrayLike, n: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return the score interval of the proportions k / n, within [0, 1]; n = 0 gives nan.

    Source: Wilson, JASA 22 (1927) 209, without continuity correction.
    """
    k, n = np.broadcast_arrays(np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if np.any((k < 0) | (k > n)):
        raise ValueError(f"`k` must be in 0..n, got {_first(k, (k < 0) | (k > n))}; count right answers of the same n.")
    n = np.where(n > 0, n, np.nan)
    z = _normal_quantile(confidence)
    centre = (k + z**2 / 2) / (n + z**2)
    half = z * np.sqrt(k * (n - k) / n + z**2 / 4) / (n + z**2)
    # At k = 0 and k = n the limits are exact; minimum and maximum take rounding away.
    return Interval(np.maximum(np.minimum(centre - half, k / n), 0), np.minimum(np.maximum(centre + half, k / n), 1))


def drop_interval(n_rw: ArrayLike, n_wr: ArrayLike, n: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return the interval of the paired drop (n_rw - n_wr) / n, a fraction in [-1, 1]; n = 0 gives nan.

    With z the normal quantile, nothing flipped in n images gives +-z^2 / (n + z^2), so never [0, 0].
    Source: Tango, Statistics in Medicine 17 (1998) 891, section 3: all drops that the score test does not reject.
    """
    rw, wr, n = _as_paired_counts(n_rw, n_wr, n)
    z = _normal_quantile(confidence)
    return Interval(-_find_upper_limit(wr, rw, n, z), _find_upper_limit(rw, wr, n, z))


def upper_drop_limit(n_rw: ArrayLike, n_wr: ArrayLike, n: ArrayLike, *, level: ArrayLike) -> Floats:
    """Return the largest paired drop that a one-sided score test at `level` does not reject; n = 0 gives nan.

    `level` is a number or one for each drop, such as 0.05 for a limit at 95 %. Source: as `drop_interval`.
    """
    rw, wr, n = _as_paired_counts(n_rw, n_wr, n)
    return _find_upper_limit(rw, wr, n, -special.ndtri(np.asarray(level, dtype=np.float64)))


def excess_gap(n_rw: ArrayLike, n_wr: ArrayLike, n: ArrayLike) -> ExcessGap:
    """Return each group's drop minus the overall drop, with its 95 % interval and two-sided p.

    The last axis holds *all* groups of one grouping, as the overall drop is taken over them; leading axes are trials.
    d_g - d_overall = (1 - n_g / N) (d_g - d_rest), and the rest shares no image with the group: the interval and p are
    those of a difference of two independent drops. p < .05 exactly where the interval excludes 0. All are nan for
    an empty group and for a group without a rest.
    Sources: EAG: Hashemizadeh et al., Balancing Act, ICLR 2024, section 3; interval: MOVER, Zou and Donner, Statistics
    in Medicine 27 (2008) 1693, section 2, on Tango's limits of the two drops; p: the z at which a limit meets 0.
    """
    rw, wr, n = _as_paired_counts(n_rw, n_wr, n)
    total = np.nansum(n, axis=-1, keepdims=True)
    n_rest = np.where(total > n, total - n, np.nan)
    rest = (rw.sum(axis=-1, keepdims=True) - rw, wr.sum(axis=-1, keepdims=True) - wr, n_rest)
    share_of_rest = n_rest / total
    difference = _drop(rw, wr, n) - _drop(*rest)
    high = _find_upper_difference((rw, wr, n), rest)
    low = -_find_upper_difference((wr, rw, n), (rest[1], rest[0], n_rest))
    p = _find_difference_p((rw, wr, n), rest)
    return ExcessGap(share_of_rest * difference, share_of_rest * low, share_of_rest * high, p)


def mcnemar_p(n_rw: ArrayLike, n_wr: ArrayLike) -> np.ndarray:
    """Return the exact two-sided p that flips go either way alike; 1 where nothing flipped.

    It says that a group changed, not that it lost more than others: for that, see `excess_gap`.
    Source: McNemar, Psychometrika 12 (1947) 153; exact binomial form, twice the smaller tail.
    """
    rw, wr = np.broadcast_arrays(np.asarray(n_rw, dtype=np.int64), np.asarray(n_wr, dtype=np.int64))
    if np.any((rw < 0) | (wr < 0)):
        raise ValueError("`n_rw` and `n_wr` must be at least 0; count flips, do not subtract them.")
    fewer = np.minimum(rw, wr)
    return np.minimum(2 * special.bdtr(fewer.astype(np.float64), rw + wr, 0.5), 1.0)


def mean_interval(total: ArrayLike, total_of_squares: ArrayLike, n: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return the t interval of a mean from the sum and the sum of squares of n values; n < 2 gives nan.

    Made for losses and entropies (of order 1): two sums lose the variance of values that are nearly all one number.
    Source: Student, Biometrika 6 (1908) 1.
    """
    total, squares, n = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (total, total_of_squares, n)))
    n = np.where(n >= 2, n, np.nan)
    mean = total / n
    variance = np.maximum(squares - total * mean, 0) / (n - 1)
    half = special.stdtrit(n - 1, (1 + _checked(confidence)) / 2) * np.sqrt(variance / n)
    return Interval(mean - half, mean + half)


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}; 95 % is 0.95.")
    return confidence


def _normal_quantile(confidence: float) -> float:
    return float(special.ndtri((1 + _checked(confidence)) / 2))


def _first(values: np.ndarray, mask: np.ndarray) -> str:
    return f"{values[mask].ravel()[0]:g}"


def _as_paired_counts(n_rw: ArrayLike, n_wr: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Check the counts and return them in one shape, an empty group's n as nan."""
    rw, wr, n = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (n_rw, n_wr, n)))
    if np.any((rw < 0) | (wr < 0)):
        raise ValueError("`n_rw` and `n_wr` must be at least 0; count flips, do not subtract them.")
    if np.any(too_many := rw + wr > n):
        raise ValueError(
            f"`n_rw + n_wr` must be at most `n`, got {_first(rw + wr, too_many)} of {_first(n, too_many)}; "
            "count both over the same images."
        )
    return rw, wr, np.where(n > 0, n, np.nan)


def _drop(rw: Floats, wr: Floats, n: Floats) -> Floats:
    return (rw - wr) / n


def find_won_share(rw: Floats, wr: Floats, n: Floats, drop: Floats | float) -> Floats:
    """Return the share of images that are won which is most likely where the true drop is `drop`.

    Source: as `drop_interval`, equation 6 and appendix.
    """
    b = (2 * n - rw + wr) * drop - rw - wr
    c = -wr * drop * (1 - drop)
    return (np.sqrt(np.maximum(b * b - 8 * n * c, 0)) - b) / (4 * n)


def score_drop(rw: Floats, wr: Floats, n: Floats, drop: Floats | float) -> Floats:
    """Return Tango's z of "the true drop is `drop`"; it falls from +inf at -1 to -inf at 1 and is 0 at the estimate.

    The variance uses the maximum-likelihood share of `wr` under that drop (equation 6 and appendix of the paper).
    """
    variance = n * np.maximum(2 * find_won_share(rw, wr, n, drop) + drop * (1 - drop), 0)
    excess = rw - wr - n * drop
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, excess / np.sqrt(variance), np.where(excess == 0, 0, np.sign(excess) * np.inf))


def _bisect(is_too_far: Callable[[Floats], np.ndarray], near: Floats, far: Floats) -> Floats:
    """Return the nearest points found that are too far, or `far` where none is."""
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        too_far = is_too_far(middle)
        near, far = np.where(too_far, near, middle), np.where(too_far, middle, far)
    return far


def _find_upper_limit(rw: Floats, wr: Floats, n: Floats, z: ArrayLike) -> Floats:
    drop = _drop(rw, wr, n)
    lowest = -np.asarray(z)
    return _bisect(lambda d: score_drop(rw, wr, n, d) < lowest, drop, np.where(np.isnan(n), np.nan, 1.0))


_Counts: TypeAlias = tuple[Floats, Floats, Floats]


def _find_upper_difference(group: _Counts, rest: _Counts) -> Floats:
    """Return the upper MOVER limit of (drop of group - drop of rest)."""
    above = _find_upper_limit(*group, _Z95) - _drop(*group)
    below = _find_upper_limit(rest[1], rest[0], rest[2], _Z95) + _drop(*rest)  # the mirrored rest: d_rest - its low
    return _drop(*group) - _drop(*rest) + np.hypot(above, below)


def _find_difference_p(group: _Counts, rest: _Counts) -> Floats:
    """Return the p at which the MOVER limit nearer to 0 is 0.

    The limit lies hypot(x, y) from the difference, where x and y are how far the two drops' own limits lie from them
    at one common z. So x and y are on a circle of radius |difference|; going along it the group's z falls and the
    rest's rises, and they meet once.
    """
    difference = _drop(*group) - _drop(*rest)

    def scores(angle: Floats) -> tuple[Floats, Floats]:
        of_group = score_drop(*group, _drop(*group) - difference * np.cos(angle))
        return np.abs(of_group), np.abs(score_drop(*rest, _drop(*rest) + difference * np.sin(angle)))

    zero = np.zeros_like(difference)
    angle = _bisect(lambda a: np.less(*scores(a)), zero, zero + np.pi / 2)
    return 2 * special.ndtr(-np.minimum(*scores(angle)))
