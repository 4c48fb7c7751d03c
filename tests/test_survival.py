"""What a sweep outlives: workers and drivers that die, trials that hang or take too much memory, and being stopped."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chaos import disturb
from processes import find_family, lives, wait_until
from ray import cloudpickle
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory
from simulated_work import kill_this_process, make_sweep, plan_sweep, read_log, run_apart
from simulated_work import make_work as _make_work
from test_sweep import SWEEP, assert_equal_tables, run, start, times_of_rows

from quantfair.orchestrator.config.spec import ResourcesByMethod, Retry
from quantfair.orchestrator.executors.events import RunTrial, SweepStoppedError
from quantfair.orchestrator.executors.inline import run_inline
from quantfair.orchestrator.executors.progress import Progress
from quantfair.orchestrator.executors.ray_tune import run_ray
from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.trials.outcome import TrialOutcome
from quantfair.results import Store

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not find this file
IN_PROC = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc, which this system lacks")


class Run:
    """Eleven simulated trials of one stage: an fp32 and ten that need it, of which one may be `special`."""

    def __init__(self, folder: Path):
        self.plan = plan_sweep(make_sweep(11, a_stage=11))
        self.store, self.log = Store.open(str(folder / "store")), folder / "log"
        self.special = self.plan[5].trial_id

    def go(self, executor: Callable[..., None], special: Callable[[], None], **retry: Any) -> dict[str, dict[str, Any]]:
        """Run what has no row; return all rows."""
        run_apart(partial(self._run, executor, special, Retry(**retry)))
        return {row["trial_id"]: row for row in self.store.read_trials().to_pylist()}

    def _run(self, executor: Callable[..., None], special: Callable[[], None], retry: Retry) -> None:
        done = self.store.trial_ids()
        queue = BundleQueue([t for t in self.plan if t.trial_id not in done], done=done, resources=ResourcesByMethod())
        work = partial(_run_special, self.special, special, _make_work(self.log))
        executor(queue, self.store, Progress(queue), retry=retry, run=work)
        assert not queue.unfinished

    def count_runs(self) -> Counter[str]:
        """How often each trial wrote its row."""
        return Counter(ran.trial_id for ran in read_log(self.log))


def _run_special(
    special_id: str, special: Callable[[], None], run: RunTrial, trial: PlannedTrial, *others: Any
) -> TrialOutcome:
    if trial.trial_id == special_id:
        special()
    return run(trial, *others)


@pytest.fixture
def simulated(tmp_path: Path) -> Run:
    return Run(tmp_path)


def assert_all_but_special_are_ok(simulated: Run, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the special one's row, after a look at the others."""
    others = {trial_id: row for trial_id, row in rows.items() if trial_id != simulated.special}
    assert {row["status"] for row in others.values()} == {"ok"}
    assert len(others) == 10
    assert simulated.count_runs() == Counter(dict.fromkeys(others, 1))
    return rows[simulated.special]


def test_a_trial_that_kills_every_worker_is_a_failed_row_and_costs_the_others_nothing(simulated: Run) -> None:
    row = assert_all_but_special_are_ok(simulated, simulated.go(run_ray, kill_this_process, crash=2))
    assert (row["status"], row["attempt"]) == ("failed", 3)
    assert row["error"].startswith("WorkerDied: its worker was lost 3 times when this trial was next")


