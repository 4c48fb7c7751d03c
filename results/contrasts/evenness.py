"""How evenly the drops of contrasts are spread over the groups -> the table `contrast_disparity`.

What is compared is the mean over the seeds of what the contrast lost on each image. Legend: K contrasts, G ranked
groups, N images.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from quantfair.results.configurations import group_by_key
from quantfair.results.contrasts.estimates import Estimate
from quantfair.results.contrasts.flips import SIDES, CorrectnessMatrix
from quantfair.results.contrasts.pairing import Contrast
from quantfair.results.statistics.multiplicity import benjamini_hochberg
from quantfair.results.statistics.permutation import Evenness, measure_evenness
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.disparity import TOO_FEW, Ranked
from quantfair.results.tables.groupings import Grouping

CONTROL: Final = "perm_q: a control is no part of the family"
_BLOCK: Final = 2000  # contrasts


def measure_contrasts(
    contrasts: Sequence[Contrast], ground: CorrectnessMatrix, grouping: Grouping, takes_part_G: np.ndarray | None = None
) -> dict[str, Evenness]:
    """Return how even the contrasts that have a seed are, one number a field, by contrast_id.

    `takes_part_G` says which groups of the grouping count; others than ranked ones never do. The images of the rest are
    left out, not only their means: permuted among the groups that count, they would be noise that these do not have.
    (At 0.3 % flips, beside two groups that drop by 20 pp, 1 pp of one group in eight is found in 42 %, not in 82 %.)
    """
    ranked = Ranked.of(grouping)
    codes_N = ranked.codes_N if takes_part_G is None else np.where(takes_part_G[grouping.test_N], ranked.codes_N, -1)
    contrasts = [contrast for contrast in contrasts if contrast.seeds] if ranked.n_groups >= 2 else []
    found = {}
    for at in range(0, len(contrasts), _BLOCK):
        block = contrasts[at : at + _BLOCK]
        values_NK = np.stack([_add_up(contrast, ground) for contrast in block], axis=1)
        n_seeds_K = np.array([len(contrast.seeds) for contrast in block])
        sums = measure_evenness(values_NK, codes_N, ranked.n_groups)
        means = Evenness(
            p=sums.p,
            spread=sums.spread / n_seeds_K,
            null_mean=sums.null_mean / n_seeds_K,
            null_q95=sums.null_q95 / n_seeds_K,
            variance=sums.variance / n_seeds_K**2,
        )
        found |= {c.contrast_id: Evenness(*column) for c, column in zip(block, np.stack(means).T, strict=True)}
    return found


def _add_up(contrast: Contrast, ground: CorrectnessMatrix) -> np.ndarray:
    """Return the sum over seeds of the drop on each image.

    Not the mean: the noise of groups in which nothing flips is that of one flip of one seed, which is 1 in the sum.
    """
    value_N = np.zeros(len(ground.right_NT), dtype=np.int8 if len(contrast.seeds) == 1 else np.float32)
    for matches, sign in ((contrast.matches, 1), (contrast.subtracted, -1)):
        for match in matches:
            other, own = (ground.outcomes[getattr(match, side)].right_N.view(np.int8) for side in SIDES)
            value_N += sign * (other - own)
    return value_N


def add_evenness(
    rows: TableBuilder,
    contrasts: Sequence[Contrast],
    estimates: Mapping[str, Estimate],
    evenness: Mapping[str, Evenness],
    *,
    grouping: Grouping,
) -> None:
    """Add one row for each contrast, with its q over the family: the contrasts of one kind and comparison."""
    ranked = Ranked.of(grouping)
    families = _correct(contrasts, evenness, grouping.name)
    for contrast in contrasts:
        shared = {**contrast.columns(), "grouping": grouping.name, "n_groups": ranked.n_groups}
        if (found := evenness.get(contrast.contrast_id)) is None:
            rows.add(1, **shared, reason=contrast.reason or TOO_FEW)
            continue
        drop_G = estimates[contrast.contrast_id].drop_G[ranked.groups_G]
        family = families.get(contrast.contrast_id, {"reason": CONTROL})
        rows.add(
            1,
            **shared,
            drop_disparity_pp=float(100 * np.ptp(drop_G)),
            corrected_sd_pp=float(100 * np.sqrt(found.variance)),
            null_mean_pp=float(100 * found.null_mean),
            null_q95_pp=float(100 * found.null_q95),
            perm_p=float(found.p),
            worst_group=ranked.names_G[drop_G.argmax()],
            best_group=ranked.names_G[drop_G.argmin()],
            **family,
        )


def _correct(
    contrasts: Sequence[Contrast], evenness: Mapping[str, Evenness], grouping: str
) -> dict[str, dict[str, Any]]:
    """Return the family columns of every contrast that is tested and is none of a control, by contrast_id."""
    tested = [c for c in contrasts if c.contrast_id in evenness and not c.kind.startswith("control_vs")]
    found = {}
    for family in _families(tested):
        q = benjamini_hochberg([float(evenness[c.contrast_id].p) for c in family])
        first = family[0]
        family_id = "/".join((first.dataset_id, grouping, first.runtime, first.kind, first.comparison or "-"))
        for contrast, one in zip(family, q, strict=True):
            found[contrast.contrast_id] = {
                "perm_q": float(one),
                "family_id": family_id,
                "family_size": len(family),
            }
    return found


def _families(contrasts: Sequence[Contrast]) -> Iterator[list[Contrast]]:
    return group_by_key(((c.runtime, c.kind, c.comparison), c) for c in contrasts)
