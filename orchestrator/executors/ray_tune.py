"""Runs a plan with Ray Tune: one Tune run, a Searcher that hands out bundles, workers that are used again.

Tune schedules; it owns neither the plan, the ids, the results nor the resume. Its loggers are off (a driver of 206
instead of 675 MB, and half the time a trial; 2 cores, ray 2.60, n = 1000), and its restore is never used: it lost 47 of
47 finished trials after a kill. A trial's own exception becomes a row in the worker; what is lost with a worker
the searcher hands out again, which counts crashes for the trial they hit and not for its bundle.
"""

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import TuneError
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import FunctionStopper

from quantfair.orchestrator.config.spec import Retry
from quantfair.orchestrator.executors.events import RunTrial, SweepListener, SweepStoppedError, run_trial
from quantfair.orchestrator.executors.progress import Progress
from quantfair.orchestrator.executors.ray_cluster import connect, count_slots
from quantfair.orchestrator.executors.ray_local import find_token_command, stop_local, warn_of_doors
from quantfair.orchestrator.executors.ray_metrics import publish_metrics
from quantfair.orchestrator.executors.ray_preflight import check_cluster
from quantfair.orchestrator.executors.ray_worker import make_worker, pack
from quantfair.orchestrator.planning.bundle_queue import Bundle, BundleQueue
from quantfair.orchestrator.planning.plan import CRASHED, OUT_OF_MEMORY, TIMED_OUT, PlannedTrial
from quantfair.orchestrator.planning.runtimes import fail, read_end
from quantfair.orchestrator.trials.outcome import TrialOutcome
from quantfair.results import Store, WriteError

COUNT_SLOTS_EVERY_S = 2.0  # nodes come and go
NO_MEMORY = "running low on memory"  # in Ray's words, of a worker that it has ended
NODE_LOST = "its node has died"  # in Ray's words, half a minute after it fell silent
MAX_STILLBORN = 10


def run_ray(
    queue: BundleQueue,
    store: Store,
    progress: Progress,
    *,
    retry: Retry,
    address: str | None = None,
    waits: bool = False,
    begin: Callable[[], None] = lambda: None,
    run: RunTrial = run_trial,
) -> None:
    """Run every trial of the queue that can run, on a Ray that lives as long as this call or the one at `address`.

    `begin` is called when nothing stands in the way of the first trial.
    `waits`: a shape that fits no node yet waits for one that comes later.

    Raises:
        RequestError: something stands in the way of a trial: see `ray_preflight.py`.
        WriteError: a result cannot be written, for instance because the disk is full; what was running is lost.
        SweepStoppedError: no worker can start.
    """
    searcher = PlanSearcher(queue, store, [progress], retry=retry, sweep=progress.name)
    n_failures = 0
    n_left = len(queue.unfinished)
    while queue.unfinished:
        dashboard = connect(address, job={"name": f"quantfair {progress.name}", "store": store.location})
        try:
            left = [trial for trial in queue.trials.values() if trial.trial_id in queue.unfinished]
            for warning in check_cluster(left, queue.resources, store, is_local=address is None, waits=waits):
                progress.say(f"warning: {warning}")
            if not searcher.counted:
                begin()
            searcher.count_slots()
            _say_where(progress, queue.n_slots, dashboard, is_local=address is None)
            with tempfile.TemporaryDirectory(prefix="quantfair-tune-") as folder, publish_metrics(progress):
                make_tuner(searcher, folder, worker=make_worker(run)).fit()
        except (RuntimeError, TuneError) as error:  # it ends so when Ray stops a worker that is just starting
            n_failures = n_failures + 1 if len(queue.unfinished) == n_left else 1
            n_left = len(queue.unfinished)
            if n_failures > retry.crash + 1:
                raise SweepStoppedError(
                    f"Ray Tune failed {n_failures} times, and nothing was finished: {error}"
                ) from error
            searcher.take_back(str(error))
        finally:
            stop_local()
        if searcher.stop_reason is not None:
            raise searcher.stop_reason


def _say_where(progress: Progress, n_slots: int, dashboard: str | None, *, is_local: bool) -> None:
    where = f"   Ray dashboard: {dashboard}" if dashboard else ""
    progress.say(f"on Ray, {n_slots} trials at a time{where}")
    token_command = find_token_command()
    if dashboard and token_command:
        progress.say(f"its token: {token_command}")
    for warning in warn_of_doors() if is_local else ():
        progress.say(f"warning: {warning}")


