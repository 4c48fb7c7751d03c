"""Accuracy against bits, a line for each group: one figure for each quantizing method, all with one range of accuracy.

Up to eight groups have a colour each. With more of them all lines are grey but one, the worst group at the fewest bits;
the reader moves the focus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from results.configurations import Trial, name_bits, name_variant
from results.page.facts import Facts, Group, Spread
from results.page.figures import HUES, MUTED, Cell, Figure, make_axis, make_layout, name_group
from results.page.markup import count, describe_percents, escape_label, format_percent, shorten
from results.page.summary import Section, average_accuracy, find_worst, split_trials

HEIGHT, TOP, BOTTOM = 370, 16, 46  # px of a line chart
LABEL_STEP = 15  # px from one direct label to the next
MAX_LABELS = 16  # with more groups only the focused one is labelled
MAX_NAME: Final = 12  # characters of a direct label


@dataclass(frozen=True)
class _Column:
    """One place on the axis of bits."""

    text: str
    trials: list[Trial]

    @property
    def tick(self) -> str:
        """Its tick text, in two lines: narrow enough for five of them on a phone."""
        return f"{self.text}<br>bits" if self.text.isdigit() else self.text.replace("-", "-<br>")


def draw_accuracy(facts: Facts, section: Section, key: str) -> list[Figure]:
    """Return accuracy against bits, one figure a quantizing method (or one of the float models where there is none)."""
    panels = _list_panels(section)
    spreads = {
        (variant, i, j): average_accuracy(facts, column.trials, section.grouping, group.name)
        for variant, columns in panels.items()
        for i, group in enumerate(section.groups)
        for j, column in enumerate(columns)
    }
    y_range = _choose_range([spread for spread in spreads.values() if spread])
    figures = []
    for number, (variant, columns) in enumerate(panels.items()):
        table = [[spreads[variant, i, j] for j in range(len(columns))] for i in range(len(section.groups))]
        figures.append(_draw_panel(facts, section, f"{key}-accuracy-{number}", variant, columns, table, y_range))
    return figures


def _list_panels(section: Section) -> dict[str, list[_Column]]:
    by_method = split_trials(section.trials)
    parts = [(name_variant(trials[0]), name_bits(trials[0]), trials) for trials in by_method]
    floats = {variant: trials for variant, bits, trials in parts if bits == "FP32"}
    quantized = dict.fromkeys(variant for variant, bits, _ in parts if bits != "FP32")
    if not quantized:
        return {"Float models": [_Column(variant, trials) for variant, trials in floats.items()]}
    panels = {}
    for variant in quantized:
        starts = ["FP32"] if variant == "PTQ" else ["FP32", "FP32-FT"]
        columns = [_Column(name, floats[name]) for name in starts if name in floats]
        panels[variant] = columns + [_Column(bits, trials) for name, bits, trials in parts if name == variant]
    return panels


def _choose_range(spreads: Sequence[Spread]) -> tuple[float, float]:
    """Return one range of accuracy for all panels, a little wider than the values, inside [0, 1] but for a margin."""
    low = min((spread.low for spread in spreads), default=0.0)
    high = max((spread.high for spread in spreads), default=1.0)
    margin = max(0.05 * (high - low), 0.01)
    return max(low - margin, -0.02), min(high + margin, 1.02)


def _draw_panel(
    facts: Facts, section: Section, key: str, variant: str, columns: list[_Column],
    table: list[list[Spread | None]], y_range: tuple[float, float],
) -> Figure:  # fmt: skip
    names = [group.name for group in section.groups]
    many = len(names) > len(HUES)
    focus = _choose_focus(facts, section, columns) if many else None
    colors = [MUTED if many else HUES[i] for i in range(len(names))]
    traces = [
        _draw_line(group, columns, spreads, colors[i], 0.16 * ((i + 0.5) / len(names) - 0.5))
        for i, (group, spreads) in enumerate(zip(section.groups, table, strict=True))
    ]
    labels = _place_labels(names, table, colors, y_range) if len(names) <= MAX_LABELS else []
    x_axis = make_axis() | {"tickvals": list(range(len(columns))), "ticktext": [column.tick for column in columns]}
    x_axis |= {
        "range": [-0.25, len(columns) - 0.8],
        "showgrid": False,
        "tickangle": 0,
    }
    y_axis = make_axis() | {"range": list(y_range), "tickformat": ".0%" if y_range[1] - y_range[0] > 0.06 else ".1%"}
    right = 40 + 7 * max((len(shorten(name, MAX_NAME)) for name in names), default=0) if labels else 16
    margin = {"l": 52, "r": right, "t": TOP, "b": BOTTOM}
    layout = make_layout(HEIGHT, margin) | {"xaxis": x_axis, "yaxis": y_axis, "annotations": labels}
    return Figure(
        key=key,
        title=variant,
        summary=_summarize_panel(section, variant, columns, table),
        plot={"data": traces, "layout": layout},
        corner="Class" if section.by_class else "Group",
        columns=[column.text for column in columns],
        rows=[
            (f"{group.name} (n={group.n})", [Cell(describe_percents(s), s.mean if s else None) for s in spreads])
            for group, spreads in zip(section.groups, table, strict=True)
        ],
        focus=focus,
    )


def _draw_line(
    group: Group, columns: list[_Column], spreads: list[Spread | None], color: str, shift: float
) -> dict[str, Any]:
    means = [spread.mean if spread else None for spread in spreads]
    bars = {
        "type": "data", "symmetric": False, "thickness": 1.5, "width": 0, "color": color + "59",
        "array": [round(s.high - s.mean, 6) if s else None for s in spreads],
        "arrayminus": [round(s.mean - s.low, 6) if s else None for s in spreads],
    }  # fmt: skip
    text = [
        f"{column.text}: {describe_percents(s)}, {count(s.n, 'trial')}" if s else ""
        for column, s in zip(columns, spreads, strict=True)
    ]
    return {
        "type": "scatter", "mode": "lines+markers", "name": escape_label(group.name),
        "x": [round(j + shift, 4) for j in range(len(columns))], "y": means, "error_y": bars, "text": text,
        "line": {"color": color, "width": 2}, "marker": {"color": color, "size": 6},
        "hovertemplate": f"<b>{escape_label(group.name)}</b> (n={group.n})<br>%{{text}}<extra></extra>",
    }  # fmt: skip


def _place_labels(
    names: list[str], table: list[list[Spread | None]], colors: list[str], y_range: tuple[float, float]
) -> list[dict[str, Any]]:
    """Return a name at the end of each line, `LABEL_STEP` px apart at least, with a thin line back to its point."""
    pixels = (HEIGHT - TOP - BOTTOM) / (y_range[1] - y_range[0])
    ends = []
    for i, spreads in enumerate(table):
        last = max((j for j, spread in enumerate(spreads) if spread), default=None)
        spread = spreads[last] if last is not None else None
        if spread is not None:
            ends.append(((y_range[1] - spread.mean) * pixels, last, spread.mean, i))
    ends.sort()
    places = push_apart([end[0] for end in ends], 0, HEIGHT - TOP - BOTTOM)
    return [
        {
            "x": last, "y": mean, "ax": 26, "ay": round(place - pixel, 1), "xanchor": "left", "showarrow": True,
            "arrowhead": 0, "arrowwidth": 0.8, "arrowcolor": colors[i], "standoff": 8, "name": str(i),
            "text": escape_label(names[i], MAX_NAME), "font": {"color": colors[i], "size": 12}, "borderpad": 1,
        }
        for place, (pixel, last, mean, i) in zip(places, ends, strict=True)
    ]  # fmt: skip


def push_apart(pixels: list[float], low: float, high: float) -> list[float]:
    """Return rising places, `LABEL_STEP` apart at least and as near to rising `pixels` as that allows.

    Labels that would touch form a block around the mean of what its labels want; blocks that touch are merged.
    """
    blocks: list[tuple[float, int]] = []  # where the block's first label wants to be, and how many labels it has
    for pixel in pixels:
        start, size = pixel, 1
        while blocks and blocks[-1][0] + blocks[-1][1] * LABEL_STEP > start:
            before, n = blocks.pop()
            start, size = (before * n + (start - n * LABEL_STEP) * size) / (n + size), n + size
        blocks.append((max(low, min(start, high - (size - 1) * LABEL_STEP)), size))
    return [start + i * LABEL_STEP for start, size in blocks for i in range(size)]


def _choose_focus(facts: Facts, section: Section, columns: list[_Column]) -> int | None:
    """Return the index of the worst group at the fewest bits: the one line in colour among many."""
    worst = find_worst(facts, section, columns[-1].trials, "reference")
    return section.groups.index(worst[0]) if worst else None


def _summarize_panel(section: Section, variant: str, columns: list[_Column], table: list[list[Spread | None]]) -> str:
    ends = [(spreads[-1].mean, i) for i, spreads in enumerate(table) if spreads and spreads[-1]]
    if not ends:
        return f"{variant}: the tables hold no accuracy by group."
    (low, i), (high, j) = min(ends), max(ends)
    place = columns[-1].text + (" bits" if columns[-1].text.isdigit() else "")
    names = [name_group(group.name, by_class=section.by_class) for group in section.groups]
    if len(ends) == 1:
        return f"{variant} at {place}: {names[i]} reaches {format_percent(low)}."
    return f"{variant} at {place}: from {format_percent(low)} ({names[i]}) to {format_percent(high)} ({names[j]})."
