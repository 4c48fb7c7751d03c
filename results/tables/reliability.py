"""Whether confidence is what it says: its mean beside accuracy, in bins of confidence -> the table `reliability`.

One row for each configuration, group and bin that holds an image, its seeds pooled. The seeds answer the same test
images, so the interval is Wilson's on counts divided by their number: as if all seeds were one. It is of these models
on other images, and holds the true accuracy of a bin in 94 to 100 % of draws, the more the less alike the seeds are;
counted as if every seed had images of its own, it would in 60 to 94 % (3 and 5 seeds, 100 and 400 images, doubts
correlated by 0.3 to 1 between seeds, 1,500 draws each, numpy 2; the tests draw some of it again).

Legend: N test images, G groups, B bins.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from quantfair.results.statistics.intervals import wilson_interval
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import Certainty, TrialAnswers
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.groups import NO_IMAGES, NO_LOGITS, divide, find_bins

N_BINS: Final = 10


class Reliability:
    """The trials of one data set in one runtime, added up by configuration: 240 bytes a group, however many images.

    Trials without a config_id belong to no configuration; those without confidences add nothing to theirs.
    """

    def __init__(self, test_set: TestSet, trials: Sequence[Mapping[str, Any]]):
        self.groupings = test_set.groupings
        self.config_of = {row["trial_id"]: row.get("config_id") for row in trials}
        self.pools: dict[str, _Pool] = {}

    def add_trial(self, outcomes: TrialAnswers, certainty: Certainty) -> None:
        """Add one trial to its configuration."""
        if (config_id := self.config_of[outcomes.trial_id]) is not None:
            pool = self.pools.setdefault(config_id, _Pool(self.groupings))
            if not np.isnan(certainty.confidence_N).any():  # imported without logits
                pool.add(outcomes.right_N, certainty.confidence_N)

    def add_rows(self, rows: TableBuilder, runtime: str) -> None:
        """Add the rows of all configurations, in the order of their first trials."""
        for config_id, pool in self.pools.items():
            for grouping, sums_3GB in pool.sums.items():
                _add(rows, grouping, sums_3GB, config_id=config_id, runtime=runtime, n_seeds=pool.n_seeds)


class _Pool:
    """Sums over seeds and images: how many there are, how many are right, and their confidence; 3 x G x B."""

    def __init__(self, groupings: Sequence[Grouping]):
        self.n_seeds = 0
        self.sums = {grouping: np.zeros((3, len(grouping.names), N_BINS)) for grouping in groupings}

    def add(self, right_N: np.ndarray, confidence_N: np.ndarray) -> None:
        self.n_seeds += 1
        bins_N = find_bins(confidence_N, N_BINS)
        for grouping, sums_3GB in self.sums.items():
            cells_N = grouping.test_N * N_BINS + bins_N
            for sums_GB, weights in zip(sums_3GB, (None, right_N, confidence_N), strict=True):
                sums_GB += np.bincount(cells_N, weights, minlength=sums_GB.size).reshape(sums_GB.shape)


def _add(rows: TableBuilder, grouping: Grouping, sums_3GB: np.ndarray, *, n_seeds: int, **key: str) -> None:
    """Add the bins that hold images; a group that has none in any bin is one row with a reason."""
    n_G, is_row_GB = grouping.sizes("test"), sums_3GB[0] > 0
    is_row_GB[~is_row_GB.any(axis=1), 0] = True
    groups, bins = (index.tolist() for index in np.nonzero(is_row_GB))
    n, right, confidence = sums_3GB[:, is_row_GB]
    ci = wilson_interval(right / max(n_seeds, 1), n / max(n_seeds, 1))
    rows.add(
        len(n),
        **key,
        grouping=grouping.name,
        group=[grouping.names[group] for group in groups],
        bin=[index if size else None for index, size in zip(bins, n, strict=True)],
        n=n.astype(np.int32),
        n_seeds=n_seeds,
        confidence=divide(confidence, n),
        accuracy=divide(right, n),
        ci_low=ci.low,
        ci_high=ci.high,
        reason=[
            None if size else NO_LOGITS if n_G[group] else NO_IMAGES for group, size in zip(groups, n, strict=True)
        ],
    )
