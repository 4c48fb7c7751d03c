"""What is left of a drop when offsets fitted on val have undone the shift of predictions between classes.

Legend: P pairs, G groups. Both sides are refitted. The rest of the drop is `prior_shift_pp`: a group loses
it because its classes are predicted less often than before, though the network still tells them apart.
Offsets fitted on few val images are noisy, and the interval, which is of the test images, does not know that: of a
network with nothing to undo (ten classes, 83 % right) those from 90, 500, 2,000, 5,000 val images turn 10, 4, 2, 1 % of
the answers. Both sides are fitted on the same val images, so much of it cancels in the drop.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from quantfair.results.statistics.intervals import drop_interval
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.groups import divide, sum_by_group
from quantfair.results.tables.outcomes import Outcomes

NO_REFIT = "refit: without predictions of val images, no offsets were fitted"


def count_refits(outcomes: Outcomes, other: Outcomes, test_set: TestSet, grouping: Grouping) -> dict[str, np.ndarray]:
    """Count what one refitted trial gets wrong and the other one right, and the reverse; nan where one is not known."""
    if outcomes.refit_N is None or other.refit_N is None:
        unknown_G = np.full(len(grouping.names), np.nan)
        return {"refit_n_rw": unknown_G, "refit_n_wr": unknown_G}
    right_N, other_right_N = outcomes.refit_N == test_set.labels_N, other.refit_N == test_set.labels_N
    return {
        "refit_n_rw": sum_by_group(other_right_N & ~right_N, grouping),
        "refit_n_wr": sum_by_group(~other_right_N & right_N, grouping),
    }


def compare_refits(columns: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the refitted drop with its interval and the drop that is a shift, P x G, from the counts of every pair."""
    names = ("n", "n_rw", "n_wr", "refit_n_rw", "refit_n_wr")
    n_PG, rw_PG, wr_PG, refit_rw_PG, refit_wr_PG = (np.stack([column[name] for column in columns]) for name in names)
    known_PG = np.where(np.isnan(refit_rw_PG), np.nan, n_PG)
    ci, drop_PG = drop_interval(refit_rw_PG, refit_wr_PG, known_PG), divide(refit_rw_PG - refit_wr_PG, known_PG)
    return {
        "refit_drop_pp": 100 * drop_PG,
        "refit_drop_ci_low_pp": 100 * ci.low,
        "refit_drop_ci_high_pp": 100 * ci.high,
        "prior_shift_pp": 100 * (divide(rw_PG - wr_PG, n_PG) - drop_PG),
    }
