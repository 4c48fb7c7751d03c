"""Runs a plan with Ray Tune: one Tune run, a Searcher that hands out bundles, workers that are used again.

Tune schedules; it owns neither the plan, the ids, the results nor the resume. Its loggers are off (a driver of 206
instead of 675 MB, and half the time a trial; 2 cores, ray 2.60, n = 1000), and its restore is never used: it lost 47 of
47 finished trials after a kill. A trial's own exception becomes a row in the worker; what is lost with a worker
the searcher hands out again, which counts crashes for the trial they hit and not for its bundle.
"""

import logging
import os
import tempfile
import time
from collections import Counter
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from orchestrator.plan import CRASHED, PlannedTrial
from orchestrator.problems import Problem, RequestError
from orchestrator.progress import ProgressLines
from orchestrator.schedule import Bundle, BundleQueue
from orchestrator.spec import Resources, ResourcesByMethod, Retry
from results import Store

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints banners even at verbose=0
    "RAY_AUTH_MODE": "disabled",  # else ray.init writes a token into the home directory
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # trials keep the driver's working directory
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C raises KeyboardInterrupt here, as everywhere
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # the store resumes a sweep, not Tune
    "TUNE_RESULT_BUFFER_LENGTH": "1",
}
REPORT_EVERY_S = 1.0  # how often a worker reports which trials ended, and how far the present one is
OBJECT_STORE_BYTES = 150_000_000


def run_ray(queue: BundleQueue, store: Store, progress: ProgressLines, *, retry: Retry) -> None:
    """Run every trial of the queue that can run, on a Ray that lives as long as this call.

    Raises:
        RequestError: a method asks for more than any node has, which Ray would wait for in silence.
    """
    os.environ.update(ENVIRONMENT)
    context = ray.init(
        address="local", object_store_memory=OBJECT_STORE_BYTES, log_to_driver=False, logging_level=logging.ERROR
    )
    try:
        queue.n_slots = count_slots(queue.resources, {trial.method for trial in queue.trials.values()})
        dashboard = f"   Ray dashboard: http://{context.dashboard_url}" if context.dashboard_url else ""
        progress.say(f"on Ray, {queue.n_slots} trials at a time{dashboard}")
        with tempfile.TemporaryDirectory(prefix="quantfair-tune-") as folder:
            _make_tuner(PlanSearcher(queue, store, progress, retry=retry), folder).fit()
    finally:
        ray.shutdown()


def count_slots(resources: ResourcesByMethod, methods: set[str]) -> int:
    """Return how many trials of these methods Ray runs at once. Raises RequestError for a shape that fits no node."""
    shapes: dict[str, Resources] = {name: shape for name, shape in dict(resources).items() if name in methods}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    problems = [
        Problem(f"resources.{method}", f"asks for {shape}, and no node has that much: {_summary(nodes)}. Ask for less.")
        for method, shape in shapes.items()
        if not any(_slots(node, shape) >= 1 for node in nodes)
    ]
    if problems:
        raise RequestError(problems, "the resources")
    return max(sum(int(_slots(node, shape)) for node in nodes) for shape in shapes.values())


def _make_tuner(searcher: Searcher, folder: str) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(SweepTrainable, _placement),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,  # until the searcher says FINISHED
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["name"]),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=folder,
            failure_config=tune.FailureConfig(max_failures=0),  # the searcher hands lost trials out again
            verbose=0,
        ),
    )


