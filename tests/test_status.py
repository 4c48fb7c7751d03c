"""The command status: what it counts, foresees and groups, on stores written by hand."""

import json
import os
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from test_plan import plan_of
from test_sweep import SWEEP, run

from quantfair.orchestrator.api.status import summarize_status
from quantfair.orchestrator.api.sweep import format_command
from quantfair.orchestrator.commands.status import (
    MOST_REASONS,
    format_reasons,
    format_status,
    group_by_reason,
)
from quantfair.results import Store
from quantfair.results.schema import PREDICTIONS, SAMPLES

PLAN = plan_of("seeds=[0, 1]")
NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC).timestamp()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Seed 0: fp32 took 20 s, then three PTQ of 2 s each ended in the last minute. Seed 1: fp32 failed."""
    store = Store.open(str(tmp_path))
    plan = [{**trial.columns(), "needs": list(trial.needs)} for trial in PLAN]
    command = f"python -m orchestrator sweep mnist --store {tmp_path}"
    store.write_samples(PLAN[0].dataset_id, SAMPLES.empty_table(), {"label": []})
    store.write_manifest(
        {"name": "faces", "groupings": {}, "plan": plan, "provenance": {}, "command": command, "runtimes": ["torch"]}
    )
    seeds = [[trial for trial in PLAN if trial.seed == seed] for seed in (0, 1)]
    write(store, seeds[0][0], at=NOW - 7200, status="ok", total_s=20.0)  # by an earlier driver
    for number, trial in enumerate([trial for trial in seeds[0] if trial.method == "ptq"][:3]):
        write(store, trial, at=NOW - 50 + 20 * number, status="ok", total_s=2.0)
    write(store, seeds[1][0], at=NOW - 7000, status="failed", error="RuntimeError: no luck\nmore", total_s=1.0)
    return store


def write(store: Store, trial: Any, *, at: float, **row: Any) -> None:
    store.write_predictions(trial.trial_id, "torch", PREDICTIONS.empty_table())
    store.write_layers(trial.trial_id, [])
    store.write_trial({**trial.columns(), **row})
    os.utime(Path(store.location, "trials", f"{trial.trial_id}.parquet"), (at, at))


def drive(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> dict[str, Any]:
    """As if a driver had run here for a minute."""
    started = datetime.fromtimestamp(NOW - 60, UTC).isoformat(timespec="seconds")
    driver = {"host": "rack1", "pid": 4711, "started_utc": started, **facts}
    monkeypatch.setattr(Store, "find_driver", lambda self: driver)
    return driver


def test_counts_are_by_method_and_add_up(store: Store) -> None:
    summary = summarize_status(store, now=NOW)
    assert [summary[f"n_{name}"] for name in ("planned", "ok", "failed", "blocked", "missing")] == [36, 4, 1, 17, 14]
    assert summary["by_method"]["ptq"] == {"ok": 3, "failed": 0, "blocked": 10, "missing": 7, "planned": 20}
    assert len(summary["blocked"]) == 17
    assert len(summary["missing"]) == 14
    assert {trial.trial_id for trial in PLAN} > {*summary["blocked"], *summary["missing"]}


def test_while_a_sweep_runs_it_says_who_runs_it_how_fast_and_how_long_still(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = drive(monkeypatch, executor="ray")
    summary = summarize_status(store, now=NOW)
    assert summary["running"] == driver
    assert summary["rate_per_min"] == pytest.approx(3.0)
    # Left: 7 PTQ of 2 s; 1 control and 6 QAT, never timed, as long as the longest. 6 s of work took 60 s.
    assert summary["left_s"] == pytest.approx((7 * 2 + 7 * 20) * 10)
    text = "\n".join(format_status(summary))
    assert f"runs since {driver['started_utc']} on rack1, pid 4711, ray\n3.0 trials/min, about 26 min left" in text
    assert "to go on" not in text


def test_a_driver_that_has_finished_nothing_yet_foresees_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = drive(monkeypatch)
    driver["started_utc"] = datetime.fromtimestamp(NOW, UTC).isoformat()
    summary = summarize_status(store, now=NOW)
    assert (summary["rate_per_min"], summary["left_s"]) == (0.0, None)
    assert "0.0 trials/min\n" in "\n".join(format_status(summary))


def test_when_nothing_runs_it_says_why_trials_failed_and_how_to_go_on(store: Store) -> None:
    summary = summarize_status(store, now=NOW)
    failed = summary["failed"][0]["trial_id"]
    assert (summary["rate_per_min"], summary["left_s"], summary["running"]) == (None, None, None)
    assert format_status(summary)[-3:] == [
        "does not run now",
        f"  failed: 1 x RuntimeError: no luck ({failed})",
        f"to go on: python -m orchestrator sweep mnist --store {store.location}",
    ]


def test_equal_reasons_are_one_line_and_of_many_the_most_frequent_are_shown() -> None:
    failed = [{"trial_id": f"{n}-{m}", "error": f"ValueError: {n}\nat {m}"} for n in range(12) for m in range(n + 1)]
    reasons = group_by_reason(failed)
    assert [(reason["reason"], reason["n"]) for reason in reasons[:2]] == [
        ("ValueError: 11", 12),
        ("ValueError: 10", 11),
    ]
    lines = format_reasons(failed)
    assert lines[0] == "  failed: 12 x ValueError: 11 (11-0, 11-1, 11-2, 11-3, 11-4, ...)"
    assert len(lines) == MOST_REASONS + 1
    assert lines[-1].startswith("  and 2 more reasons")


def test_the_command_that_it_names_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SWEEP)
    location = str(tmp_path / "store of mine")
    words = ("seeds=[0]", "quant=[]", "--executor", "inline", "--address", "of.no.use:6379")
    assert run("sweep", str(tmp_path / "tiny.toml"), *words, "--store", location).exit_code == 0
    for row in Path(location, "trials").iterdir():
        row.unlink()
    said = run("status", location)
    assert said.exit_code == 0
    command = re.search(r"^to go on: python -m orchestrator (.*)$", said.stdout, re.MULTILINE)
    assert command is not None
    assert command[1] == f"sweep {tmp_path}/tiny.toml 'seeds=[0]' 'quant=[]' --store '{location}' --executor inline"
    summary = json.loads(run("status", location, "--json").stdout)
    assert summary["n_missing"] == 1
    assert summary["command"] in said.stdout


def test_the_command_keeps_what_a_sweep_on_a_cluster_was_started_with(store: Store) -> None:
    words = ["quickstart", f"quant=[{{method='ptq', act_observer={['minmax'] * 100}}}]"]
    command = format_command(words[0], words[1:], store, address="head:6379", waits=True)
    start = ["python", "-m", "orchestrator", "sweep", *words]
    assert shlex.split(command) == [
        *start,
        *("--store", store.location),
        *("--address", "head:6379", "--wait-for-nodes"),
    ]


def test_status_changes_nothing(store: Store) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(store.location).rglob("*")}
    assert run("status", store.location).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in Path(store.location).rglob("*")} == before
