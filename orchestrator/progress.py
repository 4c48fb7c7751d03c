"""What a person sees while a sweep runs: plain lines, at most one every two seconds and one at the end."""

import time

from orchestrator.schedule import BundleQueue
from orchestrator.work import Outcome

EVERY_S = 2.0


class ProgressLines:
    """Counts finished trials of this run and prints them with the time left."""

    def __init__(self, queue: BundleQueue, *, n_finished_before: int, quiet: bool):
        self.queue, self.n_before, self.quiet = queue, n_finished_before, quiet
        self.n_total = n_finished_before + len(queue.trials)
        self.n_ok, self.n_failed = 0, 0
        self.running: set[str] = set()
        self.began = self.printed = time.monotonic()

    def started(self, trial_id: str) -> None:
        """Count a trial as running."""
        self.running.add(trial_id)

    def finished(self, outcome: Outcome) -> None:
        """Count a finished trial, and print a line if the last one is old enough or nothing is left."""
        trial_id, status = outcome.trial_id, outcome.status
        self.running.discard(trial_id)
        self.n_ok, self.n_failed = self.n_ok + (status == "ok"), self.n_failed + (status == "failed")
        now = time.monotonic()
        if status == "failed":
            self.say(f"failed: {self.queue.trials[trial_id].label} ({trial_id}); its log has the traceback")
        if now - self.printed >= EVERY_S or not self.queue.unfinished:
            self.printed = now
            self.say(self.line(self.queue.trials[trial_id].label))

    def training(self, trial_id: str, text: str) -> None:
        """Say how far a trial is that takes long: nothing where a line was printed a moment ago."""
        if time.monotonic() - self.printed >= EVERY_S:
            self.printed = time.monotonic()
            self.say(self.line(f"{self.queue.trials[trial_id].label}, {text}"))

    def retried(self, trial_id: str) -> None:
        """Say that a trial will run again."""
        self.running.discard(trial_id)
        self.say(f"lost with its worker, runs again: {self.queue.trials[trial_id].label} ({trial_id})")

    def line(self, label: str) -> str:
        """Return "[12/51] 24 s, 2 running, 0 failed, about 50 s left: qat W8A8 ema seed 1 (config 07e97f)"."""
        n_done = self.n_before + self.n_ok + self.n_failed
        elapsed_s = time.monotonic() - self.began
        left_s = self.queue.remaining_s() / self.queue.n_slots
        width = len(str(self.n_total))
        counts = f"{len(self.running)} running, {self.n_failed} failed"
        return f"[{n_done:{width}d}/{self.n_total}] {elapsed_s:4.0f} s, {counts}, about {left_s:.0f} s left: {label}"

    def say(self, text: str) -> None:
        """Print a line unless the sweep is quiet."""
        if not self.quiet:
            print(text, flush=True)