class PlanSearcher(Searcher):
    """Hands out bundles to Tune and takes their outcomes back; knows nothing of what a trial does."""

    def __init__(self, queue: BundleQueue, store: Store, progress: ProgressLines, *, retry: Retry):
        super().__init__()
        self.queue, self.store, self.progress, self.retry = queue, store, progress, retry
        self.running: dict[str, Bundle] = {}  # Tune's trial id -> what it runs
        self.n_crashes: Counter[str] = Counter()

    def set_search_properties(self, metric, mode, config, **spec) -> bool:
        """There is no search space."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the next bundle, None while every remaining trial waits, FINISHED at the end."""
        if not self.queue.unfinished:
            return Searcher.FINISHED
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
            "trials": [trial.model_dump_json() for trial in bundle.trials],
        }

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Take in what a bundle has finished so far, and how far its present trial is."""
        n_running = min(len(self.running), self.queue.n_slots)
        for our_id, status, seconds in result["outcomes"]:
            if our_id in self.queue.unfinished:
                self.queue.finish(our_id, status, seconds=seconds)
                self.progress.finished(our_id, status, n_running=n_running)
        if result.get("news"):
            self.progress.training(*result["news"], n_running=n_running)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Called once for each bundle. `error` means that its worker died.

        Trials run in order, so the first one without a row is the one it died with: crashes are counted for that one,
        and all that have no row become ready again.
        """
        bundle = self.running.pop(trial_id)
        if result is not None and not error:
            self.on_trial_result(trial_id, result)
            return
        self._take_in_rows(bundle)
        lost = [trial for trial in bundle.trials if trial.trial_id in self.queue.unfinished]
        if lost:
            self.n_crashes[lost[0].trial_id] += 1
            if self.n_crashes[lost[0].trial_id] > self.retry.crash:
                self._fail(lost.pop(0))
            self.queue.give_back(lost)

    def _take_in_rows(self, bundle: Bundle) -> None:
        for trial in bundle.trials:
            status = self.store.read_status(trial.trial_id)
            if status is not None:
                self.on_trial_result("", {"outcomes": [(trial.trial_id, status, None)]})

    def _fail(self, trial: PlannedTrial) -> None:
        """Write the row of a trial that was lost with its worker too often."""
        n = self.retry.crash + 1
        error = f"{CRASHED}: its worker was lost {n} times when this trial was next; out of memory is a usual cause"
        self.store.write_log(trial.trial_id, f"{trial.label}  {trial.trial_id}\n{error}\n")
        self.store.write_trial({**trial.columns(), "status": "failed", "error": error, "attempt": n})
        self.on_trial_result("", {"outcomes": [(trial.trial_id, "failed", None)]})

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the store knows what is finished."""


class SweepTrainable(tune.Trainable):
    """Runs one bundle; a worker that is used again gets its next bundle through `reset_config`.

    The trials run in a thread beside the one that Tune asks for results, so that a long one is heard of while it runs.
    It is a daemon: a worker that is told to end does not wait for it.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Take a bundle and begin it. Rows that exist already were written before this bundle's worker died."""
        store, resources = Store.open(config["store"]), Resources(**config["resources"])
        trials = [PlannedTrial.model_validate_json(text) for text in config["trials"]]
        self.outcomes: SimpleQueue[tuple[str, str, float]] = SimpleQueue()
        self.news: tuple[str, str] | None = None  # the trial that runs, and its last line
        self.failure: BaseException | None = None
        self.thread = Thread(target=self._run, args=(trials, store, resources), daemon=True)
        self.thread.start()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next bundle."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for about a second; report (trial_id, status, seconds) of trials that ended, and how far the next is."""
        self.thread.join(REPORT_EVERY_S)
        done = not self.thread.is_alive()
        if self.failure is not None:
            raise self.failure
        outcomes = [self.outcomes.get() for _ in range(self.outcomes.qsize())]
        news, self.news = self.news, None
        return {"outcomes": outcomes, "news": news, "done": done}

    def _run(self, trials: list[PlannedTrial], store: Store, resources: Resources) -> None:
        from orchestrator.trial import run_trial

        try:
            for trial in trials:
                began, watch = time.perf_counter(), partial(self._hear, trial.trial_id)
                status = store.read_status(trial.trial_id) or run_trial(trial, store, resources, watch)
                self.outcomes.put((trial.trial_id, status, time.perf_counter() - began))
        except BaseException as error:  # what is no trial's own: Tune hears of it from `step`
            self.failure = error

    def _hear(self, trial_id: str, text: str) -> None:
        self.news = trial_id, text

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune calls it after `done` even when no checkpoints are asked for; without it every bundle fails."""


def _placement(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    resources = config["resources"]
    return tune.PlacementGroupFactory([{"CPU": resources["cpu"], "GPU": resources["gpu"]}])


def _slots(node: dict[str, float], shape: Resources) -> float:
    slots = node.get("CPU", 0) / shape.cpu
    return min(slots, node.get("GPU", 0) / shape.gpu) if shape.gpu else slots


def _summary(nodes: list[dict[str, float]]) -> str:
    return "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
