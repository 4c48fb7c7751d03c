"""One driver at a time: locks of the system on a local disk, leases elsewhere; dead drivers leave none behind."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from processes import start_process
from pyarrow import fs

from quantfair.results import Store, StoreError
from quantfair.results.store import lock as lock_module
from quantfair.results.store.files import Files

ROOT = Path(__file__).resolve().parent.parent
HOLD = """
import sys, time
from quantfair.results import Store
with Store.open(sys.argv[1]).locked(executor="ray"):
    print("held", flush=True)
    time.sleep(60)
"""


def open_elsewhere(folder: Path) -> Store:
    """A store on what is no local disk for all it can tell."""
    return Store(Files(fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()), "sweep", "other://sweep"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(lock_module, "SETTLE_S", 0.01)
    return open_elsewhere(tmp_path)


def start_driver(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the store in `folder`."""
    driver = start_process([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "held\n"
    return driver


def test_a_second_driver_is_refused_with_host_pid_and_since_when(tmp_path: Path) -> None:
    store, driver = Store.open(str(tmp_path)), start_driver(tmp_path)
    try:
        match = (
            rf"is in use: process {driver.pid} on \S+ runs a sweep there since 20\d\d-.*Wait for it, stop it, or choose"
        )
        with pytest.raises(StoreError, match=match), store.locked():
            pass
        found = store.find_driver()
        assert found is not None
        assert (found["pid"], found["executor"]) == (driver.pid, "ray")
    finally:
        driver.kill()
        driver.communicate()


def test_a_driver_that_was_killed_leaves_no_lock_behind(tmp_path: Path) -> None:
    store, driver = Store.open(str(tmp_path)), start_driver(tmp_path)
    driver.kill()
    driver.communicate()
    assert store.find_driver() is None
    with store.locked():
        assert store.find_driver() is not None


@pytest.mark.parametrize("kind", ["local", "elsewhere"])
def test_a_lock_is_there_while_it_is_held_and_tells_what_its_driver_says(
    tmp_path: Path, elsewhere: Store, kind: str
) -> None:
    store = Store.open(str(tmp_path / "store")) if kind == "local" else elsewhere
    assert store.find_driver() is None
    with store.locked(executor="inline"):
        found = store.find_driver()
        assert found is not None
        assert (found["pid"], found["executor"]) == (os.getpid(), "inline")
        with pytest.raises(StoreError, match=f"is in use: process {os.getpid()} on "), store.locked():
            pass
    assert store.find_driver() is None


def test_a_lock_that_is_taken_this_very_moment_is_nobodys_yet(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with store.locked():
        (tmp_path / ".lock").write_bytes(b"")  # as between taking it and saying who
        assert store.find_driver() is None


def test_asking_for_the_driver_writes_nothing(tmp_path: Path, elsewhere: Store) -> None:
    assert Store.open(str(tmp_path / "nothing")).find_driver() is None
    assert elsewhere.find_driver() is None
    assert list(tmp_path.iterdir()) == []


def test_asking_for_the_driver_keeps_none_from_starting(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with store.locked():
        pass
    code = f"from quantfair.results import Store\ns = Store.open({str(tmp_path)!r})\n"
    code += "print(flush=True)\nwhile True: s.find_driver()"
    asking = start_process([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert asking.stdout is not None
    asking.stdout.readline()
    try:
        for _ in range(50):
            with store.locked():
                pass
    finally:
        asking.kill()
        asking.communicate()


def write_lease(folder: Path, *, age_s: float, **changed: Any) -> None:
    """Leave the lease of a driver on another machine."""
    refreshed = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    facts = {"host": "far", "pid": 7, "started_utc": "2026-01-01T00:00:00+00:00", "token": "t", "machine": "other"}
    (folder / "sweep").mkdir(exist_ok=True)
    (folder / "sweep" / ".lock").write_text(json.dumps({**facts, "refreshed_utc": refreshed, **changed}))


def test_a_lease_that_is_refreshed_is_respected_and_one_that_is_not_is_dead(tmp_path: Path, elsewhere: Store) -> None:
    write_lease(tmp_path, age_s=30)
    assert elsewhere.find_driver() is not None
    match = (
        "is in use: process 7 on far runs a sweep there since 2026-.*If it died, it counts as gone 60 s after its end"
    )
    with pytest.raises(StoreError, match=match), elsewhere.locked():
        pass
    write_lease(tmp_path, age_s=61)
    assert elsewhere.find_driver() is None
    with elsewhere.locked():
        assert elsewhere.find_driver() is not None


def test_a_driver_that_died_on_this_machine_holds_no_lease(tmp_path: Path, elsewhere: Store) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_lease(tmp_path, age_s=1, pid=ended.pid, machine=lock_module._machine())
    assert elsewhere.find_driver() is None
    write_lease(tmp_path, age_s=1, pid=os.getpid(), machine=lock_module._machine())
    assert elsewhere.find_driver() is not None


def test_of_two_newcomers_the_last_writer_has_the_lease(
    tmp_path: Path, elsewhere: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module.time, "sleep", lambda _: write_lease(tmp_path, age_s=0))
    with pytest.raises(StoreError, match="is in use: process 7 on far"), elsewhere.locked():
        pass
    assert json.loads((tmp_path / "sweep" / ".lock").read_text())["token"] == "t"


def test_a_lease_is_refreshed_while_it_is_held(elsewhere: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "REFRESH_S", 0.01)
    with elsewhere.locked():
        first = elsewhere.find_driver()
        assert first is not None
        while (elsewhere.find_driver() or first)["refreshed_utc"] == first["refreshed_utc"]:  # None: it is written now
            time.sleep(0.01)


def test_a_driver_whose_lease_was_taken_over_stops(
    tmp_path: Path, elsewhere: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "REFRESH_S", 0.01)

    def work() -> None:
        with elsewhere.locked():
            write_lease(tmp_path, age_s=0)
            time.sleep(30)

    with pytest.raises(StoreError, match=r"was taken over by another driver, .*finished trials are kept"):
        work()
    assert json.loads((tmp_path / "sweep" / ".lock").read_text())["token"] == "t"
