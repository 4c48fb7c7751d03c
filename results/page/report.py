"""Tables in, `report.html` out: one file that opens from disk, without a network.

The first screen and the tables behind it are plain HTML. Everything else is drawn by `js/` from one compressed block:
plotly.js and the page's copy of the tables, which the browser unpacks (DecompressionStream) before it draws. Scripts
run only if their hash stands in the page's own security policy, and that policy allows no request at all. The bytes
of the page depend on the tables, plotly's version and zlib alone.
"""

import base64
import hashlib
import zlib
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

from plotly.offline import get_plotlyjs

from quantfair.results.page.catalog import Tables
from quantfair.results.page.charts import CHARTS, format_chart_list
from quantfair.results.page.formatting import dump_json, escape
from quantfair.results.page.index import Facts, read_facts
from quantfair.results.page.page_data import PageData
from quantfair.results.page.screens.appendix import render_failures, render_methods, render_provenance, render_reading
from quantfair.results.page.screens.differences import render_differences
from quantfair.results.page.screens.losses import render_loss_tables
from quantfair.results.page.screens.overview import render_first_screen
from quantfair.results.schema import MIN_RANKED

LEVEL: Final = 6  # of zlib: 9 takes twice the time for 2 % less
FOLDER: Final = Path(__file__).resolve().parent
SCRIPTS: Final = (  # in the order in which they stand in the page; the list of charts and `main` come behind them
    *("words", "tables", "state", "controls", "view", "layout", "table_of_chart", "figure", "panels", "heat"),
    *(chart.script for chart in CHARTS),
    "trials",
)
LINKS: Final = {
    "reach": "Answers", "charts": "Charts", "losses": "Losses", "trials": "Trials", "failures": "Missing",
    "reading": "How to read this", "methods": "Methods", "provenance": "Provenance",
}  # fmt: skip


class ReportStore(Protocol):
    """The one thing needed of a store here."""

    def write_report(self, html: str) -> str:
        """Write the page and return where it is."""
        ...


def write_report(store: ReportStore, tables: Tables) -> str:
    """Render the page of a sweep, write it into its store and return its path."""
    return store.write_report(render_report(tables))


def render_report(tables: Tables, *, against: str = "another store") -> str:
    """Return the whole page. Pure: the same tables give the same bytes.

    With the tables of `find_differences` it has a section on them, and `against` says what the other store is called.
    """
    facts = read_facts(tables)
    page_data = PageData(facts.catalog, tables)
    data = {
        "minRanked": MIN_RANKED,
        "data": [{"name": one.name, "task": one.task, "network": one.network} for one in facts.catalog.data],
        "tables": page_data.collect(),
        "leftOut": page_data.left_out,
    }
    body = "\n".join(
        [
            _render_header(facts, LINKS | ({"differences": "Differences"} if "differences" in tables else {})),
            "<main>",
            render_differences(facts, tables, against),
            render_first_screen(facts),
            (FOLDER / "report_charts.html").read_text(encoding="utf-8").replace("LOSSES", render_loss_tables(facts)),
            render_failures(facts, page_data.left_out),
            render_reading(facts),
            render_methods(facts),
            render_provenance(facts),
            "</main>",
        ]
    )
    return _render_page(f"{_name_of(facts)} · Quantfair", body, data)


def _name_of(facts: Facts) -> str:
    return facts.provenance.get("sweep") or "Sweep without a name"


def _render_header(facts: Facts, links: dict[str, str]) -> str:
    items = "".join(f'<li><a href="#{anchor}">{escape(text)}</a></li>' for anchor, text in links.items())
    return f"""<header><p class="eyebrow">Quantfair · whom quantization costs how much</p>
<h1>{escape(_name_of(facts))}</h1></header>
<nav aria-label="On this page"><ul>{items}</ul></nav>"""


def _render_page(title: str, body: str, data: dict[str, Any]) -> str:
    plotly, plotly_digest = _pack_plotly()
    script = "\n".join([*map(_read_script, SCRIPTS), format_chart_list(), _read_script("main")])
    script = f'"use strict";\n(() => {{\n{script}\n}})();'
    policy = (
        f"default-src 'none'; script-src {plotly_digest} {_hash_script(script)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{(FOLDER / "report.css").read_text(encoding="utf-8")}</style>
</head>
<body>
{body}
<script type="text/plain" id="plotly">{plotly}</script>
<script type="text/plain" id="data">{_compress(dump_json(data))}</script>
<script>{script}</script>
</body>
</html>
"""


def _read_script(name: str) -> str:
    return (FOLDER / "js" / f"{name}.js").read_text(encoding="utf-8")


def _compress(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), LEVEL)).decode()


@cache
def _pack_plotly() -> tuple[str, str]:
    """Return plotly.js, compressed, and its hash; made once, since every page has the same and it takes 0.3 s."""
    plotly = get_plotlyjs().replace("\r\n", "\n")
    return _compress(plotly), _hash_script(plotly)


def _hash_script(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"
