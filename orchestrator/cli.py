"""The commands: sweep, plan, status, report, data. They read the request, call the rooms, and say what happened.

Exit codes: 0 all trials finished; 1 some failed; 2 the request was wrong; 130 interrupted.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from orchestrator.cli_data import data_app
from orchestrator.exit_codes import exit_codes
from orchestrator.manifest import make_manifest
from orchestrator.plan import PlanState
from orchestrator.problems import Problem, RequestError
from orchestrator.progress import ProgressLines
from orchestrator.request import Request, make_queue, read_request, warn_of_devices
from orchestrator.spec import built_in_sweeps
from results import BLOCKED, Store, describe_mixed_pairs

METHODS = ("fp32", "fp32_ft", "ptq", "qat")

app = typer.Typer(
    help="Measure which groups lose when an image classifier is quantized.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
SweepWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SWEEP] [KEY=VALUE]...",
        help=f"A sweep file or a built-in sweep ({', '.join(built_in_sweeps())}; default quickstart), then overrides "
        "such as 'seeds=[0]' or quant.1.epochs=2.",
    ),
]
StorePath = Annotated[
    str | None, typer.Option("--store", help="Where results go: a path or URI. Default: results/runs/<name>.")
]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="The folder or URI of a sweep's results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@app.command()
def sweep(
    words: SweepWords = None,
    store: StorePath = None,
    executor: Annotated[Literal["ray", "inline"], typer.Option(help="Ray Tune, or this process.")] = "ray",
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="The Ray cluster to run on: host:port of its head, or auto. Without it, this machine alone.",
        ),
    ] = None,
    wait_for_nodes: Annotated[
        bool,
        typer.Option("--wait-for-nodes", help="Start even if a trial fits no node yet: one will come."),
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials once more.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the result.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run what is not finished, then write the tables and the dashboard."""
    with exit_codes():
        request = read_request(words, store, retry_failed=retry_failed)
        request.store.write_manifest(make_manifest(request.sweep, request.plan))
        if request.state.to_run:
            on_ray = {"address": address, "waits": wait_for_nodes} if executor == "ray" else {}
            _run(request, executor, on_ray, quiet=quiet or as_json)
        elif not quiet and not as_json:
            print(_say_nothing_to_run(request))
        _finish(request.store, as_json=as_json)


@app.command()
def plan(words: SweepWords = None, store: StorePath = None, as_json: AsJson = False) -> None:
    """Say what would run: trials, finished ones, estimated time."""
    with exit_codes():
        request = read_request(words, store, retry_failed=False)
        summary = _summarize_plan(request)
        if as_json:
            trials = [{"trial_id": t.trial_id, "label": t.label, "needs": t.needs} for t in request.plan]
            print(json.dumps({**summary, "trials": trials}, indent=2))
            return
        print(f"{summary['name']}: {summary['n_trials']} trials in {summary['store']}")
        print(f"{'':8}" + "".join(f"{head:>9}" for head in ("planned", *PlanState._fields)))
        for method, counts in summary["by_method"].items():
            print(f"{method:8}" + "".join(f"{count:9}" for count in counts.values()))
        print(f"Left: about {summary['estimated_s']:.0f} s of work, {summary['estimate_from']}.")
        for warning in summary["warnings"]:
            print(f"warning: {warning}")


@app.command()
def status(store: StoreArgument, as_json: AsJson = False) -> None:
    """Say what is finished, failed and missing; works while a sweep runs."""
    from results import count_trials, list_trials

    with exit_codes():
        opened = Store.open(store)
        manifest, trials = opened.read_manifest(), list_trials(opened)
        counts = count_trials(trials, len(manifest["plan"]))
        if as_json:
            failed = [{name: row[name] for name in ("trial_id", "method", "error")} for row in _failed(trials)]
            facts = {"name": manifest["name"], "store": opened.location, **counts, "failed": failed}
            print(json.dumps(facts, indent=2))
            return
        print(f"{manifest['name']}: {_say_counts(counts)}")
        _print_failed(trials)


