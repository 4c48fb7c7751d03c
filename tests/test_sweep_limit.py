"""A part of a sweep: so many trials and no more, and failed ones once more."""

from pathlib import Path

import pytest
from test_sweep import N_TRIALS, SWEEP, assert_equal_tables, rows_of, run, times_of_rows

from quantfair.orchestrator.planning.plan import CRASHED, OUT_OF_MEMORY, TIMED_OUT
from quantfair.orchestrator.planning.request import make_queue, read_state
from quantfair.results import Store


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """The tiny sweep with its own store."""
    file = tmp_path / "tiny.toml"
    file.write_text(SWEEP)
    return str(file), "--store", str(tmp_path / "store")


def test_limited_sweeps_go_on_where_the_last_one_ended_and_end_like_an_unlimited_one(
    words: tuple[str, ...], tiny_store: Store
) -> None:
    inline = ("--executor", "inline")
    store = Store.open(words[-1])
    first = run("sweep", *words, *inline, "--limit", "4")
    assert first.exit_code == 0
    assert "tiny: 4 of 15 trials to run" in first.stdout
    assert "--limit 4: 11 trials are left; the same command goes on with them" in first.stdout
    assert "4 of 15 trials ok, 0 failed, 11 missing." in first.stdout
    before = times_of_rows(store)
    assert len(before) == 4
    assert {trial_id for row in rows_of(store).values() if (trial_id := row["reference_trial_id"])} <= set(before)
    second = run("sweep", *words, *inline, "--limit", "1")
    assert second.exit_code == 0
    assert len(times_of_rows(store)) == 5
    last = run("sweep", *words, *inline, "--limit", "1000")
    assert last.exit_code == 0
    assert "are left" not in last.stdout
    after = times_of_rows(store)
    assert len(after) == N_TRIALS
    assert {trial_id: after[trial_id] for trial_id in before} == before
    assert_equal_tables(store, tiny_store)


def test_a_limit_below_one_is_refused(words: tuple[str, ...]) -> None:
    said = run("sweep", *words, "--limit", "0")
    assert said.exit_code == 2
    assert "greater than or equal to 1" in said.stderr


def test_whatever_is_left_out_by_a_limit_is_needed_by_nothing_in_it(words: tuple[str, ...]) -> None:
    for limit in range(1, N_TRIALS + 1):
        request = read_state(words[0], (), words[-1])
        queue = make_queue(request, limit=limit)
        assert len(queue.trials) == limit
        assert all(queue.trials.keys() >= set(trial.needs) for trial in queue.trials.values())


@pytest.mark.parametrize(
    ("error", "runs_anyway"),
    [(CRASHED, True), (TIMED_OUT, False), (OUT_OF_MEMORY, False), ("RuntimeError", False)],
)
def test_failed_trials_and_those_blocked_by_them_run_again_when_asked_and_crashed_ones_always(
    words: tuple[str, ...], error: str, runs_anyway: bool
) -> None:
    store = Store.open(words[-1])
    plan = read_state(words[0], (), words[-1]).plan
    stage = plan[0]
    children = {trial.trial_id for trial in plan if stage.trial_id in trial.needs}
    store.write_trial({**stage.columns(), "status": "failed", "error": f"{error}: it was so"})
    plain, again = (read_state(words[0], (), words[-1], retry_failed=asked).progress for asked in (False, True))
    assert again.failed == again.blocked == ()
    assert len(again.to_run) == N_TRIALS
    if runs_anyway:
        assert plain == again
    else:
        assert (plain.failed, set(plain.blocked)) == ((stage.trial_id,), children)
        said = run("plan", *words).stdout
        assert "run once more with `sweep --retry-failed`" in said


def test_retrying_a_failed_float_stage_runs_its_dependants_in_the_same_command(words: tuple[str, ...]) -> None:
    only = ("seeds=[0]", "--executor", "inline", "--store", words[-1])
    store = Store.open(words[-1])
    stage = read_state(words[0], ["seeds=[0]"], words[-1]).plan[0]
    row = {**stage.columns(), "status": "failed", "error": f"{TIMED_OUT}: ran longer than retry.timeout_s = 1"}
    store.write_trial(row)
    blocked = run("sweep", words[0], *only)
    assert blocked.exit_code == 1
    assert "0 trials are ok, 1 failed and 4 need one of those; --retry-failed runs them once more" in blocked.stdout
    said = run("sweep", words[0], *only, "--retry-failed")
    assert said.exit_code == 0
    assert "5 of 5 trials ok, 0 failed, 0 missing." in said.stdout
