"""Short texts for people: the first line of an error, and seconds as a time."""

from itertools import chain


def first_line(error: str | None) -> str:
    """Return the first line of an error, or where to look for it."""
    return next(chain((error or "").splitlines(), ["its log says why"]))


def format_s(seconds: float) -> str:
    """Return "85 s", "12 min", "5 h 20 min" or "3 d 4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
