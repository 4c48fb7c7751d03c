"""The counts of a sweep as Ray's gauges and counters, for Prometheus and Grafana: once a second, whatever happens.

Ray adds `ray_` to every name and `_total` to counters, and passes them on every ten seconds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from ray.util.metrics import Counter, Gauge

from quantfair.orchestrator.executors.progress import STATES, Progress

EVERY_S = 1.0


class Metrics:
    """Gauges and counters of one sweep, each tagged with its name."""

    def __init__(self, progress: Progress):
        self.progress, tag = progress, {"sweep": progress.name}
        self.trials = Gauge("quantfair_trials", "Trials of the plan by state.", ("sweep", "state", "method"))
        drop = "Largest drop against the reference so far; a group keeps its own when another one loses more."
        self.largest_drop = Gauge("quantfair_largest_drop_pp", drop, ("sweep", "group"))
        self.stage_s = Counter("quantfair_stage_seconds", "Seconds of finished trials.", ("sweep", "stage", "method"))
        self.retries = Counter("quantfair_retries", "Trials lost with their worker, which run again.", ("sweep",))
        for metric in (self.trials, self.largest_drop, self.stage_s, self.retries):
            metric.set_default_tags(tag)
        self.counted: dict[tuple[str, str], float] = {}  # seconds that the counter knows already
        self.n_retries = 0

    def publish(self) -> None:
        """Bring all of them up to date."""
        for method, counts in self.progress.counts().items():
            for state in STATES:
                self.trials.set(counts[state], {"state": state, "method": method})
        for (method, stage), seconds in list(self.progress.stage_s.items()):
            if (more := seconds - self.counted.get((method, stage), 0.0)) > 0:
                self.stage_s.inc(more, {"stage": stage.removesuffix("_s"), "method": method})
                self.counted[method, stage] = seconds
        if (n := self.progress.n_retries) > self.n_retries:
            self.retries.inc(n - self.n_retries)
            self.n_retries = n
        if (largest := self.progress.largest_drop) is not None and largest.largest_drop_pp is not None:
            self.largest_drop.set(largest.largest_drop_pp, {"group": str(largest.largest_drop_group)})


@contextmanager
def publish_metrics(progress: Progress) -> Iterator[None]:
    """Publish the counts while inside, and once more at the end. Needs a Ray that runs."""
    metrics, left = Metrics(progress), Event()

    def publish_until_left() -> None:
        while not left.wait(EVERY_S):
            metrics.publish()

    thread = Thread(target=publish_until_left, daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
        metrics.publish()
