"""The tables of the page: what the sweep is, the summary, provenance. Facts in, HTML out."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from results.devices import describe_mixed_pairs
from results.page.facts import Facts, Spread
from results.page.markup import (
    MISSING,
    count,
    describe_drop,
    describe_percents,
    describe_pp,
    escape,
    format_pp,
    render_cell,
    render_table,
    shorten,
    soften_range,
)  # fmt: skip
from results.page.summary import Section, SummaryRow
from results.schema import IMPORTED, MIN_RANKED

SUMMARY_HEAD = ("Method", "Bits", "Trials", "Accuracy", "Compared with", "All images", "Worst", "Gap", "Drop disparity")


def render_overview(facts: Facts, sections: Sequence[Section]) -> str:
    """Return the head of the page: name, counts, data sets and the caveat."""
    states = [trial["status"] for trial in facts.trials if trial["method"] != IMPORTED]
    counts = {"ok": states.count("ok"), "failed": states.count("failed")}
    planned = _read_count(facts, "n_planned", len(states))
    missing = _read_count(facts, "n_missing", planned - len(states))
    numbers = {"trials planned": planned, "finished": counts["ok"], "failed": counts["failed"], "missing": missing}
    items = "".join(
        f'<div class="{"alert" if number and word in ("failed", "missing") else ""}">'
        f"<dt>{word}</dt><dd>{number}</dd></div>"
        for word, number in numbers.items()
    )
    return f"""<header>
