"""Facts in, the first screen out, as HTML that needs no script: five questions, in the order people ask them."""

from collections.abc import Iterable, Sequence
from typing import Final

from quantfair.results.page.catalog import Data, Grouping
from quantfair.results.page.comparisons import (
    Reach,
    find_shippable,
    list_deployed,
    list_losses,
    measure_reach,
)
from quantfair.results.page.formatting import (
    MISSING,
    count,
    escape,
    format_high,
    format_percent,
    render_number,
    render_table,
)
from quantfair.results.page.fragments import (
    cell,
    head,
    join_cells,
    lead,
    name_bits,
    name_group,
    nothing,
    render_loss,
    small,
)
from quantfair.results.page.headlines import lead_losers, lead_reach
from quantfair.results.page.index import TORCH, Facts
from quantfair.results.page.screens.causes import render_causes, render_mixtures
from quantfair.results.page.screens.deployed import render_deployed
from quantfair.results.schema import MIN_RANKED
from quantfair.results.tables.verdicts import format_limit

REACH_HEAD: Final = (
    "Data",
    "FP32 accuracy",
    "Grouping",
    "Smallest group",
    f"A loss above this is ruled out (groups of {MIN_RANKED} or more)",
)

CELLS: Final = (
    '<div class="note"><p>Each row: the settings that validation images chose. The question: does any group, or do all '
    "images together, lose more than LIMIT? Words that say <b>no</b>: unchanged, small, harmless. Words that say "
    "<b>yes</b>: collapsed, uneven, loses. It <b>cannot be told</b>: not resolved, and unchanged (cannot tell), where "
    "no answer differs but images are too few. The rules are in How to read this.</p>"
    "<p>SEEDS FP32-FT is the control of QAT: fine-tuned in the same way, without quantizers.</p></div>"
)
ONE_SEED: Final = (
    "A file is one trained model: its word is about other images, and says nothing of newly trained models."
)
SEEDS: Final = (
    "A recipe is a configuration over its seeds: its word is about other images and newly trained models. A file is "
    "one trained model: its word is about other images alone."
)


def render_first_screen(facts: Facts) -> str:
    """Return the five questions, each with a table or a sentence that says why there is no answer."""
    reaches = measure_reach(facts)
    data = [reach.data for reach in reaches if reach.data.groupings]
    seeds = SEEDS if max((reach.n_seeds for reach in reaches), default=0) > 1 else ONE_SEED
    cells = CELLS.replace("SEEDS", seeds).replace("LIMIT", format_limit(facts.limit_pp))
    losers = "".join(_render_losers(facts, one, "" if number else cells) for number, one in enumerate(data))
    questions = {
        "reach": ("What can this sweep show?", _render_reach(facts, reaches)),
        "losers": ("Who loses?", losers or nothing("no trial has groups to compare")),
        "causes": ("Quantization or training? QAT or PTQ?", render_causes(facts, data)),
        "deployed": ("Does the deployed model do the same?", render_deployed(facts, data)),
        "mixtures": ("Does more balanced training data help?", render_mixtures(facts, data)),
    }
    sections = (
        f'<section class="answer" id="{key}"><h2>{escape(question)}</h2>{body}</section>'
        for key, (question, body) in questions.items()
    )
    return f'<div class="answers">{"".join(sections)}</div>'


def _render_reach(facts: Facts, reaches: Sequence[Reach]) -> str:
    rows = [row for reach in reaches for row in _list_reach_rows(reach)]
    counts = _render_counts(facts, reaches)
    if not rows:
        return counts + nothing("no trial has groups to compare")
    leads = "".join(lead(facts, reach.data, lead_reach(reach)) for reach in reaches if reach.data.groupings)
    return counts + leads + render_table(REACH_HEAD, rows, caption="What this sweep can tell", kind="reach")


