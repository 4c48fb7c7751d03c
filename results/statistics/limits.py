"""One-sided limits of what a model loses, for each group and for all images: the numbers that every word rests on.

Legend: G groups of one grouping, C = G + 1 cells (the groups and, last, all images), S seeds. The last axis holds
groups or cells; the axes before it are models, or sets of models. Drops are fractions, and positive is a loss.

- Upper limits of a drop are at 95 % each and are not corrected. "No cell loses more than x" needs every cell, so it is
  wrong only if the limit of the cell that loses most is wrong (an intersection-union test: Berger, Technometrics 24
  (1982) 295).
- Lower limits share 2.5 % among the cells (Bonferroni), because "some cell loses more than x" needs one cell alone.
  Half an image is taken off the lost ones: Tango's one-sided error reaches 1.5 times the nominal one where all flips
  go one way. Limits of a gain are the mirror image.
- Over seeds a limit is the wider one of two: that of the counts' means over the seeds, as if the seeds were one model,
  and a t limit whose variance is that of the images plus that of the seeds.

`tests/test_limits.py` measures both errors on a grid of cells.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from quantfair.results.statistics.crossed import Counts
from quantfair.results.statistics.intervals import Floats, upper_drop_limit

UPPER_LEVEL: Final = 0.05
LOWER_LEVEL: Final = 0.025
HALF_IMAGE: Final = 0.5
LEAST_SHARE: Final = 1e-6  # of the seeds in a variance: keeps degrees of freedom finite


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

    A cell that gains for certain has a `gain_upper_C` below 0: the upper limit of its drop, corrected like the lower
    limits. Limits are nan for a group that takes no part. `clearest_C` are lower limits that share 2.5 % among more
    cells, those of a whole plan. Over seeds, the squared standard error of a drop is `image_variance_C` plus
    `seed_variance_C` over the number of seeds; both are nan for one model.
    """

    drop_C: Floats
    lower_C: Floats
    upper_C: Floats
    gain_upper_C: Floats
    excess_G: Floats
    excess_lower_G: Floats
    clearest_C: Floats
    image_variance_C: Floats
    seed_variance_C: Floats


def measure_limits(
    n_rw: ArrayLike,
    n_wr: ArrayLike,
    n: ArrayLike,
    *,
    seeds: SeedSpread | None = None,
    takes_part: ArrayLike | None = None,
    n_cells_of_plan: int | None = None,
) -> Limits:
    """Return the limits of a model, or of the mean over seeds, from the counts of all groups of a grouping.

    `n_rw` images were right before and are wrong now (lost), `n_wr` the reverse (won), of `n` in each group; over seeds
    they are means. The groups together are all images; an empty one has n = 0. Only groups that take part are cells
    (default: all that have images). A plan has at least the cells of a row, which is the default.
    Sources: Tango, Statistics in Medicine 17 (1998) 891, section 3; for the difference of a group and the others MOVER,
    Zou and Donner, Statistics in Medicine 27 (2008) 1693, section 2; over seeds `statistics/crossed.py`.
    """
    groups = Counts(*np.broadcast_arrays(*(np.asarray(part, dtype=np.float64) for part in (n_rw, n_wr, n))))
    has_images = groups.n > 0
    takes_part_G = has_images if takes_part is None else np.broadcast_to(takes_part, has_images.shape) & has_images
    is_cell_C = np.concatenate([takes_part_G, np.ones_like(takes_part_G[..., :1])], axis=-1)
    n_cells = is_cell_C.sum(axis=-1, keepdims=True)
    shared_level = LOWER_LEVEL / n_cells
    level_of_plan = LOWER_LEVEL / np.maximum(n_cells, n_cells_of_plan or 0)

    cells = _append_whole(groups)
    others = _subtract_each(groups)
    error_C, error_G = (None, None) if seeds is None else _measure_errors(seeds, groups.n, cells, others)

    upper_C = _widen(upper_drop_limit(*cells, level=UPPER_LEVEL), cells.drop, error_C, UPPER_LEVEL)
    lower_C = -_widen(-lower_limit(cells, level=shared_level), -cells.drop, error_C, shared_level)
    clearest_C = -_widen(-lower_limit(cells, level=level_of_plan), -cells.drop, error_C, level_of_plan)
    gain_upper_C = _widen(-lower_limit(_mirror(cells), level=shared_level), cells.drop, error_C, shared_level)

    excess_G = cells.drop[..., :-1] - others.drop
    below_G = groups.drop - lower_limit(groups, level=shared_level)
    above_G = upper_drop_limit(*others, level=shared_level) - others.drop
    excess_lower_G = -_widen(np.hypot(below_G, above_G) - excess_G, -excess_G, error_G, shared_level)

    def keep(values_C: Floats) -> Floats:
        return np.where(is_cell_C, values_C, np.nan)

    unknown_C = np.full(cells.drop.shape, np.nan)
    return Limits(
        drop_C=cells.drop,
        lower_C=keep(lower_C),
        upper_C=keep(upper_C),
        gain_upper_C=keep(gain_upper_C),
        excess_G=excess_G,
        excess_lower_G=np.where(takes_part_G, excess_lower_G, np.nan),
        clearest_C=keep(clearest_C),
        image_variance_C=unknown_C if error_C is None else error_C.of_images,
        seed_variance_C=unknown_C if error_C is None else error_C.of_seeds * error_C.n_seeds,
    )


