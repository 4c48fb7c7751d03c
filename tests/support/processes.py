"""Processes that a test starts: they end with it, are found in /proc, and are waited for no longer than a limit."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

LIMIT_S = 150.0
_started: list[subprocess.Popen[Any]] = []


def start_process(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a command that ends with the test, also where the test fails or reaches its time limit."""
    process = subprocess.Popen(command, **options)
    _started.append(process)
    return process


def end_started_processes() -> None:
    """Kill what `start_process` started and what runs under it; a fixture for every test calls this at its end."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            family = find_family(process.pid)
            process.kill()
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def find_family(pid: int) -> dict[int, str]:
    """Every process under `pid` that lives, with its command."""
    found: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if state != "Z":  # ended, but not yet buried
                found[int(folder.name)] = int(parent), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it ended meanwhile

    def is_under(child: int) -> bool:
        return child in found and (found[child][0] == pid or is_under(found[child][0]))

    return {child: command for child, (_, command) in found.items() if is_under(child)}


def find_workers(driver: int) -> list[int]:
    """Ids of the processes under `driver` that run bundles."""
    return [pid for pid, command in find_family(driver).items() if "SweepWorker" in command]


def lives(pid: int) -> bool:
    """Whether a process runs: not if it has ended and is not buried yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], Any], what: str, *, seconds: float = LIMIT_S) -> None:
    """Return when the condition holds; fail after a while."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
