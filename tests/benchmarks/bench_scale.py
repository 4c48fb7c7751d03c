"""What many trials cost a driver and a store: `bench_scale.py [TRIALS]`; one JSON document comes last.

The planner, the searcher, the store and the tables are real, the work is simulated: trials of Ray write their row only;
those of the store also predictions (898 test images of digits), layers and a stage. Every part runs in a process of its
own, so that `peak_mb` is the part's. A folder that is given is kept, and what is stored there is not made again.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from quantfair.orchestrator.config.spec import Resources, ResourcesByMethod, Retry
from quantfair.orchestrator.executors.progress import Progress
from quantfair.orchestrator.planning import bundle_queue as schedule
from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.orchestrator.planning.manifest import make_manifest
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.planning.request import read_state
from quantfair.results import Store

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
Figures = dict[str, Any]


def measure_plan(folder: Path, _: int) -> Figures:
    """Seconds from the sweep file to a plan with ids, and to its manifest on the disk."""
    began = time.perf_counter()
    request = _read_request(folder)
    planned = time.perf_counter()
    request.store.write_manifest(make_manifest(request.sweep, request.plan))
    ended = time.perf_counter()
    n_bytes = (folder / "store" / "manifest.json").stat().st_size
    return {"plan_s": planned - began, "manifest_s": ended - planned, "manifest_mb": n_bytes / 1e6}


def measure_searcher(folder: Path, n_trials: int) -> Figures:
    """Milliseconds a trial of the searcher, the queue and the progress, without Ray."""
    from simulated_work import make_sweep, plan_sweep

    from quantfair.orchestrator.executors.ray_tune import PlanSearcher

    plan = plan_sweep(make_sweep(n_trials))
    began = time.perf_counter()
    queue = BundleQueue(plan, done=[], resources=ResourcesByMethod())
    queue.n_slots = 2
    searcher = PlanSearcher(queue, Store.open(str(folder)), [Progress(queue)], retry=Retry())
    searcher.counted = math.inf  # the slots are known
    handed_out, n_bundles = [], 0
    while queue.unfinished:
        while isinstance(searcher.suggest(str(n_bundles)), dict):
            handed_out.append(str(n_bundles))
            n_bundles += 1
        tune_id = handed_out.pop(0)
        for trial in searcher.running[tune_id].trials:
            outcome = (trial.trial_id, "ok", 0.001)
            searcher.on_trial_result(tune_id, {"events": [("started", trial.trial_id), ("finished", outcome)]})
        searcher.on_trial_complete(tune_id)
    return {"ms_a_trial": 1000 * (time.perf_counter() - began) / n_trials, "n_bundles": n_bundles}


def measure_ray(folder: Path, n_trials: int) -> Figures:
    """Milliseconds a trial on Ray Tune, with two workers."""
    from bench_orchestrator import measure_no_op

    with tempfile.TemporaryDirectory(dir=folder) as place:
        return measure_no_op(Path(place), n_trials)


def measure_long_trials(folder: Path, n_trials: int) -> Figures:
    """The same where trials take so long that none shares a bundle, at most 3,000 of them."""
    with patch.multiple(schedule, BUNDLE_S=0, LEAST_BUNDLE_S=0):
        return measure_ray(folder, min(n_trials, 3000))


def measure_fill(folder: Path, _: int) -> Figures:
    """The files and bytes of a full store. They are not synced, since nobody waits for a real trial's."""
    request = _read_request(folder)
    to_run = set(request.progress.to_run)
    left = [trial for trial in request.plan if trial.trial_id in to_run]
    parts = [left[place : place + 500] for place in range(0, len(left), 500)]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(partial(_fill, request.store), parts))
    sizes = [file.stat().st_size for file in (folder / "store").rglob("*") if file.is_file()]
    n_blocks = sum(file.stat().st_blocks for file in (folder / "store").rglob("*"))
    return {"files": len(sizes), "mb": sum(sizes) / 1e6, "mb_on_disk": 512 * n_blocks / 1e6}


