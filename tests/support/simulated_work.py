"""Work that trains nothing: plans of any size through the real planner, and what stands in for `run_trial`.

Every piece of work leaves a line in a file, so that a test can count what ran, where and when, whoever was killed.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ray import cloudpickle

from quantfair.datasets import load_dataset
from quantfair.orchestrator.config.spec import Resources, Retry, SweepSpec, parse_sweep
from quantfair.orchestrator.executors.events import RunTrial
from quantfair.orchestrator.executors.inline import run_inline
from quantfair.orchestrator.executors.progress import Progress
from quantfair.orchestrator.planning.manifest import make_manifest
from quantfair.orchestrator.planning.plan import PlannedTrial, make_plan
from quantfair.orchestrator.planning.request import make_queue, read_state
from quantfair.orchestrator.trials.evaluation import list_evaluated, score, write_samples
from quantfair.orchestrator.trials.outcome import TrialOutcome
from quantfair.results import Store, make_predictions

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not find this file
ROOT = Path(__file__).resolve().parent.parent.parent


class Ran(NamedTuple):
    """One piece of work: who did it, which trial, and when (seconds of the machine's clock)."""

    pid: int
    trial_id: str
    method: str
    began: float
    ended: float


def make_sweep(n_trials: int, *, a_stage: int = 100) -> SweepSpec:
    """Return a sweep of `n_trials`: one fp32 and `a_stage` - 1 PTQ trials for each of as many seeds as it takes."""
    observers = [round(0.9 + i / 10_000, 4) for i in range(a_stage - 1)]
    raw: dict[str, Any] = {
        "name": "simulated",
        "seeds": list(range(n_trials // a_stage)),
        "experiments": [
            {
                "dataset": {"name": "digits", "task": "digit", "test_share": 0.5},
                "model": {"name": "small_cnn"},
                "train": {"epochs": 1, "lr": 0.01},
            }
        ],
        "quant": [{"method": "ptq", "act_observer": "percentile", "percentile": observers}],
    }
    return parse_sweep(raw)


def plan_sweep(sweep: SweepSpec) -> tuple[PlannedTrial, ...]:
    """Return its trials, of data that nobody loads."""
    return make_plan(sweep, {experiment.dataset: "0123456789abcdef" for experiment in sweep.experiments})


def write_sweep(sweep: SweepSpec, file: Path) -> None:
    """Write a sweep as the TOML file that it could have been read from."""
    quant = [f"[[quant]]\n{_toml(block)}" for block in sweep.raw["quant"]]
    experiments = [f"[[experiments]]\n{_toml(block)}" for block in sweep.raw["experiments"]]
    head = _toml({name: sweep.raw[name] for name in ("name", "seeds")})
    file.write_text("\n".join([head, *experiments, *quant]))


def _toml(table: dict[str, Any]) -> str:
    def say(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {say(inner)}" for key, inner in value.items()) + "}"
        return json.dumps(value)

    return "".join(f"{key} = {say(value)}\n" for key, value in table.items())


def fill_store(folder: Path, *, n_trials: int) -> Store:
    """Run `folder`/sweep.toml, written here, with answers that are made up; return the store `folder`/store."""
    sweep = make_sweep(n_trials)
    write_sweep(sweep, folder / "sweep.toml")
    request = read_state(str(folder / "sweep.toml"), (), str(folder / "store"))
    request.store.write_manifest(make_manifest(request.sweep, request.plan))
    queue = make_queue(request)
    run_inline(queue, request.store, Progress(queue), retry=Retry(), run=answer)
    return request.store


def answer(trial: PlannedTrial, store: Store, _: Resources, watch: Callable[[str], None]) -> TrialOutcome:
    """Leave all that a trial leaves, with logits that are right for about 90 % of the images."""
    dataset = _load(trial.dataset)
    indices, splits_N = list_evaluated(dataset)
    labels_N, noise = dataset.labels_N[indices], np.random.default_rng(int(trial.trial_id, 16))
    logits_NK = noise.normal(size=(len(indices), len(dataset.class_names))).astype(np.float32)
    logits_NK[np.arange(len(indices)), labels_N] += 3
    write_samples(dataset, store)
    predictions = make_predictions(
        logits_NK,
        labels_N,
        trial_id=trial.trial_id,
        runtime="torch",
        sample_ids_N=indices,
        splits_N=splits_N,
        reference_logits_NK=logits_NK if trial.reference_trial_id else None,
        keep_logits=trial.method in ("fp32", "fp32_ft"),
    )
    store.write_predictions(trial.trial_id, "torch", predictions)
    store.write_layers(trial.trial_id, [{"trial_id": trial.trial_id, "layer": "fc"}])
    store.write_stage(trial.trial_id, b"no weights")
    row = {**trial.columns(), "status": "ok", "total_s": 1.0, "device": "cpu", **score(predictions, dataset)}
    store.write_trial(row)
    return TrialOutcome(trial.trial_id, "ok", 1.0)


_load = lru_cache(load_dataset)


def make_work(log: Path, work: Callable[[], None] = lambda: None) -> RunTrial:
    """Return what does `work`, writes the trial's row durably, and leaves a line in `log`."""
    return partial(_run, log, work)


def run_apart(call: Callable[[], Any]) -> Any:
    """Make a call in a process of its own, since Ray leaves threads behind; return or raise what comes of it."""
    code = (
        "import pickle, sys\n"
        "call = pickle.load(sys.stdin.buffer)\n"
        "try:\n    came = call(), None\n"
        "except Exception as error:\n    came = None, error\n"
        "print()\nprint(pickle.dumps(came).hex(), flush=True)\n"
    )
    command = [sys.executable, "-c", code]
    payload = cloudpickle.dumps(call)  # pyright: ignore[reportPrivateImportUsage]
    done = subprocess.run(command, input=payload, capture_output=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    value, error = pickle.loads(bytes.fromhex(done.stdout.split()[-1].decode()))
    if error is not None:
        raise error
    return value


def burn_cpu(seconds: float) -> None:
    """Use one core for as many seconds of its time."""
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


def kill_this_process() -> None:
    """End as the kernel ends a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def read_log(log: Path) -> list[Ran]:
    """Return all that ran, in the order in which it ended."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [Ran(int(p), i, m, float(b), float(e)) for p, i, m, b, e in map(str.split, lines)]


def _run(
    log: Path, work: Callable[[], None], trial: PlannedTrial, store: Store, _: Resources, watch: Callable[[str], None]
) -> TrialOutcome:
    began = time.time()
    work()
    store.write_trial({**trial.columns(), "status": "ok", "total_s": time.time() - began})
    ended = time.time()
    with log.open("a") as file:
        file.write(f"{os.getpid()} {trial.trial_id} {trial.method} {began:.6f} {ended:.6f}\n")
    return TrialOutcome(trial.trial_id, "ok", ended - began)