<p class="eyebrow">Quantfair · what quantization costs each group</p>
<h1>{escape(facts.provenance.get("sweep") or "Sweep without a name")}</h1>
<dl class="counts">{items}</dl>
{_render_data(sections)}
<aside class="caveat"><p><strong>Read with care.</strong> A difference between the best and the worst group of the size
shown here may be chance: the table disparity says how large one is by chance alone. Intervals are those of single
trials (95 %, over test images); ranges are over trials (configurations and seeds).</p></aside>
{_render_mixed_devices(facts)}</header>"""


def _render_mixed_devices(facts: Facts) -> str:
    notes = describe_mixed_pairs(facts.trials)
    texts = "".join(f"<p><strong>Devices differ.</strong> {escape(note)}</p>" for note in notes)
    return f'<aside class="caveat">{texts}</aside>\n' if texts else ""


def _read_count(facts: Facts, key: str, otherwise: int) -> int:
    text = facts.provenance.get(key, "")
    return int(text) if text.isdigit() else otherwise


def _render_data(sections: Sequence[Section]) -> str:
    items = []
    for (dataset, task, model), same in groupby(sections, key=lambda s: (s.dataset, s.task, s.model)):
        parts = []
        for section in same:
            n_test = section.trials[0]["n_test"]
            smallest = section.groups[-1]
            noun = "classes" if section.by_class else f"groups by {section.grouping}"
            text = f"{len(section.groups)} {noun}, the smallest {shorten(smallest.name, 40)} with {smallest.n}"
            parts.append((n_test, text))
        n_test = parts[0][0]
        images = f"{n_test} test images" if n_test is not None else "an unknown number of test images"
        texts = "; ".join(text for _, text in parts)
        items.append(
            f"<li><strong>{escape(dataset)}</strong> ({escape(f'{task}, {model}')}): {images}; {escape(texts)}</li>"
        )
    return f'<ul class="data">{"".join(items)}</ul>' if items else '<p class="data">No trial has finished yet.</p>'


def render_summary(rows: Sequence[SummaryRow]) -> str:
    """Return one table for each data set, model and grouping; without verdicts."""
    parts = ['<section id="summary"><h2>Summary</h2>']
    if not rows:
        parts.append("<p>No finished trial has groups to compare.</p>")
    for section, same in groupby(rows, key=lambda row: row.section):
        head = [_word(name, section) for name in SUMMARY_HEAD]
        body, before = [], None
        for row in same:
            body.append(_render_summary_row(row, head, repeated=before == (row.variant, row.bits)))
            before = (row.variant, row.bits)
        parts.append(render_table(head, body, caption=section.title, kind="summary"))
    parts.append(
        '<p class="note">Means over the trials of a row; in brackets the range over trials. '
        f"Worst: of the groups with at least {MIN_RANKED} images the one with the largest mean EAG, that is, its drop "
        "minus that of all images "
        '(<a href="#reading">how to read this</a>). '
        "±: median half-width of that group's 95 % interval in one trial.</p>"
    )
    return "\n".join([*parts, "</section>"])


def _word(name: str, section: Section) -> str:
    return ("Worst class" if section.by_class else "Worst group") if name == "Worst" else name


def _render_summary_row(row: SummaryRow, head: Sequence[str], *, repeated: bool) -> str:
    trials = f"{row.n_trials} ({count(row.n_configs, 'configuration')}, {count(row.n_seeds, 'seed')})"
    again = "again" if repeated else ""
    cells = [
        (row.variant, None, again),
        (MISSING if row.bits == "FP32" else row.bits, None, f"bits {again}".strip()),
        (trials, None, again),
        (_with_count(describe_percents(row.accuracy), row.accuracy, row), _mean(row.accuracy), again),
        (row.comparison or MISSING, None, ""),
        (_with_count(describe_drop(row.drop_pp), row.drop_pp, row), _mean(row.drop_pp), ""),
    ]
    after = [
        (_with_count(describe_pp(row.gap_pp), row.gap_pp, row), _mean(row.gap_pp), again),
        (_with_count(describe_pp(row.disparity_pp), row.disparity_pp, row), _mean(row.disparity_pp), ""),
    ]
    done = [_cell(cell, label) for cell, label in zip(cells, head[:6], strict=True)]
    done.append(_render_worst(row, head[6]))
    return "".join([*done, *(_cell(cell, label) for cell, label in zip(after, head[7:], strict=True))])


def _cell(cell: tuple[str, float | None, str], label: str) -> str:
    text, value, kind = cell
    return render_cell(text, value, label=label, kind=f"{kind} none".strip() if text == MISSING else kind)


def _mean(spread: Spread | None) -> float | None:
    return spread.mean if spread else None


def _with_count(text: str, spread: Spread | None, row: SummaryRow) -> str:
    """Say of how many trials a number is known, where it is not known of all."""
    return f"{text}, {spread.n} of {count(row.n_trials, 'trial')}" if spread and spread.n < row.n_trials else text


def _render_worst(row: SummaryRow, label: str) -> str:
    if row.worst_group is None or row.worst is None:
        return render_cell(row.reason or MISSING, label=label, kind="reason")
    drop, eag, half_width = row.worst.drop_pp, row.worst.eag_pp, row.worst.half_width_pp
    width = f", ± {format_pp(half_width)}" if half_width is not None else ""
    exact = f' data-value="{_mean(drop)!r}" data-eag="{_mean(eag)!r}" data-half-width="{half_width!r}"'
    title = escape(f"{row.worst_group.name}: {_mean(drop)!r} pp")
    told = soften_range(_with_count(describe_drop(drop), drop, row))
    return (
        f'<td class="worst" data-label="{label}"{exact} title="{title}">'
        f"<span><b>{escape(shorten(row.worst_group.name, 40))}</b> {told}"
        f" <small>{escape(f'n={row.worst_group.n}{width}')}</small></span></td>"
    )


def render_provenance(facts: Facts) -> str:
    """Return where the numbers come from, key by key."""
    pairs: Iterable[tuple[str, str]] = facts.provenance.items()
    rows = [f'<th scope="row">{escape(key)}</th>{render_cell(value)}' for key, value in pairs]
    table = (
        render_table(("Key", "Value"), rows, caption="Provenance", kind="provenance")
        if rows
        else "<p>None is known.</p>"
    )
    return f'<section id="provenance"><h2>Provenance</h2>{table}</section>'
