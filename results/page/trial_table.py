"""The table of trials: one row for each, failed ones first with their reasons. Facts in, HTML out."""

from collections.abc import Sequence
from heapq import nlargest
from math import inf
from typing import Final

from results.configurations import Trial, name_bits, name_variant
from results.page.facts import Facts, Pair
from results.page.markup import (
    MISSING,
    count,
    escape,
    format_percent,
    format_pp,
    format_seconds,
    render_cell,
    render_table,
    shorten,
)
from results.page.summary import Section, find_worst

MAX_TRIALS: Final = 2000  # rows; to sort them takes a browser 0.6 s, and 14 s with 10,000 (2 cores, busy)
TRIAL_HEAD = (
    "Trial", "Status", "Data set", "Method", "Bits", "Scheme", "Weights", "Activations", "Seed",
    "Accuracy", "Drop, pp", "95 % interval", "Worst group", "Its drop, pp", "Seconds",
)  # fmt: skip


def render_trials(facts: Facts, sections: Sequence[Section]) -> str:
    """Return the failed trials with their reasons, and the sortable table of trials, failed ones first."""
    failed, others = _choose_shown(facts)
    rows = [_render_trial(facts, trial, sections) for trial in [*failed, *others]]
    note = (
        f'<p class="note">{_tell_shown(len(rows), len(facts.trials))}Click on a head, or press Enter on it, to sort. '
        "Drop: all images, against the reference, with the 95 % interval of this trial. Worst group: largest EAG in "
        f"this trial, {_tell_groupings(sections)}. More columns are in tables/trials.parquet.</p>"
    )
    return "\n".join(
        [
            '<section id="trials"><h2>Trials</h2>',
            _render_failures(failed, sum(trial["status"] != "ok" for trial in facts.trials)),
            note if rows else "<p>No trial has finished yet.</p>",
            render_table(TRIAL_HEAD, rows, caption="Trials", kind="trials") if rows else "",
            "</section>",
        ]
    )


def _choose_shown(facts: Facts) -> tuple[list[Trial], list[Trial]]:
    """Return failed and other trials in the page's order; of too many the failed ones, then those that lose most."""
    failed = [trial for trial in facts.trials if trial["status"] != "ok"][:MAX_TRIALS]
    others = [trial for trial in facts.trials if trial["status"] == "ok"]
    drops = [_drop_of(facts, trial) for trial in others]
    most = nlargest(MAX_TRIALS - len(failed), range(len(others)), key=lambda place: drops[place])
    return failed, [others[place] for place in sorted(most)]


def _drop_of(facts: Facts, trial: Trial) -> float:
    pair = facts.pairs.get((trial["trial_id"], "reference", "overall"), {}).get("all")
    return -inf if pair is None or pair.drop_pp is None else pair.drop_pp


def _tell_shown(n_shown: int, n_trials: int) -> str:
    if n_shown == n_trials:
        return ""
    return (
        f"<strong>{n_shown} of {n_trials} trials</strong>: those that failed, then those that lose most; the summary "
        "and the charts are of all. "
    )


def _render_failures(failed: Sequence[Trial], n_failed: int) -> str:
    reasons = "".join(f"<li>{_render_failure(trial)}</li>" for trial in failed)
    return f'<div class="failed"><h3>{count(n_failed, "failed trial")}</h3><ul>{reasons}</ul></div>' if failed else ""


def _choose_section(sections: Sequence[Section], trial: Trial) -> Section | None:
    """Return the grouping that a trial's row shows: its first attribute of people, else the class."""
    found = [s for s in sections if (s.dataset_id, s.model) == (trial["dataset_id"], trial["float_model"])]
    return next((section for section in found if not section.by_class), found[0] if found else None)


def _tell_groupings(sections: Sequence[Section]) -> str:
    chosen = {}
    for section in sections:
        best = _choose_section(sections, {"dataset_id": section.dataset_id, "float_model": section.model})
        chosen[section.dataset] = best.noun if best else ""
    return "; ".join(f"{escape(dataset)} by {escape(noun)}" for dataset, noun in chosen.items())


def _render_failure(trial: Trial) -> str:
    where = f"{name_variant(trial)} {name_bits(trial)}, {trial['dataset']}, seed {trial['seed']}"
    reason = trial["error"] or "no reason was written down"
    return f"<code>{escape(trial['trial_id'][:8])}</code> {escape(where)}<br><span>{escape(reason)}</span>"


def _render_trial(facts: Facts, trial: Trial, sections: Sequence[Section]) -> str:
    section = _choose_section(sections, trial)
    trial_id, bits = trial["trial_id"], trial["weight_bits"]
    pair = facts.pairs.get((trial_id, "reference", "overall"), {}).get("all")
    drop_pp = pair.drop_pp if pair else None
    worst = find_worst(facts, section, [trial], "reference") if section and trial["status"] == "ok" else None
    loss = worst[1].drop_pp.mean if worst and worst[1].drop_pp else None
    cells = [
        f'<th scope="row" title="{escape(trial_id)}"><code>{escape(trial_id[:8])}</code></th>',
        render_cell(trial["status"], kind=trial["status"] if trial["status"] == "failed" else ""),
        render_cell(_name_data(sections, trial)),
        render_cell(name_variant(trial)),
        f'<td data-value="{bits if bits is not None else 32}">{name_bits(trial)}</td>',
        render_cell(trial["scheme"] or MISSING),
        render_cell(_join_settings(trial["granularity"], trial["weight_observer"])),
        render_cell(_join_settings(trial["act_observer"])),
        render_cell(MISSING if trial["seed"] is None else str(trial["seed"]), trial["seed"]),
        render_cell(format_percent(trial["accuracy"], 2), trial["accuracy"], kind="number"),
        render_cell(format_pp(drop_pp, 2), drop_pp, kind="number"),
        render_cell(_tell_interval(pair), pair.low_pp if pair else None, kind="number"),
        f'<td title="{escape(worst[0].name)}">{escape(shorten(worst[0].name, 14))}</td>'
        if worst
        else render_cell(MISSING),
        render_cell(format_pp(loss), loss, kind="number"),
        render_cell(format_seconds(trial["total_s"]), trial["total_s"], kind="number"),
    ]
    return "".join(cells)


def _name_data(sections: Sequence[Section], trial: Trial) -> str:
    """Return the data set, with task and model where one data set has several."""
    section = _choose_section(sections, trial)
    name = section.dataset if section else trial["dataset"] or MISSING
    several = len({(s.task, s.model) for s in sections if s.dataset == name}) > 1
    return f"{name}, {trial['task']}, {trial['model']}" if several else name


def _join_settings(*values: str | None) -> str:
    return ", ".join(value.replace("_", " ") for value in values if value) or MISSING


def _tell_interval(pair: Pair | None) -> str:
    if pair is None or pair.low_pp is None or pair.high_pp is None:
        return MISSING
    return f"{format_pp(pair.low_pp, 2)} to {format_pp(pair.high_pp, 2)}"
