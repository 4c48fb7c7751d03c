"""Demographic parity and equalized odds: counts of predictions in, differences between groups and their floors out.

Legend: T trials, G groups, Y true classes, K predicted classes, R rates (of K classes, or two for each), B draws.

Multiclass is one-vs-rest: a difference for each class, then the largest and the mean over classes. With two classes
both are what fairlearn gives for either of them.

Under permutation all groups have the same rate, whose noise is known without permuting (hypergeometric). So normal
draws with that covariance, multinomial over the classes and the same for all trials, stand for the permutations. For
parity images are permuted, for odds the images of each true class: the floor of odds holds what an unequal mix of
classes in the groups does to a false positive rate.
"""

from typing import Final, NamedTuple

import numpy as np

from quantfair.results.schema import MIN_RANKED

N_DRAWS: Final = 999
_SEED: Final = 20_240_613
_SQUARED_ROUNDING: Final = 1e-12  # shares add up to 1, so that a covariance has no inverse
_CELLS_IN_CACHE: Final = 400  # trials x groups x rates, of N_DRAWS each


class RateGap(NamedTuple):
    """One number a trial: the difference of rates between groups; its mean, 95 % quantile and p by chance."""

    value: np.ndarray
    null_mean: np.ndarray
    null_q95: np.ndarray
    p: np.ndarray


class RateGaps(NamedTuple):
    """The largest difference of a class, and the mean over the classes."""

    largest: RateGap
    mean: RateGap


class _Rates(NamedTuple):
    """Rates of groups, those expected by chance, and what makes their covariance.

    The noise of a rate is the sum over strata of `unit_GYR` times that of a share of `share_TYR` in one image.
    """

    rate_TGR: np.ndarray
    expected_TGR: np.ndarray
    share_TYR: np.ndarray
    unit_GYR: np.ndarray
    ranks_GR: np.ndarray


def measure_parity(counts_TGYK: np.ndarray) -> RateGaps:
    """Return the demographic parity differences: of P(predicted = k | group).

    `counts_TGYK`: images by group, true and predicted class. Noise is drawn for groups in their order.
    Source: Agarwal et al., A reductions approach to fair classification, ICML 2018, definition 1.
    """
    counts_TGK = counts_TGYK.sum(axis=2)
    n_G = counts_TGK[0].sum(axis=1)
    share_TK = counts_TGK.sum(axis=1) / n_G.sum()
    rates = _Rates(
        counts_TGK / n_G[:, None],
        share_TK[:, None],
        share_TK[:, None],
        np.broadcast_to(_correct_for_pool(n_G.sum()) / np.sqrt(n_G)[:, None, None], (len(n_G), 1, share_TK.shape[1])),
        np.broadcast_to((n_G >= MIN_RANKED)[:, None], counts_TGK.shape[1:]),
    )
    return _measure(rates, n_kinds=1)


def measure_odds(counts_TGYK: np.ndarray) -> RateGaps | None:
    """Return the equalized odds differences: the larger one of true and of false positive rates.

    Rates of fewer than MIN_RANKED images are left out, and classes whose true positive rate fewer than two groups have.
    None where no class is left.
    Source: Agarwal et al., definition 2; the larger of both as in fairlearn's equalized_odds_difference.
    """
    n_GY = counts_TGYK[0].sum(axis=2)
    n_rest_GY = n_GY.sum(axis=1, keepdims=True) - n_GY
    ranks_GK = n_GY >= MIN_RANKED
    kept = np.flatnonzero((ranks_GK.sum(axis=0) >= 2) & ((n_rest_GY >= MIN_RANKED).sum(axis=0) >= 2))
    if not len(kept):
        return None
    is_own_YK = np.eye(n_GY.shape[1], dtype=bool)[:, kept]
    share_TYK = counts_TGYK.sum(axis=1)[:, :, kept] / np.maximum(n_GY.sum(axis=0), 1)[:, None]
    rates, expected, units = [], [], []
    for of_rate_YK, n_GK in ((is_own_YK, n_GY[:, kept]), (~is_own_YK, n_rest_GY[:, kept])):
        n_GK = np.maximum(n_GK, 1)
        rates.append((counts_TGYK[:, :, :, kept] * of_rate_YK).sum(axis=2) / n_GK)
        expected.append(np.einsum("gy,tyk,yk->tgk", n_GY, share_TYK, of_rate_YK) / n_GK)
        weight_GY = np.sqrt(n_GY) * _correct_for_pool(n_GY.sum(axis=0))
        units.append(weight_GY[:, :, None] * of_rate_YK / n_GK[:, None])
    ranks = [ranks_GK[:, kept], n_rest_GY[:, kept] >= MIN_RANKED]
    parts = (np.concatenate(found, axis=-1) for found in (rates, expected, [share_TYK] * 2, units, ranks))
    return _measure(_Rates._make(parts), n_kinds=2)


