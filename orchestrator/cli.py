"""The commands: sweep, plan, status, report, figure, import, export, trt-check, data.

They read the request, call the rooms, and say what happened; `exit_codes.py` says how they end.
"""

import json
import shlex
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quantfair.orchestrator.cli_data import data_app
from quantfair.orchestrator.cli_deploy import export, trt_check
from quantfair.orchestrator.cli_figure import figure
from quantfair.orchestrator.cli_import import import_
from quantfair.orchestrator.cli_status import (
    MOST_REASONS,
    AsJson,
    StoreArgument,
    find_failed,
    say_counts,
    status,
    write_comparison,
    write_reasons,
)
from quantfair.orchestrator.exit_codes import exit_codes
from quantfair.orchestrator.manifest import keep_manifest
from quantfair.orchestrator.plan import count_by_method
from quantfair.orchestrator.problems import Problem, RequestError
from quantfair.orchestrator.progress import Progress, ProgressLines
from quantfair.orchestrator.repair import report_what_is_left, sweep_until_whole
from quantfair.orchestrator.request import Request, make_queue, read_plan, read_request, warn_of_devices
from quantfair.orchestrator.runtimes import summarize_runtimes, write_runtimes
from quantfair.orchestrator.schedule import BundleQueue
from quantfair.orchestrator.sweep_file import built_in_sweeps, is_file
from quantfair.results import Derived, Store, describe_mixed_pairs

if TYPE_CHECKING:
    from quantfair.results import Comparison

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


class Format(StrEnum):
    """How tables for papers are written."""

    csv, parquet, latex, markdown = "csv", "parquet", "latex", "markdown"


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
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Run at most so many trials; the same command goes on.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the result.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run what is not finished, then write the tables and the dashboard."""
    with exit_codes():
        wanted = read_plan(words, store)
        on_ray = {"address": address, "waits": wait_for_nodes} if executor == "ray" else {}
        command = write_command(words, wanted.store, **on_ray)
        with wanted.store.locked(executor=executor):
            run = partial(_run, executor=executor, on_ray=on_ray, command=command, quiet=quiet or as_json)
            derived = sweep_until_whole(wanted, run, retry_failed=retry_failed, limit=limit)
        _finish(wanted.store, derived, as_json=as_json)


@app.command()
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
    from quantfair.orchestrator.plan_summary import summarize_plan, write_plan
    from quantfair.orchestrator.sweep_schema import make_schema

    with exit_codes():
        if schema:
            print(json.dumps(make_schema(), indent=2))
            return
        request = read_request(words, store, retry_failed=False)
        summary = summarize_plan(request)
        lines = write_plan(summary)
        if power or flips:
            from quantfair.orchestrator.power import FLIPS, describe_power, write_power

            specs = dict.fromkeys(experiment.dataset for experiment in request.sweep.experiments)
            summary["power"] = describe_power(specs, flips or FLIPS)
            lines += write_power(summary["power"])
        if as_json:
            trials = [{"trial_id": t.trial_id, "label": t.label, "needs": t.needs} for t in request.plan]
            print(json.dumps({**summary, "trials": trials}, indent=2))
        else:
            print("\n".join(lines))


app.command()(status)
app.command(name="import")(import_)
app.command()(figure)
app.command()(export)
app.command(name="trt-check")(trt_check)


@app.command()
def report(
    store: StoreArgument,
    groups: Annotated[
        Path | None,
        typer.Option(help="A CSV of sample_id and columns: new groupings, which this and later reports use."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PACKAGE.MODULE:FUNCTION",
            help="A metric of yours, for this report alone: from a frame of test images to a number for each of them.",
        ),
    ] = None,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Write tables for papers too; may be given several times."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where --format writes: a path or URI. Default: STORE/exports."),
    ] = None,
    diff: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="Another store: align both by configuration, and write what differs."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the tables and report.html from what is stored, of a partial store too."""
    from quantfair.results import compare_stores, import_groups, write_exports

    with exit_codes():
        if output is not None and not formats:
            raise RequestError([Problem("--output", "is where tables for papers go: add `--format latex`, say.")])
        opened = Store.open(store)
        if groups is not None:
            if not groups.is_file():
                raise RequestError([Problem("--groups", f"names no file: {groups}.")])
            import_groups(opened, groups.read_bytes(), source=str(groups))
        derived = report_what_is_left(opened, metrics=metric or ())
        exports = write_exports(opened, formats, output) if formats else None
        comparison = compare_stores(opened, Store.open(diff)) if diff is not None else None
        _finish(opened, derived, as_json=as_json, exports=exports, comparison=comparison)


