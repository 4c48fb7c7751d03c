"""Facts in, the fourth question out: does the model that ships answer as its simulation in torch does?"""

from collections.abc import Sequence

from results.page.answers import Loss, compare_loss, list_deployed
from results.page.catalog import Data
from results.page.cells import head, join_cells, lead, name_bits, nothing, render_drop, render_loss
from results.page.facts import Facts
from results.page.leads import lead_deployed
from results.page.markup import MISSING, escape, format_percent, render_number, render_table

MOST_REASONS = 3


def render_deployed(facts: Facts, data: Sequence[Data]) -> str:
    """Return for each data set and runtime the comparison of every configuration with itself in torch."""
    runtimes = list_deployed(facts)
    if not runtimes:
        return nothing('this sweep measured torch alone; runtimes = ["torch", "onnxruntime"] measures what ships')
    tables = "".join(_render_runtime(facts, one, runtime) for one in data for runtime in runtimes)
    return tables + "".join(_render_reasons(facts, runtime) for runtime in runtimes)


def _render_reasons(facts: Facts, runtime: str) -> str:
    reasons = sorted({row["reason"] for (_, name), row in facts.latencies.items() if name == runtime and row["reason"]})
    more = f" And {len(reasons) - MOST_REASONS} more, in the table of runtimes." if len(reasons) > MOST_REASONS else ""
    text = "; ".join(reasons[:MOST_REASONS])
    return f'<p class="reason">No result in {escape(runtime)}: {escape(text)}.{more}</p>' if reasons else ""


def _render_runtime(facts: Facts, data: Data, runtime: str) -> str:
    grouping = data.groupings[0]
    titles = (f"by {grouping.title}", "All images", "Other answers", "Time of one image")
    losses = [
        loss
        for method in ("fp32", "ptq", "qat")
        for loss in compare_loss(facts, data, grouping, method, "twin", runtime).values()
    ]
    rows = [
        head(name_bits(loss.config.variant, loss.config.bits)) + join_cells(_tell_twin(facts, loss), titles)
        for loss in losses
    ]
    caption = f"{data.name}: {runtime} against torch"
    if not rows:
        return ""
    told = lead(facts, data, lead_deployed(runtime, losses))
    return told + render_table(["Method, bits", *titles], rows, caption=caption, kind="matrix")


def _tell_twin(facts: Facts, loss: Loss) -> list[str]:
    drop = loss.overall
    latency = facts.latencies.get((loss.config.config_id, loss.runtime), {}).get("p50_ms")
    return [
        render_loss(loss),
        render_drop(drop),
        render_number(format_percent(drop.flip_rate, 2), drop.flip_rate) if drop else MISSING,
        render_number(f"{latency:.2f} ms", latency) if latency is not None else MISSING,
    ]
