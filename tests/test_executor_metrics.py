"""What Ray shows of a sweep while it runs: numbers for Prometheus, and names that people know."""

import json
import os
import re
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
import ray
import ray.cloudpickle
from ray.util.state import list_actors
from test_plan import plan_of

from quantfair.orchestrator.config.spec import Resources, ResourcesByMethod, Retry
from quantfair.orchestrator.executors.progress import Progress
from quantfair.orchestrator.executors.ray_tune import run_ray
from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.trials.outcome import TrialOutcome
from quantfair.results import Store


def run_fake(trial: PlannedTrial, store: Store, resources: Resources, watch: Callable[[str], None]) -> TrialOutcome:
    """Seed 0: fp32 is lost once, and the last one waits until the test has looked. Seed 1: fp32 fails: nothing else."""
    lost, seen, begun = (Path(store.location, name) for name in ("lost", "seen", "begun"))
    begun.mkdir(exist_ok=True)
    (begun / trial.trial_id).touch()
    if trial.method == "fp32" and trial.seed == 1:
        return TrialOutcome(trial.trial_id, "failed", 1.0, error="RuntimeError: no luck", stage_s={"train_s": 0.5})
    if trial.method == "fp32" and not lost.exists():
        time.sleep(2.5)  # long enough to be heard of
        lost.touch()
        raise RuntimeError("as if the worker were lost")
    is_last = len(list(begun.iterdir())) == 19
    while is_last and not seen.exists():
        time.sleep(0.1)
    drop = (4.5, "label 7") if trial.method == "ptq" else (None, None)
    return TrialOutcome(
        trial.trial_id, "ok", 3.0, *drop, stage_s={"train_s": 0.0, "calibrate_s": 0.5, "evaluate_s": 1.0}
    )


EACH_S = {"calibrate": 0.5, "evaluate": 1.0}  # of a trial that is ok
OF_SEED_0 = {"fp32": 1, "ptq": 10, "fp32_ft": 1, "qat": 6}


def is_last_one_running(metrics: dict[tuple[str, ...], float]) -> bool:
    """Whether all but one trial of seed 0 are told as finished, and that one as running."""
    told = {key[1:]: n for key, n in metrics.items() if key[0] == "ray_quantfair_trials"}
    counts = {state: sum(n for key, n in told.items() if key[0] == state) for state in ("ok", "running", "failed")}
    return counts == {"ok": 17, "running": 1, "failed": 1}


class Listening(Progress):
    said = ""

    def say(self, text: str) -> None:
        self.said += f"{text}\n"


class Sight(NamedTuple):
    """What Ray showed while the sweep ran."""

    metrics: dict[tuple[str, ...], float]
    jobs: list[dict[str, Any]]
    actors: list[Any]


def read_metrics() -> dict[tuple[str, ...], float]:
    """The numbers of the sweep on Ray's port for Prometheus, by name and the values of our tags."""
    node = ray.nodes()[0]
    with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as page:
        lines = [line for line in page.read().decode().splitlines() if line.startswith("ray_quantfair_")]
    found = {}
    for line in lines:
        tags = dict(re.findall(r'(\w+)="([^"]*)"', line))
        assert tags["sweep"] == "faces"
        key = (line.partition("{")[0], *(tags[tag] for tag in ("state", "stage", "method", "group") if tag in tags))
        found[key] = float(line.rpartition(" ")[2])
    return found


def look(progress: Listening, folder: Path, sights: list[Sight]) -> None:
    """Look once only one trial is left, or after two minutes, and let the sweep end."""
    try:
        until, metrics = time.monotonic() + 120, {}
        while not is_last_one_running(metrics) and time.monotonic() < until:
            time.sleep(0.5)
            metrics = read_metrics() if "dashboard" in progress.said else {}
        url = re.findall(r"Ray dashboard: (http://[\d.:]+)", progress.said)[0]
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
        asked = urllib.request.Request(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked) as page:
            jobs = json.load(page)
        sights.append(Sight(metrics, jobs, list_actors(ray.get_runtime_context().gcs_address, detail=True)))
    finally:
        (folder / "seen").touch()


@pytest.fixture(scope="module")
def sight(tmp_path_factory: pytest.TempPathFactory) -> Sight:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    folder = tmp_path_factory.mktemp("store")
    queue = BundleQueue(plan_of("seeds=[0, 1]"), done=[], resources=ResourcesByMethod())
    progress, sights = Listening(queue, name="faces", before={("ptq", "ok"): 0}), []
    listener = Thread(target=look, args=(progress, folder, sights))
    listener.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")  # ten seconds otherwise
        run_ray(queue, Store.open(str(folder)), progress, retry=Retry(), run=run_fake)
    listener.join()
    return sights[0]


def test_trials_are_counted_by_method_and_state(sight: Sight) -> None:
    counts = {key[1:]: n for key, n in sight.metrics.items() if key[0] == "ray_quantfair_trials"}
    assert sum(counts.values()) == 36
    for method, n in OF_SEED_0.items():
        assert counts["ok", method] + counts["running", method] == n
    assert sum(counts["running", method] for method in OF_SEED_0) == 1
    assert counts["failed", "fp32"] == 1
    assert (counts["blocked", "ptq"], counts["blocked", "fp32_ft"], counts["blocked", "qat"]) == (10, 1, 6)


def test_seconds_are_counted_by_stage_and_method(sight: Sight) -> None:
    seconds = {key[1:]: s for key, s in sight.metrics.items() if key[0] == "ray_quantfair_stage_seconds_total"}
    ok = {key[2]: n for key, n in sight.metrics.items() if key[:2] == ("ray_quantfair_trials", "ok")}
    expected = {(stage, method): each * n for method, n in ok.items() for stage, each in EACH_S.items() if n}
    assert seconds == {("train", "fp32"): 0.5, **expected}


def test_retries_and_the_largest_drop_are_there(sight: Sight) -> None:
    assert sight.metrics["ray_quantfair_retries_total",] == 1
    assert sight.metrics["ray_quantfair_largest_drop_pp", "label 7"] == 4.5


def test_the_ray_dashboard_names_the_sweep_its_store_and_what_workers_began_with(sight: Sight) -> None:
    (job,) = sight.jobs
    assert job["metadata"]["name"] == "quantfair faces"
    assert Path(job["metadata"]["store"], "seen").exists()
    assert {actor.class_name for actor in sight.actors} == {"SweepWorker"}
    names = [actor.repr_name for actor in sight.actors if actor.state == "ALIVE"]
    assert names
    assert all(re.match(r"faces: (fp32|ptq|qat)_.*seed_\d_\(config_\w{6}\)(_\+\d+)?$", name) for name in names)
