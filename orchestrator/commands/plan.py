"""What `plan` says: how far a sweep is, and what is left in trials, bundles, time and room on the disk."""

import json
from collections import Counter
from typing import Annotated, Any

import typer

from quantfair.orchestrator.commands.exit_codes import exit_codes
from quantfair.orchestrator.commands.options import AsJson, StorePath, SweepWords
from quantfair.orchestrator.commands.status import format_runtimes, summarize_runtimes
from quantfair.orchestrator.planning.forecast import estimate_bytes, find_machine, forecast, measure_trials
from quantfair.orchestrator.planning.plan import METHODS, PlanState, count_by_method
from quantfair.orchestrator.planning.request import SweepState, make_queue, read_request, warn_of_devices
from quantfair.orchestrator.text import format_s

MOST_REASONS = 3


def summarize_plan(request: SweepState) -> dict[str, Any]:
    """Return the plan's state and estimates as plain values: seconds of one slot (`work_s`) and by the clock, bytes."""
    counts = count_by_method(request.plan, request.state)
    planned = Counter(trial.method for trial in request.plan)
    return {
        "name": request.sweep.head.name,
        "store": request.store.location,
        "n_trials": len(request.plan),
        "by_method": {
            method: {"planned": planned[method], **{place: counts[method, place] for place in PlanState._fields}}
            for method in METHODS
            if planned[method]
        },
        "runtimes": summarize_runtimes(
            request.store,
            [trial.trial_id for trial in request.plan],
            request.runtime_status,
            asked=request.sweep.head.runtimes,
        ),
        "left": _foresee(request),
        "warnings": warn_of_devices(request),
    }


def _foresee(request: SweepState) -> dict[str, Any]:
    queue = make_queue(request)
    left = list(queue.trials.values())
    work_s: dict[str, float] = dict.fromkeys(METHODS, 0.0)
    for trial in left:
        work_s[trial.method] += queue.durations.estimate_s(trial)
    ok = set(request.state.ok)
    finished = [trial for trial in request.plan if trial.trial_id in ok]
    measured = measure_trials(request.store, finished, request.sweep.head.runtimes)
    timed = {row["method"] for row in request.stored.values() if row["status"] == "ok"}
    methods = [method for method in METHODS if work_s[method]]
    return {
        "n_trials": len(left),
        **forecast(queue, find_machine())._asdict(),
        "work_s_by_method": {method: work_s[method] for method in methods},
        "guessed_times": [method for method in methods if method not in timed],
        "disk_bytes": round(estimate_bytes(left, measured, request.images)),
        "guessed_sizes": [method for method in methods if method not in measured],
    }


def format_plan(summary: dict[str, Any]) -> list[str]:
    """Return a summary as lines for a terminal: a few, however many trials there are."""
    left = summary["left"]
    heads = {"planned": "planned", **{place: place.replace("_", " ") for place in PlanState._fields}}
    lines = [
        f"{summary['name']}: {summary['n_trials']:,} trials in {summary['store']}",
        f"{'':8}" + "".join(f"{head:>9}" for head in heads.values()) + f"{'work':>12}",
    ]
    for method, counts in summary["by_method"].items():
        work = format_s(left["work_s_by_method"].get(method, 0.0))
        lines.append(f"{method:8}" + "".join(f"{counts[key]:9,}" for key in heads) + f"{work:>12}")
    lines += format_runtimes(summary["runtimes"], most=MOST_REASONS)
    lines += _format_left(left) if left["n_trials"] else ["left: nothing"]
    if any(counts["failed"] for counts in summary["by_method"].values()):
        lines.append("failed trials, and those blocked by them, run once more with `sweep --retry-failed`")
    return [*lines, *(f"warning: {warning}" for warning in summary["warnings"])]


def _format_left(left: dict[str, Any]) -> list[str]:
    slots = f"{left['n_slots']} trial{'s' if left['n_slots'] > 1 else ''} at a time"
    bundles = f"{left['n_bundles']:,} bundle{'s' if left['n_bundles'] > 1 else ''}"
    size = format_bytes(left["disk_bytes"])
    return [
        f"left: {left['n_trials']:,} trials in about {bundles}, {format_s(left['work_s'])} of work",
        f"time: about {format_s(left['wall_s'])} on this machine, {slots}{_format_source(left['guessed_times'], left)}",
        f"disk: about {size}{_format_source(left['guessed_sizes'], left, ' without weights')}",
    ]


def _format_source(guessed: list[str], left: dict[str, Any], what: str = "") -> str:
    """Say where an estimate is from: " (as finished trials; a first guess for qat)"."""
    if not guessed:
        return " (as finished trials)"
    if len(guessed) == len(left["work_s_by_method"]):
        return f" (a first guess{what})"
    return f" (as finished trials; a first guess{what} for {', '.join(guessed)})"


def format_bytes(n: float) -> str:
    """Return "320 kB", "1.2 MB" or "3.4 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n >= size:
            return f"{n / size:,.1f} {unit}"
    return f"{n / 1e3:.0f} kB"


def plan(
    words: SweepWords = None,
    store: StorePath = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of sweep files, for editors, and nothing else.")
    ] = False,
    power: Annotated[
        bool, typer.Option("--power", help="Also say what drops the test images can show, before anything is spent.")
    ] = False,
    flips: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1, help="With --power: the share of images that flips, such as 0.02; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what would run: trials, finished ones, bundles, estimated time and room on the disk."""
    from quantfair.orchestrator.config.json_schema import make_schema

    with exit_codes():
        if schema:
            print(json.dumps(make_schema(), indent=2))
            return
        request = read_request(words, store, retry_failed=False)
        summary = summarize_plan(request)
        lines = format_plan(summary)
        if power or flips:
            from quantfair.orchestrator.planning.power import FLIPS, describe_power, format_power

            specs = dict.fromkeys(experiment.dataset for experiment in request.sweep.experiments)
            summary["power"] = describe_power(specs, flips or FLIPS)
            lines += format_power(summary["power"])
        if as_json:
            trials = [{"trial_id": t.trial_id, "label": t.label, "needs": t.needs} for t in request.plan]
            print(json.dumps({**summary, "trials": trials}, indent=2))
        else:
            print("\n".join(lines))
