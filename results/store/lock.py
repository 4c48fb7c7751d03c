"""One driver at a time in a store: a lock that a dead driver does not leave behind.

On a local disk (and NFS) the system holds it, on `.lock`, and lets go when the process ends, however that happens.
Elsewhere `.lock` is a lease: an object that says who holds it and is refreshed while he lives. Objects know no
exclusive creation that every store offers, so a newcomer writes, waits, and reads back: the last writer has it.
"""

import fcntl
import json
import os
import platform
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread, main_thread
from typing import Any

from quantfair.results.store.files import Files, StoreError, WriteError, is_full

NAME = ".lock"
REFRESH_S = 10.0
DEAD_AFTER_S = 60.0  # without a refresh
SETTLE_S = 1.0  # longer than a write takes to be seen: two newcomers do not both read themselves
Facts = dict[str, Any]


def hold_lock(files: Files, facts: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Hold a store while inside; `facts` are what `find_holder` tells others besides host, pid and started_utc.

    Raises:
        StoreError: another driver holds it; or the folder cannot be made.
        WriteError: there is no room.
    """
    mine = {"host": platform.node(), "pid": os.getpid(), "started_utc": _now().isoformat(timespec="seconds"), **facts}
    return _hold_file(files, mine) if files.is_local else _hold_lease(files, mine)


@contextmanager
def hold_tables(files: Files) -> Iterator[None]:
    """Wait until nobody else builds tables, as `report` beside a sweep does: two at once would mix old and new ones.

    On a local disk only: elsewhere no lock can be waited for. Raises as `hold_lock`.
    """
    if not files.is_local:
        yield
        return
    handle = _open_lock(files, Path(files.root, "tables", NAME))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def find_holder(files: Files) -> Facts | None:
    """Return what is known of the driver that holds the store now, or None. Writes nothing."""
    if not files.is_local:
        lease = _read_lease(files)
        return lease if lease and _is_alive(lease) else None
    try:
        with Path(files.root, NAME).open("rb") as file:
            is_held = not _try_lock(file.fileno(), fcntl.LOCK_SH)
            return (_parse(file.read()) or None) if is_held else None  # nothing yet: it is taken this very moment
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def _hold_file(files: Files, facts: Facts) -> Iterator[None]:
    path = Path(files.root, NAME)
    handle = _open_lock(files, path)
    try:
        if not _wait_for_lock(handle):
            raise StoreError(_refusal(files, _parse(path.read_bytes())))
        try:
            os.ftruncate(handle, 0)  # what a driver that died has left
            os.pwrite(handle, json.dumps(facts).encode(), 0)
        except OSError as error:
            raise _say_why(files, error) from error
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _open_lock(files: Files, path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _say_why(files, error) from error


def _wait_for_lock(handle: int) -> bool:
    """Try for a moment: whoever asks for the holder takes the lock for an instant."""
    for _ in range(5):
        if _try_lock(handle, fcntl.LOCK_EX):
            return True
        time.sleep(0.02)
    return False


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Lease:
    def __init__(self, files: Files, facts: Facts):
        self.files, self.facts = files, {**facts, "token": uuid.uuid4().hex, "machine": _machine()}
        self.ended, self.is_lost = Event(), False

    def write(self) -> None:
        self.files.write(NAME, json.dumps({**self.facts, "refreshed_utc": _now().isoformat()}).encode())

    def is_mine(self) -> bool:
        lease = _read_lease(self.files)
        return lease is not None and lease.get("token") == self.facts["token"]

    def refresh(self) -> None:
        """Say now and then that the driver lives; stop it when another one has taken over."""
        while not self.ended.wait(REFRESH_S):
            with suppress(OSError, StoreError):  # the network may come back: the next beat tries again
                if not self.is_mine():
                    self.is_lost = True
                    signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)  # wakes it, too
                    return
                self.write()


@contextmanager
def _hold_lease(files: Files, facts: Facts) -> Iterator[None]:
    _refuse_if_held(files)
    lease = _Lease(files, facts)
    try:
        lease.write()
    except WriteError as error:
        raise _say_why(files, error) from error
    time.sleep(SETTLE_S)
    if not lease.is_mine():
        _refuse_if_held(files)
        raise StoreError(f"{files.location} was taken by another driver at the same moment: try again.")
    beat = Thread(target=lease.refresh, daemon=True)
    beat.start()
    try:
        yield
    except KeyboardInterrupt:
        if not lease.is_lost:
            raise
        raise StoreError(
            f"{files.location} was taken over by another driver, since this one could not refresh its lock for "
            f"{DEAD_AFTER_S:g} s: finished trials are kept; `status` says who runs the sweep now."
        ) from None
    finally:
        lease.ended.set()
        beat.join()
        if not lease.is_lost and lease.is_mine():
            files.remove(NAME)


def _refuse_if_held(files: Files) -> None:
    lease = _read_lease(files)
    if lease and _is_alive(lease):
        raise StoreError(f"{_refusal(files, lease)} If it died, it counts as gone {DEAD_AFTER_S:g} s after its end.")


def _say_why(files: Files, error: OSError) -> StoreError | WriteError:
    """A full disk stops a sweep that was asked for rightly; what else forbids to write is a wrong request."""
    if is_full(error):
        return WriteError(f"{files.location} cannot be written ({error})")
    return StoreError(f"{files.location} cannot be written ({error}): choose another --store.")


def _refusal(files: Files, holder: Facts) -> str:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} runs a sweep there"
    since = f"since {holder.get('started_utc', '?')}"
    return f"{files.location} is in use: {who} {since}. Wait for it, stop it, or choose another --store."


def _read_lease(files: Files) -> Facts | None:
    try:
        return _parse(files.read(NAME))
    except FileNotFoundError:
        return None


def _is_alive(lease: Facts) -> bool:
    try:
        age_s = (_now() - datetime.fromisoformat(lease["refreshed_utc"])).total_seconds()
    except (KeyError, ValueError):
        return False
    return age_s < DEAD_AFTER_S and not (lease.get("machine") == _machine() != "" and _is_gone(lease["pid"]))


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _machine() -> str:
    """What pids are of: this boot of this machine, and the container in it. Empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _parse(data: bytes) -> Facts:
    try:
        facts = json.loads(data)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _now() -> datetime:
    return datetime.now(UTC)