@dataclass(frozen=True, slots=True)
class _Error:
    """The squared standard error of a mean over seeds and images, in its two parts."""

    of_images: Floats
    of_seeds: Floats
    n_seeds: int

    def reach(self, level: ArrayLike) -> Floats:
        """Return how far a one-sided t limit lies from the estimate.

        The seeds alone have few degrees of freedom: S - 1. After Satterthwaite, Biometrics Bulletin 2 (1946) 110, as in
        `crossed`: with r the share of the seeds in the sum there are (S - 1) / r.
        """
        total = self.of_images + self.of_seeds
        share = np.divide(self.of_seeds, total, out=np.zeros_like(total), where=total > 0)
        freedom = (self.n_seeds - 1) / np.maximum(share, LEAST_SHARE)
        return special.stdtrit(freedom, 1 - np.asarray(level)) * np.sqrt(total)


def _measure_errors(seeds: SeedSpread, n_G: Floats, cells: Counts, others: Counts) -> tuple[_Error, _Error]:
    """Return the errors of the drops of all cells, and of the excess of each group.

    A group and the others have no image in common, but the same seeds.
    """
    n_seeds = len(seeds.drops_SG)
    n_net_SG = np.nan_to_num(seeds.drops_SG) * n_G  # lost less won
    whole_S1 = n_net_SG.sum(axis=-1, keepdims=True) / n_G.sum(axis=-1, keepdims=True)
    drops_SC = np.concatenate([seeds.drops_SG, whole_S1], axis=-1)
    others_SG = _divide(_sum_others(n_net_SG), others.n)

    of_images_C = _measure_image_variance(cells, _append_sum(seeds.squares_G))
    of_images_G = of_images_C[..., :-1] + _measure_image_variance(others, _sum_others(seeds.squares_G))
    return (
        _Error(of_images_C, drops_SC.var(axis=0, ddof=1) / n_seeds, n_seeds),
        _Error(of_images_G, (drops_SC[..., :-1] - others_SG).var(axis=0, ddof=1) / n_seeds, n_seeds),
    )


def _measure_image_variance(counts: Counts, squares: Floats) -> Floats:
    """Return the squared standard error of each drop as a mean over images, the seeds being fixed."""
    variance = _divide(squares, counts.n) - counts.drop**2
    return _divide(np.maximum(variance, 0), counts.n)


def _widen(upper: Floats, estimate: Floats, error: _Error | None, level: ArrayLike) -> Floats:
    """Return the wider one of an upper limit and, over seeds, the t limit."""
    return upper if error is None else np.fmax(upper, estimate + error.reach(level))


def lower_limit(counts: Counts, *, level: ArrayLike) -> Floats:
    """Return the lower limit of each drop at a one-sided level, half an image in favour of the model."""
    lost = np.maximum(counts.rw - HALF_IMAGE, 0)
    return -upper_drop_limit(counts.wr, lost, counts.n, level=level)


def _mirror(counts: Counts) -> Counts:
    return Counts(counts.wr, counts.rw, counts.n)


def _append_whole(counts: Counts) -> Counts:
    """Return the counts of the groups and, last, of all images."""
    return Counts(*(_append_sum(part) for part in counts))


def _append_sum(values_G: Floats) -> Floats:
    return np.concatenate([values_G, values_G.sum(axis=-1, keepdims=True)], axis=-1)


def _subtract_each(counts: Counts) -> Counts:
    """Return for each group the counts of all other images, which share none with it."""
    return Counts(*(_sum_others(part) for part in counts))


def _sum_others(values_G: Floats) -> Floats:
    return values_G.sum(axis=-1, keepdims=True) - values_G


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    """Return a quotient, nan where it is of nothing."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0)
