"""Runs a plan in this process, one trial after another: for debugging, tests and machines without Ray."""

from functools import partial

from orchestrator.progress import Progress
from orchestrator.schedule import BundleQueue
from orchestrator.spec import Retry
from orchestrator.work import RunTrial, run_trial
from results import Store


def run_inline(
    queue: BundleQueue, store: Store, progress: Progress, *, retry: Retry, run: RunTrial = run_trial
) -> None:
    """Run every trial of the queue that can run. `retry` is for workers that die, and here is none."""
    progress.say("in this process, one trial at a time")
    while bundle := queue.take():
        for trial in bundle.trials:
            progress.started(trial.trial_id)
            outcome = run(trial, store, bundle.resources, partial(progress.training, trial.trial_id))
            queue.finish(outcome.trial_id, outcome.status, seconds=outcome.seconds)
            progress.finished(outcome)
