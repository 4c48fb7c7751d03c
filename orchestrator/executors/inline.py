"""Runs a plan in this process, one trial after another: for debugging, tests and machines without Ray."""

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from quantfair.orchestrator.config.errors import ConfigProblem, RequestError
from quantfair.orchestrator.config.spec import Retry
from quantfair.orchestrator.executors.events import RunTrial, run_trial
from quantfair.orchestrator.executors.progress import Progress
from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.orchestrator.planning.plan import TIMED_OUT, PlannedTrial
from quantfair.orchestrator.planning.runtimes import fail
from quantfair.orchestrator.trials.outcome import TrialOutcome
from quantfair.results import Store


class TimedOutError(BaseException):
    """A trial took longer than `retry.timeout_s`. No trial's own code catches it, `except Exception` neither."""


def run_inline(
    queue: BundleQueue,
    store: Store,
    progress: Progress,
    *,
    retry: Retry,
    begin: Callable[[], None] = lambda: None,
    run: RunTrial = run_trial,
) -> None:
    """Run every trial of the queue that can run. Of `retry` only the time-out has a meaning here: no worker can die.

    `begin` is called before the first trial.

    Raises:
        RequestError: there is a time-out, which needs the main thread of the process, and this is another one.
        WriteError: a result cannot be written, for instance because the disk is full; what was running is lost.
    """
    if retry.timeout_s and threading.current_thread() is not threading.main_thread():
        message = "needs the main thread with the executor inline: sweep there or on Ray, or set no time-out."
        raise RequestError([ConfigProblem("retry.timeout_s", message)])
    progress.say("in this process, one trial at a time")
    begin()
    while bundle := queue.take():
        for trial in bundle.trials:
            progress.started(trial.trial_id)
            watch = partial(progress.training, trial.trial_id)
            try:
                with _time_limit(retry.timeout_s):
                    outcome = run(trial, store, bundle.resources, watch)
            except TimedOutError as error:
                outcome = _fail(trial, store, error)
            queue.finish(outcome.trial_id, outcome.status, seconds=outcome.seconds)
            progress.finished(outcome)


def _fail(trial: PlannedTrial, store: Store, error: TimedOutError) -> TrialOutcome:
    """Write the row of a trial whose time is up, or of its runtime, unless it had just written its own."""
    return TrialOutcome(trial.trial_id, fail(trial, store, f"{TIMED_OUT}: {error}", traceback=traceback.format_exc()))


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimedOutError inside when the time is up: between two steps of Python, so a call of C code ends first.

    A process has one timer. Its owner may have set it, as pytest-timeout does: without a limit it is left alone.
    """
    if not seconds:
        yield
        return

    def stop(signum: int, frame: object) -> None:
        raise TimedOutError(f"ran longer than retry.timeout_s = {seconds:g}")

    before = signal.signal(signal.SIGALRM, stop)
    began = time.monotonic()
    owners_s, interval_s = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if owners_s:
            left_s = owners_s - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left_s, 1e-3), interval_s)
