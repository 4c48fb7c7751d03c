"""The command status: how far a sweep is, whether it runs now, what failed and why. Reads only; another may write."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quantfair.orchestrator.api import status as api
from quantfair.orchestrator.api.status import group_by_reason
from quantfair.orchestrator.commands.exit_codes import exit_codes
from quantfair.orchestrator.commands.options import AsJson, StoreArgument
from quantfair.orchestrator.text import format_s

if TYPE_CHECKING:
    from quantfair.results import Comparison


def format_runtimes(summary: Mapping[str, Any], *, most: int) -> list[str]:
    """Return a line for each runtime, and one for each of its commonest reasons."""
    lines = []
    for runtime, counts in summary.items():
        said = ", ".join(f"{counts[name]} {name}" for name in ("ok", "failed", "unsupported", "missing"))
        lines.append(f"{runtime}: {said}")
        for reason in counts["reasons"][:most]:
            lines.append(f"  {reason['status']}: {reason['n']} x {reason['reason']}")
    return lines


MOST_REASONS = 10  # that are printed; --json has all
MOST_IDS = 5


def status(store: StoreArgument, as_json: AsJson = False) -> None:
    """Say what is finished, failed and missing, and how fast it goes; works while a sweep runs.

    Exits with 0 whatever failed: it was asked, and has answered.
    """
    with exit_codes():
        summary = api.status(store)
        print(json.dumps(summary, indent=2) if as_json else "\n".join(format_status(summary)))


def format_status(summary: dict[str, Any]) -> list[str]:
    """Return the lines that people read."""
    lines = [f"{summary['name']}: {format_counts(summary)}", *_format_counts(summary["by_method"])]
    lines += format_runtimes(summary["runtimes"], most=MOST_REASONS)
    if (driver := summary["running"]) is not None:
        how = f", {driver['executor']}" if driver.get("executor") else ""
        lines.append(f"runs since {driver['started_utc']} on {driver['host']}, pid {driver['pid']}{how}")
        left = f", about {format_s(summary['left_s'])} left" if summary["left_s"] is not None else ""
        lines.append(f"{summary['rate_per_min']:.1f} trials/min{left}")
    elif summary["n_missing"]:
        lines.append("does not run now")
    lines += format_reasons(summary["failed"])
    lines += [f"  damaged: {what}" for what in summary["damaged"]]
    n_missing, n_failed = (
        summary[f"n_{what}"] + sum(counts[what] for counts in summary["runtimes"].values())
        for what in ("missing", "failed")
    )
    if driver is None and summary["command"] and (n_missing or n_failed):
        again = "" if n_missing else " --retry-failed"
        lines.append(f"to go on: {summary['command']}{again}")
    return lines


def format_reasons(failed: list[dict[str, Any]]) -> list[str]:
    """Return a line for each reason, with the ids of some of its trials; of many reasons the most frequent."""
    reasons = group_by_reason(failed)
    lines = []
    for reason in reasons[:MOST_REASONS]:
        more = ", ..." if reason["n"] > MOST_IDS else ""
        lines.append(
            f"  failed: {reason['n']} x {reason['reason']} ({', '.join(reason['trial_ids'][:MOST_IDS])}{more})"
        )
    if len(reasons) > MOST_REASONS:
        lines.append(f"  and {len(reasons) - MOST_REASONS} more reasons: --json of `status` has all of them")
    return lines


def format_counts(counts: dict[str, Any]) -> str:
    """Return "5 of 10 trials ok, 1 failed, 4 blocked by a failed one, 0 missing"."""
    blocked = f", {counts['n_blocked']} blocked by a failed one" if counts["n_blocked"] else ""
    ok = f"{counts['n_ok']} of {counts['n_planned']} trials ok, {counts['n_failed']} failed{blocked}"
    imported = f", and {counts['n_imported']} imported" if counts["n_imported"] else ""
    return f"{ok}, {counts['n_missing']} missing{imported}"


def _format_counts(by_method: dict[str, dict[str, int]]) -> list[str]:
    heads = ("ok", "failed", "blocked", "missing", "planned")
    rows = [f"{method:8}" + "".join(f"{counts[head]:9}" for head in heads) for method, counts in by_method.items()]
    return [f"{'':8}" + "".join(f"{head:>9}" for head in heads), *rows]


def format_comparison(comparison: "Comparison") -> list[str]:
    """Return lines that say what differs from another store, and where the page and the tables are."""
    summary, largest = comparison.summary, comparison.summary["largest"]
    told = [f"not compared: {reason}" for reason in summary["reasons"]]
    if largest:
        where = "" if largest["grouping"] == "overall" else f" by {largest['grouping']}"
        told = [
            f"largest: {largest['configuration']}, {largest['group']}{where} {largest['in_words']} against the other."
        ]
    return [
        f"compared: {summary['n_compared']} configurations that both stores have; "
        f"{summary['n_alone']} are in one of them only",
        f"changed: in {summary['n_changed']} of them all images lose or gain (the 95 % interval excludes 0)",
        *told,
        *(f"comparison: {place}" for place in comparison.files),
    ]
