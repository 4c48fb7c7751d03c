"""A worker on Ray: it runs the trials of a bundle in order, and reports what happens while they run."""

import faulthandler
import os
import sys
import time
import traceback
import zlib
from collections.abc import Iterable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

from ray import tune

from quantfair.orchestrator.config.spec import Resources
from quantfair.orchestrator.executors.events import RunTrial
from quantfair.orchestrator.executors.ray_cluster import reserve
from quantfair.orchestrator.planning.plan import TIMED_OUT, PlannedTrial
from quantfair.orchestrator.planning.runtimes import fail, read_end
from quantfair.orchestrator.trials.outcome import TrialOutcome
from quantfair.results import Store, WriteError

REPORT_EVERY_S = 1.0
GRACE_S = 10.0  # after its time a trial that holds the interpreter ends with its process


class SweepWorker(tune.Trainable):
    """Runs one bundle; a worker that is used again gets its next bundle through `reset_config`.

    The trials run in a thread beside the one that Tune asks for results, so that a long one is heard of while it runs.
    It is a daemon: a worker that is told to end does not wait for it.
    """

    run_trial: RunTrial

    def __repr__(self) -> str:
        """What the Ray dashboard calls this worker for as long as it lives: the sweep, and what it began with."""
        return f"{self.config['sweep']}: {self.config['name']}"

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return what Ray sets aside for a bundle."""
        return reserve(Resources(**config["resources"]))

    def setup(self, config: dict[str, Any]) -> None:
        """Take a bundle."""
        self.store, self.resources = Store.open(config["store"]), Resources(**config["resources"])
        self.timeout_s: float | None = config["timeout_s"]
        trials = unpack(config["trials"])
        self.events: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self.present: tuple[PlannedTrial, float] | None = None  # what runs, and since when
        self.failure: BaseException | None = None
        self.is_known = False  # whether the driver knows that this bundle has a worker
        self.thread = Thread(target=self._run, args=(trials,), daemon=True)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next bundle."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Begin, and say so; later wait for about a second and report the events since the last report."""
        if not self.is_known:
            self.is_known = True
            return {"events": [], "done": False}  # from now on silence says that a trial holds the interpreter
        if self.thread.ident is None:
            self.thread.start()
        self.thread.join(REPORT_EVERY_S)
        done = not self.thread.is_alive()
        if self.failure is not None:
            raise self.failure
        self._end_if_too_long()
        return {"events": [self.events.get() for _ in range(self.events.qsize())], "done": done}

    def _run(self, trials: list[PlannedTrial]) -> None:
        try:
            for trial in trials:
                self._run_one(trial)
        except WriteError as error:  # not the trial's own: its results have no place
            self.events.put(("cannot_write", str(error)))
        except BaseException as error:  # Tune hears of it from `step`
            self.failure = error
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _run_one(self, trial: PlannedTrial) -> None:
        """Run a trial, unless it is at its end: then it got there before this bundle's last worker died."""
        status = read_end(trial, self.store)
        if status is not None:
            self.events.put(("finished", TrialOutcome(trial.trial_id, status)))
            return
        self.events.put(("started", trial.trial_id))
        self.present = trial, time.monotonic()
        if self.timeout_s is not None:
            faulthandler.dump_traceback_later(self.timeout_s + GRACE_S, exit=True)
        outcome = type(self).run_trial(trial, self.store, self.resources, partial(self._hear, trial.trial_id))
        self.present = None
        self.events.put(("finished", outcome))

    def _end_if_too_long(self) -> None:
        """Write a failed row for a trial whose time is up, and end this process: a thread cannot be ended."""
        present = self.present
        if present is None or self.timeout_s is None or time.monotonic() - present[1] <= self.timeout_s:
            return
        trial, began = present
        if read_end(trial, self.store) is not None:  # it has just ended by itself
            return
        frame = sys._current_frames().get(self.thread.ident or 0)
        place = "".join(traceback.format_stack(frame)) if frame else ""
        error = f"{TIMED_OUT}: ran longer than retry.timeout_s = {self.timeout_s:g}"
        self.store.add_to_log(trial.trial_id, f"{error}; it was here:\n{place}")
        fail(trial, self.store, error, traceback=place, total_s=time.monotonic() - began)
        os._exit(1)

    def _hear(self, trial_id: str, text: str) -> None:
        self.events.put(("training", trial_id, text))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune calls it after `done` even when no checkpoints are asked for; without it every bundle fails."""


def pack(trials: Iterable[PlannedTrial]) -> bytes:
    """Return trials as Tune's configuration carries them: small, since it keeps all of them and sends them around."""
    return zlib.compress("\n".join(trial.model_dump_json() for trial in trials).encode())


def unpack(data: bytes) -> list[PlannedTrial]:
    """Return what `pack` was given."""
    return [PlannedTrial.model_validate_json(text) for text in zlib.decompress(data).decode().split("\n")]


def make_worker(run: RunTrial) -> type[SweepWorker]:
    """Return a worker that runs trials so."""
    return type("SweepWorker", (SweepWorker,), {"run_trial": staticmethod(run)})
