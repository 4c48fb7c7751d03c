"""The adapter to Ray Tune: what it does when a worker dies, without and with a real one."""

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import find_workers, start_process, wait_until
from ray.tune.search import Searcher
from test_plan import plan_of
from test_sweep import ROOT, SWEEP, run

from quantfair.orchestrator.config.spec import ResourcesByMethod, Retry
from quantfair.orchestrator.executors.progress import EVERY_S, ProgressLines
from quantfair.orchestrator.executors.ray_tune import MAX_STILLBORN, PlanSearcher
from quantfair.orchestrator.executors.ray_worker import unpack
from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.trials.outcome import TrialOutcome
from quantfair.results import Store


@pytest.fixture
def searcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanSearcher:
    """One on a single slot, with the sixteen children of a finished stage to hand out."""
    monkeypatch.setattr("quantfair.orchestrator.executors.ray_tune.count_slots", lambda resources, methods: 1)
    plan = plan_of("seeds=[0]")
    queue = BundleQueue(plan[1:], done=[plan[0].trial_id], resources=ResourcesByMethod())
    progress = ProgressLines(queue, before={("fp32", "ok"): 1}, quiet=True)
    return PlanSearcher(queue, Store.open(str(tmp_path)), [progress], retry=Retry(crash=1))


def trials_of(config: dict) -> list[PlannedTrial]:
    return unpack(config["trials"])


def finish(searcher: PlanSearcher, tune_id: str, config: dict) -> None:
    events = [("finished", TrialOutcome(trial.trial_id, "ok", 1.0)) for trial in trials_of(config)]
    searcher.on_trial_complete(tune_id, {"events": events, "pid": 4711})


def begin(searcher: PlanSearcher, tune_id: str) -> None:
    """As a worker says that it begins with a bundle."""
    searcher.on_trial_result(tune_id, {"events": [], "pid": 4711})


def test_everything_is_handed_out_once_and_then_it_says_finished(searcher: PlanSearcher) -> None:
    seen, number = [], 0
    while (config := searcher.suggest(str(number))) != Searcher.FINISHED:
        seen += [trial.trial_id for trial in trials_of(config)]
        finish(searcher, str(number), config)
        number += 1
    assert len(seen) == len(set(seen)) == 17
    assert not any([searcher.running, searcher.heard, searcher.pids, searcher.errors, searcher.started])


def test_no_more_bundles_are_out_than_slots_and_two_in_reserve(searcher: PlanSearcher) -> None:
    configs = [searcher.suggest(str(number)) for number in range(6)]
    assert [config is None for config in configs] == [False] * 3 + [True] * 3


def test_a_trial_whose_worker_keeps_dying_is_a_failed_row_and_the_rest_of_its_bundle_runs(
    searcher: PlanSearcher,
) -> None:
    config = searcher.suggest("a")
    first, second, *_ = trials_of(config)
    begin(searcher, "a")
    searcher.store.write_trial({**first.columns(), "status": "ok"})
    searcher.on_trial_complete("a", error=True)
    assert searcher.store.read_status(second.trial_id) is None  # it gets another chance
    ids, tune_id = [], ""
    for tune_id in map(str, range(100)):
        config = searcher.suggest(tune_id)
        ids = [trial.trial_id for trial in trials_of(config)]
        if second.trial_id in ids:
            break
        finish(searcher, tune_id, config)
    begin(searcher, tune_id)
    for trial in trials_of(config)[: ids.index(second.trial_id)]:
        searcher.store.write_trial({**trial.columns(), "status": "ok"})
    searcher.on_trial_complete(tune_id, error=True)
    row = next(row for row in searcher.store.read_trials().to_pylist() if row["trial_id"] == second.trial_id)
    assert (row["status"], row["attempt"]) == ("failed", 2)
    assert row["error"].startswith("WorkerDied: its worker was lost 2 times when this trial was next")
    number = 100
    while (config := searcher.suggest(str(number))) != Searcher.FINISHED:
        assert second.trial_id not in {trial.trial_id for trial in trials_of(config)}
        finish(searcher, str(number), config)
        number += 1
    assert not searcher.queue.unfinished


def test_a_worker_that_never_begins_costs_no_trial_a_chance_and_ten_in_a_row_stop_the_sweep(
    searcher: PlanSearcher,
) -> None:
    for number in range(MAX_STILLBORN - 1):
        assert searcher.suggest(str(number)) is not None
        searcher.on_trial_complete(str(number), error=True)
    assert searcher.stop_reason is None
    searcher.suggest("last")
    searcher.errors["last"] = "no such package"
    searcher.on_trial_complete("last", error=True)
    assert str(searcher.stop_reason) == "Workers cannot start: no such package"
    assert not searcher.n_crashes
    assert not searcher.store.trial_ids()


