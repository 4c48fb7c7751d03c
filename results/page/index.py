"""Tables in, the rows that the first screen quotes: indexed, never computed again. Means over seeds, test images."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from quantfair.results.page.catalog import OVERALL, Catalog, Config, Tables, make_catalog, take
from quantfair.results.statistics.decisions import LIMIT
from quantfair.results.tables.verdicts import FILE, RECIPE, choose_judged

TORCH: Final = "torch"
Row = dict[str, Any]
Key = tuple[str, str, str, str]  # config_id, runtime, comparison, grouping


class Drop(NamedTuple):
    """What a group loses on average over the seeds, in pp with its limits, and the same beyond all other images.

    The limits are those that words rest on, or for a group that takes no part those of a 95 % interval.
    """

    drop_pp: float
    low_pp: float | None
    high_pp: float | None
    excess_pp: float | None
    excess_lower_pp: float | None
    flip_rate: float | None
    n_seeds: int
    other_config_id: str | None


class Deployed(NamedTuple):
    """Trials of a configuration in a runtime: time of one image and size of the file, and why some have no result."""

    p50_ms: float | None
    file_bytes: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """The rows by what they are of. Where a table has no row, neither has the index."""

    catalog: Catalog
    drops: dict[Key, dict[str, Drop]]  # by group
    evenness: dict[Key, Row]
    recipes: dict[Key, Row]
    files: dict[Key, list[Row]]
    gaps: dict[tuple[str, str, str], float]  # of config_id, runtime, grouping
    contrasts: dict[tuple[str, str], list[Row]]  # of all images: other questions, by kind and config_id
    contrast_evenness: dict[tuple[str, str], Row]  # of those, by contrast_id and grouping
    deployed: dict[tuple[str, str], Deployed]  # of config_id, runtime
    runtime_versions: dict[str, tuple[str, ...]]  # such as "onnxruntime 1.22.0", of what measured something
    provenance: dict[str, str]

    @property
    def limit_pp(self) -> float:
        """The limit of a loss that the verdicts are about."""
        rows = (row for row in self.recipes.values() if row["limit_pp"] is not None)
        return next((row["limit_pp"] for row in rows), 100 * LIMIT)

    def judge(self, key: Key) -> Row:
        """Return the verdict on the recipe, or on the one file that there is; without either why there is none."""
        return choose_judged([self.recipes.get(key, {}), *self.files.get(key, ())])

    def overall(self, config: Config, comparison: str, runtime: str = TORCH) -> Drop | None:
        """What all images lose."""
        return self.drops.get((config.config_id, runtime, comparison, OVERALL), {}).get("all")


_DROP: Final = (
    *("lower_pp", "upper_pp", "drop_ci_low_pp", "drop_ci_high_pp", "drop_pp", "excess_pp", "excess_lower_pp"),
    *("flip_rate", "n_seeds", "other_config_id"),
)
_KEY: Final = ("config_id", "runtime", "comparison", "grouping")
QUESTIONS: Final = ("qat_vs_ptq", "data")


def read_facts(tables: Tables) -> Facts:
    """Index the tables; a missing table is empty."""
    catalog = make_catalog(tables)
    of_config = {trial["trial_id"]: config.config_id for config in catalog.configs for trial in config.trials}
    verdicts = take(tables, "verdicts").to_pylist()
    return Facts(
        catalog=catalog,
        drops=_read_drops(take(tables, "contrasts")),
        evenness={_key(row): row for row in _of_comparisons(take(tables, "contrast_disparity")).to_pylist()},
        recipes={_key(row): row for row in verdicts if row["scope"] == RECIPE},
        files=_read_files(verdicts),
        gaps=_read_gaps(take(tables, "disparity"), of_config),
        contrasts=_read_questions(take(tables, "contrasts")),
        contrast_evenness=_read_question_evenness(take(tables, "contrast_disparity")),
        deployed=_read_deployed(take(tables, "runtimes"), of_config),
        runtime_versions=_read_runtime_versions(take(tables, "runtimes")),
        provenance=dict(_values(take(tables, "provenance"), ("key", "value"))),
    )


def _key(row: Row) -> Key:
    return row["config_id"], row["runtime"], row["comparison"], row["grouping"]


def _of_comparisons(table: pa.Table) -> pa.Table:
    return table.filter(pc.field("comparison").is_valid() & (pc.field("kind") != "data"))


def _values(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _read_drops(table: pa.Table) -> dict[Key, dict[str, Drop]]:
    drops: dict[Key, dict[str, Drop]] = defaultdict(dict)
    known = _of_comparisons(table).filter(pc.field("drop_pp").is_valid())
    for config_id, runtime, comparison, grouping, group, *values in _values(known, (*_KEY, "group", *_DROP)):
        lower, upper, ci_low, ci_high, drop_pp, *rest = values
        low_pp, high_pp = (ci_low, ci_high) if lower is None else (lower, upper)
        drops[config_id, runtime, comparison, grouping][group] = Drop(drop_pp, low_pp, high_pp, *rest)
    return dict(drops)


def _read_files(verdicts: Sequence[Row]) -> dict[Key, list[Row]]:
    found: dict[Key, list[Row]] = defaultdict(list)
    for row in verdicts:
        if row["scope"] == FILE:
            found[_key(row)].append(row)
    return dict(found)


def _read_gaps(table: pa.Table, of_config: dict[str, str]) -> dict[tuple[str, str, str], float]:
    known = table.filter((pc.field("metric") == "acc_gap_maxmin_pp") & pc.field("value").is_valid())
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for trial_id, runtime, grouping, value in _values(known, ("trial_id", "runtime", "grouping", "value")):
        if trial_id in of_config:
            found[of_config[trial_id], runtime, grouping].append(value)
    return {key: fmean(values) for key, values in found.items()}


def _read_questions(table: pa.Table) -> dict[tuple[str, str], list[Row]]:
    wanted = pc.field("kind").isin(QUESTIONS) & (pc.field("grouping") == OVERALL)
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in table.filter(wanted & pc.field("drop_pp").is_valid() & (pc.field("runtime") == TORCH)).to_pylist():
        found[row["kind"], row["config_id"]].append(row)
    return dict(found)


def _read_question_evenness(table: pa.Table) -> dict[tuple[str, str], Row]:
    rows = table.filter(pc.field("kind").isin(QUESTIONS)).to_pylist()
    return {(row["contrast_id"], row["grouping"]): row for row in rows}


def _read_deployed(table: pa.Table, of_config: dict[str, str]) -> dict[tuple[str, str], Deployed]:
    """Return the mean time over the trials, of batch 1 in the session that ships, and the reasons of all others."""
    times, sizes = defaultdict[tuple[str, str], list[float]](list), defaultdict[tuple[str, str], list[float]](list)
    reasons = defaultdict[tuple[str, str], list[str]](list)
    is_shipped = (pc.field("runtime") != TORCH) & (pc.field("session").is_null() | (pc.field("session") != "exact"))
    of_runtimes = table.filter(is_shipped & pc.field("trial_id").isin(pa.array(of_config, pa.string())))
    for row in of_runtimes.to_pylist():
        key = of_config[row["trial_id"]], row["runtime"]
        if row["batch"] is None:
            reasons[key].append(row["reason"] or row["status"])
        elif row["batch"] == 1 and row["p50_ms"] is not None:
            times[key].append(row["p50_ms"])
            sizes[key] += [row["file_bytes"]] if row["file_bytes"] is not None else []
    keys = dict.fromkeys((*times, *reasons))
    return {key: Deployed(_mean(times[key]), _mean(sizes[key]), tuple(reasons[key])) for key in keys}


def _read_runtime_versions(table: pa.Table) -> dict[str, tuple[str, ...]]:
    """Return the name and version of each runtime, as its rows have them: several where machines differed."""
    found = defaultdict[str, set[str]](set)
    known = table.filter(pc.field("version").is_valid())
    for runtime, version in _values(known, ("runtime", "version")):
        found[runtime].add(version)
    return {runtime: tuple(sorted(versions)) for runtime, versions in found.items()}


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
