"""Which trials run next, and together: a ready queue that hands out bundles. Pure: no torch, no ray, no clock.

A bundle holds ready trials of one float stage that ask for the same resources, about 30 s of estimated work, so that
one worker loads the data and the reference once and the scheduler is not asked every second. Towards the end bundles
get smaller, so that no slot waits long for another.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from typing import NamedTuple

from orchestrator.plan import PlannedTrial, Status
from orchestrator.spec import Resources, ResourcesByMethod

BUNDLE_S = 30.0
FIRST_GUESS_S = {"fp32": 20.0, "fp32_ft": 10.0, "qat": 10.0, "ptq": 1.0}  # until the first trial of a method is done


class Bundle(NamedTuple):
    """Trials for one worker, to be run in this order, and what the worker needs."""

    trials: tuple[PlannedTrial, ...]
    resources: Resources

    @property
    def name(self) -> str:
        """A name for people, without spaces: "ptq_W4A4_minmax_seed_1_(config_07e97f)_+8"."""
        first, *others = self.trials
        return (first.label + (f" +{len(others)}" if others else "")).replace(" ", "_")


class BundleQueue:
    """Hands out trials whose needs are done; a trial whose need failed is never handed out but counted as blocked."""

    def __init__(self, to_run: Iterable[PlannedTrial], *, done: Iterable[str], resources: ResourcesByMethod):
        self.trials = {trial.trial_id: trial for trial in to_run}
        self.resources = resources
        self.n_slots = 1  # trials that run at once: set by the executor, which knows the machines
        self.unfinished = set(self.trials)
        self.n_blocked: Counter[str] = Counter()  # by method
        self._n_unfinished = Counter(trial.method for trial in self.trials.values())
        self._n_timed: Counter[str] = Counter()
        self._timed_s: dict[str, float] = defaultdict(float)
        self._ready: dict[tuple[str, str], deque[PlannedTrial]] = defaultdict(deque)
        self._dependants: dict[str, list[str]] = defaultdict(list)
        done = set(done)
        self._n_unmet = Counter({t: len(set(trial.needs) - done) for t, trial in self.trials.items()})
        for trial in self.trials.values():
            for need in trial.needs:
                self._dependants[need].append(trial.trial_id)
            if self._n_unmet[trial.trial_id] == 0:
                self._make_ready(trial)

    def take(self) -> Bundle | None:
        """Return the next bundle, or None while nothing is ready."""
        if not self._ready:
            return None
        key, waiting = next(iter(self._ready.items()))
        bundle, planned_s = [], 0.0
        target_s = min(BUNDLE_S, self.remaining_s() / (2 * self.n_slots))
        while waiting and (not bundle or planned_s + self.estimate_s(waiting[0].method) <= target_s):
            planned_s += self.estimate_s(waiting[0].method)
            bundle.append(waiting.popleft())
        if not waiting:
            del self._ready[key]
        return Bundle(tuple(bundle), getattr(self.resources, bundle[0].method))

    def give_back(self, trials: Iterable[PlannedTrial]) -> None:
        """Make trials ready again that were handed out but never started."""
        for trial in trials:
            self._make_ready(trial)

    def finish(self, trial_id: str, status: Status, *, seconds: float | None = None) -> None:
        """Record a finished trial: its dependants become ready, or blocked if it failed."""
        if trial_id not in self.unfinished:
            return
        self._close(trial_id)
        if seconds is not None:
            self.learn(self.trials[trial_id].method, seconds)
        if status == "failed":
            self._block(trial_id)
            return
        for dependant in self._dependants[trial_id]:
            self._n_unmet[dependant] -= 1
            if self._n_unmet[dependant] == 0:
                self._make_ready(self.trials[dependant])

    def learn(self, method: str, seconds: float) -> None:
        """Take one measured duration into the estimates."""
        self._n_timed[method] += 1
        self._timed_s[method] += seconds

    def estimate_s(self, method: str) -> float:
        """Mean seconds of the timed trials of this method, or a first guess."""
        return self._timed_s[method] / self._n_timed[method] if self._n_timed[method] else FIRST_GUESS_S[method]

    def remaining_s(self) -> float:
        """Estimated work of everything unfinished, in seconds of one slot."""
        return sum(n * self.estimate_s(method) for method, n in self._n_unfinished.items())

    def _make_ready(self, trial: PlannedTrial) -> None:
        shape = getattr(self.resources, trial.method)
        self._ready[trial.stage_id, repr(shape)].append(trial)

    def _block(self, trial_id: str) -> None:
        for dependant in self._dependants[trial_id]:
            if dependant in self.unfinished:
                self.n_blocked[self.trials[dependant].method] += 1
                self._close(dependant)
                self._block(dependant)

    def _close(self, trial_id: str) -> None:
        self.unfinished.discard(trial_id)
        self._n_unfinished[self.trials[trial_id].method] -= 1
