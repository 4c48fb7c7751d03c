"""Ray nodes on this machine for the tests of clusters, and drivers that use them. Every process is ended by its id."""

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from processes import LIMIT_S, find_family, start_process
from ray.cluster_utils import Cluster

from quantfair.results import Store

ROOT = Path(__file__).resolve().parent.parent.parent
DRIVER = Path(__file__).resolve().with_name("simulated_driver.py")
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
NODE: Any = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
AS_A_JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}  # nothing is shipped: the workers find the program on this disk
RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    """This process's, without an address of a cluster; the head finds this Python and this checkout first."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    modules = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, **ENVIRONMENT, "PATH": path, "PYTHONPATH": modules, **more}


@contextmanager
def started(*command: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its children, all of which end with the block."""
    process = subprocess.Popen(
        command, env=environment(**more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        family = find_family(process.pid)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        for pid in family:  # nodes of an autoscaler leave their log monitors behind
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def own_folder() -> str:
    """A folder with a short path (it holds sockets), removed when the tests end."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def add_node(cluster: Cluster, **node: Any) -> Any:
    """A node with a folder of its own for what Ray ships: nodes that share one take it away from each other."""
    return cluster.add_node(**NODE, temp_dir=own_folder(), **node)


def start_sweep(*words: str) -> subprocess.Popen[str]:
    """The command `sweep`, as a process."""
    return _start("-m", "orchestrator", "sweep", *words)


def start_simulation(
    store: Path, address: str, words: list[str], *, variables: dict[str, str] | None = None, **asked: Any
) -> subprocess.Popen[str]:
    """A sweep whose trials only sleep, as a process, with more environment variables if need be."""
    request = {"words": words, "store": str(store), "address": address, **asked}
    return _start(str(DRIVER), json.dumps(request), **(variables or {}))


def _start(*words: str, **more: str) -> subprocess.Popen[str]:
    return start_process(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output."""
    try:
        said = process.communicate(timeout=LIMIT_S)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[0] + "\n(ended by the test: it took too long)"
    return process.returncode, said


def places(store: Path) -> dict[str, list[dict[str, Any]]]:
    """Where and when the simulated trials of each method ran."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in Store.open(str(store)).read_trials().to_pylist():
        found.setdefault(row["method"], []).append(json.loads(row["device"]))
    return found


def most_at_once(spans: list[dict[str, Any]]) -> int:
    """The largest number of trials that ran at one time."""
    return max(sum(one["began"] <= other["began"] < one["ended"] for one in spans) for other in spans)
