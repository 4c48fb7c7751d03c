"""A sweep as one call: what is not finished runs, then the tables and the dashboard are written."""

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quantfair.orchestrator.api.report import BuiltReport
from quantfair.orchestrator.checkout import find_command
from quantfair.orchestrator.config.errors import ConfigProblem, RequestError
from quantfair.orchestrator.config.sweep_file import SweepSource, built_in_sweeps, is_file
from quantfair.orchestrator.executors.progress import Progress, ProgressLines
from quantfair.orchestrator.executors.recovery import run_with_recovery
from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.orchestrator.planning.manifest import keep_manifest
from quantfair.orchestrator.planning.plan import count_by_method
from quantfair.orchestrator.planning.request import SweepState, make_queue, read_request, warn_of_devices
from quantfair.results import Store

if TYPE_CHECKING:
    from quantfair.results import Frames

EXECUTORS = ("ray", "inline")


def sweep(
    spec: SweepSource = "quickstart",
    overrides: Sequence[str] = (),
    *,
    store: str | Path | None = None,
    executor: Literal["ray", "inline"] = "ray",
    address: str | None = None,
    wait_for_nodes: bool = False,
    retry_failed: bool = False,
    limit: int | None = None,
    quiet: bool = False,
) -> "Frames":
    """Run what is not finished of a sweep, write its tables and its dashboard, and return the tables as frames.

    `spec` is the name of a built-in sweep, a TOML file, or a dict of the same values; `overrides` are `key=value` texts
    on top. `store` is a path or a URI; by default it is `results/runs/NAME` of a checkout, else `quantfair-runs/NAME`.
    `executor` is "ray" (this machine, or the cluster at `address`) or "inline" (this process, one trial at a time).
    `wait_for_nodes` starts although a trial fits no node yet, `retry_failed` runs failed trials once more, and `limit`
    is the most trials to run. Progress is a table on a terminal and lines elsewhere, such as in a notebook; `quiet`
    shows none. A sweep that was stopped goes on with the same call. A trial that fails is a row of `frames.trials`.

    Raises:
        RequestError: with every problem of the request.
        StoreError: the store cannot be read, or is another sweep's.
        SweepStoppedError: no worker can start; finished trials are kept.
        WriteError: a result cannot be written; finished trials are kept.
    """
    from quantfair.results import read  # with pandas, which commands do without

    built = run_sweep(
        spec,
        overrides,
        store=store,
        executor=executor,
        address=address,
        wait_for_nodes=wait_for_nodes,
        retry_failed=retry_failed,
        limit=limit,
        quiet=quiet,
    )
    return read(built.store)


def run_sweep(
    spec: SweepSource,
    overrides: Sequence[str] = (),
    *,
    store: str | Path | None = None,
    executor: str = "ray",
    address: str | None = None,
    wait_for_nodes: bool = False,
    retry_failed: bool = False,
    limit: int | None = None,
    quiet: bool = False,
) -> BuiltReport:
    """Run a sweep as `sweep` does, and return the report that ends it. Raises as `sweep`."""
    if executor not in EXECUTORS:
        raise RequestError([ConfigProblem("executor", f"must be one of {', '.join(EXECUTORS)}, got {executor!r}.")])
    if limit is not None and limit < 1:
        raise RequestError([ConfigProblem("limit", f"must be at least 1, got {limit}.")])
    request = read_request(spec, overrides, store)
    on_ray = {"address": address, "waits": wait_for_nodes} if executor == "ray" else {}
    command = format_command(spec, overrides, request.store, **on_ray)
    with request.store.locked(executor=executor):
        run = partial(_run, executor=executor, on_ray=on_ray, command=command, quiet=quiet)
        derived = run_with_recovery(request, run, retry_failed=retry_failed, limit=limit)
    return BuiltReport(store=request.store, derived=derived)


def format_command(spec: SweepSource, overrides: Sequence[str], store: Store, **on_ray: Any) -> str | None:
    """Return the command that goes on with a sweep from the folder where it was started.

    None for a sweep that was given as a dict: no command names it.
    """
    if not isinstance(spec, str | Path):
        return None
    words = [str(spec), *overrides]
    known = built_in_sweeps()
    words = [str(Path(word).absolute()) if word not in known and is_file(word) else word for word in words]
    options = ["--store", store.location, *([] if on_ray else ["--executor", "inline"])]
    options += ["--address", on_ray["address"]] if on_ray.get("address") else []
    options += ["--wait-for-nodes"] if on_ray.get("waits") else []
    return shlex.join([*find_command(), "sweep", *words, *options])


def _run(
    state: SweepState,
    limit: int | None,
    *,
    executor: str,
    on_ray: dict[str, Any],
    command: str | None,
    quiet: bool,
) -> None:
    """Run what is left of a sweep, at most `limit` trials."""
    keep_manifest(state, command=command)
    to_run = state.progress.to_run
    if not to_run and not quiet:
        print(_format_nothing_to_run(state))
    if not to_run or limit == 0:
        return
    if executor == "ray":
        from quantfair.orchestrator.executors.ray_tune import run_ray as run
    else:
        from quantfair.orchestrator.executors.inline import run_inline as run

    queue = make_queue(state, limit=limit)
    n_later = len(to_run) - len(queue.trials)
    with _show(state, queue, quiet=quiet) as progress:
        progress.say(f"{state.sweep.head.name}: {len(queue.trials)} of {len(state.plan)} trials to run")
        progress.say(f"results: {state.store.location}")
        for warning in warn_of_devices(state):
            progress.say(f"warning: {warning}")
        begin = partial(_forget_old_rows, state, queue)
        run(queue, state.store, progress, retry=state.sweep.head.retry, begin=begin, **on_ray)
        if n_later:
            progress.say(f"--limit {limit}: {n_later} trials are left; the same command goes on with them")


def _forget_old_rows(state: SweepState, queue: BundleQueue) -> None:
    """Remove the rows of failed trials that run once more, and of runtimes that are measured once more."""
    for trial_id, runtimes in state.runtimes_to_measure.items():
        for runtime in runtimes if trial_id in queue.trials else ():
            state.store.remove_runtime(trial_id, runtime)
    for trial_id in queue.trials.keys() & state.stored.keys() - state.runtimes_to_measure.keys():
        state.store.remove_trial(trial_id)


def _format_nothing_to_run(state: SweepState) -> str:
    ended, name = state.progress, state.sweep.head.name
    if not ended.failed:
        return f"Nothing to run: all {len(state.plan)} trials of {name} are finished."
    failed = f"{len(ended.failed)} failed and {len(ended.blocked)} need one of those"
    return f"Nothing to run of {name}: {len(ended.ok)} trials are ok, {failed}; --retry-failed runs them once more."


def _show(state: SweepState, queue: BundleQueue, *, quiet: bool) -> Progress:
    """Return a table on a terminal, else lines, or nothing."""
    counts = count_by_method(state.plan, state.progress)
    before = {key: n for key, n in counts.items() if key[1] != "to_run"}
    name = state.sweep.head.name
    if quiet or not sys.stdout.isatty():
        return ProgressLines(queue, name=name, before=before, quiet=quiet)
    from quantfair.orchestrator.executors.progress_table import ProgressTable

    return ProgressTable(queue, name=name, before=before)
