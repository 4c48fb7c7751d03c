"""How long trials take, from those that are done: estimates by kind, and the sum over what is left. Pure: no clock.

A trial takes as long as others of its configuration did (other seeds); else as those of its method on the same model,
data and training; else as those of its method; else a first guess. The sum is kept up to date by each step, and not
computed anew: a queue asks for it at every bundle.
"""

from collections.abc import Hashable
from typing import Final

from quantfair.orchestrator.planning.plan import PlannedTrial

RUNTIMES: Final = "runtimes"  # the kind of trials that only runtimes are missing of
FIRST_GUESS_S: Final = {"fp32": 20.0, "fp32_ft": 10.0, "qat": 10.0, "ptq": 1.0, RUNTIMES: 5.0}
LEAST_S: Final = 0.001  # no trial takes less: its row is written and synced


class _Kind:
    """Trials that are expected to take equally long. `n_left` counts all of them, `n_owned` those estimated by it."""

    __slots__ = ("mean_s", "n_left", "n_owned", "n_timed")

    def __init__(self, guess_s: float = 0.0):
        self.mean_s, self.n_timed, self.n_left, self.n_owned = guess_s, 0, 0, 0


class Durations:
    """Learns how long trials took, and says how long others will take; `left_s` is the sum over those added."""

    def __init__(self) -> None:
        self.left_s = 0.0
        self._kinds: dict[Hashable, _Kind] = {method: _Kind(guess_s) for method, guess_s in FIRST_GUESS_S.items()}
        self._kinds_of: dict[str, tuple[_Kind, ...]] = {}

    def add(self, trial: PlannedTrial) -> None:
        """Count a trial as left."""
        self._count(trial, 1)

    def remove(self, trial: PlannedTrial) -> None:
        """Count a trial as left no more."""
        self._count(trial, -1)

    def learn(self, trial: PlannedTrial, seconds: float) -> None:
        """Take in how long a trial took."""
        self._learn(self._find_kinds(trial), seconds)

    def learn_method(self, method: str, seconds: float) -> None:
        """Take in how long a trial took of which no more is known than its method."""
        self._learn((self._kinds[method],), seconds)

    def estimate_s(self, trial: PlannedTrial) -> float:
        """Return the seconds that a trial will take."""
        return max(LEAST_S, _owner(self._find_kinds(trial)).mean_s)

    def _find_kinds(self, trial: PlannedTrial) -> tuple[_Kind, ...]:
        """From the most general kind to the trial's own configuration."""
        kinds = self._kinds_of.get(trial.trial_id)
        if kinds is None:
            what = RUNTIMES if trial.only_runtimes_left else trial.method
            alike = (what, trial.model, trial.dataset_id, trial.train)
            keys = (what, alike, (what, trial.config_id))
            kinds = tuple(self._kinds.setdefault(key, _Kind()) for key in keys)
            self._kinds_of[trial.trial_id] = kinds
        return kinds

    def _count(self, trial: PlannedTrial, change: int) -> None:
        kinds = self._find_kinds(trial)
        owner = _owner(kinds)
        for kind in kinds:
            kind.n_left += change
        owner.n_owned += change
        self.left_s += change * owner.mean_s

    def _learn(self, kinds: tuple[_Kind, ...], seconds: float) -> None:
        above = None
        for kind in kinds:
            if kind.n_timed == 0 and above is not None:  # it takes its trials over from the kind above
                self.left_s -= kind.n_left * above.mean_s
                above.n_owned -= kind.n_left
                kind.n_owned = kind.n_left
                kind.n_timed, kind.mean_s = 1, seconds
                self.left_s += kind.n_owned * seconds
            else:
                kind.n_timed += 1
                change_s = (seconds - kind.mean_s) / kind.n_timed
                kind.mean_s += change_s
                self.left_s += kind.n_owned * change_s
            above = kind


def _owner(kinds: tuple[_Kind, ...]) -> _Kind:
    """The most special kind of which a trial was timed; the method's own holds a guess before."""
    return next((kind for kind in reversed(kinds) if kind.n_timed), kinds[0])
