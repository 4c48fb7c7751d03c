"""Facts in, the answers of the first screen: can this sweep answer, who loses, what causes it, what ships. Pure.

Every number is one of the tables. Where several configurations answer one question, the *primary* one does (chosen on
val), and the range over the others stands beside it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from quantfair.results.page.catalog import QUANTIZED, Config, Data, Group, Grouping
from quantfair.results.page.index import TORCH, Drop, Facts, Row
from quantfair.results.schema import DEPLOYED, IMPORTED
from quantfair.results.statistics.decisions import CANNOT_TELL, NO, NO_VERDICT, UNCHANGED

SIDE_OF: Final = {"ptq": "reference", "qat": "control", "fp32_ft": "reference", IMPORTED: "reference"}
LOSERS: Final = ("ptq", "qat", IMPORTED)  # methods whose losses the page asks about
RUNNABLE: Final = ("fp32", "fp32_ft", "ptq", "qat")  # what a runtime can be given


@dataclass(frozen=True)
class ComparisonRow:
    """What one configuration loses against one other side, by one grouping; others are of the same method and bits."""

    config: Config
    comparison: str
    other: Config | None
    runtime: str
    grouping: Grouping
    verdict: Row
    files: tuple[Row, ...]
    overall: Drop | None
    worst: tuple[Group, Drop] | None
    evenness: Row
    gap_pp: float | None
    in_play: tuple[tuple[Group, Drop], ...] = ()
    others: tuple["ComparisonRow", ...] = ()

    @property
    def word(self) -> str:
        """The verdict on the recipe, or on the one file that there is."""
        return self.verdict.get("word") or NO_VERDICT

    @property
    def answer(self) -> str | None:
        """Whether anybody loses more than the limit: no, yes, cannot tell, or None without a verdict."""
        return self.verdict.get("answer")

    @property
    def called(self) -> str:
        """What the page calls the verdict: its word, with the answer where the word leaves it open."""
        return call_verdict(self.verdict)

    @property
    def words_of_files(self) -> Counter[str]:
        """How many of the trained models have which verdict."""
        return Counter(map(call_verdict, self.files))

    @property
    def side(self) -> str:
        """What the other side is called."""
        if self.comparison == "twin":
            return "itself in torch"
        return self.other.variant if self.other else f"its {self.comparison}"

    @property
    def words_of_others(self) -> Counter[str]:
        """How many of the others have which verdict."""
        return Counter(other.called for other in self.others)

    @property
    def range_of_others(self) -> tuple[float, float] | None:
        """Smallest and largest of what the others lose at most."""
        found = [other.verdict["at_most_pp"] for other in self.others if other.verdict.get("at_most_pp") is not None]
        return (min(found), max(found)) if found else None


def call_verdict(verdict: Row) -> str:
    """Return what the page calls a verdict: "uneven", "unchanged", "unchanged (cannot tell)"."""
    word = verdict.get("word") or NO_VERDICT
    return f"{word} ({CANNOT_TELL})" if word == UNCHANGED and verdict.get("answer") == CANNOT_TELL else word


@dataclass(frozen=True)
class Reach:
    """What one data set can tell at all: losses above `at_most` are ruled out."""

    data: Data
    n_seeds: int
    n_test: int | None
    accuracy: float | None  # of the reference, the mean over its seeds
    at_most: dict[str, tuple[float, float] | None]  # by grouping: smallest and largest over primary configurations, pp
    reasons: dict[str, str]  # by grouping: why there is none
    n_failed: int


@dataclass(frozen=True)
class Question:
    """A configuration against another one that is neither its reference nor its control."""

    config: Config
    other: Config | None
    row: Row
    evenness: Row
    grouping: Grouping


def measure_reach(facts: Facts) -> list[Reach]:
    """Return for each data set what it can tell: seeds, images, accuracy of the reference, what is ruled out."""
    reaches = []
    for data in facts.catalog.data:
        configs = [config for config in facts.catalog.configs if config.data == data]
        float_ok = [trial for config in configs if config.method == "fp32" for trial in config.ok]
        accuracies = [trial["accuracy"] for trial in float_ok if trial["accuracy"] is not None]
        trials = [trial for config in configs for trial in config.trials]
        sizes = [trial["n_test"] for config in configs for trial in config.ok if trial["n_test"]]
        verdicts = {grouping.name: _list_verdicts(facts, data, grouping) for grouping in data.groupings}
        reaches.append(
            Reach(
                data=data,
                n_seeds=count_seeds(configs),
                n_test=max(sizes, default=None),
                accuracy=sum(accuracies) / len(accuracies) if accuracies else None,
                at_most={name: _find_at_most(found) for name, found in verdicts.items()},
                reasons={name: _explain_no_limit(found) for name, found in verdicts.items()},
                n_failed=sum(trial["status"] == "failed" for trial in trials),
            )
        )
    return reaches


def count_seeds(configs: Sequence[Config]) -> int:
    """Return the seeds of the configuration that has most of them: of those that are judged, if there are any.

    A float model of a further seed is no replicate of what is compared with it.
    """
    judged = [config for config in configs if config.method in LOSERS and config.ok] or configs
    return max((len({trial["seed"] for trial in config.ok}) for config in judged), default=0)


def _list_verdicts(facts: Facts, data: Data, grouping: Grouping) -> list[Row]:
    return [loss.verdict for loss in list_losses(facts, data, grouping)]


def _find_at_most(verdicts: Sequence[Row]) -> tuple[float, float] | None:
    known = [verdict["at_most_pp"] for verdict in verdicts if verdict.get("at_most_pp") is not None]
    return (min(known), max(known)) if known else None


def _explain_no_limit(verdicts: Sequence[Row]) -> str:
    reasons = [verdict["reason"] for verdict in verdicts if verdict.get("reason")]
    return reasons[0] if reasons else "no finished configuration is compared with another one"


def list_losses(facts: Facts, data: Data, grouping: Grouping) -> list[ComparisonRow]:
    """Return a row for each method and bits: PTQ against the reference, QAT against its control.

    QAT without a control, such as one from scratch with other steps, is compared with its reference. A float model that
    was fine-tuned has no quantizer, so it is none of those who lose by one.
    """
    rows = []
    for same in _split_by_bits(facts, data):
        if same[0].method not in LOSERS:
            continue
        if side := choose_side(facts, same):
            rows.append(_make_loss(facts, same, grouping, side, TORCH))
    return rows


def compare_loss(
    facts: Facts, data: Data, grouping: Grouping, method: str, comparison: str, runtime: str = TORCH
) -> dict[tuple[str, str], ComparisonRow]:
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
        if config.data == data and config.ok:
            found.setdefault((config.variant, config.bits), []).append(config)
    yield from found.values()


def choose_side(facts: Facts, configs: Sequence[Config]) -> str | None:
    """Return the other side that configurations of one method are compared with: of QAT the control, if it has one."""
    for side in dict.fromkeys((SIDE_OF.get(configs[0].method), "reference")):
        if side and any(facts.overall(config, side) for config in configs):
            return side
    return None


def _make_loss(facts: Facts, configs: list[Config], grouping: Grouping, comparison: str, runtime: str) -> ComparisonRow:
    losses = [_read_loss(facts, config, grouping, comparison, runtime) for config in configs]
    known = [loss for loss in losses if loss.overall]
    primary = next((loss for loss in known if loss.config.is_primary), known[0])
    others = tuple(loss for loss in known if loss is not primary)
    return ComparisonRow(**{**vars(primary), "others": others})


def _read_loss(facts: Facts, config: Config, grouping: Grouping, comparison: str, runtime: str) -> ComparisonRow:
    key = (config.config_id, runtime, comparison, grouping.name)
    verdict, drops = facts.judge(key), facts.drops.get(key, {})
    out = verdict.get("out_of_play") or ()
    overall = facts.overall(config, comparison, runtime)
    in_play = tuple(
        (g, drops[g.name]) for g in grouping.groups if g.is_ranked and g.name not in out and g.name in drops
    )
    return ComparisonRow(
        config=config,
        comparison=comparison,
        other=facts.catalog.find(overall.other_config_id) if overall else None,
        runtime=runtime,
        grouping=grouping,
        verdict=verdict,
        files=tuple(facts.files.get(key, ())),
        overall=overall,
        worst=next((found for found in in_play if found[0].name == verdict.get("group")), None),
        evenness=facts.evenness.get(key, {}),
        gap_pp=facts.gaps.get((config.config_id, runtime, grouping.name)),
        in_play=in_play,
    )


def list_questions(facts: Facts, data: Data, grouping: Grouping, kind: str) -> list[Question]:
    """Return one contrast of a kind for each method and bits, of named configurations on both sides if there is one."""
    found: dict[tuple[str, str, str | None], list[Question]] = {}
    for config in facts.catalog.configs:
        if config.data != data:
            continue
        side = choose_side(facts, [config])
        for row in facts.contrasts.get((kind, config.config_id), []):
            if row["comparison"] not in (None, side):
                continue
            key = (config.variant, config.bits, row["other_level"] if kind == "data" else None)
            evenness = facts.contrast_evenness.get((row["contrast_id"], grouping.name), {})
            question = Question(config, facts.catalog.find(row["other_config_id"]), row, evenness, grouping)
            found.setdefault(key, []).append(question)
    return [max(alike, key=_count_named) for alike in found.values()]


def _count_named(question: Question) -> int:
    return 2 * question.config.is_primary + bool(question.other and question.other.is_primary)


def list_deployed(facts: Facts) -> list[str]:
    """Return the runtimes beside torch of which there is any row."""
    there = {runtime for _, runtime in facts.deployed}
    return [runtime for runtime in DEPLOYED if runtime in there]


def find_shippable(facts: Facts, data: Data, grouping: Grouping, runtime: str) -> ComparisonRow | None:
    """Return the last named configuration, from the most bits down, before the first whose answer is not no.

    The order is fixed before the test images are looked at: val named the configurations, and bits sort them. So the
    answers need no correction for their number. QAT too is compared with FP32: who ships it gives up that one, not the
    control. FP32 answers in torch in every case. PTQ of the control is compared with that one alone, so it is never
    named. Without a verdict on the recipe every file must have the answer no.
    """
    losses = [
        loss
        for method in QUANTIZED
        for loss in compare_loss(facts, data, grouping, method, "reference", runtime).values()
    ]
    against_float = [loss for loss in losses if loss.other and loss.other.method == "fp32"]
    found = None
    for loss in sorted(against_float, key=lambda loss: -count_bits(loss.config)):
        answers = {loss.answer} if loss.answer else {row["answer"] for row in loss.files}
        if answers != {NO}:
            break
        found = loss
    return found


def count_bits(config: Config) -> int:
    """Return bits of a weight times bits of an activation: what the cost of a multiplication goes with."""
    trial = config.trials[0]
    return (trial["weight_bits"] or 32) * (trial["act_bits"] or 32)
