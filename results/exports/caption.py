"""What a reader must know of a table for a paper, in one caption, and its numbers as text."""

import math
from collections.abc import Callable, Iterable

from quantfair.results.exports.paper_table import Drop, PaperTable
from quantfair.results.statistics.decisions import LIMIT, MEANINGS
from quantfair.results.tables.verdicts import format_limit

MISSING = "–"
HEAD = ("Configuration", "Seeds", "All images")
TAIL = ("Disparity", "At most", "Answer", "Verdict")


def format_caption(table: PaperTable) -> str:
    """Return data, numbers of images and seeds, comparison, interval method, and the rules of mark and verdicts."""
    key = table.key
    other = {"reference": "the reference (the float model)", "control": "the control (fine-tuned without quantizers)"}
    mixture = "" if key["imbalance"] == "none" else f"training data {key['imbalance']}, "
    parts = [
        f"What each group of {key['dataset']} by {key['grouping']} loses (task {key['task']}, {mixture}{key['model']}, "
        f"runtime {key['runtime']}): drop of test accuracy against {other[key['comparison']]} in percentage points, "
        f"mean over seeds ({_format_seeds(table)}), with limits in brackets; below zero it gained.",
        f"{table.n_test} test images; n of each group in the head.",
        "Limits: the upper one at 95 % for each group, the lower ones of all groups and all images together at 97.5 % "
        "(Tango's score limits; over seeds at least as wide as t limits with the variance of images and seeds); in the "
        "column of all images the lower one has the 97.5 % for itself. Disparity: largest minus smallest "
        "drop. At most: no group, nor all images together, loses more than this. Answer: whether any loses more than "
        f"{_say_limit(table)} on such images. Bold: the group that does, as the verdict says.",
    ]
    if any(row.verdict.get("contains_answer") for row in table.rows):
        parts.append("The groups contain the answer: their accuracies are recalls of classes.")
    if small := [group.name for group in table.groups if not group.is_ranked]:
        parts.append(f"Too small to be judged, with an interval of 95 %: {', '.join(small)}.")
    if table.empty_groups:
        parts.append(f"Without test images, and left out: {', '.join(table.empty_groups)}.")
    words = dict.fromkeys(row.verdict.get("word") for row in table.rows)
    limit = _say_limit(table)
    meanings = {word: MEANINGS[word].replace("LIMIT", limit) for word in words if word is not None}
    return " ".join([*parts, *(f"{word[0].upper()}{word[1:]}: {meaning}" for word, meaning in meanings.items())])


def format_notes(table: PaperTable) -> list[str]:
    """Return a sentence for each reason why configurations have no numbers."""
    names: dict[str, list[str]] = {}
    for row in table.rows:
        if row.reason:
            names.setdefault(row.reason, []).append(row.configuration)
    return [f"No numbers for {'; '.join(alike)}: {reason}." for reason, alike in names.items()]


def choose_digits(table: PaperTable) -> int:
    """Return 1 digit after the point, or 2 where an interval is shorter than 1 pp."""
    drops = (drop for row in table.rows for drop in (row.overall, *row.drops))
    widths = [d.high_pp - d.low_pp for d in drops if d.low_pp is not None and d.high_pp is not None]
    return 2 if min(widths, default=1.0) < 1 else 1


def format_number(value: float | None, digits: int) -> str:
    """Return a number without a sign before zero, or a dash."""
    text = MISSING if value is None else f"{value:.{digits}f}"
    return text.removeprefix("-") if text.strip("-0.") == "" else text


def format_high(value: float | None, digits: int) -> str:
    """Return an upper limit, rounded up, so that nobody reads more than is known."""
    return format_number(_round(value, digits, math.ceil), digits)


def format_interval(drop: Drop, digits: int) -> str:
    """Return "[0.3, 2.1]", rounded away from each other, or nothing where there is no interval."""
    if drop.low_pp is None or drop.high_pp is None:
        return ""
    return f"[{format_number(_round(drop.low_pp, digits, math.floor), digits)}, {format_high(drop.high_pp, digits)}]"


def _round(value: float | None, digits: int, to_whole: Callable[[float], int]) -> float | None:
    step = 10**digits
    return None if value is None else to_whole(round(value * step, 6)) / step  # 1.1 is not 1.2, whatever its last bit


def _format_seeds(table: PaperTable) -> str:
    sets = sorted({row.seeds for row in table.rows if row.seeds})
    if not sets:
        return "none yet"
    return " or ".join(_join(map(str, seeds)) for seeds in sets)


def _say_limit(table: PaperTable) -> str:
    limits = (row.verdict.get("limit_pp") for row in table.rows)
    return format_limit(next((limit for limit in limits if limit is not None), 100 * LIMIT))


def _join(words: Iterable[str]) -> str:
    return ", ".join(words)
