"""The tables of a store -> tables for papers: rows are configurations, columns groups, cells mean drops over seeds.

One for each data set, network, grouping and comparison. Nothing is computed here: drops come from `contrasts`, their
disparity from `contrast_disparity`, words from `verdicts`; what these do not have is empty, with a reason.
"""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from quantfair.results.configurations import Trial, name_configurations, order_trials
from quantfair.results.schema import COMPARISONS, MIN_RANKED
from quantfair.results.statistics.decisions import YES
from quantfair.results.tables.verdicts import RECIPE, choose_judged

NOT_COMPUTED = "the tables have no drops of this configuration"
NEEDED = ("trials", "groups", "contrasts", "contrast_disparity", "verdicts")  # tables that are read
KEY: Final = ("dataset_id", "dataset", "task", "imbalance", "model", "grouping", "comparison", "runtime")
_DEFAULTS: Final = {"imbalance": "none", "runtime": "torch"}  # not in names of files

Values = dict[str, Any]


class Group(NamedTuple):
    """A column: a group and its number of test images."""

    name: str
    n: int

    @property
    def is_ranked(self) -> bool:
        """Whether it may be called the worst."""
        return self.n >= MIN_RANKED


class Drop(NamedTuple):
    """A cell: a mean drop over seeds with its limits, in percentage points; None where it is not known.

    The limits are those that words rest on, or for a group that takes no part those of a 95 % interval.
    """

    drop_pp: float | None = None
    low_pp: float | None = None
    high_pp: float | None = None


class Row(NamedTuple):
    """A configuration: what all images and each group lose, how unevenly, and what that is called."""

    configuration: str
    config_id: str
    method: str
    weight_bits: int | None
    act_bits: int | None
    seeds: tuple[int, ...]
    overall: Drop
    drops: tuple[Drop, ...]
    disparity_pp: float | None
    verdict: Values  # word, answer, told, group, at_most_pp, limit_pp
    reason: str | None

    def find_named(self, groups: Sequence[Group]) -> int | None:
        """Return the place of the group that loses more than the limit, as the verdict says, or None."""
        names = [group.name for group in groups]
        named = self.verdict.get("group")
        return names.index(named) if self.verdict.get("answer") == YES and named in names else None


class PaperTable(NamedTuple):
    """One table. `key` has what all its rows share; groups without test images have no column."""

    slug: str
    key: dict[str, str]  # by KEY
    n_test: int
    groups: tuple[Group, ...]
    empty_groups: tuple[str, ...]
    rows: tuple[Row, ...]


class _Indexed(NamedTuple):
    """The tables by configuration, runtime, comparison and grouping; contrasts by group, too."""

    groups: Mapping[tuple[str, str], list[Group]]
    contrasts: Mapping[tuple[str, ...], Values]
    disparities: Mapping[tuple[str, ...], Values]
    verdicts: Mapping[tuple[str, ...], list[Values]]  # that of the recipe first


def make_paper_tables(tables: Mapping[str, pa.Table]) -> list[PaperTable]:
    """Return the tables for papers, in the order of the page. Pure; `NEEDED` names the tables that are read."""
    indexed = _index(tables)
    peers: dict[tuple[str, ...], list[Trial]] = defaultdict(list)
    for trial in order_trials(tables["trials"]):
        if trial["status"] == "ok":
            peers[tuple(trial[name] or _DEFAULTS.get(name, "") for name in (*KEY[:4], "float_model"))].append(trial)
    runtimes = sorted({"torch", *tables["contrasts"]["runtime"].to_pylist()} - {None})
    made = []
    for peer, trials in peers.items():
        groupings = [grouping for dataset_id, grouping in indexed.groups if dataset_id == peer[0]]
        for named in itertools.product(groupings, COMPARISONS, runtimes):
            made.append(_make_table(dict(zip(KEY, (*peer, *named), strict=True)), trials, indexed))
    return _make_slugs_unique([table for table in made if table is not None])


