"""Deployed runtimes of a plan's trials: which are still to be measured, and rows for those that have no result.

A trial is at its end when its row is `failed`, or `ok` and every runtime that was asked for has its own rows. No torch.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from quantfair.orchestrator.plan import PlannedTrial, Status
from quantfair.quant import find_unsupported
from quantfair.results import DEPLOYED, Store


def find_wanted(trial: PlannedTrial, measured: Mapping[tuple[str, str], str], *, retry_failed: bool) -> tuple[str, ...]:
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


def summarize_runtimes(
    store: Store, trial_ids: Iterable[str], measured: Mapping[tuple[str, str], str], *, asked: Iterable[str]
) -> dict[str, Any]:
    """Return how many trials are ok, failed, unsupported and missing in each runtime, and why: the commonest first."""
    trial_ids, asked, summary = list(trial_ids), set(asked), {}
    for runtime in DEPLOYED:
        ids: dict[str, list[str]] = defaultdict(list)
        for trial_id in trial_ids:
            ids[measured.get((trial_id, runtime), "missing")].append(trial_id)
        if runtime in asked or len(ids["missing"]) < len(trial_ids):
            reasons = _group_reasons(store, runtime, failed=ids["failed"], unsupported=ids["unsupported"])
            counts = {status: len(ids[status]) for status in ("ok", "failed", "unsupported", "missing")}
            summary[runtime] = {**counts, "reasons": reasons}
    return summary


def _group_reasons(store: Store, runtime: str, **ids: list[str]) -> list[dict[str, Any]]:
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for status, trial_ids in ids.items():
        for trial_id in trial_ids:
            rows = store.read_runtime(trial_id, runtime)
            grouped[status, str(rows["reason"][0]) if rows is not None else "its file has gone"].append(trial_id)
    reasons = [{"status": s, "reason": r, "n": len(found), "trial_ids": found} for (s, r), found in grouped.items()]
    return sorted(reasons, key=lambda reason: -reason["n"])


def write_runtimes(summary: Mapping[str, Any], *, most: int) -> list[str]:
    """Return a line for each runtime, and one for each of its commonest reasons."""
    lines = []
    for runtime, counts in summary.items():
        said = ", ".join(f"{counts[name]} {name}" for name in ("ok", "failed", "unsupported", "missing"))
        lines.append(f"{runtime}: {said}")
        for reason in counts["reasons"][:most]:
            lines.append(f"  {reason['status']}: {reason['n']} x {reason['reason']}")
    return lines