def write_command(words: list[str] | None, store: Store, **on_ray: Any) -> str:
    """Return the command that goes on with a sweep from any folder that holds this program."""
    known = built_in_sweeps()
    words = [str(Path(word).absolute()) if word not in known and is_file(word) else word for word in words or []]
    options = ["--store", store.location, *([] if on_ray else ["--executor", "inline"])]
    options += ["--address", on_ray["address"]] if on_ray.get("address") else []
    options += ["--wait-for-nodes"] if on_ray.get("waits") else []
    return shlex.join(["python", "-m", "orchestrator", "sweep", *words, *options])


def _say_nothing_to_run(request: Request) -> str:
    state, name = request.state, request.sweep.head.name
    if not state.failed:
        return f"Nothing to run: all {len(request.plan)} trials of {name} are finished."
    failed = f"{len(state.failed)} failed and {len(state.blocked)} need one of those"
    return f"Nothing to run of {name}: {len(state.ok)} trials are ok, {failed}; --retry-failed runs them once more."


def _run(
    request: Request, limit: int | None, *, executor: str, on_ray: dict[str, Any], command: str, quiet: bool
) -> None:
    spec, state = request.sweep, request.state
    keep_manifest(request, command=command)
    if not state.to_run and not quiet:
        print(_say_nothing_to_run(request))
    if not state.to_run or limit == 0:
        return
    if executor == "ray":
        from quantfair.orchestrator.executor_ray import run_ray as run
    else:
        from quantfair.orchestrator.executor_inline import run_inline as run

    queue = make_queue(request, limit=limit)
    n_later = len(state.to_run) - len(queue.trials)

    def forget_old_rows() -> None:
        for trial_id, runtimes in request.wanted.items():
            for runtime in runtimes if trial_id in queue.trials else ():
                request.store.remove_runtime(trial_id, runtime)
        for trial_id in queue.trials.keys() & request.stored.keys() - request.wanted.keys():
            request.store.remove_trial(trial_id)

    with _show(request, queue, quiet=quiet) as progress:
        progress.say(f"{spec.head.name}: {len(queue.trials)} of {len(request.plan)} trials to run")
        progress.say(f"results: {request.store.location}")
        for warning in warn_of_devices(request):
            progress.say(f"warning: {warning}")
        run(queue, request.store, progress, retry=spec.head.retry, begin=forget_old_rows, **on_ray)
        if n_later:
            progress.say(f"--limit {limit}: {n_later} trials are left; the same command goes on with them")


def _show(request: Request, queue: BundleQueue, *, quiet: bool) -> Progress:
    """A table on a terminal, else lines, or nothing."""
    name, before = request.sweep.head.name, count_by_method(request.plan, request.state)
    before = {key: n for key, n in before.items() if key[1] != "to_run"}
    if quiet or not sys.stdout.isatty():
        return ProgressLines(queue, name=name, before=before, quiet=quiet)
    from quantfair.orchestrator.progress_table import ProgressTable

    return ProgressTable(queue, name=name, before=before)


def _finish(
    store: Store,
    derived: Derived,
    *,
    as_json: bool,
    exports: list[str] | None = None,
    comparison: "Comparison | None" = None,
) -> None:
    """Say how the trials ended and where the dashboard and tables for papers are, and exit with 1 if a trial failed."""
    from quantfair.results import count_trials, survey

    trials, facts, path = derived
    n_others = int(facts["n_not_in_plan"])
    counts, warnings = count_trials(trials, int(facts["n_planned"])), describe_mixed_pairs(trials)
    manifest = store.read_manifest()
    ids, asked = [row["trial_id"] for row in manifest["plan"]], manifest["runtimes"]
    runtimes = summarize_runtimes(store, ids, survey(store).runtimes, asked=asked)
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
        for line in write_reasons(find_failed(trials)):
            print(line)
        print(f"{say_counts(counts)}.")
        for line in write_runtimes(runtimes, most=MOST_REASONS):
            print(line)
        if n_others:
            print(f"{n_others} finished trials in the store are not part of this request, and are not shown.")
        for warning in warnings:
            print(f"warning: {warning}")
        for place in exports or []:
            print(f"table: {place}")
        if exports == []:
            print("no tables for papers: no finished trial has a reference and groups to compare")
        for line in write_comparison(comparison) if comparison else []:
            print(line)
        print(f"dashboard: {path}")
    if counts["n_failed"] or any(found["failed"] for found in runtimes.values()):
        raise typer.Exit(1)
