"""Whether groups differ by more than noise: a studentized permutation test, and what a spread shows by chance.

Legend: N images, G groups, C columns (trials, pairs, contrasts: whatever has one value for each image), B permutations.
All columns share the permutations. 500 columns of 10,000 images in 10 groups, outcomes or losses, take 0.5 s; products
of matrices, the groups of every permutation by the values, take 11 s (2 cores, numpy 2).

Means are not compared as they are: permuting the raw drops of small groups that flip often gives 22 to 28 % false
alarms at a nominal 5 %. Each permuted mean is divided by its own standard error, as the observed one is.
Source: Janssen, Statistics & Probability Letters 36 (1997) 9, for two groups; Chung and Romano, Annals of Statistics 41
(2013) 484; for several groups: Pauly, Brunner and Konietschke, JRSS B 77 (2015) 461, section 3.
"""

from typing import Final, NamedTuple

import numpy as np

from quantfair.results.statistics.permuted_sums import is_outcome, permute, sum_outcomes, sum_ranked

N_PERMUTATIONS: Final = 1000  # the observed groups are one of them
_SEED: Final = 20_240_611


class Evenness(NamedTuple):
    """One number a column; all nan where fewer than two groups take part.

    `p` is that of "all groups have one mean"; its smallest value is 1 / N_PERMUTATIONS. `spread` is the largest minus
    the smallest mean, `null_mean` and `null_q95` its mean and 95 % quantile by chance, were all means one and every
    group as noisy as it is: the larger of what permuted and of what normal effects of these standard errors give.
    (Permuted effects alone are exceeded by 25 % of null spreads where a small group flips 1 % and the rest 0.1 %.)
    `variance` is that of the means between groups, less what noise adds to it, at least 0.
    """

    p: np.ndarray
    spread: np.ndarray
    null_mean: np.ndarray
    null_q95: np.ndarray
    variance: np.ndarray


class _Design(NamedTuple):
    """What all columns share: who is in which of the groups, how large these are, and normal noise for each, G x B."""

    members_GN: np.ndarray
    n_G1: np.ndarray
    noise_GB: np.ndarray


class _Effects(NamedTuple):
    """Means of groups, less that of all images, and their squared standard errors: C x G x B."""

    mean: np.ndarray
    squared_error: np.ndarray


def measure_evenness(
    values_NC: np.ndarray, codes_N: np.ndarray, n_groups: int, *, takes_part_GC: np.ndarray | None = None
) -> Evenness:
    """Test for every column whether the means of the groups differ.

    `codes_N` are the groups of the images; images with a negative code belong to none and are left out.
    `takes_part_GC` says which groups count in which column (default: all that have two images). An empty group never
    counts.
    """
    values_NC, codes_N = values_NC[codes_N >= 0], codes_N[codes_N >= 0]
    shape, order_G = (n_groups, values_NC.shape[1]), sort_groups(codes_N, n_groups)
    codes_N = order_G.argsort()[codes_N]
    takes_part_GC = np.broadcast_to(True if takes_part_GC is None else takes_part_GC, shape)[order_G]
    takes_part_GC = takes_part_GC & (np.bincount(codes_N, minlength=n_groups) >= 2)[:, None]
    found = np.full((len(Evenness._fields), shape[1]), np.nan)
    groups_G, can_tell_C = np.flatnonzero(takes_part_GC.any(axis=1)), takes_part_GC.sum(axis=0) >= 2
    if not can_tell_C.any():
        return Evenness(*found)
    design, permuted_BN = _design(codes_N, groups_G), permute(np.sort(codes_N), N_PERMUTATIONS - 1, _SEED)
    outcomes_C = is_outcome(values_NC)
    for chosen_C, add_up in ((can_tell_C & outcomes_C, sum_outcomes), (can_tell_C & ~outcomes_C, sum_ranked)):
        columns = np.flatnonzero(chosen_C)
        for few, total, squares in add_up(values_NC[:, columns], permuted_BN, groups_G):
            here = columns[few]
            found[:, here] = _test(
                values_NC[:, here], (total, squares), design, takes_part_GC[np.ix_(groups_G, here)].T
            )
    return Evenness(*found)


