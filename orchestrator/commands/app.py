"""The commands: sweep, plan, status, report, figure, import, export, trt-check, data.

They read the request, call the rooms, and say what happened; `exit_codes.py` says how they end.
"""

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from quantfair.orchestrator.commands.data import data_app
from quantfair.orchestrator.commands.deploy import export, trt_check
from quantfair.orchestrator.commands.exit_codes import exit_codes
from quantfair.orchestrator.commands.options import AsJson, StorePath, SweepWords
from quantfair.orchestrator.commands.plan import plan
from quantfair.orchestrator.commands.report import figure, import_, report
from quantfair.orchestrator.commands.result import finish
from quantfair.orchestrator.commands.status import status
from quantfair.orchestrator.config.sweep_file import built_in_sweeps, is_file
from quantfair.orchestrator.executors.progress import Progress, ProgressLines
from quantfair.orchestrator.executors.recovery import run_with_recovery
from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.orchestrator.planning.manifest import keep_manifest
from quantfair.orchestrator.planning.plan import count_by_method
from quantfair.orchestrator.planning.request import SweepState, make_queue, read_plan, warn_of_devices
from quantfair.results import Store

app = typer.Typer(
    help="Measure which groups lose when an image classifier is quantized.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")


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
        command = format_command(words, wanted.store, **on_ray)
        with wanted.store.locked(executor=executor):
            run = partial(_run, executor=executor, on_ray=on_ray, command=command, quiet=quiet or as_json)
            derived = run_with_recovery(wanted, run, retry_failed=retry_failed, limit=limit)
        finish(wanted.store, derived, as_json=as_json)


app.command()(plan)
app.command()(status)
app.command()(report)
app.command(name="import")(import_)
app.command()(figure)
app.command()(export)
app.command(name="trt-check")(trt_check)


def format_command(words: list[str] | None, store: Store, **on_ray: Any) -> str:
    """Return the command that goes on with a sweep from any folder that holds this program."""
    known = built_in_sweeps()
    words = [str(Path(word).absolute()) if word not in known and is_file(word) else word for word in words or []]
    options = ["--store", store.location, *([] if on_ray else ["--executor", "inline"])]
    options += ["--address", on_ray["address"]] if on_ray.get("address") else []
    options += ["--wait-for-nodes"] if on_ray.get("waits") else []
    return shlex.join(["python", "-m", "orchestrator", "sweep", *words, *options])


def _format_nothing_to_run(request: SweepState) -> str:
    state, name = request.state, request.sweep.head.name
    if not state.failed:
        return f"Nothing to run: all {len(request.plan)} trials of {name} are finished."
    failed = f"{len(state.failed)} failed and {len(state.blocked)} need one of those"
    return f"Nothing to run of {name}: {len(state.ok)} trials are ok, {failed}; --retry-failed runs them once more."


def _run(
    request: SweepState, limit: int | None, *, executor: str, on_ray: dict[str, Any], command: str, quiet: bool
) -> None:
    spec, state = request.sweep, request.state
    keep_manifest(request, command=command)
    if not state.to_run and not quiet:
        print(_format_nothing_to_run(request))
    if not state.to_run or limit == 0:
        return
    if executor == "ray":
        from quantfair.orchestrator.executors.ray_tune import run_ray as run
    else:
        from quantfair.orchestrator.executors.inline import run_inline as run

    queue = make_queue(request, limit=limit)
    n_later = len(state.to_run) - len(queue.trials)

    def forget_old_rows() -> None:
        for trial_id, runtimes in request.runtimes_to_measure.items():
            for runtime in runtimes if trial_id in queue.trials else ():
                request.store.remove_runtime(trial_id, runtime)
        for trial_id in queue.trials.keys() & request.stored.keys() - request.runtimes_to_measure.keys():
            request.store.remove_trial(trial_id)

    with _show(request, queue, quiet=quiet) as progress:
        progress.say(f"{spec.head.name}: {len(queue.trials)} of {len(request.plan)} trials to run")
        progress.say(f"results: {request.store.location}")
        for warning in warn_of_devices(request):
            progress.say(f"warning: {warning}")
        run(queue, request.store, progress, retry=spec.head.retry, begin=forget_old_rows, **on_ray)
        if n_later:
            progress.say(f"--limit {limit}: {n_later} trials are left; the same command goes on with them")


def _show(request: SweepState, queue: BundleQueue, *, quiet: bool) -> Progress:
    """A table on a terminal, else lines, or nothing."""
    name, before = request.sweep.head.name, count_by_method(request.plan, request.state)
    before = {key: n for key, n in before.items() if key[1] != "to_run"}
    if quiet or not sys.stdout.isatty():
        return ProgressLines(queue, name=name, before=before, quiet=quiet)
    from quantfair.orchestrator.executors.progress_table import ProgressTable

    return ProgressTable(queue, name=name, before=before)
