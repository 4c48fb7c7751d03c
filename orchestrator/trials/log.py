"""What a trial says while it runs, kept in its log: of a worker that hangs or was killed, the log is all there is."""

import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any

from quantfair.orchestrator.config.spec import Resources
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.provenance import find_code_version, find_versions
from quantfair.results import WriteError

WRITE_EVERY_S = 5.0


class TrialLog:
    """What a trial says and how long its parts took. `watch` is told how far the trial is, line by line."""

    def __init__(self, watch: Callable[[str], None], head: Iterable[str] = ()) -> None:
        self.watch, self.started = watch, time.perf_counter()
        self.lines = list(head)
        self.seconds = {"train_s": 0.0, "calibrate_s": 0.0, "evaluate_s": 0.0}

    def say(self, text: str) -> None:
        """Add a line with the seconds since the trial began."""
        self.lines.append(f"{time.perf_counter() - self.started:8.2f} s  {text}")

    def say_progress(self, text: str) -> None:
        """Add a line, and tell it to whoever watches."""
        self.say(text)
        self.watch(text)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time spent inside to a part."""
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started

    def say_warning(self, message: Any, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        """Add a line for a warning."""
        self.say(f"{category.__name__} at {filename}:{lineno}: {message}")

    @contextmanager
    def flushed_to(self, write: Callable[[str], None]) -> Iterator[None]:
        """Write all that was said at the start, within `WRITE_EVERY_S` seconds inside, and at the end.

        Warnings are said here, and nowhere else. Raises WriteError.
        """
        left = Event()
        self._write(write)
        writer = Thread(target=self._write_until, args=(left, write), daemon=True)
        writer.start()
        try:
            with warnings.catch_warnings():
                warnings.showwarning = self.say_warning
                yield
        finally:
            left.set()
            writer.join()
        self._write(write)

    def _write(self, write: Callable[[str], None]) -> None:
        write("\n".join([*self.lines, ""]))

    def _write_until(self, left: Event, write: Callable[[str], None]) -> None:
        n_written = len(self.lines)
        while not left.wait(WRITE_EVERY_S):
            if len(self.lines) > n_written:
                n_written = len(self.lines)
                with suppress(WriteError):  # what the trial itself writes next fails too, and ends the sweep
                    self._write(write)


def describe_run(trial: PlannedTrial, resources: Resources) -> list[str]:
    """Return the head of a log: which trial runs, where and since when, on what, and the versions it runs with."""
    began = datetime.now(UTC).isoformat(timespec="seconds")
    versions = ", ".join(f"{name} {version}" for name, version in find_versions().items())
    return [
        f"{trial.label}  {trial.trial_id}",
        f"host {platform.node()}, pid {os.getpid()}, since {began}, {resources.device}, {resources.n_threads} threads",
        f"code {find_code_version()}, {versions}",
    ]
