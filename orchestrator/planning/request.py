"""From the words of a command to what it asks for: a validated sweep, its plan, its store and how far that is.

No torch and no ray: `plan` and a finished `sweep` need neither.
"""

from pathlib import Path
from typing import Any, NamedTuple

from quantfair.datasets import DataError, DatasetSpec, GroupedDataset, load_dataset
from quantfair.orchestrator.config.compatibility import find_incompatibilities
from quantfair.orchestrator.config.errors import ConfigProblem, RequestError
from quantfair.orchestrator.config.spec import SweepSpec, load_sweep
from quantfair.orchestrator.config.sweep_file import is_file
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
    state: PlanState
    stored: dict[str, dict[str, Any]]
    runtimes_to_measure: dict[str, tuple[str, ...]]  # runtimes of finished trials that are still to be measured
    runtime_status: dict[tuple[str, str], str]  # the status of each runtime, by trial and runtime


def read_request(words: list[str] | None, location: str | None, *, retry_failed: bool) -> SweepState:
    """Return what a command's words and `--store` ask for; `retry_failed` plans failed trials once more.

    Raises:
        RequestError: with every problem that was found.
        StoreError: the store cannot be read, or is another sweep's or a newer version's.
    """
    wanted = read_plan(words, location)
    return add_state(wanted, scan_store(wanted.store), retry_failed=retry_failed)


def read_plan(words: list[str] | None, location: str | None) -> SweepRequest:
    """Return what is asked for, without how far it is. Raises as `read_request`."""
    words = list(words or [])
    names_a_sweep = words and ("=" not in words[0] or is_file(words[0]))
    name = words.pop(0) if names_a_sweep else "quickstart"
    strangers = [word for word in words if "=" not in word]
    if strangers:
        raise RequestError([ConfigProblem(word, "is no override: write it as key=value.") for word in strangers])
    spec = load_sweep(name, words)
    store = Store.open(location or str(Path("results", "runs", spec.head.name)))
    store.refuse_strangers(spec.head.name)
    datasets = _load_datasets(spec)
    try:
        plan = make_plan(spec, {dataset_spec: dataset.dataset_id for dataset_spec, dataset in datasets.items()})
    except ValueError as error:  # a file of weights
        raise (
            error if isinstance(error, RequestError) else RequestError([ConfigProblem("", str(error))], name)
        ) from error
    return SweepRequest(
        spec, plan, store, {dataset.dataset_id: _count_images(dataset) for dataset in datasets.values()}
    )


def add_state(wanted: SweepRequest, found: StoreScan, *, retry_failed: bool) -> SweepState:
    """Return the request with how far it is, by the rows of finished trials and of their runtimes."""
    stored = {row["trial_id"]: row for row in found.trials.drop_columns(["traceback", "config"]).to_pylist()}
    failed = {trial_id: row for trial_id, row in stored.items() if row["status"] == "failed"}
    again = {t for t, row in failed.items() if retry_failed or str(row["error"]).startswith(CRASHED)}
    statuses = {trial_id: row["status"] for trial_id, row in stored.items()}
    finished = [trial for trial in wanted.plan if statuses.get(trial.trial_id) == "ok"]
    missing = {
        trial.trial_id: find_runtimes_to_measure(trial, found.runtimes, retry_failed=retry_failed) for trial in finished
    }
    missing = {trial_id: runtimes for trial_id, runtimes in missing.items() if runtimes}
    state = find_state(wanted.plan, statuses, run_again=frozenset(again), unmeasured=missing)
    return SweepState(*wanted, state, stored, missing, found.runtimes)


def make_queue(request: SweepState, *, limit: int | None = None) -> BundleQueue:
    """Return the trials that are left to run, with estimates from the durations of finished ones.

    `limit` takes the first so many of the plan, in which needs come first.
    """
    to_run = set(request.state.to_run[:limit])
    queue = BundleQueue(
        [_narrow(trial, request.runtimes_to_measure) for trial in request.plan if trial.trial_id in to_run],
        done={*request.state.ok, *request.runtimes_to_measure},
        resources=request.sweep.head.resources,
    )
    trials = {trial.config_id: trial for trial in request.plan} if request.stored else {}
    for row in request.stored.values():
        if row["status"] != "ok" or row["total_s"] is None:  # imported: it took no time here
            continue
        if alike := trials.get(row["config_id"]):  # the trial itself, or another seed of it
            queue.durations.learn(alike, row["total_s"])
        else:
            queue.durations.learn_method(row["method"], row["total_s"])
    return queue


def _narrow(trial: PlannedTrial, wanted: dict[str, tuple[str, ...]]) -> PlannedTrial:
    """Return a trial with what is left of it to do."""
    if trial.trial_id not in wanted:
        return trial
    return trial.model_copy(update={"runtimes": wanted[trial.trial_id], "only_runtimes_left": True})


def warn_of_devices(request: SweepState) -> list[str]:
    """Say which pairs would be of two kinds of device: where a trial ran already, or where it is going to run."""
    resources = request.sweep.head.resources

    def find_device(trial: PlannedTrial) -> str:
        stored = request.stored.get(trial.trial_id, {})
        return stored.get("device") or getattr(resources, trial.method).device

    return describe_mixed_pairs({**trial.columns(), "device": find_device(trial)} for trial in request.plan)


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
