"""Intervals of drops over seeds and images, from the draws of the crossed bootstrap.

Legend: K contrasts, G groups, S seeds, B resamples. All drops are fractions.

A percentile interval knows too little where there are few seeds or few flips, so three are joined, each holding where
the others are too short (the tests simulate it):

- percentiles of the crossed bootstrap;
- estimate -+ t x the bootstrap's standard error, with (S - 1) / r degrees of freedom where the seeds' variance is the
  share r of it. After Satterthwaite, Biometrics Bulletin 2 (1946) 110, whose r^2 takes r for known: three seeds of
  2,000 images, flips of 8 -+ 2.4 %, then cover 92.9 % in place of 94.5 % (800 draws);
- an interval for proportions, Tango's or MOVER on Tango's, of the counts' means over the seeds: as if all seeds were
  one. It is never [0, 0].
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from quantfair.results.statistics.intervals import Interval, drop_interval
from quantfair.results.statistics.resampling import draw_seed_weights, percentile_interval, widen


class Counts(NamedTuple):
    """Images of each group that are right on the other side alone (`rw`) and in the trial alone (`wr`); of `n`."""

    rw: np.ndarray
    wr: np.ndarray
    n: np.ndarray

    @property
    def drop(self) -> np.ndarray:
        """The accuracy of the other side minus that of the trial; nan for an empty group."""
        return (self.rw - self.wr) / np.where(self.n > 0, self.n, np.nan)


def resample_drops(means_BGT: np.ndarray, plus_KS: np.ndarray, minus_KS: np.ndarray) -> np.ndarray:
    """Return the drops under every resample, B x G x K: mean of the columns `plus` less that of `minus`."""
    weights_BS = draw_seed_weights(plus_KS.shape[1])
    drops_BGK = np.zeros((*means_BGT.shape[:2], len(plus_KS)), dtype=np.float32)
    for weight_B, plus_K, minus_K in zip(weights_BS.T, plus_KS.T, minus_KS.T, strict=True):
        drops_BGK += weight_B[:, None, None] * (means_BGT[:, :, plus_K] - means_BGT[:, :, minus_K])
    return drops_BGK


def crossed_interval(drawn_B: np.ndarray, by_seed_S: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """Return the interval of a mean over seeds and images; the first axis is that of resamples, or of seeds."""
    n_seeds, mean = len(by_seed_S), by_seed_S.mean(axis=0)
    variance = drawn_B.var(axis=0, dtype=np.float64)
    quantile = np.full(mean.shape, special.ndtri((1 + confidence) / 2))
    if n_seeds > 1:
        of_seeds = by_seed_S.var(axis=0, ddof=1) / n_seeds
        share = np.divide(of_seeds, variance, out=np.zeros_like(mean), where=variance > 0).clip(0, 1)
        quantile = special.stdtrit((n_seeds - 1) / np.maximum(share, 1e-6), (1 + confidence) / 2)
    half = quantile * np.sqrt(variance)
    return widen(percentile_interval(drawn_B, confidence=confidence), Interval(mean - half, mean + half))


def t_interval(by_seed_S: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """Return the t interval of the mean over seeds, the first axis; the test images count as fixed.

    nan where all seeds have one value: counts of images do that by chance, and it says nothing of other seeds.
    Source: Student, Biometrika 6 (1908) 1.
    """
    n_seeds, mean = len(by_seed_S), by_seed_S.mean(axis=0)
    half = special.stdtrit(n_seeds - 1, (1 + confidence) / 2) * by_seed_S.std(axis=0, ddof=1) / np.sqrt(n_seeds)
    half = np.where(np.ptp(by_seed_S, axis=0) > 0, half, np.nan)
    return Interval(mean - half, mean + half)


def subtract(interval: Interval, value: np.ndarray, other: Interval, other_value: np.ndarray) -> Interval:
    """Return the interval of a difference of two estimates from theirs, as if they were independent.

    Source: MOVER, Zou and Donner, Statistics in Medicine 27 (2008) 1693, section 2.
    """
    low = np.hypot(value - interval.low, other.high - other_value)
    high = np.hypot(interval.high - value, other_value - other.low)
    return Interval(value - other_value - low, value - other_value + high)


def interval_of_counts(counts: Counts, subtracted: Counts | None = None, *, confidence: float = 0.95) -> Interval:
    """Return the interval of the drop, less the subtracted one where there is one, from real-valued counts."""
    interval = drop_interval(*counts, confidence=confidence)
    if subtracted is None:
        return interval
    other = drop_interval(*subtracted, confidence=confidence)
    return subtract(interval, counts.drop, other, subtracted.drop)
