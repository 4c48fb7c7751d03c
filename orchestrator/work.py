"""What a worker does with a planned trial, and what comes of it: the seam between executors and `trial.py`.

Executors take any function of this shape: tests and simulations give them work that trains nothing.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from quantfair.orchestrator.plan import PlannedTrial, Status
from quantfair.orchestrator.spec import Resources
from quantfair.results import Store


class Outcome(NamedTuple):
    """How a trial ended. Its row is in the store by then."""

    trial_id: str
    status: Status
    seconds: float | None = None  # null where it is not known: the row was found after its worker had died
    largest_drop_pp: float | None = None  # of all groups with enough test images, against the reference
    largest_drop_group: str | None = None  # such as "ethnicity Others"
    error: str | None = None  # of a failed trial
    stage_s: dict[str, float] | None = None  # by train_s, calibrate_s and evaluate_s; null where it is not known


class Watcher(Protocol):
    """Whoever follows a sweep: each method is told one event, in the driver, in the order of a worker's events."""

    def started(self, trial_id: str) -> None:
        """A worker begins with a trial."""

    def training(self, trial_id: str, text: str) -> None:
        """A trial says how far it is."""

    def finished(self, outcome: Outcome) -> None:
        """A trial's row is written."""

    def retried(self, trial_id: str) -> None:
        """A trial was lost with its worker and will run again."""


class TimedOut(BaseException):
    """A trial took longer than `retry.timeout_s`. No trial's own code catches it, `except Exception` neither."""


class SweepStopped(RuntimeError):
    """Something is wrong that is no single trial's: it would fail them all."""


RunTrial = Callable[[PlannedTrial, Store, Resources, Callable[[str], None]], Outcome]


def run_trial(trial: PlannedTrial, store: Store, resources: Resources, watch: Callable[[str], None]) -> Outcome:
    """Run one trial for real; torch is loaded here, in the worker, and never in a driver on Ray."""
    from quantfair.orchestrator import trial as real

    return real.run_trial(trial, store, resources, watch)