@app.command()
def report(
    store: StoreArgument,
    groups: Annotated[
        Path | None,
        typer.Option(help="A CSV of sample_id and columns: new groupings, which this and later reports use."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the tables and report.html from what is stored, of a partial store too."""
    from results import import_groups

    with exit_codes():
        opened = Store.open(store)
        if groups is not None:
            if not groups.is_file():
                raise RequestError([Problem("--groups", f"names no file: {groups}.")])
            import_groups(opened, groups.read_bytes(), source=str(groups))
        _finish(opened, as_json=as_json)


def _say_nothing_to_run(request: Request) -> str:
    state, name = request.state, request.sweep.head.name
    if not state.failed:
        return f"Nothing to run: all {len(request.plan)} trials of {name} are finished."
    failed = f"{len(state.failed)} failed and {len(state.blocked)} need one of those"
    return f"Nothing to run of {name}: {len(state.ok)} trials are ok, {failed}; --retry-failed runs them once more."


def _run(request: Request, executor: str, on_ray: dict[str, Any], *, quiet: bool) -> None:
    spec, state = request.sweep, request.state
    if executor == "ray":
        from orchestrator.executor_ray import run_ray as run
    else:
        from orchestrator.executor_inline import run_inline as run

    for trial_id in set(state.to_run) & request.stored.keys():
        request.store.remove_trial(trial_id)
    queue = make_queue(request)
    progress = ProgressLines(queue, n_finished_before=len(request.plan) - len(state.to_run), quiet=quiet)
    progress.say(f"{spec.head.name}: {len(state.to_run)} of {len(request.plan)} trials to run")
    progress.say(f"results: {request.store.location}")
    for warning in warn_of_devices(request):
        progress.say(f"warning: {warning}")
    run(queue, request.store, progress, retry=spec.head.retry, **on_ray)


def _summarize_plan(request: Request) -> dict[str, Any]:
    places = {trial_id: place for place, ids in request.state._asdict().items() for trial_id in ids}
    counts = Counter((trial.method, places[trial.trial_id]) for trial in request.plan)
    planned = Counter(trial.method for trial in request.plan)
    queue = make_queue(request)
    known = sum(row["status"] == "ok" for row in request.stored.values())
    return {
        "name": request.sweep.head.name,
        "store": request.store.location,
        "n_trials": len(request.plan),
        "by_method": {
            method: {"planned": planned[method], **{place: counts[method, place] for place in PlanState._fields}}
            for method in METHODS
            if planned[method]
        },
        "estimated_s": round(queue.remaining_s(), 1),
        "estimate_from": f"from the durations of {known} finished trials" if known else "a first guess",
        "warnings": warn_of_devices(request),
    }


def _finish(store: Store, *, as_json: bool) -> None:
    """Rebuild tables and dashboard, say where they are, and exit with 1 if a trial failed."""
    from results import build_tables, count_trials, write_report

    tables = build_tables(store)
    path = write_report(store, tables)
    facts = dict(zip(*tables["provenance"].to_pydict().values(), strict=True))
    trials, n_others = tables["trials"].to_pylist(), int(facts["n_not_in_plan"])
    counts, warnings = count_trials(trials, int(facts["n_planned"])), describe_mixed_pairs(trials)
    if as_json:
        facts = {
            "name": facts["sweep"],
            "store": store.location,
            **counts,
            "n_not_in_plan": n_others,
            "warnings": warnings,
            "dashboard": path,
        }
        print(json.dumps(facts, indent=2))
    else:
        _print_failed(trials)
        print(f"{_say_counts(counts)}.")
        if n_others:
            print(f"{n_others} finished trials in the store are not part of this request, and are not shown.")
        for warning in warnings:
            print(f"warning: {warning}")
        print(f"dashboard: {path}")
    if counts["n_failed"]:
        raise typer.Exit(1)


def _failed(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials that failed by themselves: one line for each cause is enough."""
    return [row for row in trials if row["status"] == "failed" and not str(row["error"]).startswith(BLOCKED)]


def _print_failed(trials: list[dict[str, Any]]) -> None:
    for row in _failed(trials):
        print(f"  failed: {row['trial_id']} {row['method']} seed {row['seed']}: {str(row['error']).splitlines()[0]}")


def _say_counts(counts: dict[str, int]) -> str:
    """Return "5 of 10 trials ok, 1 failed, 4 blocked by a failed one, 0 missing"."""
    blocked = f", {counts['n_blocked']} blocked by a failed one" if counts["n_blocked"] else ""
    ok = f"{counts['n_ok']} of {counts['n_planned']} trials ok, {counts['n_failed']} failed{blocked}"
    return f"{ok}, {counts['n_missing']} missing"