def _make_table(key: dict[str, str], trials: Sequence[Trial], indexed: _Indexed) -> PaperTable | None:
    """Return a table, or None where no trial has the other side of the comparison."""
    groups = indexed.groups[key["dataset_id"], key["grouping"]]
    compared = [trial for trial in trials if trial[COMPARISONS[key["comparison"]]]]
    if key["grouping"] == "overall" or not compared:
        return None
    shown = tuple(group for group in groups if group.n)
    names, first = name_configurations(trials), {trial["config_id"]: trial for trial in reversed(compared)}
    ids = dict.fromkeys(trial["config_id"] for trial in compared)
    rows = [_make_row(key, names[config_id], first[config_id], shown, indexed) for config_id in ids]
    return PaperTable(
        slug=_make_slug(key),
        key=key,
        n_test=sum(group.n for group in groups),
        groups=shown,
        empty_groups=tuple(group.name for group in groups if not group.n),
        rows=tuple(rows),
    )


def _make_row(key: dict[str, str], name: str, trial: Trial, groups: Sequence[Group], indexed: _Indexed) -> Row:
    config_id = trial["config_id"]
    of_config = (config_id, key["runtime"], key["comparison"])
    overall = indexed.contrasts.get((*of_config, "overall", "all"), {})
    found = [indexed.contrasts.get((*of_config, key["grouping"], group.name), {}) for group in groups]
    known = next((one for one in (overall, *found) if one.get("drop_pp") is not None), {})
    disparity = indexed.disparities.get((*of_config, key["grouping"]), {})
    verdicts = indexed.verdicts.get((*of_config, key["grouping"]), [{}])
    reasons = [one["reason"] for one in (overall, *found) if one.get("reason")]
    return Row(
        configuration=name,
        config_id=config_id,
        method=trial["method"],
        weight_bits=trial["weight_bits"],
        act_bits=trial["act_bits"],
        seeds=tuple(known.get("seeds") or ()),
        overall=_take_drop(overall),
        drops=tuple(map(_take_drop, found)),
        disparity_pp=disparity.get("drop_disparity_pp"),
        verdict=choose_judged(verdicts),
        reason=None if known else next(iter(reasons), NOT_COMPUTED),
    )


def _take_drop(values: Values) -> Drop:
    names = ("lower_pp", "upper_pp") if values.get("lower_pp") is not None else ("drop_ci_low_pp", "drop_ci_high_pp")
    return Drop(*(values.get(name) for name in ("drop_pp", *names)))


def _index(tables: Mapping[str, pa.Table]) -> _Indexed:
    groups: dict[tuple[str, str], list[Group]] = defaultdict(list)
    in_order = sorted(tables["groups"].to_pylist(), key=lambda row: row["group_index"] or 0)
    places = {(row["dataset_id"], row["grouping"]): None for row in tables["groups"].to_pylist()}
    for row in in_order:
        if row["split"] == "test":
            groups[row["dataset_id"], row["grouping"]].append(Group(row["group"], row["n"] or 0))
    of_config = ("config_id", "runtime", "comparison", "grouping")
    return _Indexed(
        {place: groups[place] for place in places},
        _index_by(tables["contrasts"], *of_config, "group"),
        _index_by(tables["contrast_disparity"], *of_config),
        _collect_verdicts(tables["verdicts"], of_config),
    )


def _index_by(table: pa.Table, *names: str) -> dict[tuple[str, ...], Values]:
    """Rows by some columns, those without a comparison left out."""
    rows = table.filter(table["comparison"].is_valid()).to_pylist()
    return {tuple(row[name] for name in names): row for row in rows}


def _collect_verdicts(table: pa.Table, names: Sequence[str]) -> dict[tuple[str, ...], list[Values]]:
    """Return the verdicts on the recipe and on each file of a configuration, the recipe first."""
    found: dict[tuple[str, ...], list[Values]] = defaultdict(list)
    for row in sorted(table.to_pylist(), key=lambda row: row["scope"] != RECIPE):
        found[tuple(row[name] for name in names)].append(row)
    return found


def _make_slug(key: dict[str, str]) -> str:
    """Return the words of the key that file names and labels may have: "utkface-gender-trident-ethnicity-control"."""
    words = [key[name] for name in KEY[1:] if key[name] != _DEFAULTS.get(name)]
    plain = ("".join(c if c.isascii() and c.isalnum() else "-" for c in word.replace("*", "-by-")) for word in words)
    return "-".join("-".join(part for part in word.split("-") if part).lower() for word in plain)


def _make_slugs_unique(tables: Sequence[PaperTable]) -> list[PaperTable]:
    seen: dict[str, int] = defaultdict(int)
    unique = []
    for table in tables:
        seen[table.slug] += 1
        number = seen[table.slug]
        unique.append(table if number == 1 else table._replace(slug=f"{table.slug}-{number}"))
    return unique
