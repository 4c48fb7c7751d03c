"""Answers in, one sentence for each question out: what a reader takes away who reads nothing else. Pure.

A sentence says numbers of the tables and how many there are of a kind; it never says that something is fair.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from quantfair.results.page.catalog import Grouping
from quantfair.results.page.comparisons import ComparisonRow, Question, Reach
from quantfair.results.page.formatting import (
    NO_BREAK,
    count,
    format_drop,
    format_low,
    format_percent,
    shorten,
)
from quantfair.results.page.fragments import format_bits, format_range, name_bits
from quantfair.results.page.index import Drop
from quantfair.results.statistics.decisions import NO, NO_VERDICT
from quantfair.results.tables.verdicts import ALL_IMAGES, format_limit

NAME = 40  # characters of a group's name


def lead_reach(reach: Reach) -> str:
    """Return which losses of a group of the first grouping are ruled out."""
    grouping = reach.data.groupings[0]
    at_most = reach.at_most.get(grouping.name)
    if at_most is None:
        return f"By {grouping.title} no loss is ruled out: {reach.reasons[grouping.name]}."
    size = format_range(*at_most)
    if " to " in size:
        size += ", by configuration"
    return f"By {grouping.title}, the loss of every {grouping.noun} is at most {size} (95 % limits)."


def lead_losers(losses: Mapping[str, Sequence[ComparisonRow]]) -> str:
    """Return the clearest loss, and the verdicts on quantized models by every grouping."""
    told = [_count_verdicts(some) for some in losses.values()]
    return " ".join(
        [_format_clearest([one for some in losses.values() for one in some]), *(text for text in told if text)]
    )


def _count_verdicts(losses: Sequence[ComparisonRow]) -> str:
    if not losses:
        return ""
    told = _list_words(Counter(loss.called for loss in losses))
    alone = sum((loss.words_of_files for loss in losses if loss.word == NO_VERDICT), Counter[str]())
    files = f"; of their {count(alone.total(), 'file')} {_list_words(alone)}" if alone else ""
    return f"By {losses[0].grouping.title}, of {count(len(losses), 'quantized row')} {told}{files}."


def _list_words(words: Counter[str]) -> str:
    return ", ".join(f"{n} {word}" for word, n in words.most_common())


def _format_clearest(losses: Sequence[ComparisonRow]) -> str:
    """Return the loss that is clearest of all cells of the plan, and whose it is.

    A grouping that contains the answer says how often each class is found, so it is no headline about groups where
    there is another one.
    """
    about = [loss for loss in losses if not loss.grouping.contains_answer] or losses
    titles = " or ".join(dict.fromkeys(loss.grouping.title for loss in about))
    judged = [loss for loss in about if loss.word != NO_VERDICT]
    if not judged:
        reasons = (loss.verdict["reason"] for loss in about if loss.verdict.get("reason"))
        return f"There is no verdict by {titles}: {next(reasons, 'nothing has been compared')}."
    clear = [loss for loss in judged if loss.verdict.get("clearest_lower_pp")]
    if not clear:
        n_cells = max(loss.verdict["n_cells_of_plan"] for loss in judged)
        return f"By {titles}, no loss is certain once all {n_cells:,} cells of the plan are counted."
    loss = max(clear, key=lambda one: one.verdict["clearest_lower_pp"])
    group, lower = loss.verdict["clearest_group"], format_low(loss.verdict["clearest_lower_pp"])
    whose = f"{group} lose" if group == ALL_IMAGES else f"{_name(loss.grouping, group)} loses"
    return (
        f"Clearest: at {name_bits(loss.config.variant, loss.config.bits)}, {whose} at least {lower} pp, even if all "
        f"{loss.verdict['n_cells_of_plan']:,} cells of the plan are counted."
    )


def _name(grouping: Grouping, group: str) -> str:
    return grouping.prefix + shorten(group, NAME)


def lead_causes(effects: Mapping[str, Mapping[str, Drop | None]], bits: str) -> str:
    """Return what the comparisons say of all images at the fewest bits, and what fine-tuning alone does."""
    drops = {title: found.get(bits) or found.get("FP32") for title, found in effects.items()}
    texts = [f"{title} {format_drop(drop.drop_pp, drop.low_pp, drop.high_pp)}" for title, drop in drops.items() if drop]
    return f"At {format_bits(bits)}, of all images: {'; '.join(texts)}."


def lead_deployed(runtime: str, losses: Sequence[ComparisonRow], limit_pp: float) -> str:
    """Return how many configurations answer as in torch, within the limit for every group, and which does least."""
    every = [one for loss in losses for one in (loss, *loss.others) if one.overall]
    same = sum(loss.answer == NO for loss in every)
    most = max(every, key=lambda loss: (loss.overall.flip_rate or 0.0) if loss.overall else 0.0)
    assert most.overall is not None
    told = (
        f"In {runtime}, of {count(len(every), 'configuration')} {same} {'is' if same == 1 else 'are'} shown to lose at "
        f"most {format_limit(limit_pp)} against torch in every {most.grouping.noun}"
        f"{'' if most.grouping.by_class else f' by {most.grouping.title}'}."
    )
    if not most.overall.flip_rate:
        return f"{told} No answer changes."
    changed = format_percent(most.overall.flip_rate, 2).replace(" ", NO_BREAK)
    drop = format_drop(most.overall.drop_pp, most.overall.low_pp, most.overall.high_pp)
    return f"{told} Farthest from torch: {most.config.name}, {changed} of its answers differ; all images: {drop}."


def lead_mixtures(questions: Sequence[Question], other: str) -> str:
    """Return in how many comparisons quantization costs more, or less, than under the other mixture."""
    more = sum(question.row["drop_ci_low_pp"] > 0 for question in questions)
    less = sum(question.row["drop_ci_high_pp"] < 0 for question in questions)
    return (
        f"Of {count(len(questions), 'comparison')} with {other}, quantization costs all images more in {more}, less in "
        f"{less}; in the others the interval holds 0."
    )
