"""What would run: how far a sweep is, and what is left in trials, bundles, time and room on the disk."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantfair.orchestrator.api.status import summarize_runtimes
from quantfair.orchestrator.config.errors import ConfigProblem, RequestError
from quantfair.orchestrator.config.json_schema import make_schema
from quantfair.orchestrator.config.sweep_file import SweepSource
from quantfair.orchestrator.planning.forecast import estimate_bytes, find_machine, forecast, measure_trials
from quantfair.orchestrator.planning.plan import METHODS, PlanState, count_by_method
from quantfair.orchestrator.planning.request import SweepState, make_queue, read_state, warn_of_devices


def plan(
    spec: SweepSource = "quickstart",
    overrides: Sequence[str] = (),
    *,
    store: str | Path | None = None,
    power: bool = False,
    flips: Sequence[float] = (),
) -> dict[str, Any]:
    """Return what `sweep` with the same arguments would do, as `plan --json` prints it.

    `power` adds what the test images can show, where `flips`, shares of the images in [0, 1], turn right or wrong. No
    trial runs. Data that is not there yet is downloaded and converted, as `sweep` would do it.

    Raises:
        RequestError: with every problem of the request.
        StoreError: the store cannot be read, or is another sweep's.
    """
    strangers = [share for share in flips if not 0 <= share <= 1]
    if strangers:
        raise RequestError([ConfigProblem("flips", f"must be shares in [0, 1], got {strangers[0]}.")])
    state = read_state(spec, overrides, store)
    summary = summarize_plan(state)
    if power or flips:
        from quantfair.orchestrator.planning.power import FLIPS, describe_power

        specs = dict.fromkeys(experiment.dataset for experiment in state.sweep.experiments)
        summary["power"] = describe_power(specs, flips or FLIPS, limit_pp=state.sweep.head.limit_pp)
    trials = [{"trial_id": trial.trial_id, "label": trial.label, "needs": list(trial.needs)} for trial in state.plan]
    return {**summary, "trials": trials}


def schema() -> dict[str, Any]:
    """Return the JSON schema of sweep files, for editors."""
    return make_schema()


def summarize_plan(state: SweepState) -> dict[str, Any]:
    """Return the plan's state and estimates as plain values: seconds of one slot (`work_s`) and by the clock, bytes."""
    counts = count_by_method(state.plan, state.progress)
    planned = Counter(trial.method for trial in state.plan)
    return {
        "name": state.sweep.head.name,
        "store": state.store.location,
        "n_trials": len(state.plan),
        "by_method": {
            method: {"planned": planned[method], **{place: counts[method, place] for place in PlanState._fields}}
            for method in METHODS
            if planned[method]
        },
        "runtimes": summarize_runtimes(
            state.store,
            [trial.trial_id for trial in state.plan],
            state.runtime_status,
            asked=state.sweep.head.runtimes,
        ),
        "left": _estimate_left(state),
        "warnings": warn_of_devices(state),
    }


def _estimate_left(state: SweepState) -> dict[str, Any]:
    queue = make_queue(state)
    left = list(queue.trials.values())
    work_s: dict[str, float] = dict.fromkeys(METHODS, 0.0)
    for trial in left:
        work_s[trial.method] += queue.durations.estimate_s(trial)
    ok = set(state.progress.ok)
    finished = [trial for trial in state.plan if trial.trial_id in ok]
    measured = measure_trials(state.store, finished, state.sweep.head.runtimes)
    timed = {row["method"] for row in state.stored.values() if row["status"] == "ok"}
    methods = [method for method in METHODS if work_s[method]]
    return {
        "n_trials": len(left),
        **forecast(queue, find_machine())._asdict(),
        "work_s_by_method": {method: work_s[method] for method in methods},
        "guessed_times": [method for method in methods if method not in timed],
        "disk_bytes": round(estimate_bytes(left, measured, state.images)),
        "guessed_sizes": [method for method in methods if method not in measured],
    }
