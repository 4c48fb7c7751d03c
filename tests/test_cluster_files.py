"""The files for Kubernetes, `ray up`, Slurm, Prometheus and Grafana: each is what its reader takes."""

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from cluster_nodes import LIMIT_S, ROOT, environment, own_folder
from processes import start_process, wait_until
from test_sweep import SWEEP

from quantfair.orchestrator.commands.app import sweep
from quantfair.orchestrator.config.spec import load_sweep
from quantfair.results import Store

FOLDER = ROOT / "orchestrator" / "cluster"
METRICS = ROOT / "orchestrator" / "executors" / "ray_metrics.py"
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.suffix not in ("", ".py", ".pyc"))


def read_yaml(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def test_an_install_has_every_file() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    found = {path.name for pattern in patterns["quantfair.orchestrator.cluster"] for path in FOLDER.glob(pattern)}
    assert found == set(NAMES)
    assert files("quantfair.orchestrator.cluster").joinpath("slurm.sh").is_file()


def test_the_walk_through_names_every_file_and_the_readme_names_it() -> None:
    text = (FOLDER / "README.md").read_text()
    assert not [name for name in NAMES if name != "README.md" and name not in text]
    assert "orchestrator/cluster/README.md" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["ray-up.yaml", "ray-up-on-premise.yaml"])
def test_ray_up_takes_the_file(name: str) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    config = read_yaml(name)
    jsonschema.validate(config, schema)
    types = config.get("available_node_types", {})
    assert not types or config["head_node_type"] in types
    starts = [" ".join(config[f"{kind}_start_ray_commands"]) for kind in ("head", "worker")]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in starts[0]
    assert "--address=$RAY_HEAD_IP:6379" in starts[1]


def test_the_ray_job_has_the_structure_that_kuberay_asks_for() -> None:
    job = read_yaml("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["backoffLimit"] >= 1  # runs again, and goes on
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    claims = []
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {"name", "image", "env", "resources", "volumeMounts"} <= container.keys()
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        claims += [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]]
    assert len(set(claims)) == 1
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in groups[1:])
    assert "nvidia.com/gpu" in groups[2]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_the_ray_job_asks_for_a_sweep_that_exists_into_a_store_on_the_shared_volume() -> None:
    job = read_yaml("rayjob.yaml")["spec"]
    python, minus_m, module, command, name, *words = shlex.split(job["entrypoint"])
    assert (python, minus_m, module, command) == ("python", "-m", "orchestrator", sweep.__name__)
    store = words[words.index("--store") + 1]
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert store.startswith(head["volumeMounts"][0]["mountPath"] + "/")
    assert load_sweep(name, [word for word in words if "=" in word]).head.resources.ptq.gpu == 0.25


def test_prometheus_reads_the_list_of_nodes_that_ray_writes() -> None:
    (job,) = read_yaml("prometheus.yml")["scrape_configs"]
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    assert Path(job["file_sd_configs"][0]["files"][0]).name == PROMETHEUS_SERVICE_DISCOVERY_FILE


def exported_names() -> set[str]:
    """The names of our numbers as Prometheus gets them: Ray adds `ray_` to all and `_total` to counters."""
    calls = [node for node in ast.walk(ast.parse(METRICS.read_text())) if isinstance(node, ast.Call)]
    kinds = {"Gauge": "", "Counter": "_total"}
    return {
        f"ray_{ast.literal_eval(call.args[0])}{kinds[call.func.id]}"
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id in kinds
    }


def expressions() -> Iterator[str]:
    for panel in json.loads((FOLDER / "grafana.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_grafana_shows_every_number_that_a_sweep_publishes_and_no_other() -> None:
    assert {name for text in expressions() for name in re.findall(r"ray_\w+", text)} == exported_names()


def test_every_panel_is_of_the_chosen_sweep_and_has_its_place() -> None:
    dashboard = json.loads((FOLDER / "grafana.json").read_text())
    assert all('sweep=~"$sweep"' in text for text in expressions())
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "sweep"}
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in dashboard["panels"]]
    assert len(set(places)) == len({panel["id"] for panel in dashboard["panels"]}) == len(places)


SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
[[ "$*" == *--head* ]] || set -- "$@" --temp-dir="$NODE_FOLDER"
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
[[ $1 == show ]] && printf 'localhost\\nlocalhost\\n'
[[ $1 == requeue ]] && echo "$2" >> "$REQUEUED"
exit 0
"""


def start_slurm(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The script as Slurm starts it, on two nodes that are this machine."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NODELIST": "localhost[1-2]", "SLURM_JOB_ID": str(os.getpid())}
    slurm |= {"SLURM_CPUS_PER_TASK": "1", "REQUEUED": str(folder / "requeued"), "NODE_FOLDER": own_folder()}
    base = environment(**slurm)
    return start_process(
        ["bash", str(FOLDER / "slurm.sh"), *words],
        env={**base, "PATH": f"{folder}{os.pathsep}{base['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("getent") is None, reason="the script asks getent for the address of the head")
def test_a_sweep_under_slurm_stops_when_it_is_told_asks_for_its_requeue_and_then_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(SWEEP)
    store = Store.open(str(tmp_path / "store"))
    words = (str(file), "experiments.0.train.epochs=60", "--store", store.location)
    script = start_slurm(tmp_path, *words)
    wait_until(lambda: store.trial_ids() or script.poll() is not None, "a trial is done")
    script.send_signal(signal.SIGTERM)
    said = script.communicate(timeout=LIMIT_S)[0]
    assert script.returncode == 130, said
    assert "the same command goes on from here" in said
    assert (tmp_path / "requeued").read_text().split() == [str(os.getpid())]
    finished = store.trial_ids()
    assert 0 < len(finished) < 15
    again = start_slurm(tmp_path, *words)
    said = again.communicate(timeout=LIMIT_S)[0]
    assert again.returncode == 0, said
    assert f"{15 - len(finished)} of 15 trials to run" in said
    assert "15 of 15 trials ok" in said


def test_slurm_reads_the_directives_that_a_preemption_needs() -> None:
    text = (FOLDER / "slurm.sh").read_text()
    head = text[: text.index("set -euo pipefail")]
    directives = re.findall(r"^#SBATCH --([a-z-]+)", head, re.MULTILINE)
    assert {"requeue", "signal", "open-mode", "nodes"} <= set(directives)
    subprocess.run(["bash", "-n", str(FOLDER / "slurm.sh")], check=True)
