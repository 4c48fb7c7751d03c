"""How far a sweep is, counted from the events of its trials, and plain lines that say so.

Every event costs the same however many trials there are; `progress_table.py` and `ray_metrics.py` show the same
counts in other ways.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from typing import NamedTuple, Self

from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.orchestrator.planning.plan import METHODS
from quantfair.orchestrator.text import first_line, format_s
from quantfair.orchestrator.trials.outcome import TrialOutcome

EVERY_S = 2.0
STATES = ("ok", "failed", "running", "waiting", "blocked")


class Running(NamedTuple):
    """A trial that runs now: since when, on the monotonic clock, and how far it says it is."""

    began: float
    text: str = ""


class Progress:
    """The counts of a sweep: a listener that shows nothing. Entered while trials run.

    `before` counts the trials of the plan that are not in the queue, by method and state: ok, failed or blocked.
    """

    def __init__(self, queue: BundleQueue, *, name: str = "sweep", before: Mapping[tuple[str, str], int] | None = None):
        self.queue, self.name = queue, name
        self.n_ended = Counter(before or {})
        self.n_blocked_before = Counter(
            {method: n for (method, state), n in self.n_ended.items() if state == "blocked"}
        )
        self.n_planned = Counter(trial.method for trial in queue.trials.values())
        for (method, _), n in self.n_ended.items():
            self.n_planned[method] += n
        self.running: dict[str, Running] = {}  # the longest first
        self.began, self.n_retries = time.monotonic(), 0
        self.last_ends: deque[float] = deque(maxlen=100)  # on the monotonic clock, of trials that ended in this run
        self.failures: deque[TrialOutcome] = deque(maxlen=3)
        self.largest_drop: TrialOutcome | None = None
        self.stage_s: defaultdict[tuple[str, str], float] = defaultdict(float)  # by method and stage, such as train_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Say a line."""

    def started(self, trial_id: str) -> None:
        """Count a trial as running."""
        self.running[trial_id] = Running(time.monotonic())

    def training(self, trial_id: str, text: str) -> None:
        """Keep how far a trial says it is."""
        if trial_id in self.running:
            self.running[trial_id] = self.running[trial_id]._replace(text=text)

    def retried(self, trial_id: str) -> None:
        """Count a trial as waiting again."""
        self.running.pop(trial_id, None)
        self.n_retries += 1

    def finished(self, outcome: TrialOutcome) -> None:
        """Count a finished trial, its seconds and its largest drop."""
        method = self.queue.trials[outcome.trial_id].method
        self.running.pop(outcome.trial_id, None)
        self.n_ended[method, outcome.status] += 1
        self.last_ends.append(time.monotonic())
        if outcome.status == "failed":
            self.failures.append(outcome)
        for stage, seconds in (outcome.stage_s or {}).items():
            self.stage_s[method, stage] += seconds
        drop_pp, largest = outcome.largest_drop_pp, self.largest_drop
        if drop_pp is not None and (largest is None or drop_pp > (largest.largest_drop_pp or 0.0)):
            self.largest_drop = outcome

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many trials of each method are in each of STATES, and `total`."""
        n_running = Counter(self.queue.trials[trial_id].method for trial_id in list(self.running))
        return {method: self._counts_of(method, n_running[method]) for method in METHODS if self.n_planned[method]}

    def _counts_of(self, method: str, n_running: int) -> dict[str, int]:
        ok, failed = self.n_ended[method, "ok"], self.n_ended[method, "failed"]
        blocked = self.n_blocked_before[method] + self.queue.n_blocked[method]
        total = self.n_planned[method]
        waiting = max(0, total - ok - failed - n_running - blocked)
        return dict(zip((*STATES, "total"), (ok, failed, n_running, waiting, blocked, total), strict=True))

    @property
    def elapsed_s(self) -> float:
        """Seconds since this run began."""
        return time.monotonic() - self.began

    @property
    def left_s(self) -> float:
        """Estimated seconds to the end: the work that is left, over the trials that run at once."""
        work_s = self.queue.remaining_s()
        for trial_id, (began, _) in list(self.running.items()):
            work_s -= min(time.monotonic() - began, self.queue.durations.estimate_s(self.queue.trials[trial_id]))
        return max(0.0, work_s) / max(1, min(self.queue.n_slots, len(self.queue.unfinished)))

    @property
    def rate_per_min(self) -> float:
        """Trials that end in a minute, over the last hundred; it falls while none ends."""
        since = self.last_ends[0] if len(self.last_ends) == self.last_ends.maxlen else self.began
        return 60 * len(self.last_ends) / max(time.monotonic() - since, 1e-3)


class ProgressLines(Progress):
    """Says it in plain lines, at most one every two seconds and one at the end; nothing where it is to be quiet."""

    def __init__(
        self,
        queue: BundleQueue,
        *,
        name: str = "sweep",
        before: Mapping[tuple[str, str], int] | None = None,
        quiet: bool = False,
    ):
        super().__init__(queue, name=name, before=before)
        self.quiet, self.printed = quiet, self.began

    def finished(self, outcome: TrialOutcome) -> None:
        """Count a finished trial; a line if the last one is old enough or nothing is left, and one for a failure."""
        super().finished(outcome)
        label = self.queue.trials[outcome.trial_id].label
        if outcome.status == "failed":
            self.say(f"failed: {label} ({outcome.trial_id}): {first_line(outcome.error)}")
        self._say_line(label, at_once=not self.queue.unfinished)

    def training(self, trial_id: str, text: str) -> None:
        """Say how far a trial is that takes long: nothing where a line was printed a moment ago."""
        super().training(trial_id, text)
        self._say_line(f"{self.queue.trials[trial_id].label}, {text}")

    def retried(self, trial_id: str) -> None:
        """Say that a trial will run again."""
        super().retried(trial_id)
        self.say(f"lost with its worker, runs again: {self.queue.trials[trial_id].label} ({trial_id})")

    def line(self, label: str) -> str:
        """Return "[12/51] 24 s, 2 running, 0 failed, about 50 s left: qat W8A8 ema seed 1 (config 07e97f)"."""
        counts = self.counts().values()
        n_total, n_failed = (sum(count[state] for count in counts) for state in ("total", "failed"))
        n_done = n_total - sum(count["running"] + count["waiting"] for count in counts)
        left = f"about {format_s(self.left_s)} left"
        about = f"{format_s(self.elapsed_s):>4}, {len(self.running)} running, {n_failed} failed, {left}"
        return f"[{n_done:{len(str(n_total))}d}/{n_total}] {about}: {label}"

    def say(self, text: str) -> None:
        """Print a line unless the sweep is quiet."""
        if not self.quiet:
            print(text, flush=True)

    def _say_line(self, label: str, *, at_once: bool = False) -> None:
        if at_once or time.monotonic() - self.printed >= EVERY_S:
            self.printed = time.monotonic()
            self.say(self.line(label))
