"""How long one call of a deployed model takes, in any runtime."""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

_N_WARM_UP: Final = 3
_LEAST_CALLS: Final = 10
_MOST_CALLS: Final = 200


class Latency(NamedTuple):
    """Milliseconds of one call: the median and the 95th percentile of `n` calls."""

    p50_ms: float
    p95_ms: float
    n: int


def measure_latency(
    network: Callable[[np.ndarray], object], images_NCHW: np.ndarray, *, seconds: float = 0.3
) -> Latency:
    """Time calls with these images: ten at least, then until `seconds` or 200 calls have passed."""
    for _ in range(_N_WARM_UP):
        network(images_NCHW)
    taken_ms: list[float] = []
    while len(taken_ms) < _LEAST_CALLS or (sum(taken_ms) < 1e3 * seconds and len(taken_ms) < _MOST_CALLS):
        started = time.perf_counter()
        network(images_NCHW)
        taken_ms.append(1e3 * (time.perf_counter() - started))
    return Latency(float(np.median(taken_ms)), float(np.percentile(taken_ms, 95)), len(taken_ms))
