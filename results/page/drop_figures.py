"""What each group loses under each configuration: heatmaps against the reference and against the control.

Rows are configurations, so that their names stand upright and many of them only make a figure longer; columns are the
groups, the largest first. Groups too small to be ranked are struck out, and are in the table only.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from results.configurations import Trial, name_configurations, name_variant
from results.page.facts import Facts, Group
from results.page.figures import FAINT, INK, MUTED, PU_OR, Cell, Figure, make_axis, make_layout, name_group
from results.page.markup import MISSING, escape_label, format_pp, shorten
from results.page.summary import GroupDrop, Section, average_drop
from results.schema import MIN_RANKED

ROW_HEIGHT: Final = 27  # px of a heatmap row
MAX_NAME: Final = 11  # characters of a group's name above its column


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
    shown = [i == 0 or group.n >= MIN_RANKED for i, group in enumerate(grid.groups)]

    def table_of(value: Callable[[GroupDrop], Any], blank: Any) -> list[list[Any]]:
        return [[value(cell) if ok else blank for cell, ok in zip(row, shown, strict=True)] for row in grid.cells]

    heatmap = {
        "type": "heatmap", "zmid": 0, "zmin": -limit, "zmax": limit, "xgap": 2, "ygap": 2, "hoverongaps": False,
        "colorscale": [[i / (len(PU_OR) - 1), color] for i, color in enumerate(PU_OR)],
        "x": list(range(len(grid.groups))), "y": list(range(len(grid.rows))),
        "z": table_of(lambda cell: round(cell.drop_pp.mean, 6) if cell.drop_pp else None, None),
        "text": table_of(lambda cell: format_pp(cell.drop_pp.mean) if cell.drop_pp else "", ""),
        "customdata": table_of(_tell_range, ""),
        "texttemplate": "%{text}", "textfont": {"size": 12, "color": INK},
        "hovertemplate": "%{y}<br><b>%{x}</b><br>drop %{text} pp%{customdata}<extra></extra>",
        "showscale": False,
    }  # fmt: skip
    left = 16 + 7 * max((len(shorten(name, 30)) for name in grid.rows), default=0)
    height = 62 + ROW_HEIGHT * len(grid.rows)
    labels = [f"{escape_label(group.name, MAX_NAME)}<br>n={group.n}" for group in grid.groups]
    widest = max(len(shorten(group.name, MAX_NAME)) for group in grid.groups)
    x_axis = make_axis() | {"tickvals": list(range(len(labels))), "ticktext": labels, "side": "top", "tickangle": 0}
    x_axis |= {"showgrid": False, "zeroline": False, "range": [-0.5, len(labels) - 0.5]}
    y_axis = make_axis() | {"tickvals": list(range(len(grid.rows))), "autorange": False, "showgrid": False}
    y_axis |= {"ticktext": [escape_label(name, 30) for name in grid.rows], "range": [len(grid.rows) - 0.5, -0.5]}
    layout = make_layout(height, {"l": left, "r": 8, "t": 54, "b": 8}) | {"xaxis": x_axis, "yaxis": y_axis}
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
        min_width=left + max(46, 8 * widest) * len(grid.groups),
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
    """Strike through the columns of groups that are too small to be coloured. One path, since shapes draw slowly."""
    small = [x for x, is_shown in enumerate(shown) if not is_shown]
    strokes = [f"M{x - 0.45},{y + 0.4}L{x + 0.45},{y - 0.4}" for x in small for y in range(n_rows)]
    line = {"color": FAINT, "width": 1}
    return [{"type": "path", "path": "".join(strokes), "line": line, "layer": "below"}] if strokes else []


def _summarize_grid(section: Section, grid: _Grid, shown: list[bool]) -> str:
    found = [
        (cell.drop_pp.mean, name, group.name)
        for name, cells in zip(grid.rows, grid.cells, strict=True)
        for group, cell, ok in list(zip(grid.groups, cells, shown, strict=True))[1:]
        if ok and cell.drop_pp
    ]
    if not found:
        return f"The tables hold no drop against a {grid.comparison} for groups of {MIN_RANKED} images or more."
    drop, name, group = max(found, key=lambda item: item[0])
    what = f"{name_group(group, by_class=section.by_class)}, {name}"
    if drop <= 0:
        return f"No group loses on average; nearest to it is {what}: {format_pp(drop)} pp."
    return f"The largest mean drop is {format_pp(drop)} pp: {what}."


def _note_grid(shown: list[bool], limit: float) -> list[str]:
    notes = [
        "Mean over seeds, percentage points. Orange: the group loses; purple: it gains. "
        f"Colours are full at ±{format_pp(limit)} pp, in every such chart of this page."
    ]
    if not all(shown):
        notes.append(f"Struck out: groups with fewer than {MIN_RANKED} test images. Their numbers are in the table.")
    return notes
