"""From what a user asks for to a validated sweep, its plan, its store and how far that is.

No torch and no ray: `plan` and a finished `sweep` need neither.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quantfair.datasets import DataError, DatasetSpec, GroupedDataset, load_dataset
from quantfair.orchestrator.checkout import find_checkout
from quantfair.orchestrator.config.compatibility import find_incompatibilities
from quantfair.orchestrator.config.errors import ConfigProblem, RequestError
from quantfair.orchestrator.config.spec import SweepSpec, load_sweep
from quantfair.orchestrator.config.sweep_file import SweepSource
from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.orchestrator.planning.plan import CRASHED, ImageCounts, PlannedTrial, PlanState, find_state, make_plan
from quantfair.orchestrator.planning.runtimes import find_runtimes_to_measure
from quantfair.results import Store, StoreScan, describe_mixed_pairs, scan_store


class SweepRequest(NamedTuple):
    """A validated sweep, its plan and its store."""

    sweep: SweepSpec
    plan: tuple[PlannedTrial, ...]
    store: Store
    images: dict[str, ImageCounts]  # by dataset_id


class SweepState(NamedTuple):
    """A validated sweep, its plan, its store, and how far it is."""

    sweep: SweepSpec
    plan: tuple[PlannedTrial, ...]
    store: Store
    images: dict[str, ImageCounts]
    progress: PlanState
    stored: dict[str, dict[str, Any]]
    runtimes_to_measure: dict[str, tuple[str, ...]]  # runtimes of finished trials that are still to be measured
    runtime_status: dict[tuple[str, str], str]  # the status of each runtime, by trial and runtime


def read_state(
    source: SweepSource, overrides: Sequence[str], location: str | Path | None, *, retry_failed: bool = False
) -> SweepState:
    """Return what is asked for and how far it is; `retry_failed` plans failed trials once more. Raises as below."""
    request = read_request(source, overrides, location)
    return add_state(request, scan_store(request.store), retry_failed=retry_failed)


def read_request(source: SweepSource, overrides: Sequence[str], location: str | Path | None) -> SweepRequest:
    """Return what is asked for, without how far it is.

    `source` is a built-in name, a file or a dict; `overrides` are `key=value` texts; `location` is that of the store.

    Raises:
        RequestError: with every problem that was found.
        StoreError: the store cannot be read, or is another sweep's or a newer version's.
    """
    spec = load_sweep(source, overrides)
    store = Store.open(str(location or find_default_store(spec.head.name)))
    store.refuse_strangers(spec.head.name)
    datasets = _load_datasets(spec)
    try:
        plan = make_plan(spec, {dataset_spec: dataset.dataset_id for dataset_spec, dataset in datasets.items()})
    except RequestError:
        raise
    except ValueError as error:  # a file of weights
        raise RequestError([ConfigProblem("", str(error))], spec.head.name) from error
    images = {dataset.dataset_id: _count_images(dataset) for dataset in datasets.values()}
    return SweepRequest(spec, plan, store, images)


def find_default_store(name: str) -> Path:
    """Return where the results of a sweep go: into `results/runs` of a checkout, else into a folder here."""
    checkout = find_checkout()
    if checkout is not None:
        return checkout / "results" / "runs" / name
    return Path("quantfair-runs", name).absolute()  # Tune may move the working directory


def add_state(request: SweepRequest, found: StoreScan, *, retry_failed: bool) -> SweepState:
    """Return the request with how far it is, by the rows of finished trials and of their runtimes."""
    stored = {row["trial_id"]: row for row in found.trials.drop_columns(["traceback", "config"]).to_pylist()}
    failed = {trial_id: row for trial_id, row in stored.items() if row["status"] == "failed"}
    again = {t for t, row in failed.items() if retry_failed or str(row["error"]).startswith(CRASHED)}
    statuses = {trial_id: row["status"] for trial_id, row in stored.items()}
    finished = [trial for trial in request.plan if statuses.get(trial.trial_id) == "ok"]
    missing = {
        trial.trial_id: find_runtimes_to_measure(trial, found.runtimes, retry_failed=retry_failed) for trial in finished
    }
    missing = {trial_id: runtimes for trial_id, runtimes in missing.items() if runtimes}
    progress = find_state(request.plan, statuses, run_again=frozenset(again), unmeasured=missing)
    return SweepState(*request, progress, stored, missing, found.runtimes)


def make_queue(state: SweepState, *, limit: int | None = None) -> BundleQueue:
    """Return the trials that are left to run, with estimates from the durations of finished ones.

    `limit` takes the first so many of the plan, in which needs come first.
    """
    to_run = set(state.progress.to_run[:limit])
    queue = BundleQueue(
        [_narrow(trial, state.runtimes_to_measure) for trial in state.plan if trial.trial_id in to_run],
        done={*state.progress.ok, *state.runtimes_to_measure},
        resources=state.sweep.head.resources,
    )
    trials = {trial.config_id: trial for trial in state.plan} if state.stored else {}
    for row in state.stored.values():
        if row["status"] != "ok" or row["total_s"] is None:  # imported: it took no time here
            continue
        if alike := trials.get(row["config_id"]):  # the trial itself, or another seed of it
            queue.durations.learn(alike, row["total_s"])
        else:
            queue.durations.learn_method(row["method"], row["total_s"])
    return queue


def _narrow(trial: PlannedTrial, runtimes_to_measure: dict[str, tuple[str, ...]]) -> PlannedTrial:
    """Return a trial with what is left of it to do."""
    if trial.trial_id not in runtimes_to_measure:
        return trial
    return trial.model_copy(update={"runtimes": runtimes_to_measure[trial.trial_id], "only_runtimes_left": True})


def warn_of_devices(state: SweepState) -> list[str]:
    """Say which pairs would be of two kinds of device: where a trial ran already, or where it is going to run."""
    resources = state.sweep.head.resources

    def find_device(trial: PlannedTrial) -> str:
        stored = state.stored.get(trial.trial_id, {})
        return stored.get("device") or getattr(resources, trial.method).device

    return describe_mixed_pairs({**trial.columns(), "device": find_device(trial)} for trial in state.plan)


def _load_datasets(spec: SweepSpec) -> dict[DatasetSpec, GroupedDataset]:
    """Load every data set of a sweep. Raises RequestError where the sweep does not fit them."""
    datasets, problems = {}, []
    for dataset_spec in dict.fromkeys(experiment.dataset for experiment in spec.experiments):
        try:
            datasets[dataset_spec] = load_dataset(dataset_spec)
        except DataError as error:
            problems.append(ConfigProblem("", str(error)))
            continue
        for experiment in spec.experiments:
            if experiment.dataset == dataset_spec:
                problems += find_incompatibilities(experiment.model, experiment.quant, datasets[dataset_spec])
    if problems:
        raise RequestError(problems, "the data")
    return datasets


def _count_images(dataset: GroupedDataset) -> ImageCounts:
    return ImageCounts(sum(len(dataset.splits[split]) for split in ("val", "test")), len(dataset.class_names))
