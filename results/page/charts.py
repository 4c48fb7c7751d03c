"""The charts of the page, in their order: the one list of them.

A chart is a row here and a file `js/chart_KEY.js`, which defines `drawKey(view, { colors, width })`. The scripts of the
page, its figures, their addresses and the command `figure` are made of the rows.
"""

import json
from dataclasses import KW_ONLY, dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart: the key that addresses and files have, its title, and the filters that it cannot follow."""

    key: str
    _: KW_ONLY
    title: str
    ignores: tuple[str, ...] = ()

    @property
    def script(self) -> str:
        """Return the name of its file in `js/`, without the suffix."""
        return f"chart_{self.key}"

    @property
    def function(self) -> str:
        """Return the name of the function that its file defines."""
        return f"draw{self.key.capitalize()}"


CHARTS: Final = (
    Chart("accuracy", title="Accuracy as the bits fall", ignores=("comparison",)),
    Chart("slopes", title="Who falls behind as the bits fall"),
    Chart("drops", title="What each group loses, by configuration"),
    Chart("tradeoff", title="Accuracy against how unevenly groups drop"),
    Chart("chance", title="Is it more than chance?"),
    Chart("seeds", title="Do seeds agree?", ignores=("metric",)),
    Chart("groups", title="All groups of one configuration"),
    Chart("intersections", title="Intersections of one configuration"),
    Chart("flips", title="Which answers change", ignores=("metric",)),
    Chart("shifts", title="Where predictions move", ignores=("metric",)),
    Chart("sensitivity", title="Which layer costs whom", ignores=("comparison", "runtime", "metric")),
    Chart("calibration", title="Is the model as sure as it is right?", ignores=("comparison", "seed", "metric")),
    Chart("mechanism", title="What goes with the drop"),
    Chart("runtimes", title="Runtimes side by side", ignores=("comparison", "runtime", "metric")),
)
CHART_KEYS: Final = tuple(chart.key for chart in CHARTS)


def format_chart_list() -> str:
    """Return the rows as JavaScript: the constant CHARTS of the page, each row with its function."""
    rows = [
        f"{{ key: {json.dumps(chart.key)}, title: {json.dumps(chart.title)}, draw: {chart.function}, "
        f"ignores: {json.dumps(chart.ignores)} }}"
        for chart in CHARTS
    ]
    return "const CHARTS = [\n  " + ",\n  ".join(rows) + ",\n];"
