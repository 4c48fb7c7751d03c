"""How often the statistics are wrong, by simulation: the figures of the validation section in `results/README.md`.

Null data (no group loses more than another) must raise few alarms, intervals must hold the truth, planted drops must be
found. Groups are as large as UTKFace's ethnic groups are in a test set, and their flips unequal. Run it with the number
of simulated trials: `.venv/bin/python tests/benchmarks/validate_statistics.py 10000`. It prints JSON.
"""

import json
import sys
from typing import Any

import numpy as np

from quantfair.results.statistics.common_drop import assess_common_drop
from quantfair.results.statistics.intervals import drop_interval, excess_gap

SIZES = np.array([2016, 905, 687, 795, 338])
CODES = np.repeat(np.arange(len(SIZES)), SIZES)
NULLS: dict[str, tuple[list[float], float]] = {  # flip rates of the groups, and the even drop on top of them
    "equal flips of 2 %": ([0.02] * 5, 0.0),
    "1, 2, 2, 2, 8 % flips": ([0.01, 0.02, 0.02, 0.02, 0.08], 0.0),
    "1, 2, 2, 2, 8 % flips and an even drop of 9 pp": ([0.01, 0.02, 0.02, 0.02, 0.08], 0.09),
    "8, 2, 2, 2, 1 % flips": ([0.08, 0.02, 0.02, 0.02, 0.01], 0.0),
    "equal flips of 0.2 %": ([0.002] * 5, 0.0),
    "0.1, 0.2, 0.2, 0.2, 1 % flips": ([0.001, 0.002, 0.002, 0.002, 0.01], 0.0),
}


def draw(rates: list[float], drop: float, n_trials: int, rng: np.random.Generator) -> np.ndarray:
    """Return 1 (lost), 0, -1 (won) of every image in every trial: flips either way, and a drop of all groups alike."""
    flips, chance = np.array(rates)[CODES, None], rng.random((len(CODES), n_trials))
    return np.where(chance < flips / 2 + drop, 1, np.where(chance < flips + drop, -1, 0)).astype(np.int8)


def count(values_NT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lost and the won images of every trial and group, T x G."""
    starts = np.concatenate([[0], SIZES.cumsum()[:-1]])
    lost_GT, won_GT = (np.add.reduceat(values_NT == sign, starts, axis=0, dtype=np.int64) for sign in (1, -1))
    return lost_GT.T, won_GT.T


def find_alarms(values_NT: np.ndarray) -> dict[str, Any]:
    """Return the shares of trials in which each test says that groups differ."""
    counts = count(values_NT)
    gap, test = excess_gap(*counts, SIZES), assess_common_drop(*counts, SIZES)
    return {
        "eag_p < .05, by group": np.round((gap.p < 0.05).mean(axis=0), 4).tolist(),
        "null_p < .05": round(float((test.p < 0.05).mean()), 4),
        "spread above null_q95": round(float((test.spread > test.null_q95).mean()), 4),
        "mean spread and null_mean, pp": [round(100 * float(a.mean()), 2) for a in (test.spread, test.null_mean)],
    }


def find_coverage(n_draws: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return how often intervals of nominally 95 % hold the true drop, and the true EAG of the smallest group."""
    found: dict[str, Any] = {}
    for n in (36, 100, 338, 1000):
        for flips in (0.001, 0.01, 0.08):
            for one_way in (0.5, 1.0):
                lost = rng.multinomial(n, [flips * one_way, flips * (1 - one_way), 1 - flips], size=n_draws)
                low, high = drop_interval(lost[:, 0], lost[:, 1], n)
                true = flips * (2 * one_way - 1)
                found[f"drop, n {n}, flips {100 * flips:g} %, {one_way:g} one way"] = _holds(low, high, true)
    for name, (rates, drop) in NULLS.items():
        parts = [
            rng.multinomial(n, [f / 2 + drop, f / 2, 1 - f - drop], size=n_draws)
            for n, f in zip(SIZES, rates, strict=True)
        ]
        gap = excess_gap(np.stack([p[:, 0] for p in parts], 1), np.stack([p[:, 1] for p in parts], 1), SIZES)
        found[f"EAG, {name}"] = [_holds(gap.low[:, g], gap.high[:, g], 0) for g in range(len(SIZES))]
    return found


def _holds(low: np.ndarray, high: np.ndarray, true: float) -> float:
    return round(float(((low <= true + 1e-12) & (high >= true - 1e-12)).mean()), 4)


def find_power(n_trials: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return how often a drop of one group alone is found, at 1, 2, 2, 2, 8 % flips."""
    found = {}
    for group, planted in ((4, 0.03), (4, 0.05), (4, 0.08), (0, 0.01), (0, 0.02)):
        values_NT = draw([0.01, 0.02, 0.02, 0.02, 0.08], 0.0, n_trials, rng)
        members = np.flatnonzero(group == CODES)
        hit = rng.random((len(members), n_trials)) < planted
        values_NT[members] = np.where(hit, 1, values_NT[members])
        alarms = find_alarms(values_NT)
        found[f"n {SIZES[group]} loses {100 * planted:g} pp"] = {
            "eag_p < .05": alarms["eag_p < .05, by group"][group],
            "null_p < .05": alarms["null_p < .05"],
        }
    return found


def main(n_trials: int) -> None:
    """Simulate and print."""
    rng = np.random.default_rng(0)
    result = {
        "n_trials": n_trials,
        "sizes": SIZES.tolist(),
        "null": {name: find_alarms(draw(rates, drop, n_trials, rng)) for name, (rates, drop) in NULLS.items()},
        "coverage": find_coverage(10 * n_trials, rng),
        "power": find_power(n_trials, rng),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
