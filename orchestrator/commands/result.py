"""The end of a command: its last lines and its exit code."""

import json
from typing import Any

import typer

from quantfair.orchestrator.api.report import BuiltReport, list_failed, summarize_end
from quantfair.orchestrator.commands.status import (
    MOST_REASONS,
    format_comparison,
    format_counts,
    format_reasons,
    format_runtimes,
)


def finish(built: BuiltReport, *, as_json: bool) -> None:
    """Say how the trials ended and where the dashboard and tables for papers are; exit with 1 if a trial failed."""
    facts = summarize_end(built)
    if as_json:
        if built.exports is not None:
            facts["exports"] = built.exports
        if built.comparison is not None:
            facts["comparison"] = {**built.comparison.summary, "files": built.comparison.files}
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(_format_end(built, facts)))
    if facts["n_failed"] or any(found["failed"] for found in facts["runtimes"].values()):
        raise typer.Exit(1)


def _format_end(built: BuiltReport, facts: dict[str, Any]) -> list[str]:
    lines = [*format_reasons(list_failed(built)), f"{format_counts(facts)}."]
    lines += format_runtimes(facts["runtimes"], most=MOST_REASONS)
    n_others = facts["n_not_in_plan"]
    if n_others:
        lines.append(f"{n_others} finished trials in the store are not part of this request, and are not shown.")
    lines += [f"warning: {warning}" for warning in facts["warnings"]]
    lines += [f"table: {place}" for place in built.exports or []]
    if built.exports == []:
        lines.append("no tables for papers: no finished trial has a reference and groups to compare")
    if built.comparison is not None:
        lines += format_comparison(built.comparison)
    return [*lines, f"dashboard: {facts['dashboard']}"]