def _fill(store: Store, trials: Sequence[PlannedTrial]) -> None:
    from simulated_work import answer

    with patch.object(os, "fsync"):
        for trial in trials:
            answer(trial, store, Resources(), lambda text: None)


def measure_first_status(folder: Path, n_trials: int) -> Figures:
    """`status` where no index is: every row is read from its own file."""
    (folder / "store" / "trials.index.parquet").unlink(missing_ok=True)
    return measure_status(folder, n_trials)


def measure_status(folder: Path, _: int) -> Figures:
    """`status` with the index."""
    return _run_cli("status", str(folder / "store"))


def measure_full_plan(folder: Path, _: int) -> Figures:
    """`plan` of a sweep that is finished."""
    return _run_cli("plan", str(folder / "sweep.toml"), "--store", str(folder / "store"))


def measure_tables(folder: Path, _: int) -> Figures:
    """All tables and the page, from what trials left."""
    from quantfair.results.build import build_tables
    from quantfair.results.page.report import write_report

    store, began = Store.open(str(folder / "store")), time.perf_counter()
    tables = build_tables(store)
    built, tables_mb = time.perf_counter(), _peak_mb()
    write_report(store, tables)
    ended = time.perf_counter()
    return {
        "tables_s": built - began,
        "tables_peak_mb": tables_mb,
        "page_s": ended - built,
        "page_mb": (folder / "store" / "report.html").stat().st_size / 1e6,
        "rows": {name: table.num_rows for name, table in tables.items() if table.num_rows},
        "tables_mb": sum(file.stat().st_size for file in (folder / "store" / "tables").iterdir()) / 1e6,
    }


PARTS: dict[str, Callable[[Path, int], Figures]] = {
    "plan": measure_plan,
    "searcher without Ray": measure_searcher,
    "no-op trials on Ray": measure_ray,
    "a bundle a trial on Ray": measure_long_trials,
    "files": measure_fill,
    "status without an index": measure_first_status,
    "status": measure_status,
    "plan of the full store": measure_full_plan,
    "tables and page": measure_tables,
}


def _read_request(folder: Path) -> Any:
    return read_state(str(folder / "sweep.toml"), (), str(folder / "store"))


def _run_cli(*words: str) -> Figures:
    from quantfair.orchestrator.commands.app import app

    began = time.perf_counter()
    app(list(words), standalone_mode=False)
    return {"seconds": time.perf_counter() - began}


def _peak_mb() -> float:
    """Of this process, and not of the one that started it, which `getrusage` would count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def run_part(name: str, folder: Path, n_trials: int) -> None:
    """Print the figures of one part as JSON."""
    load = os.getloadavg()
    figures = PARTS[name](folder, n_trials)
    print(json.dumps({**figures, "peak_mb": _peak_mb(), "load": [load[0], os.getloadavg()[0]]}))


def run_all(names: Sequence[str], folder: Path, n_trials: int) -> None:
    """Write the sweep, run each part in a process of its own, and print what all of them said."""
    from simulated_work import make_sweep, write_sweep

    write_sweep(make_sweep(n_trials), folder / "sweep.toml")
    result: Figures = {"n_trials": n_trials, "cpus": os.cpu_count()}
    for name in names:
        command = [sys.executable, __file__, str(n_trials), "--folder", str(folder), "--this-process", "--parts", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, result[name], flush=True)
    print(json.dumps(result))


def main() -> None:
    """Run the parts that are named, by default all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trials", type=int, nargs="?", default=2000, help="a multiple of 100")
    parser.add_argument("--folder", type=Path, help="where to keep the store; by default nothing is kept")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--this-process", action="store_true", help="run one part here")
    asked = parser.parse_args()
    if asked.this_process:
        run_part(asked.parts[0], asked.folder, asked.trials)
        return
    with tempfile.TemporaryDirectory() as folder:
        place = (asked.folder or Path(folder)).absolute()
        place.mkdir(parents=True, exist_ok=True)
        run_all(asked.parts, place, asked.trials)


if __name__ == "__main__":
    main()
