"""How a trial ended: what the pipeline of a trial returns, and an executor hands on."""

from typing import NamedTuple

from quantfair.orchestrator.planning.plan import Status


class TrialOutcome(NamedTuple):
    """How a trial ended. Its row is in the store by then."""

    trial_id: str
    status: Status
    seconds: float | None = None  # null where it is not known: the row was found after its worker had died
    largest_drop_pp: float | None = None  # of all groups with enough test images, against the reference
    largest_drop_group: str | None = None  # such as "ethnicity Others"
    error: str | None = None  # of a failed trial
    stage_s: dict[str, float] | None = None  # by train_s, calibrate_s and evaluate_s; null where it is not known
