"""How far a sweep is, whether it runs now, what failed and why. Reads only: another process may write."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from quantfair.orchestrator.planning.plan import METHODS
from quantfair.orchestrator.text import first_line
from quantfair.results import BLOCKED, DEPLOYED, Store, count_trials, list_trials, scan_store

RATE_OF = 100  # trials: the rate is that of the last ones


def status(store: str | Path) -> dict[str, Any]:
    """Return how far the sweep of a store is, as `status --json` prints it.

    Raises:
        StoreError: there is no sweep in the store.
    """
    return summarize_status(Store.open(str(store)), now=time.time())


def summarize_status(store: Store, *, now: float) -> dict[str, Any]:
    """Return everything `status` says as plain values; `now` in seconds since 1970.

    `running` is the driver that runs a sweep there now, or None; `rate_per_min` and `left_s` are None without one.
    """
    manifest = store.read_manifest()
    driver = store.find_driver()
    found = scan_store(store)
    trials = list_trials(store, found)
    known = {row["trial_id"] for row in trials}
    missing = [planned for planned in manifest["plan"] if planned["trial_id"] not in known]
    failed = [{name: row[name] for name in ("trial_id", "method", "seed", "error")} for row in find_failed(trials)]
    rate_per_min = None
    left_s = None
    if driver is not None:
        started = datetime.fromisoformat(driver["started_utc"]).timestamp()
        rate_per_min, left_s = _estimate_left(trials, missing, store.finish_times(), started=started, now=now)
    return {
        "name": manifest["name"],
        "store": store.location,
        "running": driver,
        "command": manifest.get("command"),
        **count_trials(trials, len(manifest["plan"])),
        "by_method": _count_by_method(manifest["plan"], trials),
        "runtimes": summarize_runtimes(
            store, [row["trial_id"] for row in manifest["plan"]], found.runtimes, asked=manifest["runtimes"]
        ),
        "rate_per_min": rate_per_min,
        "left_s": left_s,
        "failed": failed,
        "reasons": group_by_reason(failed),
        "blocked": [row["trial_id"] for row in trials if str(row["error"]).startswith(BLOCKED)],
        "damaged": [str(error) for error in found.damaged],
        "missing": [planned["trial_id"] for planned in missing],
    }


def find_failed(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the trials that failed by themselves: one line for each cause is enough."""
    return [row for row in trials if row["status"] == "failed" and not str(row["error"]).startswith(BLOCKED)]


def group_by_reason(failed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first lines of errors, the most frequent first, each with its number and the ids of its trials."""
    ids: dict[str, list[str]] = defaultdict(list)
    for row in failed:
        ids[first_line(row["error"])].append(row["trial_id"])
    reasons = [{"reason": reason, "n": len(trial_ids), "trial_ids": trial_ids} for reason, trial_ids in ids.items()]
    return sorted(reasons, key=lambda reason: -reason["n"])


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


def _count_by_method(plan: list[dict[str, Any]], trials: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    planned = Counter(row["method"] for row in plan)
    states = Counter(
        (row["method"], "blocked" if str(row["error"]).startswith(BLOCKED) else row["status"]) for row in trials
    )
    counts = {}
    for method in METHODS:
        if planned[method]:
            ended = {state: states[method, state] for state in ("ok", "failed", "blocked")}
            missing = planned[method] - sum(ended.values())
            counts[method] = {**ended, "missing": missing, "planned": planned[method]}
    return counts


def _estimate_left(
    trials: list[dict[str, Any]],
    missing: list[dict[str, Any]],
    finish_times: dict[str, float],
    *,
    started: float,
    now: float,
) -> tuple[float, float | None]:
    """Return trials a minute, and the seconds to the end; both from the last trials that this driver finished.

    The second is None until the driver has finished one: it is the work that is left, by the mean duration of each
    method (the longest one for a method that has none), over the work that was done in a second.
    """
    own = sorted((at, trial_id) for trial_id, at in finish_times.items() if at >= started)[-RATE_OF:]
    since_s = max(now - (own[0][0] if len(own) == RATE_OF else started), 1e-3)
    total_s = {row["trial_id"]: row["total_s"] for row in trials if row.get("total_s")}
    by_method: dict[str, list[float]] = defaultdict(list)
    for row in trials:
        if row["status"] == "ok" and row["total_s"] is not None:
            by_method[row["method"]].append(row["total_s"])
    means = {method: sum(seconds) / len(seconds) for method, seconds in by_method.items()}
    done_s = sum(total_s.get(trial_id, 0.0) for _, trial_id in own)
    left_s = sum(means.get(row["method"], max(means.values(), default=0.0)) for row in missing)
    return 60 * len(own) / since_s, left_s * since_s / done_s if done_s and means else None
