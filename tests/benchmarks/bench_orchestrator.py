"""What scheduling costs: the overhead of a sweep, on two Ray workers and inline. One JSON document comes last.

Every part runs in a process of its own (`--part NAME`), so that memory is the part's and Tune's loggers can be on for
its own grid. Clocks start with the first trial. Work is simulated; the planner, the searcher, the store are real.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantfair.orchestrator.config.spec import ResourcesByMethod, Retry
from quantfair.orchestrator.executors.inline import run_inline
from quantfair.orchestrator.executors.progress import Progress
from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.results import Store

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))


def run_simulated(n_trials: int, folder: Path, *, work: Callable[[], None] = lambda: None, a_stage: int = 100) -> Any:
    """Run as many trials on Ray; return what ran."""
    from simulated_work import make_sweep, make_work, plan_sweep, read_log

    from quantfair.orchestrator.executors.ray_tune import run_ray

    plan = plan_sweep(make_sweep(n_trials, a_stage=a_stage))
    queue = BundleQueue(plan, done=[], resources=ResourcesByMethod())
    progress = Progress(queue)
    store = Store.open(str(folder / "store"))
    log = folder / "log"
    run_ray(queue, store, progress, retry=Retry(), run=make_work(log, work))
    assert not queue.unfinished
    assert store.trial_ids() == {trial.trial_id for trial in plan}
    return plan, read_log(log)


def measure_second_long(folder: Path) -> dict[str, Any]:
    """Makespan of 40 trials of 1 s of CPU work over work / workers."""
    from functools import partial

    from simulated_work import burn_cpu

    _, ran = run_simulated(40, folder, work=partial(burn_cpu, 1.0), a_stage=10)
    makespan = max(r.ended for r in ran) - min(r.began for r in ran)
    work = sum(r.ended - r.began for r in ran)
    return {"makespan_s": makespan, "work_s": work, "over_ideal": makespan / (work / 2), **_shares(ran)}


def measure_no_op(folder: Path, n_trials: int) -> dict[str, Any]:
    """Milliseconds a trial that only writes its row; the driver's peak memory; how often each stage was trained."""
    plan, ran = run_simulated(n_trials, folder)
    wall = max(r.ended for r in ran) - min(r.began for r in ran)
    n_stages = sum(trial.method == "fp32" for trial in plan)
    return {
        "ms_a_trial": 1000 * wall / n_trials,
        "driver_peak_mb": _peak_mb(),
        "fp32_trainings_over_stages": sum(r.method == "fp32" for r in ran) / n_stages,
        "times_a_trial_ran": len(ran) / n_trials,
        **_shares(ran),
    }


def measure_tune_grid(folder: Path, n_trials: int) -> dict[str, Any]:
    """The same by Tune's own grid search: a trial for each value, actors used again, its default loggers."""
    import ray
    from ray import tune
    from simulated_work import make_sweep, make_work, plan_sweep, read_log

    from quantfair.orchestrator.config.spec import Resources

    trials, log, store = plan_sweep(make_sweep(n_trials)), folder / "log", str(folder / "store")
    work = make_work(log)

    class GridTrainable(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.index = config["index"]

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            work(ray.get(shared)[self.index], Store.open(store), Resources(), lambda text: None)
            return {"done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

    ray.init(
        address="local", num_cpus=2, object_store_memory=150_000_000, log_to_driver=False, logging_level=logging.ERROR
    )
    shared = ray.put(trials)
    tune.Tuner(
        tune.with_resources(GridTrainable, {"cpu": 1}),
        param_space={"index": tune.grid_search(list(range(n_trials)))},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(name="grid", storage_path=str(folder), verbose=0),
    ).fit()
    ray.shutdown()
    ran = read_log(log)
    assert len(ran) == n_trials
    wall = max(r.ended for r in ran) - min(r.began for r in ran)
    return {"ms_a_trial": 1000 * wall / n_trials, "driver_peak_mb": _peak_mb(), **_shares(ran)}


def measure_inline(folder: Path) -> dict[str, Any]:
    """Milliseconds a trial beside its work, in this process."""
    from simulated_work import make_sweep, make_work, plan_sweep, read_log

    plan = plan_sweep(make_sweep(500))
    queue = BundleQueue(plan, done=[], resources=ResourcesByMethod())
    progress = Progress(queue)
    began = time.perf_counter()
    run_inline(queue, Store.open(str(folder)), progress, retry=Retry(), run=make_work(folder / "log"))
    wall = time.perf_counter() - began
    ran = read_log(folder / "log")
    return {"ms_beside_work": 1000 * (wall - sum(r.ended - r.began for r in ran)) / len(plan)}


def measure_again(folder: Path) -> dict[str, Any]:
    """Seconds of `sweep` for a finished store of 1,000 trials, from the start of the process to its end."""
    from simulated_work import fill_store

    fill_store(folder, n_trials=1000)
    words = ["sweep", str(folder / "sweep.toml"), "--store", str(folder / "store")]
    _run_cli(words)  # builds tables and page
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert "Nothing to run" in _run_cli(words)
        seconds.append(time.perf_counter() - began)
    return {"seconds": sorted(seconds)}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "40 trials of 1 s": measure_second_long,
    "200 no-op trials": lambda folder: measure_no_op(folder, 200),
    "2000 no-op trials": lambda folder: measure_no_op(folder, 2000),
    "2000 by Tune's grid": lambda folder: measure_tune_grid(folder, 2000),
    "inline": measure_inline,
    "finished sweep of 1000 again": measure_again,
}


def _run_cli(words: list[str]) -> str:
    command = [sys.executable, "-m", "orchestrator", *words]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def _shares(ran: list[Any]) -> dict[str, Any]:
    return {"trials_by_worker": sorted(Counter(r.pid for r in ran).values())}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run every part, each in a process of its own; or the one that is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=PARTS)
    part = parser.parse_args().part
    if part:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(PARTS[part](Path(folder))))
        return
    figures = {}
    for name in PARTS:
        command = [sys.executable, __file__, "--part", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, figures[name], flush=True)
    no_op = figures["2000 no-op trials"]["ms_a_trial"]
    ratios = {
        "tune_grid_over_ours": figures["2000 by Tune's grid"]["ms_a_trial"] / no_op,
        "overhead_2000_over_200": no_op / figures["200 no-op trials"]["ms_a_trial"],
    }
    print(json.dumps({"cpus": os.cpu_count(), "load": os.getloadavg(), **figures, "ratios": ratios}))


if __name__ == "__main__":
    main()
