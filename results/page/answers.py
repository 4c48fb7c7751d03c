"""Facts in, the answers of the first screen: can this sweep answer, who loses, what causes it, what ships. Pure.

Every number is one of the tables. Where several configurations answer one question, the *primary* one does (chosen on
val), and the range over the others stands beside it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from results.page.catalog import Config, Data, Group, Grouping
from results.page.facts import TORCH, Drop, Facts, Row
from results.schema import DEPLOYED, IMPORTED

SIDE_OF: Final = {"ptq": "reference", "qat": "control", "fp32_ft": "reference", IMPORTED: "reference"}


@dataclass(frozen=True)
class Loss:
    """What one configuration loses against one other side, by one grouping; others are of the same method and bits."""

    config: Config
    comparison: str
    runtime: str
    grouping: Grouping
    verdict: Row
    overall: Drop | None
    worst: tuple[Group, Drop] | None
    evenness: Row
    gap_pp: float | None
    others: tuple["Loss", ...] = ()

    @property
    def word(self) -> str:
        """The verdict."""
        return self.verdict.get("word") or "no verdict"

    @property
    def words_of_others(self) -> Counter[str]:
        """How many of the others have which verdict."""
        return Counter(other.word for other in self.others)

    @property
    def range_of_others(self) -> tuple[float, float] | None:
        """Smallest and largest EAG of the worst group, each of the others having its own."""
        found = [other.worst[1].eag_pp or 0.0 for other in self.others if other.worst]
        return (min(found), max(found)) if found else None


@dataclass(frozen=True)
class Reach:
    """What one data set can tell at all."""

    data: Data
    n_seeds: int
    n_test: int | None
    accuracy: float | None  # of the reference, the mean over its seeds
    mde: dict[str, tuple[float, float] | None]  # by grouping: smallest and largest over primary configurations, pp
    n_failed: int
    n_missing: int


@dataclass(frozen=True)
class Question:
    """A configuration against another one that is neither its reference nor its control."""

    config: Config
    other: Config | None
    row: Row
    evenness: Row
    grouping: Grouping


def measure_reach(facts: Facts) -> list[Reach]:
    """Return for each data set what it can tell: seeds, images, accuracy of the reference, what could go unseen."""
    reaches = []
    for data in facts.catalog.data:
        configs = [config for config in facts.catalog.configs if config.data == data]
        float_ok = [trial for config in configs if config.method == "fp32" for trial in config.ok]
        accuracies = [trial["accuracy"] for trial in float_ok if trial["accuracy"] is not None]
        trials = [trial for config in configs for trial in config.trials]
        sizes = [trial["n_test"] for config in configs for trial in config.ok if trial["n_test"]]
        reaches.append(
            Reach(
                data=data,
                n_seeds=len({trial["seed"] for config in configs for trial in config.ok}),
                n_test=max(sizes, default=None),
                accuracy=sum(accuracies) / len(accuracies) if accuracies else None,
                mde={grouping.name: _find_mde(facts, data, grouping) for grouping in data.groupings},
                n_failed=sum(trial["status"] == "failed" for trial in trials),
                n_missing=sum(trial["status"] not in ("ok", "failed") for trial in trials),
            )
        )
    return reaches


def _find_mde(facts: Facts, data: Data, grouping: Grouping) -> tuple[float, float] | None:
    found = [loss.verdict.get("mde_pp") for loss in list_losses(facts, data, grouping) if loss.config.is_quantized]
    known = [value for value in found if value is not None]
    return (min(known), max(known)) if known else None


def list_losses(facts: Facts, data: Data, grouping: Grouping, *, runtime: str = TORCH) -> list[Loss]:
    """Return a row for each method and bits: PTQ and fine-tuning against the reference, QAT against its control.

    QAT without a control, such as one from scratch with other steps, is beside its reference.
    """
    rows = []
    for same in _split_by_bits(facts, data):
        side = _choose_side(facts, same, runtime)
        if side:
            rows.append(_make_loss(facts, same, grouping, side, runtime))
    return rows


def compare_loss(
    facts: Facts, data: Data, grouping: Grouping, method: str, comparison: str, runtime: str = TORCH
) -> dict[tuple[str, str], Loss]:
    """Return by variant and bits what configurations of a method lose against one other side."""
    found = {}
    for same in _split_by_bits(facts, data):
        if same[0].method == method and any(facts.overall(config, comparison, runtime) for config in same):
            loss = _make_loss(facts, same, grouping, comparison, runtime)
            found[loss.config.variant, loss.config.bits] = loss
    return found


def _split_by_bits(facts: Facts, data: Data) -> Iterator[list[Config]]:
    """Yield the finished configurations of each variant and bits."""
    found: dict[tuple[str, str], list[Config]] = {}
    for config in facts.catalog.configs:
        if config.data == data and config.method in SIDE_OF and config.ok:
            found.setdefault((config.variant, config.bits), []).append(config)
    yield from found.values()


def _choose_side(facts: Facts, configs: Iterable[Config], runtime: str) -> str | None:
    configs = list(configs)
    wanted = SIDE_OF[configs[0].method]
    for side in dict.fromkeys((wanted, "reference")):
        if any(facts.overall(config, side, runtime) for config in configs):
            return side
    return None


def _make_loss(facts: Facts, configs: list[Config], grouping: Grouping, comparison: str, runtime: str) -> Loss:
    losses = [_read_loss(facts, config, grouping, comparison, runtime) for config in configs]
    known = [loss for loss in losses if loss.overall]
    primary = next((loss for loss in known if loss.config.is_primary), known[0])
    others = tuple(loss for loss in known if loss is not primary)
    return Loss(**{**vars(primary), "others": others})


def _read_loss(facts: Facts, config: Config, grouping: Grouping, comparison: str, runtime: str) -> Loss:
    key = (config.config_id, runtime, comparison, grouping.name)
    verdict, drops = facts.verdicts.get(key, {}), facts.drops.get(key, {})
    name = verdict.get("worst_group")
    group = next((group for group in grouping.groups if group.name == name), None)
    return Loss(
        config=config,
        comparison=comparison,
        runtime=runtime,
        grouping=grouping,
        verdict=verdict,
        overall=facts.overall(config, comparison, runtime),
        worst=(group, drops[group.name]) if group and group.name in drops else None,
        evenness=facts.evenness.get(key, {}),
        gap_pp=facts.gaps.get((config.config_id, runtime, grouping.name)),
    )


def list_questions(facts: Facts, data: Data, grouping: Grouping, kind: str) -> list[Question]:
    """Return the contrasts of a kind for the primary configurations, or where none of those has one, for the first."""
    by_id = {config.config_id: config for config in facts.catalog.configs}
    found: dict[tuple[str, str, str | None], Question] = {}
    for config in facts.catalog.configs:
        if config.data != data:
            continue
        for row in facts.contrasts.get((kind, config.config_id), []):
            if row["comparison"] not in (None, SIDE_OF.get(config.method)):
                continue
            key = (config.variant, config.bits, row["other_level"] if kind == "data" else None)
            evenness = facts.contrast_evenness.get((row["contrast_id"], grouping.name), {})
            question = Question(config, by_id.get(row["other_config_id"] or ""), row, evenness, grouping)
            if config.is_primary or key not in found:
                found[key] = question
    return list(found.values())


def list_deployed(facts: Facts) -> list[str]:
    """Return the runtimes beside torch of which there is any row."""
    there = {runtime for _, runtime in facts.latencies}
    return [runtime for runtime in DEPLOYED if runtime in there]


def find_shippable(facts: Facts, data: Data, grouping: Grouping) -> Loss | None:
    """Return the named configuration of the fewest bits that is *harmless* against its reference; of equals the first.

    QAT too is beside the float model that it started from: who ships it gives up that one, not the control.
    """
    methods = ("ptq", "qat")
    losses = [loss for method in methods for loss in compare_loss(facts, data, grouping, method, "reference").values()]
    harmless = [loss for loss in losses if loss.word == "harmless"]
    return min(harmless, key=lambda loss: _count_bits(loss.config), default=None)


def _count_bits(config: Config) -> int:
    trial = config.trials[0]
    return (trial["weight_bits"] or 32) * (trial["act_bits"] or 32)
