"""What a plan will take: bundles and wall time, by playing the queue through, and room on the disk. No torch, no ray.

Times are those of the queue's estimates, as if every trial took exactly as long; the start of Ray and its workers, some
ten seconds, comes on top. Sizes are means of what finished trials left behind, else a first guess.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from statistics import mean
from typing import Final, NamedTuple

from quantfair.orchestrator.config.spec import Resources
from quantfair.orchestrator.planning.bundle_queue import Bundle, BundleQueue
from quantfair.orchestrator.planning.plan import ImageCounts, PlannedTrial
from quantfair.results import Store

N_RESERVE: Final = 2  # bundles that wait for a free worker, as on Ray
ROUNDING: Final = 1e-9  # of sums of fractions
N_MEASURED: Final = 20  # finished trials of each method whose files are looked at
# Fitted to digits and UTKFace: what a trial leaves beside its predictions, and its predictions of one image.
FIXED_BYTES: Final = 25_000
IMAGE_BYTES: Final = 25


class Machine(NamedTuple):
    """What trials share."""

    cpus: float
    gpus: float

    def count_slots(self, shape: Resources) -> int:
        """How many trials of one shape run at once; one that is too large for the machine is taken to run alone."""
        slots = self.cpus / shape.cpu
        return max(1, int(min(slots, self.gpus / shape.gpu) if shape.gpu else slots))


class Forecast(NamedTuple):
    """What is left and how long it takes if all goes as estimated: `work_s` for one slot, `wall_s` by the clock."""

    n_slots: int
    n_bundles: int
    work_s: float
    wall_s: float


def find_machine() -> Machine:
    """Count this machine's CPUs and its NVIDIA GPUs."""
    return Machine(os.cpu_count() or 1, len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))


def forecast(queue: BundleQueue, machine: Machine) -> Forecast:
    """Play a queue through on a machine; it is empty afterwards."""
    work_s = queue.remaining_s()
    methods = {trial.method for trial in queue.trials.values()}
    queue.n_slots = max((machine.count_slots(getattr(queue.resources, method)) for method in methods), default=1)
    simulation = _Simulation(queue, machine)
    while simulation.events:
        simulation.step()
    return Forecast(queue.n_slots, simulation.n_bundles, work_s, simulation.now_s)


class _Simulation:
    """Workers that share a machine, take bundles from a queue and finish one trial after the other."""

    def __init__(self, queue: BundleQueue, machine: Machine):
        self.queue, self.machine, self.free = queue, machine, machine
        self.now_s, self.n_bundles, self.n_running = 0.0, 0, 0
        self.waiting: list[Bundle] = []
        self.events: list[tuple[float, int, PlannedTrial, Iterator[PlannedTrial], Resources]] = []
        self._numbers = count()
        self._start_bundles()

    def step(self) -> None:
        """Go on to the end of the next trial."""
        self.now_s, _, trial, rest, shape = heappop(self.events)
        self.queue.finish(trial.trial_id, "ok")
        if not self._begin_trial(rest, shape):
            self.n_running -= 1
            self.free = Machine(self.free.cpus + shape.cpu, self.free.gpus + shape.gpu)
        self._start_bundles()

    def _begin_trial(self, trials: Iterator[PlannedTrial], shape: Resources) -> bool:
        trial = next(trials, None)
        if trial is not None:
            end_s = self.now_s + self.queue.durations.estimate_s(trial)
            heappush(self.events, (end_s, next(self._numbers), trial, trials, shape))
        return trial is not None

    def _start_bundles(self) -> None:
        """Take bundles as an executor does, and start those that there is room for."""
        n_most = self.queue.n_slots + N_RESERVE
        while self.n_running + len(self.waiting) < n_most and (bundle := self.queue.take()):
            self.waiting.append(bundle)
            self.n_bundles += 1
        for bundle in list(self.waiting):
            shape = bundle.resources
            fits = shape.cpu <= self.free.cpus + ROUNDING and shape.gpu <= self.free.gpus + ROUNDING
            if fits or self.n_running == 0:
                self.waiting.remove(bundle)
                self.n_running += 1
                self.free = Machine(self.free.cpus - shape.cpu, self.free.gpus - shape.gpu)
                self._begin_trial(iter(bundle.trials), shape)


def measure_trials(store: Store, ok: Iterable[PlannedTrial], runtimes: Iterable[str]) -> dict[str, float]:
    """Return for each method the mean bytes of what its finished trials left behind, of at most 20 of them."""
    by_method: dict[str, list[int]] = {}
    for trial in ok:
        sizes = by_method.setdefault(trial.method, [])
        if len(sizes) < N_MEASURED:
            sizes.append(store.measure_trial(trial.trial_id, runtimes))
    return {method: mean(sizes) for method, sizes in by_method.items()}


def guess_bytes(trial: PlannedTrial, images: ImageCounts) -> int:
    """Return a first guess at what a trial leaves behind, without weights: nobody has built its network yet."""
    logits = 4 * images.n_classes if trial.method in ("fp32", "fp32_ft") else 0  # float32
    return FIXED_BYTES + images.n_evaluated * (IMAGE_BYTES + logits)


def estimate_bytes(
    to_run: Iterable[PlannedTrial], measured: Mapping[str, float], images: Mapping[str, ImageCounts]
) -> float:
    """Return the bytes that trials will leave behind; `images` are by `dataset_id`."""
    return sum(measured.get(t.method) or guess_bytes(t, images[t.dataset_id]) for t in to_run)
