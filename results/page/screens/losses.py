"""Facts in, the tables behind "who loses": one for each data set and grouping, a row for each method, bits and side."""

from collections.abc import Sequence
from typing import Final

from quantfair.results.page.catalog import Data, Grouping
from quantfair.results.page.comparisons import ComparisonRow, compare_loss, list_losses
from quantfair.results.page.formatting import (
    MISSING,
    count,
    escape,
    format_low,
    format_pp,
    render_number,
    render_table,
)
from quantfair.results.page.fragments import (
    explain_no_worst,
    format_others,
    join_cells,
    name_bits,
    name_group,
    render_disparity,
    render_drop,
    render_word,
)
from quantfair.results.page.index import Facts

NAME: Final = 40  # characters of a group's name
NOTE: Final = (
    '<p class="note">Over all seeds, in torch. Each row shows one configuration, named in it: the one that validation '
    "images chose, where they could. Other settings of the same method and bits: verdicts, and the range of what their "
    "groups lose at most. Named: whom the verdict is about, and where it is not resolved, who could lose most. Excess: "
    "the drop of a group minus the drop of all other images, with its lower limit. In brackets: the limits of a drop; "
    "those of all images stand for themselves here, so they are narrower than in a verdict. * seeds of the plan are "
    "missing.</p>"
)


def render_loss_tables(facts: Facts) -> str:
    """Return the section. The filters show what they leave of it; without a script all of it is there."""
    parts = ['<section id="losses"><h2>Who loses, in numbers</h2>']
    for number, data in enumerate(facts.catalog.data):
        for grouping in data.groupings:
            if table := _render_grouping(facts, data, grouping):
                title = escape(f"{data.title}, by {grouping.heading}")
                place = f'data-data="{number}" data-grouping="{escape(grouping.name)}"'
                parts.append(f"<details open {place}><summary>{title}</summary>{table}</details>")
    if len(parts) == 1:
        parts.append("<p>No finished trial has another to compare with.</p>")
    return "\n".join([*parts, NOTE, "</section>"])


def _render_grouping(facts: Facts, data: Data, grouping: Grouping) -> str:
    noun = grouping.noun
    head = (
        "Method, bits", "Against", "Verdict", "All images", f"Named {noun}", "Its excess", "How unevenly", "Gap",
        "Configuration", "Other settings",
    )  # fmt: skip
    losses = list_losses(facts, data, grouping)
    against_fp32 = compare_loss(facts, data, grouping, "qat", "reference")
    rows = []
    for loss in losses:
        rows.append(_render_row(loss, head))
        other = against_fp32.get((loss.config.variant, loss.config.bits))
        if loss.comparison == "control" and other:
            rows.append(_render_row(other, head))
    return render_table(head, rows, caption=f"{data.title}, by {grouping.heading}", kind="losses") if rows else ""


def _render_row(loss: ComparisonRow, head: Sequence[str]) -> str:
    overall, gap = loss.overall, loss.gap_pp
    excess = lost = None
    if loss.worst:
        group, drop = loss.worst
        least = "" if drop.excess_lower_pp is None else f", at least {format_low(drop.excess_lower_pp)}"
        excess = render_number(f"{format_pp(drop.excess_pp)} pp{least}", drop.excess_pp)
        lost = f"{name_group(group.name, NAME)} <small>n = {group.n:,}</small><br>{render_drop(drop)}"
    cells = [
        escape(loss.side),
        render_word(loss),
        render_drop(overall),
        lost or f'<span class="reason">{escape(explain_no_worst(loss))}</span>',
        excess or MISSING,
        render_disparity(loss.evenness),
        render_number(f"{format_pp(gap)} pp", gap) if gap is not None else MISSING,
        escape(loss.config.name) + f" <small>{count(overall.n_seeds, 'seed') if overall else ''}</small>",
        escape(format_others(loss) or "none"),
    ]
    variant, bits = loss.config.variant, loss.config.bits
    first = f'<th scope="row" data-variant="{escape(variant)}" data-bits="{escape(bits)}">'
    first += f"{escape(name_bits(variant, bits))}</th>"
    return first + join_cells(cells, head[1:])
