"""Which trials run next, and together: a ready queue that hands out bundles. Pure: no torch, no ray, no clock.

A bundle holds ready trials that ask for the same resources, about 30 s of estimated work, so that the scheduler is not
asked every second; those of one float stage stand together in it, so that one worker loads the data, the reference and
the calibration once. Towards the end bundles get smaller, and none holds more than a slot's share of what is ready, so
that no slot waits long for another; but below a quarter of a second, handing out costs more than it balances.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from quantfair.orchestrator.config.spec import Resources, ResourcesByMethod
from quantfair.orchestrator.planning.durations import Durations
from quantfair.orchestrator.planning.plan import PlannedTrial, Status

BUNDLE_S: Final = 30.0
LEAST_BUNDLE_S: Final = 0.25


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
        self.durations = Durations()
        self.unfinished = set(self.trials)
        self.blocked: set[str] = set()
        self.n_blocked: Counter[str] = Counter()  # the same, by method
        self._places = {trial_id: place for place, trial_id in enumerate(self.trials)}
        self._shapes = {method: repr(shape) for method, shape in resources}
        # By resources, then by float stage. Shapes take turns, so that none waits for the end of another.
        self._ready: dict[str, dict[str, deque[PlannedTrial]]] = defaultdict(lambda: defaultdict(deque))
        self._n_ready: Counter[str] = Counter()
        self._dependants: dict[str, list[str]] = defaultdict(list)
        done = set(done)
        self._n_unmet = Counter({t: len(set(trial.needs) - done) for t, trial in self.trials.items()})
        for trial in self.trials.values():
            self.durations.add(trial)
            for need in trial.needs:
                self._dependants[need].append(trial.trial_id)
            if self._n_unmet[trial.trial_id] == 0:
                self._make_ready(trial)

    def take(self) -> Bundle | None:
        """Return the next bundle, or None while nothing is ready."""
        if not self._ready:
            return None
        shape = next(iter(self._ready))
        stages = self._ready.pop(shape)
        trials = self._fill(stages, most=max(1, self._n_ready[shape] // self.n_slots))
        self._n_ready[shape] -= len(trials)
        if stages:
            self._ready[shape] = stages
        trials.sort(key=lambda trial: self._places[trial.trial_id])
        return Bundle(tuple(trials), getattr(self.resources, trials[0].method))

    def _fill(self, stages: dict[str, deque[PlannedTrial]], *, most: int) -> list[PlannedTrial]:
        """Take trials out of `stages`, one stage after the other, until a bundle is full."""
        bundle: list[PlannedTrial] = []
        planned_s, target_s = 0.0, min(BUNDLE_S, self.remaining_s() / (2 * self.n_slots))
        while stages:
            stage_id, waiting = next(iter(stages.items()))
            next_s = planned_s + self.durations.estimate_s(waiting[0])
            if bundle and next_s > LEAST_BUNDLE_S and (next_s > target_s or len(bundle) >= most):
                break
            planned_s = next_s
            bundle.append(waiting.popleft())
            if not waiting:
                del stages[stage_id]
        return bundle

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
            self.durations.learn(self.trials[trial_id], seconds)
        if status == "failed":
            self._block(trial_id)
            return
        for dependant in self._dependants[trial_id]:
            self._n_unmet[dependant] -= 1
            if self._n_unmet[dependant] == 0:
                self._make_ready(self.trials[dependant])

    def remaining_s(self) -> float:
        """Estimated work of everything unfinished, in seconds of one slot."""
        return max(0.0, self.durations.left_s) if self.unfinished else 0.0

    def _make_ready(self, trial: PlannedTrial) -> None:
        shape = self._shapes[trial.method]
        self._ready[shape][trial.stage_id].append(trial)
        self._n_ready[shape] += 1

    def _block(self, trial_id: str) -> None:
        for dependant in self._dependants[trial_id]:
            if dependant in self.unfinished:
                self.blocked.add(dependant)
                self.n_blocked[self.trials[dependant].method] += 1
                self._close(dependant)
                self._block(dependant)

    def _close(self, trial_id: str) -> None:
        self.unfinished.discard(trial_id)
        self.durations.remove(self.trials[trial_id])
