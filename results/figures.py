"""Facts in, figures out: plotly's JSON as plain dicts, each with the table that says the same.

Figures are drawn in the light palette; `report.js` swaps every colour of `DARK` when the reader's system is dark. Group
names are escaped, because plotly reads a little HTML in every text. Positions on axes are integers with tick texts:
names such as "3" would be read as numbers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from results.markup import MISSING, count, describe_percents, escape, format_percent, format_pp, shorten
from results.summary import (
    MIN_GROUP_N, Facts, Group, GroupDrop, Section, Spread, Trial, average_accuracy, average_drop, find_worst, name_bits,
    name_configurations, name_variant, split_trials,
)  # fmt: skip

INK, MUTED, FAINT, GROUND = "#1f2933", "#5f6b76", "#d9dde1", "#ffffff"
# Okabe and Ito's eight colours, safe for colour-blind readers; the yellow is darkened for a white ground.
HUES: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a89b00", "#000000")
PU_OR: Final = ("#542788", "#8073ac", "#b2abd2", "#d8daeb", "#f7f7f7", "#fee0b6", "#fdb863", "#e08214", "#b35806")
DARK: Final = dict(
    zip(
        (INK, MUTED, FAINT, GROUND, *HUES, *PU_OR),
        ("#e7ebee", "#9ba7b2", "#353d45", "#15191d")
        + ("#4ba3dd", "#f0803c", "#2fbf95", "#dc9bc0", "#f0b440", "#7cc8f2", "#f0e442", "#fafafa")
        + ("#b9a3f5", "#9179d6", "#69569f", "#453d66", "#262b30", "#5c4220", "#8f5f1c", "#cf8323", "#fdb863"),
        strict=True,
    )
)
FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
FAINT_TEXT: Final = {"color": MUTED, "size": 12}
HEIGHT, TOP, BOTTOM = 380, 16, 44  # px of a line chart
LABEL_STEP = 15  # px from one direct label to the next
MAX_LABELS = 16  # with more groups only the focused one is labelled
ROW_HEIGHT = 27  # px of a heatmap row


class Cell(NamedTuple):
    """A table cell: what it says, and the exact number behind it."""

    text: str
    value: float | None


@dataclass(frozen=True)
class Figure:
    """A chart and its twin: `rows` of the table say what `plot` (plotly JSON) shows."""

    key: str
    title: str
    summary: str
    plot: dict[str, Any]
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str] = field(default_factory=list)
    min_width: int = 0
    max_width: int = 0
    focus: int | None = None  # the group that stands out from the start, where there are more than eight


@dataclass(frozen=True)
class _Column:
    """One place on the axis of bits."""

    text: str
    trials: list[Trial]


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
    x_axis = _axis() | {"tickvals": list(range(len(columns))), "ticktext": [column.text for column in columns]}
    x_axis |= {
        "range": [-0.25, len(columns) - 0.8],
        "showgrid": False,
        "title": {"text": "bits", "standoff": 6, "font": FAINT_TEXT},
    }
    y_axis = _axis() | {"range": list(y_range), "tickformat": ".0%" if y_range[1] - y_range[0] > 0.06 else ".1%"}
    right = 44 + 7 * max((len(shorten(name, 14)) for name in names), default=0) if labels else 16
    margin = {"l": 52, "r": right, "t": TOP, "b": BOTTOM}
    layout = _layout(HEIGHT, margin) | {"xaxis": x_axis, "yaxis": y_axis, "annotations": labels}
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
        "type": "scatter", "mode": "lines+markers", "name": escape(group.name),
        "x": [round(j + shift, 4) for j in range(len(columns))], "y": means, "error_y": bars, "text": text,
        "line": {"color": color, "width": 2}, "marker": {"color": color, "size": 6},
        "hovertemplate": f"<b>{escape(group.name)}</b> (n={group.n})<br>%{{text}}<extra></extra>",
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
    places = _push_apart([end[0] for end in ends], 0, HEIGHT - TOP - BOTTOM)
    return [
        {
            "x": last, "y": mean, "ax": 26, "ay": round(place - pixel, 1), "xanchor": "left", "showarrow": True,
            "arrowhead": 0, "arrowwidth": 0.8, "arrowcolor": colors[i], "standoff": 8, "name": str(i),
            "text": escape(shorten(names[i], 14)), "font": {"color": colors[i], "size": 12}, "borderpad": 1,
        }
        for place, (pixel, last, mean, i) in zip(places, ends, strict=True)
    ]  # fmt: skip


def _push_apart(pixels: list[float], low: float, high: float) -> list[float]:
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
    names = [f"{'class ' if section.by_class else ''}{group.name}" for group in section.groups]
    if len(ends) == 1:
        return f"{variant} at {place}: {names[i]} reaches {format_percent(low)}."
    return f"{variant} at {place}: from {format_percent(low)} ({names[i]}) to {format_percent(high)} ({names[j]})."


@dataclass(frozen=True)
class _Grid:
    """The drops of one comparison: a row for each configuration, a column for each group after that of all images."""

    comparison: str
    variants: list[str]
    rows: list[str]
    groups: list[Group]
    cells: list[list[GroupDrop]]


def draw_drops(facts: Facts, sections: Sequence[Section], keys: Sequence[str]) -> list[list[Figure]]:
    """Return for each section its heatmaps: against the reference and, where there is QAT, against its control.

    All of them share one range of colours: +-1 pp or the 95 % quantile of the cells, whichever is larger.
    """
    grids = [
        [_make_grid(facts, section, comparison) for comparison in ("reference", "control")] for section in sections
    ]
    limit = _choose_limit(cell for per_section in grids for grid in per_section for row in grid.cells for cell in row)
    return [
        [_draw_grid(section, f"{key}-drop-{grid.comparison}", grid, limit) for grid in per_section if grid.rows]
        for section, key, per_section in zip(sections, keys, grids, strict=True)
    ]


def _make_grid(facts: Facts, section: Section, comparison: str) -> _Grid:
    methods = ("fp32_ft", "ptq", "qat") if comparison == "reference" else ("qat",)
    names = name_configurations(section.trials)
    configs: dict[str, list[Trial]] = {}
    for trial in section.trials:
        if trial["method"] in methods:
            configs.setdefault(trial["config_id"], []).append(trial)
    n_test = max((trial["n_test"] or 0 for trial in section.trials), default=0)
    places = [("overall", "all"), *((section.grouping, group.name) for group in section.groups)]
    return _Grid(
        comparison=comparison,
        variants=[name_variant(trials[0]) for trials in configs.values()],
        rows=[names[config_id] for config_id in configs],
        groups=[Group("all", n_test), *section.groups],
        cells=[[average_drop(facts, trials, comparison, *place) for place in places] for trials in configs.values()],
    )


def _choose_limit(cells: Iterable[GroupDrop]) -> float:
    sizes = sorted(abs(cell.drop_pp.mean) for cell in cells if cell.drop_pp)
    return max(1.0, round(sizes[int(0.95 * (len(sizes) - 1))], 1)) if sizes else 1.0


def _draw_grid(section: Section, key: str, grid: _Grid, limit: float) -> Figure:
    shown = [i == 0 or group.n >= MIN_GROUP_N for i, group in enumerate(grid.groups)]

    def table_of(value: Callable[[GroupDrop], Any], blank: Any) -> list[list[Any]]:
        return [[value(cell) if ok else blank for cell, ok in zip(row, shown, strict=True)] for row in grid.cells]

    heatmap = {
        "type": "heatmap", "zmid": 0, "zmin": -limit, "zmax": limit, "xgap": 2, "ygap": 2, "hoverongaps": False,
        "colorscale": [[i / (len(PU_OR) - 1), color] for i, color in enumerate(PU_OR)],
        "x": list(range(len(grid.groups))), "y": list(range(len(grid.rows))),
        "z": table_of(lambda cell: round(cell.drop_pp.mean, 6) if cell.drop_pp else None, None),
        "text": table_of(lambda cell: format_pp(cell.drop_pp.mean) if cell.drop_pp else "", ""),
        "customdata": table_of(_tell_range, ""),
        "texttemplate": "%{text}", "textfont": {"size": 12},
        "hovertemplate": "%{y}<br><b>%{x}</b><br>drop %{text} pp%{customdata}<extra></extra>",
        "showscale": False,
    }  # fmt: skip
    left = 16 + 7 * max((len(shorten(name, 30)) for name in grid.rows), default=0)
    height = 62 + ROW_HEIGHT * len(grid.rows)
    labels = [f"{escape(shorten(group.name, 11))}<br>n={group.n}" for group in grid.groups]
    x_axis = _axis() | {"tickvals": list(range(len(labels))), "ticktext": labels, "side": "top", "tickangle": 0}
    x_axis |= {"showgrid": False, "zeroline": False, "range": [-0.5, len(labels) - 0.5]}
    y_axis = _axis() | {"tickvals": list(range(len(grid.rows))), "autorange": False, "showgrid": False}
    y_axis |= {"ticktext": [escape(shorten(name, 30)) for name in grid.rows], "range": [len(grid.rows) - 0.5, -0.5]}
    layout = _layout(height, {"l": left, "r": 8, "t": 54, "b": 8}) | {"xaxis": x_axis, "yaxis": y_axis}
    layout["shapes"] = _draw_dividers(grid) + _draw_hatching(shown, len(grid.rows))
    against = "its reference" if grid.comparison == "reference" else "its control"
    return Figure(
        key=key,
        title=f"Drop against {against}" + (", QAT only" if grid.comparison == "control" else ""),
        summary=_summarize_grid(section, grid, shown),
        plot={"data": [heatmap], "layout": layout},
        corner="Configuration",
        columns=[f"{group.name} (n={group.n})" for group in grid.groups],
        rows=[
            (name, [Cell(_tell_cell(cell), cell.drop_pp.mean if cell.drop_pp else None) for cell in cells])
            for name, cells in zip(grid.rows, grid.cells, strict=True)
        ],
        notes=_note_grid(shown, limit),
        min_width=left + 46 * len(grid.groups),
        max_width=left + 130 * len(grid.groups),
    )


def _tell_range(cell: GroupDrop) -> str:
    if cell.drop_pp is None:
        return ""
    width = f"<br>± {format_pp(cell.half_width_pp)} in one trial" if cell.half_width_pp is not None else ""
    if cell.drop_pp.n < 2:
        return f"{width}<br>1 trial"
    return f"{width}<br>{cell.drop_pp.n} trials: {format_pp(cell.drop_pp.low)} to {format_pp(cell.drop_pp.high)}"


def _tell_cell(cell: GroupDrop) -> str:
    if cell.drop_pp is None:
        return f"{MISSING} ({cell.reason})" if cell.reason else MISSING
    width = f" ± {format_pp(cell.half_width_pp)}" if cell.half_width_pp is not None else ""
    return format_pp(cell.drop_pp.mean) + width


def _draw_dividers(grid: _Grid) -> list[dict[str, Any]]:
    """Set the methods apart, and the column of all images from the groups."""
    line = {"color": MUTED, "width": 1}
    turns = [i for i in range(1, len(grid.variants)) if grid.variants[i] != grid.variants[i - 1]]
    across = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": line}
    down = {"type": "line", "yref": "paper", "x0": 0.5, "x1": 0.5, "y0": 0, "y1": 1, "line": line}
    return [{**across, "y0": i - 0.5, "y1": i - 0.5} for i in turns] + [down]


def _draw_hatching(shown: list[bool], n_rows: int) -> list[dict[str, Any]]:
    """Strike through the columns of groups that are too small to be coloured."""
    line = {"color": FAINT, "width": 1}
    return [
        {"type": "line", "x0": x - 0.45, "x1": x + 0.45, "y0": y + 0.4, "y1": y - 0.4, "line": line, "layer": "below"}
        for x, is_shown in enumerate(shown)
        if not is_shown
        for y in range(n_rows)
    ]


def _summarize_grid(section: Section, grid: _Grid, shown: list[bool]) -> str:
    found = [
        (cell.drop_pp.mean, name, group.name)
        for name, cells in zip(grid.rows, grid.cells, strict=True)
        for group, cell, ok in list(zip(grid.groups, cells, shown, strict=True))[1:]
        if ok and cell.drop_pp
    ]
    if not found:
        return f"The tables hold no drop against a {grid.comparison} for groups of {MIN_GROUP_N} images or more."
    drop, name, group = max(found, key=lambda item: item[0])
    what = f"{'class ' if section.by_class else ''}{group}, {name}"
    if drop <= 0:
        return f"No group loses on average; nearest to it is {what}: {format_pp(drop)} pp."
    return f"The largest mean drop is {format_pp(drop)} pp: {what}."


def _note_grid(shown: list[bool], limit: float) -> list[str]:
    notes = [
        "Mean over seeds, percentage points. Orange: the group loses; purple: it gains. "
        f"Colours are full at ±{format_pp(limit)} pp, in every such chart of this page."
    ]
    if not all(shown):
        notes.append(f"Struck out: groups with fewer than {MIN_GROUP_N} test images. Their numbers are in the table.")
    return notes


def _axis() -> dict[str, Any]:
    return {
        "fixedrange": True, "showline": False, "zeroline": False, "ticks": "", "gridcolor": FAINT,
        "tickfont": FAINT_TEXT,
    }  # fmt: skip


def _layout(height: int, margin: dict[str, int]) -> dict[str, Any]:
    return {
        "height": height, "margin": margin | {"pad": 4}, "showlegend": False, "dragmode": False, "hovermode": "closest",
        "paper_bgcolor": GROUND, "plot_bgcolor": GROUND, "font": {"color": INK, "size": 12, "family": FONT},
        "hoverlabel": {"bgcolor": GROUND, "bordercolor": MUTED, "font": {"color": INK, "family": FONT}, "align": "left"},
    }  # fmt: skip
