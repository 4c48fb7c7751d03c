"""Runs a plan with Ray Tune: one Tune run, a Searcher that hands out bundles, workers that are used again.

Tune schedules; it owns neither the plan, the ids, the results nor the resume. Its loggers are off (a driver of 206
instead of 675 MB, and half the time a trial; 2 cores, ray 2.60, n = 1000), and its restore is never used: it lost 47 of
47 finished trials after a kill. A trial's own exception becomes a row in the worker; what is lost with a worker
the searcher hands out again, which counts crashes for the trial they hit and not for its bundle.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import FunctionStopper

from orchestrator.executor_cluster import connect, count_slots, reserve
from orchestrator.executor_preflight import check_cluster
from orchestrator.executor_worker import make_worker
from orchestrator.plan import CRASHED, OUT_OF_MEMORY, TIMED_OUT, PlannedTrial
from orchestrator.progress import ProgressLines
from orchestrator.schedule import Bundle, BundleQueue
from orchestrator.spec import Resources, Retry
from orchestrator.work import Outcome, RunTrial, Watcher, run_trial
from results import Store, WriteError

COUNT_SLOTS_EVERY_S = 2.0  # nodes come and go


def run_ray(
    queue: BundleQueue,
    store: Store,
    progress: ProgressLines,
    *,
    retry: Retry,
    address: str | None = None,
    waits: bool = False,
    run: RunTrial = run_trial,
) -> None:
    """Run every trial of the queue that can run, on a Ray that lives as long as this call or the one at `address`.

    `waits`: a shape that fits no node yet waits for one that comes later.

    Raises:
        RequestError: something stands in the way of a trial: see `executor_preflight.py`.
        WriteError: a result cannot be written, for instance because the disk is full; what was running is lost.
    """
    dashboard = connect(address)
    try:
        trials = list(queue.trials.values())
        for warning in check_cluster(trials, queue.resources, store, is_local=address is None, waits=waits):
            progress.say(f"warning: {warning}")
        searcher = PlanSearcher(queue, store, [progress], retry=retry)
        progress.say(
            f"on Ray, {queue.n_slots} trials at a time" + (f"   Ray dashboard: {dashboard}" if dashboard else "")
        )
        with tempfile.TemporaryDirectory(prefix="quantfair-tune-") as folder:
            make_tuner(searcher, folder, worker=make_worker(run)).fit()
        if searcher.cannot_write is not None:
            raise WriteError(searcher.cannot_write)
    finally:
        ray.shutdown()


def make_tuner(searcher: "PlanSearcher", folder: str, *, worker: type[tune.Trainable]) -> tune.Tuner:
    """Return a Tune run that does what the searcher hands out, and keeps its own files in `folder`."""
    return tune.Tuner(
        tune.with_resources(worker, lambda config: reserve(Resources(**config["resources"]))),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_ErrorReader(searcher),
            num_samples=-1,  # until the searcher says FINISHED
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["name"]),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=folder,
            failure_config=tune.FailureConfig(max_failures=0),  # the searcher hands lost trials out again
            stop=FunctionStopper(lambda trial_id, result: searcher.cannot_write is not None),
            verbose=0,
        ),
    )


class PlanSearcher(Searcher):
    """Hands out bundles to Tune and takes their events back; knows nothing of what a trial does."""

    def __init__(self, queue: BundleQueue, store: Store, watchers: Sequence[Watcher], *, retry: Retry):
        super().__init__()
        self.queue, self.store, self.watchers, self.retry = queue, store, watchers, retry
        self.running: dict[str, Bundle] = {}  # Tune's trial id -> what it runs
        self.started: dict[str, float] = {}  # trial id -> when its worker said that it begins, seconds
        self.errors: dict[str, str] = {}  # Tune's trial id -> how its worker ended, in Ray's words
        self.n_crashes: Counter[str] = Counter()
        self.cannot_write: str | None = None  # why the sweep must stop
        self.counted = 0.0
        self._count_slots()

    def set_search_properties(self, metric, mode, config, **spec) -> bool:
        """There is no search space."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the next bundle, None while every remaining trial waits, FINISHED at the end."""
        if not self.queue.unfinished or self.cannot_write is not None:
            return Searcher.FINISHED
        self._count_slots()
        # Two more than can run keep the workers supplied: Tune gives a free worker to a waiting trial only.
        bundle = self.queue.take() if len(self.running) < self.queue.n_slots + 2 else None
        if bundle is None:
            assert self.running, f"trials wait for needs that nothing can finish: {sorted(self.queue.unfinished)}"
            return None
        self.running[trial_id] = bundle
        return {
            "name": f"{bundle.trials[0].label} +{len(bundle.trials) - 1}".replace(" ", "_"),
            "store": self.store.location,
            "resources": bundle.resources.model_dump(),
            "timeout_s": self.retry.timeout_s,
            "trials": [trial.model_dump_json() for trial in bundle.trials],
        }

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Take in what a worker has to say since it was last asked."""
        for event, *about in result["events"]:
            match event:
                case "cannot_write":
                    self.cannot_write = about[0]
                case "started":
                    self.started[about[0]] = time.monotonic()
                    self._tell("started", *about)
                case "finished":
                    self._finish(Outcome(*about[0]))
                case _:
                    self._tell(event, *about)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Called once for each bundle. `error` means that its worker died: what has no row becomes ready again.

        Trials run in order, so the first one without a row is the one it died with: crashes are counted for that one.
        """
        bundle = self.running.pop(trial_id)
        if result is not None and not error:
            self.on_trial_result(trial_id, result)
        if all(trial.trial_id not in self.queue.unfinished for trial in bundle.trials) or self.cannot_write is not None:
            return
        try:
            self._take_in_loss(bundle, self.errors.pop(trial_id, ""))
        except WriteError as failure:
            self.cannot_write = str(failure)

    def _take_in_loss(self, bundle: Bundle, error: str) -> None:
        found = [(trial.trial_id, self.store.read_trial(trial.trial_id)) for trial in bundle.trials]
        rows = {trial_id: row for trial_id, row in found if row is not None and trial_id in self.queue.unfinished}
        for trial_id, row in rows.items():
            self._finish(Outcome(trial_id, row["status"]))
        lost = [trial for trial in bundle.trials if trial.trial_id in self.queue.unfinished]
        ended_itself = any(str(row["error"]).startswith(TIMED_OUT) for row in rows.values())
        if lost and not ended_itself and self._is_given_up(lost[0], error):
            lost.pop(0)
        for trial in lost:
            if self.started.pop(trial.trial_id, None) is not None:
                self._tell("retried", trial.trial_id)
        self.queue.give_back(lost)

    def _is_given_up(self, trial: PlannedTrial, error: str) -> bool:
        """Count a crash of the trial; write its row if it has had its chances."""
        self.n_crashes[trial.trial_id] += 1
        n, limit_s, began = self.n_crashes[trial.trial_id], self.retry.timeout_s, self.started.get(trial.trial_id)
        if limit_s is not None and began is not None and time.monotonic() - began > limit_s:
            reason = f"{TIMED_OUT}: ran longer than retry.timeout_s = {limit_s:g} and held its worker, which was ended"
        elif n <= self.retry.crash:
            return False
        elif "OutOfMemory" in error or "running low on memory" in error:
            reason = f"{OUT_OF_MEMORY}: Ray ended its worker {n} times, since the node was running out of memory"
        else:
            reason = (
                f"{CRASHED}: its worker was lost {n} times when this trial was next; out of memory is a usual cause"
            )
        self.store.write_log(trial.trial_id, f"{trial.label}  {trial.trial_id}\n{reason}\n{error}\n")
        row = {**trial.columns(), "status": "failed", "error": reason, "traceback": error or None, "attempt": n}
        self.store.write_trial(row)
        self._finish(Outcome(trial.trial_id, "failed"))
        return True

    def _finish(self, outcome: Outcome) -> None:
        if outcome.trial_id in self.queue.unfinished:
            self.started.pop(outcome.trial_id, None)
            self.queue.finish(outcome.trial_id, outcome.status, seconds=outcome.seconds)
            self._tell("finished", outcome)

    def _tell(self, event: str, *about: Any) -> None:
        for watcher in self.watchers:
            getattr(watcher, event)(*about)

    def _count_slots(self) -> None:
        if time.monotonic() - self.counted >= COUNT_SLOTS_EVERY_S:
            self.counted = time.monotonic()
            methods = {trial.method for trial in self.queue.trials.values()}
            self.queue.n_slots = count_slots(self.queue.resources, methods)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the store knows what is finished."""


class _ErrorReader(FIFOScheduler):
    """First come, first served; tells the searcher how a worker ended, which Tune itself does not."""

    def __init__(self, searcher: PlanSearcher):
        super().__init__()
        self.searcher = searcher

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Called just before the searcher is told that the bundle is lost."""
        path = trial.error_file
        self.searcher.errors[trial.trial_id] = Path(path).read_text() if path else ""