def _render_counts(facts: Facts, reaches: Sequence[Reach]) -> str:
    trials = facts.catalog.trials
    planned = int(facts.provenance.get("n_planned") or len(trials))
    ok = int(facts.provenance.get("n_ok") or sum(trial["status"] == "ok" for trial in trials))
    failed = int(facts.provenance.get("n_failed") or sum(reach.n_failed for reach in reaches))
    missing = int(facts.provenance.get("n_missing") or 0)
    bad = [count(failed, "trial") + " failed"] * (failed > 0) + [f"{missing:,} missing"] * (missing > 0)
    alert = (
        f'; <a class="alert" href="#failures">{escape(", ".join(bad))}</a>' if bad else "; none failed or is missing"
    )
    few = [f"{reach.data.name} has {count(reach.n_seeds, 'seed')}" for reach in reaches if 0 < reach.n_seeds < 3]
    seeds = f" <strong>{escape('; '.join(few))}: a trend needs three.</strong>" if few else ""
    return f"<p>{ok:,} of {count(planned, 'trial')} finished{alert}.{seeds}</p>"


def _list_reach_rows(reach: Reach) -> Iterable[str]:
    data = reach.data
    for number, grouping in enumerate(data.groupings):
        about = f"{data.task}, {data.network}, {count(reach.n_seeds, 'seed')}"
        images = small(render_number(count(reach.n_test, "test image"), reach.n_test)) if reach.n_test else ""
        accuracy = render_number(format_percent(reach.accuracy), reach.accuracy)
        first = head(data.name, about) + cell(accuracy, images, label=REACH_HEAD[1])
        again = '<th scope="row" class="again"><span class="hidden">the same data</span></th><td class="again"></td>'
        yield (again if number else first) + join_cells(_format_grouping(reach, grouping), REACH_HEAD[2:])


def _format_grouping(reach: Reach, grouping: Grouping) -> list[str]:
    n_small = sum(not group.is_ranked for group in grouping.groups)
    groups = count(len(grouping.groups), grouping.noun) + (f", {n_small} too small to rank" if n_small else "")
    smallest, at_most = grouping.smallest, reach.at_most.get(grouping.name)
    name = (
        f"{name_group(smallest.name)}{small(render_number(f'n = {smallest.n:,}', smallest.n))}" if smallest else MISSING
    )
    name += small("too small to rank") if smallest and not smallest.is_ranked else ""
    return [escape(grouping.heading) + small(escape(groups)), name, _render_range(at_most)]


def _render_range(ends: tuple[float, float] | None) -> str:
    if ends is None:
        return MISSING
    low, high = (render_number(format_high(value), value) for value in ends)
    return f"{low} to {high} pp" if format_high(ends[0]) != format_high(ends[1]) else f"{low} pp"


def _render_losers(facts: Facts, data: Data, legend: str) -> str:
    losses = {grouping.name: list_losses(facts, data, grouping) for grouping in data.groupings}
    if not any(losses.values()):
        return nothing(f"{data.title} has no trial with another to compare with")
    titles = [f"by {grouping.heading}" for grouping in data.groupings]
    rows = []
    for alike in zip(*losses.values(), strict=True):
        config, side = alike[0].config, alike[0].side
        settings = config.settings + ("" if config.is_chosen else " (val chose none)")
        first = head(name_bits(config.variant, config.bits), "; ".join(filter(None, (settings, f"against {side}"))))
        rows.append(first + join_cells(map(render_loss, alike), titles))
    table = render_table(["Method, bits", *titles], rows, caption=data.title, kind="matrix")
    return lead(facts, data, lead_losers(losses)) + legend + table + _render_shippable(facts, data)


def _render_shippable(facts: Facts, data: Data) -> str:
    items = "".join(
        f"<li>in {escape(runtime)}: {_name_shippable(facts, data, runtime)}</li>"
        for runtime in (TORCH, *list_deployed(facts))
    )
    return (
        '<div class="ship"><p>From the most bits down, the last of these settings before one with which a group could '
        f"lose more than {format_limit(facts.limit_pp)} against FP32 (QAT too, its fine-tuning included):</p>"
        f"<ul>{items}</ul></div>"
    )


def _name_shippable(facts: Facts, data: Data, runtime: str) -> str:
    found = {grouping.title: find_shippable(facts, data, grouping, runtime) for grouping in data.groupings}
    return "; ".join(
        f"by {title} <b>{escape(loss.config.name if loss else 'none')}</b>" for title, loss in found.items()
    )
