"""What a worker does with a planned trial, and what comes of it: the seam between executors and `trials/run.py`.

Executors take any function of this shape: tests and simulations give them work that trains nothing.
"""

from collections.abc import Callable
from typing import Protocol

from quantfair.orchestrator.config.spec import Resources
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.trials.outcome import TrialOutcome
from quantfair.results import Store


class SweepListener(Protocol):
    """Whoever follows a sweep: each method is told one event, in the driver, in the order of a worker's events."""

    def started(self, trial_id: str) -> None:
        """A worker begins with a trial."""

    def training(self, trial_id: str, text: str) -> None:
        """A trial says how far it is."""

    def finished(self, outcome: TrialOutcome) -> None:
        """A trial's row is written."""

    def retried(self, trial_id: str) -> None:
        """A trial was lost with its worker and will run again."""


class SweepStoppedError(RuntimeError):
    """Something is wrong that is no single trial's: it would fail them all."""


RunTrial = Callable[[PlannedTrial, Store, Resources, Callable[[str], None]], TrialOutcome]


def run_trial(trial: PlannedTrial, store: Store, resources: Resources, watch: Callable[[str], None]) -> TrialOutcome:
    """Run one trial for real; torch is loaded here, in the worker, and never in a driver on Ray."""
    from quantfair.orchestrator.trials import run as real

    return real.run_trial(trial, store, resources, watch)