class NoWorker:
    """Work that no worker can unpack."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack_outside_of_workers, ()


def _unpack_outside_of_workers() -> NoWorker:
    from ray._private.worker import WORKER_MODE, global_worker

    if global_worker.mode == WORKER_MODE:
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401
    return NoWorker()


@pytest.mark.slow
def test_workers_that_cannot_start_stop_the_sweep_and_say_why(simulated: Run) -> None:
    with pytest.raises(SweepStoppedError, match=r"(?s)Workers cannot start.*import no_such_package"):
        simulated.go(run_ray, NoWorker())  # type: ignore[arg-type]
    assert simulated.store.trial_ids() == set()


def hold_the_interpreter() -> None:
    """Wait in C without letting any other thread of Python run."""
    ctypes.PyDLL(None).sleep(3600)


def wait_for_ever() -> None:
    while True:
        time.sleep(0.1)


@pytest.mark.slow  # inline, the next but one always runs
def test_a_trial_that_hangs_on_ray_is_a_failed_row_that_says_where(simulated: Run) -> None:
    row = assert_all_but_special_are_ok(simulated, simulated.go(run_ray, wait_for_ever, timeout_s=2.0))
    assert (row["status"], row["error"]) == ("failed", "TimedOut: ran longer than retry.timeout_s = 2")
    assert "in wait_for_ever" in row["traceback"]
    assert "in wait_for_ever" in Path(simulated.store.log_path(simulated.special)).read_text()
    assert row["total_s"] == pytest.approx(2, abs=20)


@pytest.mark.slow
def test_a_trial_that_hangs_and_holds_its_worker_is_ended_with_it(simulated: Run) -> None:
    row = assert_all_but_special_are_ok(simulated, simulated.go(run_ray, hold_the_interpreter, timeout_s=1.0, crash=1))
    assert row["status"] == "failed"
    assert row["error"].startswith("TimedOut: ran longer than retry.timeout_s = 1 and held its worker")


def test_a_trial_that_hangs_inline_is_a_failed_row_that_says_where(simulated: Run) -> None:
    row = assert_all_but_special_are_ok(simulated, simulated.go(run_inline, wait_for_ever, timeout_s=1.0))
    assert (row["status"], row["error"]) == ("failed", "TimedOut: ran longer than retry.timeout_s = 1")
    assert "in wait_for_ever" in row["traceback"]


@pytest.mark.slow
def test_a_trial_in_time_is_left_alone(simulated: Run) -> None:
    rows = simulated.go(run_ray, partial(time.sleep, 2.5), timeout_s=30.0)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert set(simulated.count_runs().values()) == {1}


def raise_memory_error() -> None:
    bytearray(2**62)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let Ray end workers when this machine has 4 GiB less than now; return how many bytes are too many."""
    limit = (get_used_memory() + 4 * 2**30) / get_system_memory()
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{limit:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    return 6 * 2**30


def take_memory(n_bytes: int) -> None:
    """Fill memory bit by bit, slowly enough for Ray to see it."""
    taken = []
    for _ in range(n_bytes // 2**26):
        taken.append(b"x" * 2**26)
        time.sleep(0.05)
    time.sleep(60)


@pytest.mark.slow
def test_a_trial_that_takes_too_much_memory_is_a_failed_row_that_says_so(simulated: Run, little_memory: int) -> None:
    rows = simulated.go(run_ray, partial(take_memory, little_memory), crash=1)
    row = assert_all_but_special_are_ok(simulated, rows)
    assert row["status"] == "failed"
    assert row["error"].startswith("OutOfMemory: Ray ended its worker")


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("sweep") / "tiny.toml"
    file.write_text(SWEEP)
    return str(file)


def start_and_wait(sweep_file: str, store: Store, n_rows: int) -> subprocess.Popen[str]:
    """A sweep on Ray that has written as many rows more than there were."""
    n_before = len(store.trial_ids())
    driver = start("sweep", sweep_file, "--store", store.location)
    wait_until(
        lambda: len(store.trial_ids()) >= n_before + n_rows or driver.poll() is not None,
        f"{n_rows} rows",
    )
    return driver


@IN_PROC
@pytest.mark.slow  # `test_open_doors.py` interrupts a sweep on Ray, and `test_sweep.py` goes on with a killed one
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_ends_within_seconds_with_its_workers_and_says_how_to_go_on(
    sweep_file: str, tmp_path: Path, tiny_store: Store, signal_number: int
) -> None:
    store = Store.open(str(tmp_path))
    driver = start_and_wait(sweep_file, store, 2)
    family = find_family(driver.pid)
    assert any("SweepWorker" in command for command in family.values())
    os.kill(driver.pid, signal_number)
    said = driver.communicate(timeout=20)[0]
    assert driver.returncode == 130, said
    assert "Interrupted. Finished trials are kept: the same command goes on from here." in said
    assert "Traceback" not in said
    wait_until(lambda: not any(map(lives, family)), "workers and Ray are gone", seconds=10)
    before = times_of_rows(store)
    again = start("sweep", sweep_file, "--store", store.location)
    said = again.communicate(timeout=240)[0]
    assert again.returncode == 0, said
    after = times_of_rows(store)
    assert {trial_id: after[trial_id] for trial_id in before} == before
    assert_equal_tables(store, tiny_store)


MANY_WORDS = ("quant.0.bits=[16, 8, 7, 6, 5, 4]", 'quant.0.scheme=["symmetric", "asymmetric"]', "retry.crash=9")


@IN_PROC
@pytest.mark.slow
def test_a_driver_killed_ten_times_loses_and_repeats_nothing(sweep_file: str, tmp_path: Path) -> None:
    calm, disturbed = Store.open(str(tmp_path / "calm")), Store.open(str(tmp_path / "disturbed"))
    axes = ('quant.0.granularity=["per_channel", "per_tensor"]', 'quant.0.act_observer=["minmax", "ema", "percentile"]')
    words = (sweep_file, *MANY_WORDS, *axes, "seeds=[0, 1, 2, 3, 4]")
    assert run("sweep", *words, "--executor", "inline", "--store", calm.location).exit_code == 0
    deeds = disturb(list(words), disturbed, n_drivers=10, n_workers=0, seed=5)
    assert deeds.n_trials == 5 * (1 + 1 + 72 + 1)
    assert_equal_tables(calm, disturbed)


@IN_PROC
@pytest.mark.slow
def test_drivers_and_workers_killed_at_random_lose_and_repeat_nothing(sweep_file: str, tmp_path: Path) -> None:
    calm, disturbed = Store.open(str(tmp_path / "calm")), Store.open(str(tmp_path / "disturbed"))
    words = (sweep_file, *MANY_WORDS)
    assert run("sweep", *words, "--executor", "inline", "--store", calm.location).exit_code == 0
    disturb(list(words), disturbed, n_drivers=1, n_workers=2, seed=1)
    assert_equal_tables(calm, disturbed)
