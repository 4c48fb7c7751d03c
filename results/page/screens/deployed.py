"""Facts in, the fourth question out: does the model that ships answer as its simulation in torch does?"""

from collections import Counter
from collections.abc import Sequence

from quantfair.results.page.catalog import Data
from quantfair.results.page.comparisons import RUNNABLE, ComparisonRow, compare_loss, list_deployed
from quantfair.results.page.formatting import (
    MISSING,
    NO_BREAK,
    count,
    escape,
    format_percent,
    render_number,
    render_table,
)
from quantfair.results.page.fragments import (
    head,
    join_cells,
    lead,
    name_bits,
    nothing,
    render_drop,
    render_loss,
    render_word,
    small,
)
from quantfair.results.page.headlines import lead_deployed
from quantfair.results.page.index import Facts
from quantfair.results.tables.verdicts import format_limit

MOST_REASONS = 3
BROKEN = 0.01  # of the answers
NOTE = (
    '<p class="note">Against torch: the same trained model, simulated. The words are those of the first table: here '
    "harmless means that no group loses more than LIMIT by being deployed. Settings that validation images did not "
    "choose have rows where more than 1 % of their answers change, and twice as many as of the chosen ones. Times were "
    "taken beside whatever else the machine did.</p>"
)


def render_deployed(facts: Facts, data: Sequence[Data]) -> str:
    """Return for each data set and runtime the comparison of every configuration with itself in torch."""
    runtimes = list_deployed(facts)
    if not runtimes:
        return nothing('this sweep measured torch alone; runtimes = ["torch", "onnxruntime"] measures what ships')
    tables = "".join(_render_runtime(facts, one, runtime) for one in data for runtime in runtimes)
    return (
        tables
        + (NOTE.replace("LIMIT", format_limit(facts.limit_pp)) if tables else "")
        + "".join(_render_reasons(facts, runtime) for runtime in runtimes)
    )


def _render_reasons(facts: Facts, runtime: str) -> str:
    reasons = Counter(
        reason for (_, name), found in facts.deployed.items() if name == runtime for reason in found.reasons
    ).most_common()
    texts = [f"{count(number, 'trial')}, {reason}" for reason, number in reasons[:MOST_REASONS]]
    more = f" And {len(reasons) - MOST_REASONS} more reasons, in the table of runtimes."
    end = more if len(reasons) > MOST_REASONS else ""
    text = escape("; ".join(texts))
    return f'<p class="reason">Without a result in {escape(runtime)}: {text}.{end}</p>' if reasons else ""


def _render_runtime(facts: Facts, data: Data, runtime: str) -> str:
    grouping = data.groupings[0]
    titles = (
        "All images, against torch",
        f"Against torch, by {grouping.heading}",
        "Answers unlike torch's",
        f"Against the float model in torch, by {grouping.heading}",
        "One image",
        "File",
    )
    losses, against_float = (
        [
            loss
            for method in RUNNABLE
            for loss in compare_loss(facts, data, grouping, method, comparison, runtime).values()
        ]
        for comparison in ("twin", "reference")
    )
    if not losses:
        return ""
    verdicts = {one.config.config_id: one for loss in against_float for one in (loss, *loss.others)}
    rows = [
        head(name_bits(one.config.variant, one.config.bits), one.config.settings)
        + join_cells(_format_twin(facts, one, verdicts.get(one.config.config_id)), titles)
        for loss in losses
        for one in (loss, *_list_broken(loss))
    ]
    told = lead(facts, data, lead_deployed(runtime, losses, facts.limit_pp))
    caption = f"{data.title}: {runtime} against torch"
    return told + render_table(["Method, bits", *titles], rows, caption=caption, kind="matrix")


def _format_twin(facts: Facts, loss: ComparisonRow, against_float: ComparisonRow | None) -> list[str]:
    drop, found = loss.overall, facts.deployed.get((loss.config.config_id, loss.runtime))
    return [
        render_drop(drop),
        render_loss(loss),
        render_number(format_percent(drop.flip_rate, 2), drop.flip_rate) if drop else MISSING,
        _format_against_float(against_float) if against_float else MISSING,
        render_number(f"{found.p50_ms:.2f}{NO_BREAK}ms", found.p50_ms) if found and found.p50_ms else MISSING,
        f"{found.file_bytes / 1000:,.0f}{NO_BREAK}kB" if found and found.file_bytes else MISSING,
    ]


def _format_against_float(loss: ComparisonRow) -> str:
    about = f"against {loss.side}; all images: {render_drop(loss.overall)}"
    return render_word(loss) + small(about, kind="more")


def _list_broken(loss: ComparisonRow) -> list[ComparisonRow]:
    """Return other settings of which many more answers change: a broken one must not hide behind the named one."""
    usual = (loss.overall.flip_rate if loss.overall else None) or 0.0
    rates = [(one, (one.overall.flip_rate if one.overall else None) or 0.0) for one in loss.others]
    return [one for one, rate in rates if rate > BROKEN and rate > 2 * usual]