def make_tuner(searcher: "PlanSearcher", folder: str, *, worker: type[tune.Trainable]) -> tune.Tuner:
    """Return a Tune run that does what the searcher hands out, and keeps its own files in `folder`."""
    return tune.Tuner(
        worker,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=BundleScheduler(searcher),
            num_samples=-1,  # until the searcher says FINISHED
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["name"]),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name=searcher.sweep,
            storage_path=folder,
            failure_config=tune.FailureConfig(max_failures=0),  # the searcher hands lost trials out again
            stop=FunctionStopper(lambda trial_id, result: searcher.stop_reason is not None),
            verbose=0,
        ),
    )


class PlanSearcher(Searcher):
    """Hands out bundles to Tune and takes their events back; knows nothing of what a trial does."""

    def __init__(
        self,
        queue: BundleQueue,
        store: Store,
        listeners: Sequence[SweepListener],
        *,
        retry: Retry,
        sweep: str = "sweep",
    ):
        super().__init__()
        self.sweep = sweep
        self.queue, self.store, self.listeners, self.retry = queue, store, listeners, retry
        self.methods = {trial.method for trial in queue.trials.values()}
        self.running: dict[str, Bundle] = {}  # Tune's trial id -> what it runs
        self.heard: dict[str, float] = {}  # Tune's trial id -> when its worker last said something, seconds
        self.pids: dict[str, int] = {}  # Tune's trial id -> its worker
        self.errors: dict[str, str] = {}  # Tune's trial id -> how its worker ended, in Ray's words
        self.started: set[str] = set()  # our trial ids
        self.n_crashes: Counter[str] = Counter()
        self.n_stillborn = 0  # workers in a row that could not start
        self.stop_reason: Exception | None = None
        self.counted = 0.0

    def set_search_properties(self, metric, mode, config, **spec) -> bool:
        """There is no search space."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the next bundle, None while every remaining trial waits, FINISHED at the end."""
        if not self.queue.unfinished or self.stop_reason is not None:
            return Searcher.FINISHED
        if time.monotonic() - self.counted >= COUNT_SLOTS_EVERY_S:
            self.count_slots()
        # Two more than can run keep the workers supplied: Tune gives a free worker to a waiting trial only.
        bundle = self.queue.take() if len(self.running) < self.queue.n_slots + 2 else None
        if bundle is None:
            assert self.running, f"trials wait for needs that nothing can finish: {sorted(self.queue.unfinished)}"
            return None
        self.running[trial_id] = bundle
        return {
            "name": bundle.name,
            "sweep": self.sweep,
            "store": self.store.location,
            "resources": bundle.resources.model_dump(),
            "timeout_s": self.retry.timeout_s,
            "trials": pack(bundle.trials),
        }

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Take in what a worker has to say since it was last asked."""
        self.n_stillborn, self.heard[trial_id] = 0, time.monotonic()
        self.pids[trial_id] = result.get("pid", 0)
        for event, *about in result["events"]:
            match event:
                case "cannot_write":
                    self.stop_reason = WriteError(about[0])
                case "started":
                    self.started.add(about[0])
                    self._tell("started", *about)
                case "finished":
                    self._finish(TrialOutcome(*about[0]))
                case _:
                    self._tell(event, *about)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Take in how a bundle ended; Tune calls this once for each.

        `error` means that its worker died: what has no row becomes ready again. Trials run in order, so the first one
        without a row is the one it died with: crashes are counted for that one.
        """
        bundle = self.running.pop(trial_id)
        if result is not None and not error:
            self.on_trial_result(trial_id, result)
        silent_s = time.monotonic() - self.heard.pop(trial_id, time.monotonic())
        error_text = re.sub(r"\x1b\[[0-9;]*m", "", self.errors.pop(trial_id, ""))
        pid = self.pids.pop(trial_id, 0)
        if self.stop_reason is not None or all(t.trial_id not in self.queue.unfinished for t in bundle.trials):
            return
        if not pid:  # it never said that it begins: Ray has several words for why
            self._take_in_stillborn(bundle, error_text)
            return
        try:
            self._take_in_loss(bundle, error_text, silent_s=silent_s, is_innocent=took_less_memory(pid, error_text))
        except WriteError as failure:
            self.stop_reason = failure

    def take_back(self, error: str) -> None:
        """Take in the loss of everything that was handed out: Tune itself has ended."""
        for trial_id, bundle in list(self.running.items()):
            if trial_id in self.pids:
                self.errors[trial_id] = error
                self.on_trial_complete(trial_id, error=True)
            else:
                self.queue.give_back(bundle.trials)
        self.running.clear()

    def _take_in_stillborn(self, bundle: Bundle, error: str) -> None:
        self.n_stillborn += 1
        if self.n_stillborn >= MAX_STILLBORN:
            self.stop_reason = SweepStoppedError(f"Workers cannot start: {error.strip()}")
        self.queue.give_back(bundle.trials)

    def _take_in_loss(self, bundle: Bundle, error: str, *, silent_s: float, is_innocent: bool) -> None:
        ended = [trial.trial_id for trial in bundle.trials if read_end(trial, self.store) is not None]
        found = [(trial_id, self.store.read_trial(trial_id)) for trial_id in ended if trial_id in self.queue.unfinished]
        rows = {trial_id: row for trial_id, row in found if row is not None}
        for trial_id, row in rows.items():
            self._finish(TrialOutcome(trial_id, row["status"], error=row["error"]))
        lost = [trial for trial in bundle.trials if trial.trial_id in self.queue.unfinished]
        is_innocent |= any(str(row["error"]).startswith(TIMED_OUT) for row in rows.values())  # the next one of those is
        if lost and not is_innocent and self._is_given_up(lost[0], error, silent_s=silent_s):
            lost.pop(0)
        for trial in lost:
            if trial.trial_id in self.started:
                self.started.discard(trial.trial_id)
                self._tell("retried", trial.trial_id)
        self.queue.give_back(lost)

    def _is_given_up(self, trial: PlannedTrial, error: str, *, silent_s: float) -> bool:
        """Count a crash of the trial; write its row if it has had its chances."""
        self.n_crashes[trial.trial_id] += 1
        n, limit_s = self.n_crashes[trial.trial_id], self.retry.timeout_s
        if limit_s is not None and silent_s > limit_s and NODE_LOST not in error:
            reason = f"{TIMED_OUT}: ran longer than retry.timeout_s = {limit_s:g} and held its worker, which was ended"
        elif n <= self.retry.crash:
            return False
        elif NO_MEMORY in error:
            reason = f"{OUT_OF_MEMORY}: Ray ended its worker {n} times, since the node was running low on memory"
        else:
            cause = "out of memory is a usual cause"
            reason = f"{CRASHED}: its worker was lost {n} times when this trial was next; {cause}"
        self.store.add_to_log(trial.trial_id, f"{reason}\n{error}\n")
        status = fail(trial, self.store, reason, traceback=error or None, attempt=n)
        self._finish(TrialOutcome(trial.trial_id, status, error=reason))
        return True

    def _finish(self, outcome: TrialOutcome) -> None:
        if outcome.trial_id in self.queue.unfinished:
            self.started.discard(outcome.trial_id)
            self.queue.finish(outcome.trial_id, outcome.status, seconds=outcome.seconds)
            self._tell("finished", outcome)

    def _tell(self, event: str, *about: Any) -> None:
        for listener in self.listeners:
            getattr(listener, event)(*about)

    def count_slots(self) -> None:
        """Ask Ray how many trials run at once."""
        self.counted = time.monotonic()
        self.queue.n_slots = count_slots(self.queue.resources, self.methods)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the store knows what is finished."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its searcher, nobody restores it here, and listeners hold a terminal."""
        return {}


