"""Numbers and names as the page writes them: one way for each, always escaped.

A percentage point is signed with a true minus; a missing value is an en dash. Positive drops are losses, and say so.
"""

import html
import json
from collections.abc import Iterable
from typing import Any, Final

from results.page.facts import Spread

MISSING: Final = "–"


def escape(value: object) -> str:
    """Return text that is safe in HTML and in double-quoted attributes."""
    return html.escape(str(value), quote=True)


def escape_label(name: str, length: int | None = None) -> str:
    """Return a name for plotly, which reads tags and a few entities in its texts, cut to `length` characters."""
    return html.escape(name if length is None else shorten(name, length), quote=False)


def count(number: int, noun: str) -> str:
    """Return "1 trial", "2 trials"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shorten(name: str, length: int) -> str:
    """Return a name of at most `length` characters."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def format_percent(fraction: float | None, digits: int = 1) -> str:
    """Return 0.9731 as "97.3 %"."""
    return MISSING if fraction is None else f"{100 * fraction:.{digits}f} %"


def format_pp(value: float | None, digits: int = 1) -> str:
    """Return percentage points without their unit: "3.1", "−0.4", never "−0.0"."""
    if value is None:
        return MISSING
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def format_seconds(value: float | None) -> str:
    """Return seconds with one decimal."""
    return MISSING if value is None else f"{value:.1f}"


def describe_percents(spread: Spread | None, digits: int = 1) -> str:
    """Return "93.1 % (91.0 to 95.2)": the mean and, of several trials, their range."""
    if spread is None:
        return MISSING
    low, high = (f"{100 * value:.{digits}f}" for value in (spread.low, spread.high))
    return format_percent(spread.mean, digits) + (f" ({low} to {high})" if spread.n > 1 else "")


def describe_pp(spread: Spread | None) -> str:
    """Return "6.1 pp (4.2 to 9.0)"."""
    if spread is None:
        return MISSING
    text = f"{format_pp(spread.mean)} pp"
    return text + (f" ({format_pp(spread.low)} to {format_pp(spread.high)})" if spread.n > 1 else "")


def describe_drop(spread: Spread | None, digits: int = 1) -> str:
    """Return "loses 3.1 pp (trials: 1.2 to 5.0)"; where trials differ in sign, each end of the range says its own."""
    if spread is None:
        return MISSING
    mean, low, high = (round(value, digits) + 0.0 for value in (spread.mean, spread.low, spread.high))  # never -0.0
    text = f"{_verb(mean)} {abs(mean):.{digits}f} pp" if mean else f"no change, {0:.{digits}f} pp"
    if spread.n < 2:
        return text
    if mean > 0 and low >= 0:
        ends = f"{low:.{digits}f} to {high:.{digits}f}"
    elif mean < 0 and high <= 0:
        ends = f"{0.0 - high:.{digits}f} to {-low:.{digits}f}"
    else:
        ends = f"{_end(low, digits)} to {_end(high, digits)}"
    return f"{text} (trials: {ends})"


def _verb(value: float) -> str:
    return "loses" if value > 0 else "gains"


def _end(value: float, digits: int) -> str:
    return f"{_verb(value)} {abs(value):.{digits}f}" if value else f"{0:.{digits}f}"


def render_cell(text: str, value: float | None = None, *, label: str = "", kind: str = "") -> str:
    """Return a cell: escaped text, the exact number in `data-value` and as its tooltip, `label` for narrow screens."""
    exact = f' data-value="{value!r}" title="{value!r}"' if value is not None else ""
    content = f"<span>{soften_range(text)}</span>" if label else soften_range(text)
    label = f' data-label="{escape(label)}"' if label else ""
    kind = f' class="{kind}"' if kind else ""
    return f"<td{kind}{label}{exact}>{content}</td>"


def soften_range(text: str) -> str:
    """Return escaped text in which the range in brackets at its end is small print."""
    start, bracket, rest = text.partition(" (")
    return f"{escape(start)} <small>({escape(rest)}</small>" if bracket and start != MISSING else escape(text)


def render_table(head: Iterable[str], rows: Iterable[str], *, caption: str, kind: str) -> str:
    """Return a table in a box of its own that scrolls; `head` holds texts, `rows` the finished cells of each row."""
    cells = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="{kind}">'
        f"<caption>{escape(caption)}</caption><thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def dump_json(value: Any) -> str:
    """Return JSON that can stand in a script block: nothing in it ends the block or opens a comment. No NaN."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("</", "<\\/").replace("<!--", "<\\u0021--")
