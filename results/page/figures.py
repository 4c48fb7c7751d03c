"""What a figure is: plotly's JSON as plain dicts, and the table that says the same; and the colours of all of them.

Figures are drawn in the light palette; `report.js` swaps every colour of `DARK` when the reader's system is dark. Group
names are escaped, because plotly reads a little HTML in every text. Positions on axes are integers with tick texts:
names such as "3" would be read as numbers.
"""

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

INK, MUTED, FAINT, GROUND = "#1f2933", "#5f6b76", "#d9dde1", "#ffffff"
# Okabe and Ito's eight colours, safe for colour-blind readers; the yellow is darkened for a white ground.
HUES: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a89b00", "#000000")
# The inner part of ColorBrewer's PuOr: text in ink is readable on all of it.
PU_OR: Final = ("#998ec3", "#b9b1d8", "#d8daeb", "#f7f7f7", "#fee0b6", "#fdb863", "#e08214")
DARK_HUES: Final = ("#4ba3dd", "#f0803c", "#2fbf95", "#dc9bc0", "#f0b440", "#7cc8f2", "#f0e442", "#fafafa")
DARK_PU_OR: Final = ("#6a55b0", "#51458a", "#383459", "#262b30", "#4a3820", "#704d19", "#935a10")
DARK: Final = {
    **{INK: "#e7ebee", MUTED: "#9ba7b2", FAINT: "#353d45", GROUND: "#15191d"},
    **dict(zip(HUES, DARK_HUES, strict=True)),
    **dict(zip(PU_OR, DARK_PU_OR, strict=True)),
}
FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
FAINT_TEXT: Final = {"color": MUTED, "size": 12}


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


def make_axis() -> dict[str, Any]:
    """Return what all axes share: no zooming, no lines but a faint grid."""
    return {
        "fixedrange": True, "showline": False, "zeroline": False, "ticks": "", "gridcolor": FAINT,
        "tickfont": FAINT_TEXT,
    }  # fmt: skip


def make_layout(height: int, margin: dict[str, int]) -> dict[str, Any]:
    """Return what all figures share; `height` and `margin` in px."""
    return {
        "height": height, "margin": margin | {"pad": 4}, "showlegend": False, "dragmode": False, "hovermode": "closest",
        "paper_bgcolor": GROUND, "plot_bgcolor": GROUND, "font": {"color": INK, "size": 12, "family": FONT},
        "hoverlabel": {"bgcolor": GROUND, "bordercolor": MUTED, "align": "left", "font": {"color": INK}},
    }  # fmt: skip


def name_group(name: str, *, by_class: bool) -> str:
    """Return "class 3" for a class, and a group's own name."""
    return f"class {name}" if by_class else name
