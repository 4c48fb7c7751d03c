"""One-sided limits of what a model loses, for each group and for all images: the numbers that every word rests on.

Legend: G groups of one grouping, C = G + 1 cells (the groups and, last, all images), S seeds. The last axis holds
groups or cells; the axes before it are models, or sets of models. Drops are fractions, and positive is a loss.

- Upper limits of a drop are at 95 % each and are not corrected. "No cell loses more than x" needs every cell, so it is
  wrong only if the limit of the cell that loses most is wrong (an intersection-union test: Berger, Technometrics 24
  (1982) 295).
- Lower limits share 2.5 % among the cells (Bonferroni), because "some cell loses more than x" needs one cell alone.
  Half an image is taken off the lost ones: Tango's one-sided error reaches 1.5 times the nominal one where all flips
  go one way.
- Over seeds a limit is the wider one of two: that of the counts' means over the seeds, as if the seeds were one model,
  and a t limit whose variance is that of the images plus that of the seeds.

`tests/test_limits.py` measures both errors on a grid of cells.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from quantfair.results.statistics.intervals import Floats, upper_drop_limit

UPPER_LEVEL: Final = 0.05
LOWER_LEVEL: Final = 0.025
HALF_IMAGE: Final = 0.5
LEAST_SHARE: Final = 1e-6  # of the seeds in a variance: keeps degrees of freedom finite


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedCounts:
    """Images of every group of a grouping: lost (right before, wrong now), won (the reverse), and all of them.

    Over several seeds `lost` and `won` are means over the seeds, and `seeds` says how the seeds differ.
    """

    lost_G: Floats
    won_G: Floats
    n_G: Floats
    seeds: "SeedSpread | None" = None

    @classmethod
    def of(cls, lost: ArrayLike, won: ArrayLike, n: ArrayLike, seeds: "SeedSpread | None" = None) -> "PairedCounts":
        """Return counts of one shape; an empty group has n = 0."""
        lost, won, n = np.broadcast_arrays(*(np.asarray(part, dtype=np.float64) for part in (lost, won, n)))
        return cls(lost_G=lost, won_G=won, n_G=n, seeds=seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSpread:
    """How models of several seeds differ on the same images.

    `drops_SG` are the drops of the seeds. `squares_G` is the sum over the images of a group of the squared mean over
    the seeds of its outcomes, which are 1 (lost), -1 (won) and 0.
    """

    drops_SG: Floats
    squares_G: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Drops with their limits by cell, and the excess of each group over all other images with its lower limit.

    Limits are nan for a group that takes no part.
    """

    drop_C: Floats
    lower_C: Floats
    upper_C: Floats
    excess_G: Floats
    excess_lower_G: Floats


def measure_limits(counts: PairedCounts, *, takes_part: ArrayLike | None = None) -> Limits:
    """Return the limits of a model, or of the mean over seeds, from the counts of all groups of a grouping.

    The groups together are all images. Only groups that take part are cells (default: all that have images).
    Sources: Tango, Statistics in Medicine 17 (1998) 891, section 3; for the difference of a group and the others MOVER,
    Zou and Donner, Statistics in Medicine 27 (2008) 1693, section 2; over seeds `statistics/crossed.py`.
    """
    has_images = counts.n_G > 0
    takes_part_G = has_images if takes_part is None else np.broadcast_to(takes_part, has_images.shape) & has_images
    n_cells = takes_part_G.sum(axis=-1, keepdims=True) + 1
    lower_level = LOWER_LEVEL / n_cells

    cells = _append_whole(counts)
    others = _subtract_each(counts)
    drop_C = _divide(cells.lost_G - cells.won_G, cells.n_G)
    drop_others_G = _divide(others.lost_G - others.won_G, others.n_G)
    excess_G = drop_C[..., :-1] - drop_others_G

    upper_C = _find_upper(cells, UPPER_LEVEL)
    lower_C = _find_lower(cells, lower_level)
    upper_others_G = _find_upper(others, lower_level)
    reach_G = np.hypot(drop_C[..., :-1] - lower_C[..., :-1], upper_others_G - drop_others_G)
    excess_lower_G = excess_G - reach_G

    if counts.seeds is not None:
        error_C, freedom_C = _measure_error(cells, drop_C)
        upper_C = np.fmax(upper_C, drop_C + special.stdtrit(freedom_C, 1 - UPPER_LEVEL) * error_C)
        lower_C = np.fmin(lower_C, drop_C - special.stdtrit(freedom_C, 1 - lower_level) * error_C)
        error_G, freedom_G = _measure_excess_error(cells, others, drop_C)
        excess_lower_G = np.fmin(excess_lower_G, excess_G - special.stdtrit(freedom_G, 1 - lower_level) * error_G)

    is_cell_C = np.concatenate([takes_part_G, np.ones_like(takes_part_G[..., :1])], axis=-1)
    return Limits(
        drop_C=drop_C,
        lower_C=np.where(is_cell_C, lower_C, np.nan),
        upper_C=np.where(is_cell_C, upper_C, np.nan),
        excess_G=excess_G,
        excess_lower_G=np.where(takes_part_G, excess_lower_G, np.nan),
    )


