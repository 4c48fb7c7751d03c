"""A table for papers in Markdown as GitHub renders it: a caption, a table, and notes."""

import re
from collections.abc import Iterable

from quantfair.results.exports.caption import (
    HEAD,
    MISSING,
    TAIL,
    choose_digits,
    format_caption,
    format_high,
    format_interval,
    format_notes,
    format_number,
)
from quantfair.results.exports.paper_table import Drop, PaperTable, Row


def escape_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, in a cell of a table too; line breaks become spaces."""
    return re.sub(r"([\\`*_\[\]<>|~#&$@])", r"\\\1", " ".join(text.split()))


def format_markdown(table: PaperTable) -> str:
    """Return caption, table and notes; the bold drop of a row is that of the group that loses, as its verdict says."""
    digits = choose_digits(table)
    groups = [f"{group.name} (n = {group.n})" for group in table.groups]
    head = [*HEAD[:-1], f"{HEAD[-1]} (n = {table.n_test})", *groups, *TAIL]
    lines = [
        escape_markdown(format_caption(table)),
        "",
        _join(map(escape_markdown, head)),
        _join(["---", *["---:"] * (len(head) - 2), "---"]),
        *(_format_row(table, row, digits) for row in table.rows),
    ]
    lines += [line for note in format_notes(table) for line in ("", escape_markdown(note))]
    return "\n".join(lines) + "\n"


def _format_row(table: PaperTable, row: Row, digits: int) -> str:
    named = row.find_named(table.groups)
    drops = [_format_drop(drop, digits, bold=place == named) for place, drop in enumerate(row.drops)]
    after = [format_number(row.disparity_pp, digits), format_high(row.verdict.get("at_most_pp"), digits)]
    after += [escape_markdown(row.verdict.get(name) or MISSING) for name in ("answer", "word")]
    name, overall = escape_markdown(row.configuration), _format_drop(row.overall, digits, bold=False)
    return _join([name, str(len(row.seeds) or MISSING), overall, *drops, *after])


def _format_drop(drop: Drop, digits: int, *, bold: bool) -> str:
    value, interval = format_number(drop.drop_pp, digits), escape_markdown(format_interval(drop, digits))
    return f"{f'**{value}**' if bold else value} {interval}".strip()


def _join(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
