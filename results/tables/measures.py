"""Rows of `disparity`: values of many trials or pairs at once, a metric at a time, and the groups that are ranked.

Legend: T trials or pairs, N images, G ranked groups, M metrics.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from quantfair.results.rows import Rows
from quantfair.results.schema import MIN_RANKED
from quantfair.results.statistics.permutation import sort_groups
from quantfair.results.tables.groupings import Grouping
from quantfair.results.tables.groups import join_reasons


class Ranked(NamedTuple):
    """The groups of a grouping with MIN_RANKED test images or more: the only ones that take part in a disparity.

    The largest stands first, so that names decide no tie. The code of all other images is -1.
    """

    names_G: np.ndarray
    sizes_G: np.ndarray
    groups_G: np.ndarray
    codes_N: np.ndarray

    @classmethod
    def of(cls, grouping: Grouping) -> "Ranked":
        """Return the ranked groups of a grouping."""
        sizes = grouping.sizes("test")
        order = sort_groups(grouping.test_N, len(sizes))
        groups_G, place = order[sizes[order] >= MIN_RANKED], np.full(len(sizes), -1)
        place[groups_G] = np.arange(len(groups_G))
        names_G = np.array(grouping.names, dtype=object)[groups_G]
        return cls(names_G, sizes[groups_G], groups_G, place[grouping.test_N])

    @property
    def n_groups(self) -> int:
        """How many there are."""
        return len(self.names_G)

    def means(self, values_TN: np.ndarray) -> np.ndarray:
        """Return the mean of values in every group, T x G."""
        members_NG = (self.codes_N[:, None] == np.arange(self.n_groups)).astype(np.float32)
        return (values_TN.astype(np.float32) @ members_NG).astype(np.float64) / self.sizes_G


class Measure(NamedTuple):
    """One metric of T trials or pairs, each field an array of T or None. `worst_T` and `best_T` index ranked groups."""

    metric: str
    value_T: np.ndarray | None = None
    corrected_T: np.ndarray | None = None
    worst_T: np.ndarray | None = None
    best_T: np.ndarray | None = None
    null_mean_T: np.ndarray | None = None
    null_q95_T: np.ndarray | None = None
    p_T: np.ndarray | None = None
    reason: str | None = None


def add_measures(
    disparity: Rows,
    measures: Sequence[Measure],
    ranked: Ranked,
    *,
    keys_T: dict[str, list[str]],
    flags_T: Sequence[str | None] | None = None,
    **shared: str,
) -> None:
    """Add the rows of T trials or pairs, M for each. `flags_T`: reasons to take them with care."""
    n_trials, n_metrics = len(keys_T["trial_id"]), len(measures)

    def interleave(name: str) -> np.ndarray:
        columns = [getattr(measure, name) for measure in measures]
        return np.stack([np.full(n_trials, np.nan) if c is None else c for c in columns], axis=1).ravel()

    def name_groups(name: str) -> np.ndarray:
        columns = [getattr(measure, name) for measure in measures]
        nobody = np.full(n_trials, None)
        return np.stack([nobody if c is None else ranked.names_G[c] for c in columns], axis=1).ravel()

    disparity.add(
        n_trials * n_metrics,
        **{key: np.repeat(np.array(values, dtype=object), n_metrics) for key, values in keys_T.items()},
        **shared,
        metric=np.tile(np.array([measure.metric for measure in measures], dtype=object), n_trials),
        value=interleave("value_T"),
        corrected=interleave("corrected_T"),
        worst_group=name_groups("worst_T"),
        best_group=name_groups("best_T"),
        n_groups=ranked.n_groups,
        null_mean=interleave("null_mean_T"),
        null_q95=interleave("null_q95_T"),
        perm_p=interleave("p_T"),
        reason=[
            join_reasons(flag, measure.reason) or None for flag in flags_T or [None] * n_trials for measure in measures
        ],
    )
