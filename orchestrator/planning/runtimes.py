"""Deployed runtimes of a plan's trials: which are still to be measured, and rows for those that have no result.

A trial is at its end when its row is `failed`, or `ok` and every runtime that was asked for has its own rows. No torch.
"""

from collections.abc import Mapping

from quantfair.orchestrator.planning.plan import PlannedTrial, Status
from quantfair.quant import find_unsupported
from quantfair.results import Store


def find_runtimes_to_measure(
    trial: PlannedTrial, measured: Mapping[tuple[str, str], str], *, retry_failed: bool
) -> tuple[str, ...]:
    """Return the runtimes that are to be measured. `measured` holds the status of those that have rows.

    `retry_failed` wants those that failed too, and those that a worker could not offer, such as TensorRT without a GPU;
    never those that cannot represent the settings.
    """

    def is_wanted(runtime: str) -> bool:
        status = measured.get((trial.trial_id, runtime))
        again = status == "failed" or (status == "unsupported" and find_unsupported(trial.quant, runtime) is None)
        return status is None or (retry_failed and again)

    return tuple(filter(is_wanted, trial.runtimes))


def list_missing(trial: PlannedTrial, store: Store) -> list[str]:
    """Return the runtimes of a trial that have no rows yet, in order."""
    return [runtime for runtime in trial.runtimes if store.read_runtime(trial.trial_id, runtime) is None]


def read_end(trial: PlannedTrial, store: Store) -> Status | None:
    """Return how a trial ended, or None where something is left to do."""
    status = store.read_status(trial.trial_id)
    return None if status == "ok" and list_missing(trial, store) else status


def fail(trial: PlannedTrial, store: Store, error: str, **columns: object) -> Status:
    """Write that a trial was ended from outside; return its status.

    A trial whose own row is written has only lost the runtime that comes next.
    """
    status = store.read_status(trial.trial_id)
    if status is None:
        store.write_trial({**trial.columns(), "status": "failed", "error": error, **columns})
        return "failed"
    if status == "ok":
        for runtime in list_missing(trial, store)[:1]:
            store.write_runtime(trial.trial_id, runtime, [{"status": "failed", "reason": error}])
    return status
