"""The trials of a plan: rows of finished ones, and of those that wait in vain for a failed one. No statistics here."""

from collections import Counter
from typing import Any

from quantfair.results.schema import BLOCKED, IMPORTED
from quantfair.results.store.recovery import StoreScan, is_of_samples, scan_store
from quantfair.results.store.store import Store

_ById = dict[str, dict[str, Any]]


def list_trials(store: Store, found: StoreScan | None = None) -> list[dict[str, Any]]:
    """Return the rows of the plan's trials in its order: finished ones, and `failed` ones for those that are blocked.

    After them come imported trials of the plan's data sets, by id.

    A trial without its files is none of them: `found`, a survey of the store made a moment ago, names those files.

    Raises:
        StoreError: there is no sweep in the store.
    """
    manifest = store.read_manifest()
    found = found or scan_store(store)
    trials, damaged = found.trials, found.damaged
    not_described = [error.path.split("/")[1].removesuffix(".parquet") for error in damaged if is_of_samples(error)]
    rows = {row["trial_id"]: row for row in trials.to_pylist() if row["dataset_id"] not in not_described}
    plan = {planned["trial_id"]: planned for planned in manifest["plan"]}
    planned_rows = [row for planned in plan.values() if (row := _trial_row(planned, rows, plan))]
    known = manifest["groupings"]
    return planned_rows + [r for r in rows.values() if r["method"] == IMPORTED and r["dataset_id"] in known]


def count_trials(trials: list[dict[str, Any]], n_planned: int) -> dict[str, int]:
    """Return n_planned, n_ok, n_failed (by themselves), n_blocked (by a failed one) and n_missing (not run yet).

    Imported trials were never planned: `n_imported` counts them, and nothing else does.
    """
    n_imported = sum(row["method"] == IMPORTED for row in trials)
    trials = [row for row in trials if row["method"] != IMPORTED]
    words = Counter("n_blocked" if str(row["error"]).startswith(BLOCKED) else f"n_{row['status']}" for row in trials)
    counts = {name: words[name] for name in ("n_ok", "n_failed", "n_blocked")}
    return {"n_planned": n_planned, **counts, "n_missing": n_planned - len(trials), "n_imported": n_imported}


def _trial_row(planned: dict[str, Any], rows: _ById, plan: _ById) -> dict[str, Any] | None:
    """The stored row, a `failed` row for a trial that is blocked by what it needs, or None: not run yet."""
    if planned["trial_id"] in rows:
        return rows[planned["trial_id"]]
    failed = _failed_need(planned, rows, plan)
    if failed is None:
        return None
    cause = str(failed["error"]).partition("\n")[0]
    error = f"{BLOCKED} it needs trial {failed['trial_id']} ({failed['method']}), which failed: {cause}"
    return {**{k: v for k, v in planned.items() if k != "needs"}, "status": "failed", "error": error}


def _failed_need(planned: dict[str, Any], rows: _ById, plan: _ById) -> dict[str, Any] | None:
    for need in planned["needs"]:
        row = rows[need] if need in rows else _failed_need(plan[need], rows, plan)
        if row is not None and row["status"] == "failed":
            return row
    return None