def test_when_tune_itself_ends_only_what_had_begun_has_lost_a_chance(searcher: PlanSearcher) -> None:
    bundles = [trials_of(searcher.suggest(tune_id)) for tune_id in "abc"]
    begin(searcher, "b")
    searcher.take_back("Tune has ended")
    assert searcher.n_crashes == {bundles[1][0].trial_id: 1}
    assert searcher.n_stillborn == 0
    again: list[str] = []
    for number in range(100):
        if (config := searcher.suggest(str(number))) == Searcher.FINISHED:
            break
        again += [trial.trial_id for trial in trials_of(config)]
        finish(searcher, str(number), config)
    assert sorted(again) == sorted(searcher.queue.trials)


@pytest.mark.parametrize(
    ("how_it_ended", "status"),
    [("The actor died because its node has died. Node Id: 1", None), ("The worker died unexpectedly", "failed")],
)
def test_silence_means_a_trial_that_holds_its_worker_but_not_where_the_node_is_lost(
    searcher: PlanSearcher, how_it_ended: str, status: str | None
) -> None:
    searcher.retry = Retry(crash=1, timeout_s=1e-9)
    first, *_ = trials_of(searcher.suggest("a"))
    begin(searcher, "a")
    searcher.errors["a"] = how_it_ended
    searcher.on_trial_complete("a", error=True)
    assert searcher.store.read_status(first.trial_id) == status


def test_waiting_for_nothing_is_a_bug_that_says_so(searcher: PlanSearcher) -> None:
    searcher.queue._ready.clear()
    with pytest.raises(AssertionError, match="trials wait for needs that nothing can finish"):
        searcher.suggest("a")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the worker in /proc, which this system lacks")
def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(SWEEP)
    store = Store.open(str(tmp_path / "store"))
    command = [sys.executable, "-m", "orchestrator", "sweep", str(file), "--store", store.location]
    driver = start_process(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: store.trial_ids() or driver.poll() is not None, "a row")
    assert driver.poll() is None, driver.communicate()[0]
    os.kill(find_workers(driver.pid)[0], signal.SIGKILL)
    said = driver.communicate(timeout=240)[0]
    assert driver.returncode == 0, said
    assert set(store.read_trials()["status"].to_pylist()) == {"ok"}
    assert store.read_trials().num_rows == 15


def lines_of_epochs(said: str) -> list[str]:
    return [
        line for line in said.splitlines() if re.search(r"fp32 seed 0 \(config \w+\), epoch \d+/\d+: train loss", line)
    ]


LONG = ("seeds=[0]", "quant=[]", "experiments.0.train.epochs=%d")


def test_inline_a_long_training_is_heard_of_epoch_by_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantfair.orchestrator.executors.progress.EVERY_S", 0.0)
    file = tmp_path / "tiny.toml"
    file.write_text(SWEEP)
    words = (str(file), *LONG[:2], LONG[2] % 5, "--store", str(tmp_path / "store"))
    lines = lines_of_epochs(run("sweep", *words, "--executor", "inline").stdout)
    start = (
        r"\[0/1\] +\d+ s, 1 running, 0 failed, about \d+ s left: fp32 seed 0 \(config \w+\), epoch {}/5: train loss .*"
    )
    assert len(lines) == 5
    assert all(re.fullmatch(start.format(number), line) for number, line in enumerate(lines, start=1))


def test_progress_lines_keep_their_distance(searcher: PlanSearcher, capsys: pytest.CaptureFixture[str]) -> None:
    (progress,), trial_id = searcher.listeners, next(iter(searcher.queue.trials))
    assert isinstance(progress, ProgressLines)
    progress.quiet = False
    for number in range(3):
        progress.training(trial_id, f"epoch {number}")  # a moment after the start
    assert capsys.readouterr().out == ""
    progress.printed -= EVERY_S
    for number in range(3):
        progress.training(trial_id, f"epoch {number}")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert f"{searcher.queue.trials[trial_id].label}, epoch 0" in out


def test_a_searcher_passes_on_how_far_a_worker_is(searcher: PlanSearcher, capsys: pytest.CaptureFixture[str]) -> None:
    first, *_ = trials_of(searcher.suggest("a"))
    (progress,) = searcher.listeners
    assert isinstance(progress, ProgressLines)
    progress.quiet, progress.printed = False, progress.printed - EVERY_S
    events = [("started", first.trial_id), ("training", first.trial_id, "epoch 3/15")]
    searcher.on_trial_result("a", {"events": events})
    assert "1 running, 0 failed, about" in (out := capsys.readouterr().out)
    assert out.endswith(f"{first.label}, epoch 3/15\n")
    assert first.trial_id in searcher.queue.unfinished


@pytest.mark.slow
def test_on_ray_a_long_training_is_heard_of_while_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(SWEEP)
    store = ("--store", str(tmp_path / "store"))
    command = [sys.executable, "-m", "orchestrator", "sweep", str(file), *LONG[:2], LONG[2] % 400, *store]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = lines_of_epochs(done.stdout)
    seconds = [float(re.findall(r"(\d+) s, ", line)[0]) for line in lines]
    assert len(lines) >= 1
    assert all(later - earlier >= EVERY_S - 1 for earlier, later in itertools.pairwise(seconds))