def sort_groups(codes_N: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the groups by falling size, equal ones by their first image: an order that names do not decide."""
    n_G = np.bincount(codes_N[codes_N >= 0], minlength=n_groups)
    first_G = np.array([(codes_N == group).argmax() for group in range(n_groups)])
    return np.lexsort(np.stack([first_G, -n_G]))


def _design(codes_N: np.ndarray, groups_G: np.ndarray) -> _Design:
    members_GN = (codes_N == groups_G[:, None]).astype(np.float32)
    drawn = [np.random.default_rng([_SEED, group]).standard_normal(N_PERMUTATIONS) for group in groups_G]
    return _Design(members_GN, members_GN.sum(axis=1, keepdims=True), np.array(drawn, dtype=np.float32))


def _test(
    values_NC: np.ndarray, permuted_sums: tuple[np.ndarray, np.ndarray], design: _Design, takes_part_CG: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return the fields of Evenness for a few columns."""
    values_NC, out_CG1 = values_NC.astype(np.float32), ~takes_part_CG[:, :, None]
    total, squares = ((design.members_GN @ part).T[:, :, None] for part in (values_NC, values_NC**2))
    observed = _estimate(total, squares, design.n_G1, values_NC)
    permuted = _estimate(*permuted_sums, design.n_G1, values_NC)
    statistic_C1, statistic_CB = _weigh(observed, out_CG1), _weigh(permuted, out_CG1)
    error_CG1 = np.sqrt(observed.squared_error)
    permuted_CB = _spread(permuted.mean * (error_CG1 / np.sqrt(permuted.squared_error)), out_CG1)
    normal_CB = _spread(design.noise_GB * error_CG1, out_CG1)
    return (
        (1 + (statistic_CB >= statistic_C1 * (1 - 1e-5)).sum(axis=1)) / N_PERMUTATIONS,
        _spread(observed.mean, out_CG1)[:, 0],
        np.maximum(permuted_CB.mean(axis=1), normal_CB.mean(axis=1)),
        np.maximum(np.quantile(permuted_CB, 0.95, axis=1), np.quantile(normal_CB, 0.95, axis=1)),
        _correct(observed, takes_part_CG),
    )


def _estimate(total: np.ndarray, squares: np.ndarray, n_G1: np.ndarray, values_NC: np.ndarray) -> _Effects:
    """A variance is that of one image more, whose value is typical of those that are not 0, so that it is never 0."""
    n_values_C = np.count_nonzero(values_NC, axis=0)
    step_C = np.divide((values_NC**2).sum(axis=0), n_values_C, out=np.ones_like(values_NC[0]), where=n_values_C > 0)
    mean = total / n_G1
    variance = (squares + step_C[:, None, None]) / (n_G1 + 1) - mean**2 * (n_G1 / (n_G1 + 1))
    squared_error = (np.maximum(variance, 0) + np.float32(1e-12)) / n_G1
    return _Effects(mean - values_NC.mean(axis=0)[:, None, None], squared_error)


def _weigh(effects: _Effects, out_CG1: np.ndarray) -> np.ndarray:
    """Return the sum of w (mean - weighted mean)^2 over groups, w being one over the squared standard error: C x B."""
    weight = 1 / effects.squared_error
    if out_CG1.any():
        weight = np.where(out_CG1, 0, weight)
    centre = (weight * effects.mean).sum(axis=1) / weight.sum(axis=1)
    return (weight * (effects.mean - centre[:, None]) ** 2).sum(axis=1)


def _spread(values: np.ndarray, out_CG1: np.ndarray) -> np.ndarray:
    """Return the largest minus the smallest of the groups that take part, C x B."""
    if not out_CG1.any():
        return values.max(axis=1) - values.min(axis=1)
    return np.where(out_CG1, -np.inf, values).max(axis=1) - np.where(out_CG1, np.inf, values).min(axis=1)


def _correct(observed: _Effects, takes_part_CG: np.ndarray) -> np.ndarray:
    """Return the variance between the groups less the mean of their squared standard errors, at least 0.

    Source: Lum, Zhang and Bower, FAccT 2022, section 4.
    """
    mean_CG, squared_error_CG = (part[:, :, 0].astype(np.float64) for part in observed)
    n_C = takes_part_CG.sum(axis=1)
    centre_C = (mean_CG * takes_part_CG).sum(axis=1) / n_C
    between_C = (takes_part_CG * (mean_CG - centre_C[:, None]) ** 2).sum(axis=1) / (n_C - 1)
    return np.maximum(between_C - (squared_error_CG * takes_part_CG).sum(axis=1) / n_C, 0)
