"""Answers in, one sentence for each question out: what a reader takes away who reads nothing else. Pure.

A sentence says numbers of the tables and how many there are of a kind; it never says that something is fair.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from results.page.answers import Loss, Question, Reach
from results.page.catalog import Grouping
from results.page.cells import name_bits, say_bits
from results.page.markup import count, format_percent, format_pp, say_drop, say_interval, shorten

NAME = 40  # characters of a group's name


def lead_reach(reach: Reach) -> str:
    """Return which drops by the first grouping could have gone unseen."""
    grouping = reach.data.groupings[0]
    mde = reach.mde.get(grouping.name)
    if mde is None:
        return f"By {grouping.title} nothing can be told: no quantized configuration has a verdict."
    low, high = (format_pp(value) for value in mde)
    size = f"{low} pp" if low == high else f"{low} pp (fewest flips) to {high} pp (most)"
    return f"By {grouping.title}, drops of a {grouping.noun} under {size} could have gone unseen."


def lead_losers(losses: Mapping[str, Sequence[Loss]]) -> str:
    """Return the verdicts by the first grouping, how many are uneven by the others, and the clearest excess."""
    first, *others = losses.values()
    words = Counter(loss.word for loss in first)
    told = [f"By {first[0].grouping.title}: {', '.join(f'{n} {word}' for word, n in words.most_common())}."]
    uneven = [
        (some[0].grouping.title, sum(loss.word == "uneven" for loss in some), len(some)) for some in others if some
    ]
    if any(number for _, number, _ in uneven):
        told.append(f"Uneven {', '.join(f'by {title} {number} of {n}' for title, number, n in uneven)}.")
    excess = [loss for some in losses.values() for loss in some if loss.worst and (loss.worst[1].eag_low_pp or 0) > 0]
    return " ".join([*told, _tell_clearest(excess)])


def _tell_clearest(excess: Sequence[Loss]) -> str:
    """Return the group whose excess is farthest from 0 by the lower end of its interval."""
    if not excess:
        return "No single group's excess is told from 0 by its interval over seeds."
    clearest = max(excess, key=lambda loss: (loss.worst[1].eag_low_pp or 0) if loss.worst else 0)
    assert clearest.worst is not None
    group, drop = clearest.worst
    return (
        f"Clearest: {_name(clearest.grouping, group.name)} {say_drop(drop.drop_pp, drop.low_pp, drop.high_pp)} at "
        f"{name_bits(clearest.config.variant, clearest.config.bits)}, {format_pp(drop.eag_pp)} pp"
        f"{say_interval(drop.eag_low_pp, drop.eag_high_pp)} more than all."
    )


def _name(grouping: Grouping, group: str) -> str:
    return f"class {group}" if grouping.by_class else shorten(group, NAME)


def lead_causes(effects: Mapping[str, Mapping[str, Loss]], bits: str) -> str:
    """Return what the comparisons say at the fewest bits, and what fine-tuning alone does."""
    texts = []
    for title, found in effects.items():
        loss = found.get(bits) or found.get("FP32")
        if loss and loss.overall:
            overall = loss.overall
            texts.append(f"{title} {say_drop(overall.drop_pp, overall.low_pp, overall.high_pp)}")
    return f"At {say_bits(bits)}: {'; '.join(texts)}."


def lead_deployed(runtime: str, losses: Sequence[Loss]) -> str:
    """Return how many configurations are harmless against themselves in torch, and which answers otherwise most."""
    every = [one for loss in losses for one in (loss, *loss.others) if one.overall]
    harmless = sum(loss.word == "harmless" for loss in every)
    most = max(every, key=lambda loss: (loss.overall.flip_rate or 0.0) if loss.overall else 0.0)
    assert most.overall is not None
    return (
        f"{runtime}: {harmless} of {count(len(every), 'configuration')} harmless against torch. Most answers "
        "change for "
        f"{most.config.name}: {format_percent(most.overall.flip_rate, 2)}; on all images it "
        f"{say_drop(most.overall.drop_pp, most.overall.low_pp, most.overall.high_pp)}."
    )


def lead_mixtures(questions: Sequence[Question]) -> str:
    """Return in how many comparisons quantization costs more, or less, under the less even data."""
    more = sum(question.row["drop_ci_low_pp"] > 0 for question in questions)
    less = sum(question.row["drop_ci_high_pp"] < 0 for question in questions)
    return (
        f"Of {count(len(questions), 'comparison')} quantization costs all images more under the less even "
        f"data in {more}, "
        f"less in {less}; in the others the interval holds 0."
    )
