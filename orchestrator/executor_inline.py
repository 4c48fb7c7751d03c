"""Runs a plan in this process, one trial after another: for debugging, tests and machines without Ray."""

import time
from functools import partial

from orchestrator.progress import ProgressLines
from orchestrator.schedule import BundleQueue
from orchestrator.spec import Retry
from orchestrator.trial import run_trial
from results import Store


def run_inline(queue: BundleQueue, store: Store, progress: ProgressLines, *, retry: Retry) -> None:
    """Run every trial of the queue that can run. `retry` is for workers that die, and here is none."""
    progress.say("in this process, one trial at a time")
    while bundle := queue.take():
        for trial in bundle.trials:
            started = time.perf_counter()
            watch = partial(progress.training, trial.trial_id, n_running=1)
            status = run_trial(trial, store, bundle.resources, watch)
            queue.finish(trial.trial_id, status, seconds=time.perf_counter() - started)
            progress.finished(trial.trial_id, status, n_running=int(bool(queue.unfinished)))
