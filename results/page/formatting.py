"""Numbers and names as the page writes them: one way for each, always escaped. `js/words.js` writes them alike.

A percentage point is signed with a true minus; a missing value is an en dash. Positive drops are losses, and say so.
"""

import html
import json
import math
from collections.abc import Callable, Iterable
from typing import Any, Final

MISSING: Final = "–"
NO_BREAK: Final = "\u00a0"


def escape(value: object) -> str:
    """Return text that is safe in HTML and in double-quoted attributes."""
    return html.escape(str(value), quote=True)


def count(number: int, noun: str) -> str:
    """Return "1 trial", "2,000 trials", "2 classes"."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{plural}"


def shorten(name: str, length: int) -> str:
    """Return a name of at most `length` characters."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def format_percent(fraction: float | None, digits: int = 1) -> str:
    """Return 0.9731 as "97.3 %"."""
    return MISSING if fraction is None else f"{100 * fraction:.{digits}f} %"


def format_pp(value: float | None, digits: int | None = None) -> str:
    """Return percentage points without their unit: "3.1", "−0.4", never "−0.0"; below 0.1 with two digits."""
    if value is None:
        return MISSING
    places = digits if digits is not None else 2 if 0.005 <= abs(value) < 0.095 else 1
    text = f"{value:.{places}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def format_p(p: float | None) -> str:
    """Return "p = 0.03", "p < 0.001", which no line breaks."""
    text = MISSING if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    return text.replace(" ", NO_BREAK)


def format_low(value: float | None) -> str:
    """Return a lower limit in percentage points, rounded down, so that nobody reads more than is known."""
    return _format_limit(value, math.floor)


def format_high(value: float | None) -> str:
    """Return an upper limit in percentage points, rounded up."""
    return _format_limit(value, math.ceil)


def _format_limit(value: float | None, to_whole: Callable[[float], int]) -> str:
    if value is None:
        return MISSING
    digits = 2 if abs(value) < 0.095 else 1
    step = 10**digits
    shown = to_whole(round(value * step, 6)) / step  # 1.1 is not 1.2, whatever its last bit
    return format_pp(shown, digits if shown else None)


def format_interval(low: float | None, high: float | None) -> str:
    """Return " [1.2, 5.0]", which no line breaks, and nothing where there is no interval."""
    return "" if low is None or high is None else f" [{format_low(low)},{NO_BREAK}{format_high(high)}]"


def format_drop(drop: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return "loses 3.1 pp [1.2, 5.0]"; of a gain both the number and the interval are of the gain."""
    if drop is None:
        return MISSING
    if float(f"{drop:.2f}") == 0:
        return f"no change, 0.0 pp{format_interval(low, high)}"
    if drop > 0:
        return f"loses {format_pp(drop)} pp{format_interval(low, high)}"
    return f"gains {format_pp(-drop)} pp{format_interval(_minus(high), _minus(low))}"


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def render_number(text: str, value: float | None) -> str:
    """Return escaped text with the exact number in `data-value`."""
    exact = "" if value is None else f' data-value="{value!r}"'
    return f"<span{exact}>{escape(text)}</span>"


def render_table(head: Iterable[str], rows: Iterable[str], *, caption: str, kind: str) -> str:
    """Return a table in a box of its own that scrolls; `head` holds texts, `rows` the finished cells of each row."""
    cells = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="{kind}">'
        f"<caption>{escape(caption)}</caption><thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def dump_json(value: Any) -> str:
    """Return JSON with as few bytes as it takes. No NaN."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
