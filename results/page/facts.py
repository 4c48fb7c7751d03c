"""Tables in, the same facts indexed for reading out.

Only what the page shows is read, in plain Python: the simulation (runtime torch), the test split, a few columns.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_
from statistics import fmean
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from results.configurations import Trial, order_trials

Tables = Mapping[str, pa.Table]

RUNTIME: Final = "torch"


class Spread(NamedTuple):
    """The mean, the smallest and the largest value of `n` trials."""

    n: int
    mean: float
    low: float
    high: float


class Group(NamedTuple):
    """A group and its number of test images."""

    name: str
    n: int


class Pair(NamedTuple):
    """What a trial and its partner differ by in one group, in percentage points."""

    drop_pp: float | None
    low_pp: float | None
    high_pp: float | None
    eag_pp: float | None
    reason: str | None


@dataclass(frozen=True)
class Facts:
    """The tables, indexed for reading. Trials are in the order in which the page shows them."""

    trials: list[Trial]
    groups: dict[tuple[str, str], list[Group]]  # (dataset_id, grouping) -> largest first
    accuracies: dict[tuple[str, str], dict[str, float | None]]  # (trial_id, grouping) -> group -> accuracy
    pairs: dict[tuple[str, str, str], dict[str, Pair]]  # (trial_id, comparison, grouping) -> group -> pair
    disparities: dict[tuple[str, str, str, str], float | None]  # (trial_id, comparison, grouping, metric) -> pp
    provenance: dict[str, str]


def take_spread(values: Iterable[float | None]) -> Spread | None:
    """Return the spread of the values that are there; None if there are none."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    return Spread(len(found), fmean(found), min(found), max(found)) if found else None


def read_facts(tables: Tables) -> Facts:
    """Index the tables. Only the simulation (runtime torch) and the test split are read; a missing table is empty."""
    return Facts(
        trials=order_trials(tables["trials"]) if "trials" in tables else [],
        groups=_read_groups(tables),
        accuracies=_read_accuracies(tables),
        pairs=_read_pairs(tables),
        disparities=_read_disparities(tables),
        provenance=dict(_rows(tables.get("provenance"), "key", "value")),
    )


def _rows(table: pa.Table | None, *columns: str, **equals: str) -> Iterator[tuple[Any, ...]]:
    """Yield the chosen columns of the rows where every `equals` holds."""
    if table is None:
        return iter(())
    conditions = [pc.field(column) == value for column, value in equals.items()]
    chosen = table.filter(reduce(and_, conditions)) if conditions else table
    return zip(*(chosen.column(column).to_pylist() for column in columns), strict=True)


def _read_groups(tables: Tables) -> dict[tuple[str, str], list[Group]]:
    groups: dict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
    columns = ("dataset_id", "grouping", "group", "group_index", "n")
    for dataset_id, grouping, group, index, n in _rows(tables.get("groups"), *columns, split="test"):
        groups[dataset_id, grouping].append((-(n or 0), index or 0, group))
    return {key: [Group(name, -minus_n) for minus_n, _, name in sorted(found)] for key, found in groups.items()}


def _read_accuracies(tables: Tables) -> dict[tuple[str, str], dict[str, float | None]]:
    accuracies: dict[tuple[str, str], dict[str, float | None]] = defaultdict(dict)
    columns = ("trial_id", "grouping", "group", "class", "value")
    rows = _rows(tables.get("group_metrics"), *columns, runtime=RUNTIME, metric="accuracy")
    for trial_id, grouping, group, class_name, value in rows:
        if class_name is None:
            accuracies[trial_id, grouping][group] = value
    return dict(accuracies)


def _read_pairs(tables: Tables) -> dict[tuple[str, str, str], dict[str, Pair]]:
    pairs: dict[tuple[str, str, str], dict[str, Pair]] = defaultdict(dict)
    keys = ("trial_id", "comparison", "grouping", "group")
    values = ("drop_pp", "drop_ci_low_pp", "drop_ci_high_pp", "eag_pp", "reason")
    rows = _rows(tables.get("paired_metrics"), *keys, *values, runtime=RUNTIME)
    for trial_id, comparison, grouping, group, *facts in rows:
        pairs[trial_id, comparison, grouping][group] = Pair(*facts)
    return dict(pairs)


def _read_disparities(tables: Tables) -> dict[tuple[str, str, str, str], float | None]:
    """Index by comparison; the gap, which is of one trial alone, has the comparison ''."""
    columns = ("trial_id", "comparison", "grouping", "value")
    return {
        (trial_id, comparison or "", grouping, metric): value
        for metric in ("acc_gap_maxmin_pp", "drop_disparity_pp")
        for trial_id, comparison, grouping, value in _rows(
            tables.get("disparity"), *columns, runtime=RUNTIME, metric=metric
        )
    }
