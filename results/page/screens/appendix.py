"""The end of the page: trials that failed or are missing, how to read it, a paragraph for a paper, provenance."""

import json
from pathlib import Path
from typing import Final

from quantfair.results.configurations import Trial
from quantfair.results.page.formatting import count, escape, render_table
from quantfair.results.page.index import Facts
from quantfair.results.page.screens.methods import format_methods
from quantfair.results.schema import MIN_RANKED
from quantfair.results.statistics.decisions import MEANINGS
from quantfair.results.tables.devices import describe_mixed_pairs
from quantfair.results.tables.verdicts import format_limit

FOLDER: Final = Path(__file__).resolve().parent.parent
MOST_FAILURES: Final = 200
SWEEP_FILE: Final = "sweep_file"  # key of `provenance`


def render_failures(facts: Facts, left_out: dict[str, str]) -> str:
    """Return what is missing: failed trials with their reasons, trials that have not run, what the page leaves out."""
    failed = [trial for trial in facts.catalog.trials if trial["status"] == "failed"]
    parts = []
    if failed:
        rows = "".join(f"<li>{_format(facts, trial)}</li>" for trial in failed[:MOST_FAILURES])
        more = f"<p>The first {MOST_FAILURES}; all are in tables/trials.</p>" if len(failed) > MOST_FAILURES else ""
        parts.append(f"<h3>{count(len(failed), 'failed trial')}</h3><ul>{rows}</ul>{more}")
    if missing := int(facts.provenance.get("n_missing") or 0):
        parts.append(f"<p>{count(missing, 'trial')} of the plan have no result yet: run the same sweep again.</p>")
    parts += [
        f"<p><strong>Devices differ.</strong> {escape(note)}</p>" for note in describe_mixed_pairs(facts.catalog.trials)
    ]
    parts += [
        f"<p><strong>Not on this page:</strong> {escape(name)}, {escape(why)}.</p>" for name, why in left_out.items()
    ]
    body = "".join(parts) or "<p>Nothing: every trial of the plan is finished.</p>"
    kind = ' class="failed"' if parts else ""
    return f'<section id="failures"><h2>What failed or is missing</h2><div{kind}>{body}</div></section>'


def _format(facts: Facts, trial: Trial) -> str:
    config = next(config for config in facts.catalog.configs if trial in config.trials)
    where = f"{config.name}, {config.data.name}, seed {trial['seed']}"
    reason = trial["error"] or "no reason was written down"
    return f"<code>{escape(trial['trial_id'][:8])}</code> {escape(where)}<br><span>{escape(reason)}</span>"


def render_reading(facts: Facts) -> str:
    """Return the methods panel, with what the words say."""
    limit = format_limit(facts.limit_pp)
    rules = "".join(
        f"<dt>{escape(word)}</dt><dd>{escape(meaning.replace('LIMIT', limit))}</dd>"
        for word, meaning in MEANINGS.items()
    )
    text = (FOLDER / "report_reading.html").read_text(encoding="utf-8")
    return text.replace("MIN_RANKED", str(MIN_RANKED)).replace("RULES", rules)


def render_methods(facts: Facts) -> str:
    """Return a paragraph on methods to paste into a paper."""
    return f"""<section id="methods"><h2>Methods, to paste into a paper</h2>
<p class="paste" id="methods-text">{escape(format_methods(facts))}</p>
<button type="button" data-copies="methods-text" hidden>Copy</button></section>"""


def render_provenance(facts: Facts) -> str:
    """Return where the numbers come from, key by key."""
    pairs = [(key, value) for key, value in facts.provenance.items() if key != SWEEP_FILE]
    rows = [f'<th scope="row">{escape(key)}</th><td>{escape(value)}</td>' for key, value in pairs]
    table = (
        render_table(("Key", "Value"), rows, caption="Provenance", kind="provenance")
        if rows
        else "<p>None is known.</p>"
    )
    return f'<section id="provenance"><h2>Provenance</h2>{table}{_render_sweep_file(facts)}</section>'


def _render_sweep_file(facts: Facts) -> str:
    if SWEEP_FILE not in facts.provenance:
        return ""
    text = json.dumps(json.loads(facts.provenance[SWEEP_FILE]), indent=2, ensure_ascii=False)
    return f"<details><summary>The sweep file, with all overrides</summary><pre>{escape(text)}</pre></details>"
