"""Trials that ran on another kind of device than what they are compared with: a part of the difference may be its own.

The same weights give other logits on a GPU than on a CPU, by rounding; and a training that starts alike drifts apart.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from quantfair.results.schema import COMPARISONS


class MixedPair(NamedTuple):
    """A trial and the other side of one of its comparisons, on two kinds of device."""

    trial_id: str
    method: str
    comparison: str
    device: str
    other_device: str

    @property
    def reason(self) -> str:
        """What stands in the column `reason` of the pair."""
        return f"the devices differ: the trial ran on {self.device}, its {self.comparison} on {self.other_device}"


def find_mixed_pairs(trials: Iterable[Mapping[str, Any]]) -> list[MixedPair]:
    """Return the pairs of two kinds of device, in the order of the trials. Where a device is unknown, there is none."""
    trials = list(trials)
    devices = {trial["trial_id"]: trial["device"] for trial in trials}
    return [pair for trial in trials for pair in _mixed_pairs_of(trial, devices)]


def describe_mixed_pairs(trials: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for people for each method, comparison and two devices."""
    counts = Counter(pair[1:] for pair in find_mixed_pairs(trials))
    return [
        f"{n} {method} trial{'s' if n > 1 else ''} on {device} with the {comparison} on {other}: a part of what they "
        "differ by may be the device's. Their pairs are flagged (column `reason`); the same kind of device for all "
        "methods in [resources] avoids it."
        for (method, comparison, device, other), n in counts.items()
    ]


def _mixed_pairs_of(trial: Mapping[str, Any], devices: Mapping[str, str | None]) -> Iterator[MixedPair]:
    for comparison, column in COMPARISONS.items():
        device, other = trial["device"], devices.get(trial[column])
        if device and other and device != other:
            yield MixedPair(trial["trial_id"], trial["method"], comparison, device, other)
