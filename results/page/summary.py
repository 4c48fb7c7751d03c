"""Facts in, the numbers of the summary out: what each group loses, by data set, method and bits.

All of it is pure, so that a test can compute the same numbers another way. Two kinds of spread are never mixed: the
*range* of a `Spread` is over trials (configurations and seeds), a *half-width* belongs to the 95 % interval of one
trial over its test images.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple

from results.configurations import Trial, name_bits, name_variant
from results.page.facts import Facts, Group, Spread, take_spread
from results.schema import MIN_RANKED

NO_EXCESS_PP: Final = 1e-9  # what rounding leaves of an EAG of 0
COMPARISONS: Final[dict[str, tuple[str | None, ...]]] = {"fp32": (None,), "qat": ("reference", "control")}


class GroupDrop(NamedTuple):
    """What one group loses, over several trials. `half_width_pp`: median half-width of the single-trial intervals."""

    drop_pp: Spread | None
    eag_pp: Spread | None
    half_width_pp: float | None
    reason: str | None


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
        return tuple(group for group in self.groups if group.n >= MIN_RANKED)


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


def list_sections(facts: Facts) -> list[Section]:
    """Return one section for each data set, model and grouping; "overall" is no section of its own."""
    finished: dict[tuple[str, ...], list[Trial]] = defaultdict(list)
    for trial in facts.trials:
        key = tuple(trial[column] or "" for column in ("dataset_id", "dataset", "task", "float_model"))
        finished[key].extend([trial] if trial["status"] == "ok" else [])
    names = Counter(key[1:] for key in finished)
    return [
        Section(
            dataset_id=key[0],
            dataset=key[1] if names[key[1:]] == 1 else f"{key[1]} ({key[0][:6]})",  # another subset of the same data
            task=key[2],
            model=key[3],
            grouping=grouping,
            groups=tuple(groups),
            trials=tuple(trials),
        )
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
    """Return the group with the largest mean EAG among those with at least `MIN_RANKED` test images.

    EAG, the excess accuracy gap, is the group's drop minus the drop of all images. Ties go to the larger group. Where
    no group loses more than all images together, as after most 16-bit PTQ, no group is the worst: None.
    """
    drops = [(group, average_drop(facts, trials, comparison, section.grouping, group.name)) for group in section.ranked]
    known = [(group, drop, drop.eag_pp.mean) for group, drop in drops if drop.eag_pp]
    if not known or len(section.groups) < 2:
        return None
    group, drop, eag_pp = max(known, key=lambda item: item[2])
    return (group, drop) if eag_pp > NO_EXCESS_PP else None


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
        reason=None if worst else _explain(facts, section, trials, comparison),
    )


def _explain(facts: Facts, section: Section, trials: list[Trial], comparison: str | None) -> str:
    """Say why no worst group is named."""
    if comparison is None:
        return "is itself the reference"
    if len(section.groups) < 2:
        return "only one group: nothing to compare"
    if average_drop(facts, trials, comparison, "overall", "all").drop_pp is None:
        told = next((trial["control_reason"] for trial in trials if trial["control_reason"]), None)
        return told if comparison == "control" and told else f"no {comparison} to compare with"
    if not section.ranked:
        return f"no group has {MIN_RANKED} test images"
    pairs = (facts.pairs.get((trial["trial_id"], comparison, section.grouping), {}) for trial in trials)
    if any(pair.eag_pp is not None for of_trial in pairs for pair in of_trial.values()):
        return f"none: no {'class' if section.by_class else 'group'} loses more than all images together"
    return "the tables hold no EAG for these trials"
