"""The end of a command: its last lines and its exit code."""

import json
from typing import TYPE_CHECKING

import typer

from quantfair.orchestrator.commands.status import (
    MOST_REASONS,
    find_failed,
    format_comparison,
    format_counts,
    format_reasons,
    format_runtimes,
    summarize_runtimes,
)
from quantfair.results import Derived, Store, count_trials, describe_mixed_pairs, scan_store

if TYPE_CHECKING:
    from quantfair.results import Comparison


def finish(
    store: Store,
    derived: Derived,
    *,
    as_json: bool,
    exports: list[str] | None = None,
    comparison: "Comparison | None" = None,
) -> None:
    """Say how the trials ended and where the dashboard and tables for papers are, and exit with 1 if a trial failed."""
    trials, facts, path = derived
    n_others = int(facts["n_not_in_plan"])
    counts, warnings = count_trials(trials, int(facts["n_planned"])), describe_mixed_pairs(trials)
    manifest = store.read_manifest()
    ids, asked = [row["trial_id"] for row in manifest["plan"]], manifest["runtimes"]
    runtimes = summarize_runtimes(store, ids, scan_store(store).runtimes, asked=asked)
    if as_json:
        facts = {
            "name": facts["sweep"],
            "store": store.location,
            **counts,
            "n_not_in_plan": n_others,
            "runtimes": runtimes,
            "warnings": warnings,
            "dashboard": path,
            **({} if exports is None else {"exports": exports}),
            **({} if comparison is None else {"comparison": {**comparison.summary, "files": comparison.files}}),
        }
        print(json.dumps(facts, indent=2))
    else:
        for line in format_reasons(find_failed(trials)):
            print(line)
        print(f"{format_counts(counts)}.")
        for line in format_runtimes(runtimes, most=MOST_REASONS):
            print(line)
        if n_others:
            print(f"{n_others} finished trials in the store are not part of this request, and are not shown.")
        for warning in warnings:
            print(f"warning: {warning}")
        for place in exports or []:
            print(f"table: {place}")
        if exports == []:
            print("no tables for papers: no finished trial has a reference and groups to compare")
        for line in format_comparison(comparison) if comparison else []:
            print(line)
        print(f"dashboard: {path}")
    if counts["n_failed"] or any(found["failed"] for found in runtimes.values()):
        raise typer.Exit(1)
