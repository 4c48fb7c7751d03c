"""Tables in, the numbers of the page out: what each group loses, by data set, method and bits.

Everything here is a pure function of the tables, in plain Python over the few columns that are needed, so that a test can
compute the same numbers another way. Two kinds of spread are never mixed: the *range* of a `Spread` is over trials
(configurations and seeds), a *half-width* belongs to the 95 % interval of one trial over its test images.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

Tables = Mapping[str, pa.Table]
Trial = dict[str, Any]  # one row of the table `trials`

RUNTIME: Final = "torch"
MIN_GROUP_N: Final = 50  # groups with fewer test images are listed, but never ranked or coloured
METHODS: Final = ("fp32", "fp32_ft", "ptq", "qat")
COMPARISONS: Final = {
    "fp32": (None,),
    "fp32_ft": ("reference",),
    "ptq": ("reference",),
    "qat": ("reference", "control"),
}
# Settings that tell configurations of one method and bits apart, with the words that stand before their values.
SETTINGS: Final = {
    "act_observer": "",
    "weight_observer": "weights ",
    "scheme": "",
    "granularity": "",
    "bn_fold": "BN ",
    "act_signed": "sign ",
    "preset": "preset ",
    "base": "base ",
    "init": "init ",
}


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
    """What a trial and its partner differ by in one group, in percentage points; the rest of `paired_metrics` is left."""

    drop_pp: float | None
    low_pp: float | None
    high_pp: float | None
    eag_pp: float | None
    reason: str | None


class GroupDrop(NamedTuple):
    """What one group loses, over several trials. `half_width_pp`: median half-width of the single-trial intervals."""

    drop_pp: Spread | None
    eag_pp: Spread | None
    half_width_pp: float | None
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


@dataclass(frozen=True)
class Section:
    """One data set, model and grouping, with its finished trials: the unit of the page."""

    dataset_id: str
    dataset: str
    task: str
    model: str
    grouping: str
    groups: tuple[Group, ...]
    trials: tuple[Trial, ...]

    @property
    def by_class(self) -> bool:
        """The groups are the classes themselves: what is compared is recall."""
        return self.grouping == "label"

    @property
    def noun(self) -> str:
        """What the images are grouped by, in a word."""
        return "class" if self.by_class else self.grouping

    @property
    def title(self) -> str:
        """Data set, task, model and grouping."""
        return f"{self.dataset} · {self.task} · {self.model}, by {self.noun}"

    @property
    def ranked(self) -> tuple[Group, ...]:
        """The groups with enough test images to be ranked."""
        return tuple(group for group in self.groups if group.n >= MIN_GROUP_N)


@dataclass(frozen=True)
class SummaryRow:
    """One line of the summary: all finished trials of a method at some bits, against one kind of partner."""

    section: Section
    variant: str
    bits: str
    comparison: str | None
    n_trials: int
    n_configs: int
    n_seeds: int
    accuracy: Spread | None
    drop_pp: Spread | None
    worst_group: Group | None
    worst: GroupDrop | None
    gap_pp: Spread | None
    disparity_pp: Spread | None
    reason: str | None


def take_spread(values: Iterable[float | None]) -> Spread | None:
    """Return the spread of the values that are there; None if there are none."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    return Spread(len(found), fmean(found), min(found), max(found)) if found else None


