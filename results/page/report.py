"""Tables in, `report.html` out: one file that opens from disk, without a network.

The page holds plotly.js once, the figures as one JSON block, and every number a second time in a table, so that
nothing is lost without JavaScript or without sight. Its bytes depend on the tables and plotly's version alone. Scripts
run only if their hash stands in the page's own security policy; that policy allows no request at all.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from plotly.offline import get_plotlyjs

from results.page.accuracy_figures import draw_accuracy
from results.page.drop_figures import draw_drops
from results.page.facts import Facts, Tables, read_facts
from results.page.figures import DARK, Figure
from results.page.markup import dump_json, escape, render_cell, render_table
from results.page.report_tables import render_overview, render_provenance, render_summary
from results.page.summary import Section, list_sections, summarize
from results.page.trial_table import render_trials
from results.schema import MIN_RANKED

FOLDER: Final = Path(__file__).resolve().parent
MAX_CHIPS: Final = 30  # with more groups the row of focus buttons would be longer than the chart


class ReportStore(Protocol):
    """The one thing needed of a store here."""

    def write_report(self, html: str) -> str:
        """Write the page and return where it is."""
        ...


def write_report(store: ReportStore, tables: Tables) -> str:
    """Render the page of a sweep, write it into its store and return its path."""
    return store.write_report(render_report(tables))


def render_report(tables: Tables) -> str:
    """Return the whole page. Pure: the same tables give the same bytes."""
    facts = read_facts(tables)
    sections = list_sections(facts)
    keys = [f"s{number}" for number in range(len(sections))]
    lines = [draw_accuracy(facts, section, key) for section, key in zip(sections, keys, strict=True)]
    maps = draw_drops(facts, sections, keys)
    figures = [figure for per_section in (*lines, *maps) for figure in per_section]
    charts = [_render_charts(*part) for part in zip(sections, keys, lines, maps, strict=True)]
    body = [
        render_overview(facts, sections),
        _render_navigation(sections, keys),
        "<main>",
        render_summary(summarize(facts)),
        '<section id="charts"><h2>Charts</h2>',
        *(charts or ["<p>There is nothing to draw: no trial has finished with groups to compare.</p>"]),
        "</section>",
        render_trials(facts, sections),
        (FOLDER / "report_reading.html").read_text(encoding="utf-8").replace("MIN_RANKED", str(MIN_RANKED)),
        render_provenance(facts),
        "</main>",
    ]
    return _render_page(_title_of(facts), "\n".join(body), figures)


def _title_of(facts: Facts) -> str:
    return f"{facts.provenance.get('sweep') or 'Sweep'} · Quantfair"


def _render_page(title: str, body: str, figures: Sequence[Figure]) -> str:
    scripts = [_read_plotly(), (FOLDER / "report.js").read_text(encoding="utf-8")]
    data = {"dark": DARK, "figures": {figure.key: figure.plot for figure in figures}}
    policy = (
        f"default-src 'none'; script-src {' '.join(_hash_script(script) for script in scripts)}; "
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
<script type="application/json" id="data">{dump_json(data)}</script>
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


def _read_plotly() -> str:
    script = get_plotlyjs().replace("\r\n", "\n")
    assert "</script" not in script, "plotly.js would end its own script block"
    assert "<!--" not in script, "plotly.js would open a comment"
    return script


def _hash_script(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _render_navigation(sections: Sequence[Section], keys: Sequence[str]) -> str:
    links = [("summary", "Summary")]
    links += [(key, f"{section.dataset} by {section.noun}") for section, key in zip(sections, keys, strict=True)]
    links += [("trials", "Trials"), ("reading", "How to read this"), ("provenance", "Provenance")]
    items = "".join(f'<li><a href="#{anchor}">{escape(text)}</a></li>' for anchor, text in links)
    return f'<nav aria-label="On this page"><ul>{items}</ul></nav>'


def _render_charts(section: Section, key: str, lines: list[Figure], maps: list[Figure]) -> str:
    return f"""<section class="charts" id="{key}">
<h3>{escape(section.title)}</h3>
<h4>Accuracy as the bits fall</h4>
<p class="note">Mean over trials (configurations and seeds); thin bars: from the lowest to the highest trial.
The axis need not start at 0.</p>
{_render_chips(section)}
<div class="panels">{"".join(_render_figure(figure, "line") for figure in lines)}</div>
<h4>What each group loses, by configuration</h4>
<div class="maps">{"".join(_render_figure(figure, "map") for figure in maps)}</div>
{"" if maps else "<p>No trial here has a partner to compare with.</p>"}
</section>"""


def _render_chips(section: Section) -> str:
    if not 2 <= len(section.groups) <= MAX_CHIPS:
        return ""
    chips = "".join(
        f'<button type="button" aria-pressed="false" data-index="{i}">{escape(group.name)}</button>'
        for i, group in enumerate(section.groups)
    )
    return f'<div class="chips" role="group" aria-label="Focus on one group"><span>Focus</span>{chips}</div>'


def _render_figure(figure: Figure, kind: str) -> str:
    focus = f' data-focus="{figure.focus}"' if figure.focus is not None else ""
    basis = f' style="flex-basis:{figure.max_width}px"' if figure.max_width else ""
    style = f"height:{figure.plot['layout']['height']}px" + (f";min-width:{figure.min_width}px" if basis else "")
    rows = [
        f'<th scope="row">{escape(name)}</th>' + "".join(render_cell(cell.text, cell.value) for cell in cells)
        for name, cells in figure.rows
    ]
    table = render_table([figure.corner, *figure.columns], rows, caption=f"{figure.title}: all values", kind="twin")
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in figure.notes)
    return f"""<figure class="{kind}"{basis} aria-labelledby="{figure.key}-title {figure.key}-says">
<figcaption><h5 id="{figure.key}-title">{escape(figure.title)}</h5>
<p id="{figure.key}-says">{escape(figure.summary)}</p></figcaption>
<div class="scroll"><div class="plot" id="{figure.key}" style="{style}"{focus}>
<noscript>The chart needs JavaScript; its numbers are in the table below.</noscript></div></div>
{notes}<details><summary>Table of this chart</summary>{table}</details>
</figure>"""