def took_less_memory(pid: int, error: str) -> bool:
    """Return whether Ray, short of memory, ended a worker that took more than this one. It ends several to be safe."""
    ended = {int(p): float(gb) for p, gb in re.findall(r"pid=(\d+), actual memory used=([\d.]+)GB", error)}
    return bool(ended) and pid != max(ended, key=lambda one: ended[one])


class BundleScheduler(FIFOScheduler):
    """First come, first served, but for a free worker: it leaves those alone for which a worker is starting."""

    def __init__(self, searcher: PlanSearcher):
        super().__init__()
        self.searcher = searcher

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the bundle that a free worker gets.

        Given the oldest one, as by Tune's own schedulers, it takes the work of a worker that is still starting, which
        Tune then stops: of short bundles one worker did them all.
        """
        live = {trial.trial_id: trial for trial in tune_controller.get_live_trials()}
        handed_out = [live[tune_id] for tune_id in self.searcher.running if tune_id in live]
        pending = [trial for trial in handed_out if trial.status == "PENDING"]
        n_starting = max(0, self.searcher.queue.n_slots - (len(handed_out) - len(pending)) - 1)
        return pending[n_starting] if n_starting < len(pending) else None

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tell the searcher how a worker ended, which Tune itself does not; it hears of the loss right after."""
        path = trial.error_file
        self.searcher.errors[trial.trial_id] = Path(path).read_text() if path else ""
