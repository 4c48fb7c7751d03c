r"""A table for papers in LaTeX: a `table` environment that needs the package booktabs, and nothing else.

Letters beyond those of the document's fonts, in names of groups, need XeLaTeX or LuaLaTeX.
"""

from typing import Final

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

ESCAPES: Final = {
    **{sign: f"\\{sign}" for sign in "_&%#${}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # the usual font encoding has no straight one
    "[": "{[}",  # after the end of a row it would be the room below it
    "]": "{]}",
    "*": r"\textasteriskcentered{}",
    "–": "--",
    "\n": " ",
}
MOST_COLUMNS: Final = 8  # of numbers that fit the width of a page


def escape_latex(text: str) -> str:
    """Return a text that LaTeX prints as it is; line breaks become spaces."""
    return "".join(ESCAPES.get(sign, sign) for sign in text)


def format_latex(table: PaperTable) -> str:
    """Return the table; a configuration takes two lines, the second with the intervals.

    More columns than fit a page go on in a second tabular below the first, with the same rows.
    """
    tabulars = [line for columns in _split(_list_columns(table)) for line in _format_tabular(columns)]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(format_caption(table))}}}",
        rf"\label{{tab:{table.slug}}}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        *tabulars,
        *(rf"\par {escape_latex(note)}" for note in format_notes(table)),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _list_columns(table: PaperTable) -> list[list[str]]:
    """Return every column from its head down: name, n, and of each configuration a cell and the cell below it."""
    digits = choose_digits(table)
    names = [*HEAD, *(group.name for group in table.groups), *TAIL]
    sizes = [None, None, table.n_test, *(group.n for group in table.groups), *[None] * len(TAIL)]
    heads = ([escape_latex(name), "" if n is None else f"$n={n}$"] for name, n in zip(names, sizes, strict=True))
    lines = [line for row in table.rows for line in _format_row(table, row, digits)]
    return [[*head, *(line[place] for line in lines)] for place, head in enumerate(heads)]


def _split(columns: list[list[str]]) -> list[list[list[str]]]:
    """Return the columns of each tabular; the first one, of names, is in all of them."""
    names, drops, tail = columns[:1], columns[1 : -len(TAIL)], columns[-len(TAIL) :]
    parts = [drops[start : start + MOST_COLUMNS] for start in range(0, len(drops), MOST_COLUMNS)]
    if len(parts[-1]) + len(tail) <= MOST_COLUMNS:
        parts[-1] = parts[-1] + tail
    else:
        parts.append(tail)
    return [[*names, *part] for part in parts]


def _format_tabular(columns: list[list[str]]) -> list[str]:
    lines = [" & ".join(cells) + r" \\" for cells in zip(*columns, strict=True) if any(cells)]
    return [
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\toprule",
        *lines[:2],
        r"\midrule",
        *lines[2:],
        r"\bottomrule",
        r"\end{tabular}\par\medskip",
    ]


def _format_row(table: PaperTable, row: Row, digits: int) -> tuple[list[str], list[str]]:
    drops, named = (row.overall, *row.drops), row.find_named(table.groups)
    cells = [_format(format_number(drop.drop_pp, digits)) for drop in drops]
    if named is not None:
        cells[named + 1] = rf"\textbf{{{cells[named + 1]}}}"
    after = [
        _format(format_number(row.disparity_pp, digits)),
        _format(format_high(row.verdict.get("at_most_pp"), digits)),
    ]
    after += [escape_latex(row.verdict.get(name) or MISSING) for name in ("answer", "word")]
    first = [escape_latex(row.configuration), str(len(row.seeds) or "--"), *cells, *after]
    return first, ["", "", *(_format_interval(drop, digits) for drop in drops), *[""] * len(TAIL)]


def _format(number: str) -> str:
    """Return a number with a minus sign, and no hyphen, before it where it is below zero."""
    return escape_latex(number) if number == MISSING else escape_latex(number).replace("-", "$-$", 1)


def _format_interval(drop: Drop, digits: int) -> str:
    text = escape_latex(format_interval(drop, digits)).replace("-", "$-$")
    return rf"{{\scriptsize {text}}}" if text else ""
