"""Answers in, one sentence for each question out: what a reader takes away who reads nothing else. Pure.

A sentence says numbers of the tables and how many there are of a kind; it never says that something is fair.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from quantfair.results.page.catalog import Grouping
from quantfair.results.page.comparisons import ComparisonRow, DetectableDrop, Question
from quantfair.results.page.formatting import (
    NO_BREAK,
    count,
    format_drop,
    format_interval,
    format_percent,
    format_pp,
    shorten,
)
from quantfair.results.page.fragments import format_bits, name_bits
from quantfair.results.page.index import Drop

NAME = 40  # characters of a group's name
TAIL = 0.025  # of 95 % intervals around nothing, so many lie above it


def lead_reach(reach: DetectableDrop) -> str:
    """Return how much a group of the first grouping must lose before it shows."""
    grouping = reach.data.groupings[0]
    mde = reach.mde.get(grouping.name)
    if mde is None:
        return f"By {grouping.title} no detectable drop is known: {reach.reasons[grouping.name]}."
    low, high = (format_pp(value) for value in mde)
    size = f"{low} pp" if low == high else f"{low} to {high} pp, by configuration"
    return f"By {grouping.title}, the drop of a {grouping.noun} is told from 0 (80 % power) if it is at least {size}."


def lead_losers(losses: Mapping[str, Sequence[ComparisonRow]]) -> str:
    """Return who does worse than all images, and the verdicts on quantized models by every grouping."""
    shown = {title: [loss for loss in some if loss.config.method != "fp32_ft"] for title, some in losses.items()}
    told = [_count_verdicts(some) for some in shown.values()]
    return " ".join(
        [_format_clearest([one for some in shown.values() for one in some]), *(text for text in told if text)]
    )


def _count_verdicts(losses: Sequence[ComparisonRow]) -> str:
    if not losses:
        return ""
    words = Counter(loss.word for loss in losses)
    told = ", ".join(f"{n} {word}" for word, n in words.most_common())
    return f"By {losses[0].grouping.title}, of {count(len(losses), 'quantized row')} {told}."


def _format_clearest(losses: Sequence[ComparisonRow]) -> str:
    """Return in how many places a group's excess is above 0 by its interval, and the one that is farthest from it."""
    found = [(loss, group, drop) for loss in losses for group, drop in loss.in_play if drop.eag_low_pp is not None]
    above = [one for one in found if (one[2].eag_low_pp or 0) > 0]
    if not found:
        return "Of no single group is an excess known."
    if not above:
        return f"No group is shown to do worse than all images: of {len(found)} intervals none is above 0."
    loss, group, drop = max(above, key=lambda one: one[2].eag_low_pp or 0)
    are_above = f"{len(above)} {'is' if len(above) == 1 else 'are'} above 0"
    return (
        f"Clearest: {_name(loss.grouping, group.name)} at {name_bits(loss.config.variant, loss.config.bits)}, "
        f"{format_pp(drop.eag_pp)} pp{format_interval(drop.eag_low_pp, drop.eag_high_pp)} worse than all images: it "
        f"{format_drop(drop.drop_pp)}. Of {len(found)} such intervals {are_above}, "
        f"where chance alone puts {_format_expected(TAIL * len(found))}."
    )


def _format_expected(expected: float) -> str:
    return "less than 1" if expected < 1 else f"about {expected:.0f}"


def _name(grouping: Grouping, group: str) -> str:
    return grouping.prefix + shorten(group, NAME)


def lead_causes(effects: Mapping[str, Mapping[str, Drop | None]], bits: str) -> str:
    """Return what the comparisons say of all images at the fewest bits, and what fine-tuning alone does."""
    drops = {title: found.get(bits) or found.get("FP32") for title, found in effects.items()}
    texts = [f"{title} {format_drop(drop.drop_pp, drop.low_pp, drop.high_pp)}" for title, drop in drops.items() if drop]
    return f"At {format_bits(bits)}, of all images: {'; '.join(texts)}."


def lead_deployed(runtime: str, losses: Sequence[ComparisonRow]) -> str:
    """Return how many configurations answer as in torch, within 1 pp for every group, and which does least."""
    every = [one for loss in losses for one in (loss, *loss.others) if one.overall]
    same = sum(loss.word == "harmless" for loss in every)
    most = max(every, key=lambda loss: (loss.overall.flip_rate or 0.0) if loss.overall else 0.0)
    assert most.overall is not None
    told = (
        f"In {runtime} {same} of {count(len(every), 'configuration')} {'is' if same == 1 else 'are'} shown to be "
        f"within ±1 pp of torch for every {most.grouping.noun} by {most.grouping.title}."
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
