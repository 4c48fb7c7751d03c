"""How far apart the drops of the groups are -> the table `contrast_disparity`.

Over seeds this is a number to sort by: no test of the largest minus the smallest drop holds there. Whether a group
loses more than the others is said by the corrected limits of its excess in `contrasts`. Of one seed, the counts of the
groups have the test of `common_drop`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from quantfair.results.contrasts.estimates import Estimate
from quantfair.results.contrasts.flips import FlipTable
from quantfair.results.contrasts.pairing import Contrast
from quantfair.results.statistics.common_drop import assess_common_drop
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.disparity import TOO_FEW, Ranked
from quantfair.results.tables.groupings import Grouping

OVER_SEEDS: Final = "null_p: over seeds see excess_lower_pp of each group in contrasts"
OF_A_DIFFERENCE: Final = "null_p: there is no test of a difference of drops"


def add_evenness(
    rows: TableBuilder,
    contrasts: Sequence[Contrast],
    estimates: Mapping[str, Estimate],
    table: FlipTable,
    *,
    grouping: Grouping,
) -> None:
    """Add one row for each contrast. `table` has the flips of the grouping."""
    ranked = Ranked.of(grouping)
    for contrast in contrasts:
        shared = {**contrast.columns(), "grouping": grouping.name, "n_groups": ranked.n_groups}
        estimate = estimates.get(contrast.contrast_id)
        if estimate is None or ranked.n_groups < 2:
            rows.add(1, **shared, reason=contrast.reason or TOO_FEW)
            continue
        drop_G = estimate.drop_G[ranked.groups_G]
        rows.add(
            1,
            **shared,
            drop_disparity_pp=float(100 * np.ptp(drop_G)),
            worst_group=ranked.names_G[drop_G.argmax()],
            best_group=ranked.names_G[drop_G.argmin()],
            **_test(contrast, table, ranked),
        )


def _test(contrast: Contrast, table: FlipTable, ranked: Ranked) -> dict[str, Any]:
    """Return what chance alone would show, or why that is not known."""
    if contrast.subtracted:
        return {"reason": OF_A_DIFFERENCE}
    if len(contrast.seeds) > 1:
        return {"reason": OVER_SEEDS}
    flips = table.means([contrast.matches])
    found = assess_common_drop(flips.rw[0, ranked.groups_G], flips.wr[0, ranked.groups_G], ranked.sizes_G)
    return {
        "null_mean_pp": 100 * float(found.null_mean),
        "null_q95_pp": 100 * float(found.null_q95),
        "null_p": float(found.p),
    }