def _correct_for_pool(n: np.ndarray) -> np.ndarray:
    """Groups are drawn from a pool of n without putting back: differences vary more by n / (n - 1)."""
    return np.sqrt(n / np.maximum(n - 1, 1))


def _measure(rates: _Rates, *, n_kinds: int) -> RateGaps:
    """`n_kinds`: how many rates each class has; the one with the largest difference counts."""
    n_groups, n_rates = rates.ranks_GR.shape
    noise_GBR = np.random.default_rng(_SEED).standard_normal((n_groups, N_DRAWS, n_rates), dtype=np.float32)
    step, parts = max(1, _CELLS_IN_CACHE // (n_groups * n_rates)), []
    for at in range(0, len(rates.rate_TGR), step):
        few = slice(at, at + step)
        root_TGRR = _take_root(rates.share_TYR[few], rates.unit_GYR).astype(np.float32)
        expected_TGR = np.broadcast_to(rates.expected_TGR[few], rates.rate_TGR[few].shape).astype(np.float32)
        null_TGBR = noise_GBR @ root_TGRR + expected_TGR[:, :, None]
        spread_TBR = _spread(null_TGBR, rates.ranks_GR[:, None])
        spread_TR = _spread(rates.rate_TGR[few], rates.ranks_GR)
        by_class = (np.stack(np.split(spread, n_kinds, axis=-1)).max(axis=0) for spread in (spread_TR, spread_TBR))
        parts.append(_summarize(*by_class))
    return RateGaps(*(RateGap(*np.concatenate(found, axis=1)) for found in zip(*parts, strict=True)))


def _take_root(share_TYR: np.ndarray, unit_GYR: np.ndarray) -> np.ndarray:
    """Return a root of every group's covariance: diag(sum u^2 q) - sum (u q)(u q)', sums over strata."""
    uq_TGYR = unit_GYR * share_TYR[:, None]
    covariance_TGRR = -(np.swapaxes(uq_TGYR, -1, -2) @ uq_TGYR)
    diagonal = np.arange(share_TYR.shape[-1])
    covariance_TGRR[..., diagonal, diagonal] += (unit_GYR * uq_TGYR).sum(axis=2) + _SQUARED_ROUNDING
    return np.swapaxes(np.linalg.cholesky(covariance_TGRR), -1, -2)


def _spread(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return the largest minus the smallest over the groups, on the second axis."""
    if ranks.all():
        return values.max(axis=1) - values.min(axis=1)
    return np.where(ranks, values, -np.inf).max(axis=1) - np.where(ranks, values, np.inf).min(axis=1)


def _summarize(spread_TK: np.ndarray, null_TBK: np.ndarray) -> list[np.ndarray]:
    """Return the fields of RateGap, 4 x T, for the largest and for the mean class."""
    found = []
    for value_T, null_TB in (
        (spread_TK.max(axis=-1), null_TBK.max(axis=-1)),
        (spread_TK.mean(axis=-1), null_TBK.mean(axis=-1)),
    ):
        p_T = (1 + (null_TB >= value_T[:, None] * (1 - 1e-5)).sum(axis=1)) / (1 + N_DRAWS)
        found.append(np.stack([value_T, null_TB.mean(axis=1), np.quantile(null_TB, 0.95, axis=1), p_T]))
    return found