def read_facts(tables: Tables) -> Facts:
    """Index the tables. Only the simulation (runtime torch) and the test split are read; a missing table is empty."""
    return Facts(
        trials=_read_trials(tables),
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
    for column, value in equals.items():
        table = table.filter(pc.equal(table[column], value))  # pyright: ignore[reportAttributeAccessIssue]
    return zip(*(table[column].to_pylist() for column in columns), strict=True)


def _read_trials(tables: Tables) -> list[Trial]:
    table = tables.get("trials")
    trials = table.drop_columns(["traceback"]).to_pylist() if table is not None else []
    return sorted(trials, key=lambda trial: (*order_of(trial), trial["seed"] or 0, trial["trial_id"]))


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
    """Index by comparison; a metric of one trial alone, such as the gap, has the comparison ''."""
    columns = ("trial_id", "comparison", "grouping", "metric", "value")
    rows = _rows(tables.get("disparity"), *columns, runtime=RUNTIME)
    return {
        (trial_id, (comparison or "") if metric == "drop_disparity_pp" else "", grouping, metric): value
        for trial_id, comparison, grouping, metric, value in rows
    }


def name_variant(trial: Trial) -> str:
    """Return the method in words, with the base or the start where it is not the usual one."""
    method = trial["method"]
    if method == "ptq" and trial["base"] == "fp32_ft":
        return "PTQ on FP32-FT"
    if method == "qat" and trial["init"] == "scratch":
        return "QAT from scratch"
    return {"fp32": "FP32", "fp32_ft": "FP32-FT", "ptq": "PTQ", "qat": "QAT"}.get(method, str(method))


def name_bits(trial: Trial) -> str:
    """Return "8" for 8-bit weights and activations, "W4A8" where they differ, "FP32" for a float model."""
    weight_bits, act_bits = trial["weight_bits"], trial["act_bits"]
    if weight_bits is None and act_bits is None:
        return "FP32"
    return str(weight_bits) if weight_bits == act_bits else f"W{weight_bits or 32}A{act_bits or 32}"


def order_of(trial: Trial) -> tuple[Any, ...]:
    """Sort by data set, then method, then falling bits, then settings."""
    method = METHODS.index(trial["method"]) if trial["method"] in METHODS else len(METHODS)
    bits = (-(trial["weight_bits"] or 32), -(trial["act_bits"] or 32))
    names = tuple(trial[column] or "" for column in ("dataset", "task", "dataset_id", "model"))
    settings = tuple(trial[column] or "" for column in SETTINGS)
    return (*names, method, name_variant(trial), *bits, *settings, trial["config_id"] or "")


def name_configurations(trials: Sequence[Trial]) -> dict[str, str]:
    """Return for each config_id a short unique name: method, bits and the settings that vary within the method."""
    varying: dict[str, list[str]] = {}
    for variant in {name_variant(trial) for trial in trials}:
        same = [trial for trial in trials if name_variant(trial) == variant]
        varying[variant] = [column for column in SETTINGS if len({trial[column] for trial in same}) > 1]
    names = {}
    for trial in trials:
        variant, bits = name_variant(trial), name_bits(trial)
        start = variant if bits == "FP32" else f"{variant} {bits}"
        settings = [SETTINGS[column] + str(trial[column] or "none") for column in varying[variant]]
        names[trial["config_id"]] = ", ".join([start, *settings]).replace("_", " ")
    uses = defaultdict(set)
    for config_id, name in names.items():
        uses[name].add(config_id)
    return {id_: name if len(uses[name]) == 1 else f"{name} ({id_[:6]})" for id_, name in names.items()}


def list_sections(facts: Facts) -> list[Section]:
    """Return one section for each data set, model and grouping; "overall" is no section of its own."""
    finished: dict[tuple[str, ...], list[Trial]] = defaultdict(list)
    for trial in facts.trials:
        key = tuple(trial[column] or "" for column in ("dataset_id", "dataset", "task", "model"))
        finished[key].extend([trial] if trial["status"] == "ok" else [])
    return [
        Section(*key, grouping=grouping, groups=tuple(groups), trials=tuple(trials))
        for key, trials in finished.items()
        for (dataset_id, grouping), groups in facts.groups.items()
        if dataset_id == key[0] and grouping != "overall" and trials
    ]


def average_accuracy(facts: Facts, trials: Sequence[Trial], grouping: str, group: str) -> Spread | None:
    """Return the spread of a group's accuracy (a fraction) over trials."""
    return take_spread(facts.accuracies.get((trial["trial_id"], grouping), {}).get(group) for trial in trials)


def average_drop(facts: Facts, trials: Sequence[Trial], comparison: str, grouping: str, group: str) -> GroupDrop:
    """Return what a group loses against the partners of the trials; with a reason where nothing is known."""
    found = [facts.pairs.get((trial["trial_id"], comparison, grouping), {}).get(group) for trial in trials]
    pairs = [pair for pair in found if pair is not None]
    widths = [(p.high_pp - p.low_pp) / 2 for p in pairs if p.low_pp is not None and p.high_pp is not None]
    drop_pp = take_spread(pair.drop_pp for pair in pairs)
    reason = (
        None if drop_pp else next((pair.reason for pair in pairs if pair.reason), f"no {comparison} to compare with")
    )
    return GroupDrop(drop_pp, take_spread(pair.eag_pp for pair in pairs), median(widths) if widths else None, reason)


def find_worst(
    facts: Facts, section: Section, trials: Sequence[Trial], comparison: str
) -> tuple[Group, GroupDrop] | None:
    """Return the group with the largest mean EAG among those with at least `MIN_GROUP_N` test images.

    EAG, the excess accuracy gap, is the group's drop minus the drop of all images. Ties go to the larger group.
    """
    drops = [(group, average_drop(facts, trials, comparison, section.grouping, group.name)) for group in section.ranked]
    known = [(group, drop, drop.eag_pp.mean) for group, drop in drops if drop.eag_pp]
    if not known or len(section.groups) < 2:
        return None
    group, drop, _ = max(known, key=lambda item: item[2])
    return group, drop


def summarize(facts: Facts) -> list[SummaryRow]:
    """Return the rows of the summary, in the order of the page."""
    rows = []
    for section in list_sections(facts):
        for same in split_trials(section.trials):
            for comparison in COMPARISONS.get(same[0]["method"], ("reference",)):
                rows.append(_summarize_trials(facts, section, same, comparison))
    return rows


def split_trials(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Return the trials by method and bits, in their order."""
    found: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in trials:
        found[name_variant(trial), name_bits(trial)].append(trial)
    return list(found.values())


def _summarize_trials(facts: Facts, section: Section, trials: list[Trial], comparison: str | None) -> SummaryRow:
    overall = average_drop(facts, trials, comparison, "overall", "all") if comparison else None
    worst = find_worst(facts, section, trials, comparison) if comparison else None

    def spread_of(metric: str, of: str) -> Spread | None:
        return take_spread(facts.disparities.get((t["trial_id"], of, section.grouping, metric)) for t in trials)

    return SummaryRow(
        section=section,
        variant=name_variant(trials[0]),
        bits=name_bits(trials[0]),
        comparison=comparison,
        n_trials=len(trials),
        n_configs=len({trial["config_id"] for trial in trials}),
        n_seeds=len({trial["seed"] for trial in trials}),
        accuracy=take_spread(trial["accuracy"] for trial in trials),
        drop_pp=overall.drop_pp if overall else None,
        worst_group=worst[0] if worst else None,
        worst=worst[1] if worst else None,
        gap_pp=spread_of("acc_gap_maxmin_pp", ""),
        disparity_pp=spread_of("drop_disparity_pp", comparison) if comparison else None,
        reason=None if worst else _explain(section, trials, comparison, overall),
    )


def _explain(section: Section, trials: list[Trial], comparison: str | None, overall: GroupDrop | None) -> str:
    """Say why no worst group is named."""
    if comparison is None:
        return "is itself the reference"
    if len(section.groups) < 2:
        return "only one group: nothing to compare"
    if overall is None or overall.drop_pp is None:
        told = next((trial["control_reason"] for trial in trials if trial["control_reason"]), None)
        return told if comparison == "control" and told else f"no {comparison} to compare with"
    if not section.ranked:
        return f"no group has {MIN_GROUP_N} test images"
    return "the tables hold no EAG for these trials"