def _find_upper(counts: PairedCounts, level: ArrayLike) -> Floats:
    """Return the upper limit of each drop at a one-sided level."""
    return upper_drop_limit(counts.lost_G, counts.won_G, counts.n_G, level=level)


def _find_lower(counts: PairedCounts, level: ArrayLike) -> Floats:
    """Return the lower limit of each drop at a one-sided level, half an image in favour of the model."""
    lost_G = np.maximum(counts.lost_G - HALF_IMAGE, 0)
    return -upper_drop_limit(counts.won_G, lost_G, counts.n_G, level=level)


def _append_whole(counts: PairedCounts) -> PairedCounts:
    """Return the counts of the groups and, last, of all images."""

    def append(part_G: Floats) -> Floats:
        return np.concatenate([part_G, part_G.sum(axis=-1, keepdims=True)], axis=-1)

    seeds = None
    if counts.seeds is not None:
        drops_SG = counts.seeds.drops_SG
        weight_G = counts.n_G / counts.n_G.sum(axis=-1, keepdims=True)
        whole_S1 = np.nansum(drops_SG * weight_G, axis=-1, keepdims=True)
        drops_SC = np.concatenate([drops_SG, whole_S1], axis=-1)
        seeds = SeedSpread(drops_SG=drops_SC, squares_G=append(counts.seeds.squares_G))
    return PairedCounts(lost_G=append(counts.lost_G), won_G=append(counts.won_G), n_G=append(counts.n_G), seeds=seeds)


def _subtract_each(counts: PairedCounts) -> PairedCounts:
    """Return for each group the counts of all other images, which share none with it."""

    def subtract(part_G: Floats) -> Floats:
        return part_G.sum(axis=-1, keepdims=True) - part_G

    n_others_G = subtract(counts.n_G)
    seeds = None
    if counts.seeds is not None:
        lost_less_won_SG = np.nan_to_num(counts.seeds.drops_SG) * counts.n_G
        drops_SG = _divide(subtract(lost_less_won_SG), n_others_G)
        seeds = SeedSpread(drops_SG=drops_SG, squares_G=subtract(counts.seeds.squares_G))
    return PairedCounts(lost_G=subtract(counts.lost_G), won_G=subtract(counts.won_G), n_G=n_others_G, seeds=seeds)


def _measure_error(counts: PairedCounts, drop_G: Floats) -> tuple[Floats, Floats]:
    """Return the standard error of drops over seeds and images, and its degrees of freedom."""
    assert counts.seeds is not None
    return _add_variances(_measure_image_variance(counts, drop_G), counts.seeds.drops_SG)


def _measure_excess_error(cells: PairedCounts, others: PairedCounts, drop_C: Floats) -> tuple[Floats, Floats]:
    """Return the same for the excess of each group over the others: other images, and the same seeds."""
    assert cells.seeds is not None
    assert others.seeds is not None
    drop_others_G = _divide(others.lost_G - others.won_G, others.n_G)
    of_group = _measure_image_variance(cells, drop_C)[..., :-1]
    of_others = _measure_image_variance(others, drop_others_G)
    return _add_variances(of_group + of_others, cells.seeds.drops_SG[..., :-1] - others.seeds.drops_SG)


def _measure_image_variance(counts: PairedCounts, drop_G: Floats) -> Floats:
    """Return the squared standard error of each drop as a mean over images, the seeds being fixed."""
    assert counts.seeds is not None
    variance = _divide(counts.seeds.squares_G, counts.n_G) - drop_G**2
    return _divide(np.maximum(variance, 0), counts.n_G)


def _add_variances(of_images: Floats, by_seed_SG: Floats) -> tuple[Floats, Floats]:
    """Return the root of the sum of the variances of images and of seeds, and the degrees of freedom of the sum.

    The seeds alone have few degrees of freedom: S - 1. After Satterthwaite, Biometrics Bulletin 2 (1946) 110, as in
    `crossed`: with r the share of the seeds in the sum there are (S - 1) / r.
    """
    n_seeds = len(by_seed_SG)
    of_seeds = by_seed_SG.var(axis=0, ddof=1) / n_seeds
    total = of_images + of_seeds
    share = np.divide(of_seeds, total, out=np.zeros_like(total), where=total > 0)
    return np.sqrt(total), (n_seeds - 1) / np.maximum(share, LEAST_SHARE)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    """Return a quotient, nan where it is of nothing."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)
