"""Ray and its nodes: to connect, to count what runs at once, and to say what a trial reserves."""

import logging
import os
import shlex
import signal
import socket
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import ray
import yaml
from ray import tune
from ray._private.services import canonicalize_bootstrap_address_or_die as find_address
from ray._private.state import state as ray_state
from ray.exceptions import AuthenticationError
from ray.job_config import JobConfig

from quantfair.orchestrator.checkout import find_checkout, find_command
from quantfair.orchestrator.config.errors import ConfigProblem, RequestError
from quantfair.orchestrator.config.spec import Resources, ResourcesByMethod
from quantfair.orchestrator.executors.ray_local import (
    AUTH_MODE,
    TOKEN,
    TOKEN_PATH,
    OpenDoorError,
    set_variable,
    start_local,
    undo,
    undo_later,
)
from quantfair.orchestrator.provenance import CODE_VERSION_VARIABLE, find_code_version
from quantfair.orchestrator.text import first_line

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints banners even at verbose=0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # trials keep the driver's working directory
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C raises KeyboardInterrupt here, as everywhere
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # the store resumes a sweep, not Tune
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # the searcher keeps them few; Tune alone starts workers one after another
    "TUNE_RESULT_BUFFER_LENGTH": "1",
}
ANSWER_S = 10.0
OBJECT_STORE_BYTES = 150_000_000
SHIPPED_VARIABLES = ("QUANTFAIR_DATA", "OMP_NUM_THREADS", "AWS_ENDPOINT_URL", "AWS_REGION")
NOT_SHIPPED = ("results/runs", "tests", ".ci", ".venv", ".git", ".links")
USE_CHECKOUT = "orchestrator.checkout.use_checkout"  # by the name that it has before `quantfair` is found
SHIPPED_FOLDER = "_ray_pkg_"  # how Ray calls what it has shipped
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the driver of a submitted job
BOOTSTRAP_FILE = "~/ray_bootstrap_config.yaml"  # where `ray up` leaves its YAML on the head
NO_LIMIT = 1000  # nodes of a type that an autoscaler may add without limit


class Node(NamedTuple):
    """A node that is alive, or one that an autoscaler can add up to `limit` times."""

    name: str
    resources: dict[str, float]
    labels: dict[str, str] | None  # None: not known
    node_id: str | None = None
    limit: int = 1


def connect(address: str | None, *, job: dict[str, str]) -> str | None:
    """Start a Ray that lives as long as this process, or join the one at `address`; return its dashboard's URL.

    `job` is what the dashboard says of this driver.

    Raises:
        RequestError: there is no cluster at `address`, or it is of another version, or this process uses a Ray already.
    """
    if ray.is_initialized():
        remedy = "call `ray.shutdown()` first, or sweep with the executor inline"
        raise RequestError([ConfigProblem("executor", f"finds a Ray that this process uses already: {remedy}.")])
    handler = signal.getsignal(signal.SIGTERM)
    _prepare_process()
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "job_config": JobConfig(metadata=job)}
    try:
        context = _start(quiet) if address is None else _join(address, quiet)
    except BaseException:
        undo()
        raise
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own handler ends us at once
        if handler is not None:  # None: it is not of Python, and Python cannot set it again
            undo_later(signal.signal, signal.SIGTERM, handler)
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


def _prepare_process() -> None:
    """Set Tune up in this process until the end of the sweep: a user's own variables stay as they are."""
    for name, value in ENVIRONMENT.items():
        set_variable(name, value)
    logger = logging.getLogger("ray.tune")
    undo_later(logger.setLevel, logger.level)
    logger.setLevel(logging.CRITICAL)  # what is lost with a worker is told in our own words


def _start(quiet: dict[str, Any]) -> Any:
    try:
        return start_local(object_store_memory=OBJECT_STORE_BYTES, **quiet)
    except AuthenticationError as error:
        message = f"names no token ({error.message}): name a file that holds one, or unset it: a sweep makes its own."
        raise RequestError([ConfigProblem(TOKEN_PATH, message)]) from error
    except OpenDoorError as error:
        message = f"cannot be used: {error}. Install ray 2.60, or sweep with the executor inline."
        raise RequestError([ConfigProblem("executor", message)]) from error


def _join(address: str, quiet: dict[str, Any]) -> Any:
    """Join a cluster whose workers get the program from here."""
    if "://" in address:
        job = f"ray job submit --address URL --working-dir . -- {shlex.join(find_command())} sweep ..."
        message = (
            f"must be `auto` or host:port of a cluster's head, got {address}. From elsewhere submit a job: `{job}`."
        )
        raise RequestError([ConfigProblem("--address", message)])
    try:
        host, _, port = find_address(address).rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S):
            pass  # ray.init would try a dead address for ten minutes
        return ray.init(address=address, runtime_env=_ship(), **quiet)
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        reason = error.message if isinstance(error, AuthenticationError) else first_line(str(error).strip())
        remedy = "name the head of a running cluster of the same versions"
        token = f"If it asks for a token, set {AUTH_MODE}=token, and {TOKEN} or {TOKEN_PATH}."
        message = f"{address} cannot be joined ({reason}): {remedy}. {token}"
        raise RequestError([ConfigProblem("--address", message)]) from error


def _ship() -> dict[str, Any]:
    """Return what the workers of all nodes need to run this program: its files and its variables.

    No node needs an installation. A shipped program goes before an installed one.
    """
    root = find_checkout()
    if JOB_VARIABLE in os.environ:  # Ray has shipped this job's folder, and has set its variables
        is_shipped = root is not None and root.name.startswith(SHIPPED_FOLDER)
        return {"worker_process_setup_hook": USE_CHECKOUT} if is_shipped else {}
    passed_on = {name: os.environ[name] for name in SHIPPED_VARIABLES if name in os.environ}
    variables = {**passed_on, CODE_VERSION_VARIABLE: find_code_version()}
    if root is None:
        package = Path(__file__).resolve().parents[2]  # alone, without the other packages in its folder
        return {"py_modules": [str(package)], "env_vars": variables}
    return {
        "working_dir": str(root),
        "excludes": list(NOT_SHIPPED),
        "env_vars": variables,
        "worker_process_setup_hook": USE_CHECKOUT,
    }


def find_nodes() -> list[Node]:
    """Return the nodes that are alive."""
    return [
        Node(
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})",
            node["Resources"],
            node["Labels"],
            node["NodeID"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def find_node_types() -> list[Node]:
    """Return what an autoscaler can add: what it has told the cluster, or the file that `ray up` leaves on the head."""
    config = ray_state.get_cluster_config()
    groups = config.node_group_configs if config is not None else ()
    told = [Node(group.name, dict(group.resources), None, limit=_limit(group.max_count)) for group in groups]
    return told or _read_bootstrap(Path(BOOTSTRAP_FILE).expanduser())


@cache
def _read_bootstrap(file: Path) -> list[Node]:
    if not file.is_file():
        return []
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    types = config.get("available_node_types", {}).items()
    return [
        Node(name, given.get("resources", {}), given.get("labels", {}), limit=_limit(given.get("max_workers", -1)))
        for name, given in types
    ]


def _limit(max_count: int) -> int:
    return NO_LIMIT if max_count < 0 else max_count


def count_slots(resources: ResourcesByMethod, methods: set[str]) -> int:
    """Return how many trials of these methods can run at once, at least 1, on what is there or could be added."""
    alive, types = find_nodes(), find_node_types()
    shapes = [getattr(resources, method) for method in methods]
    return max([1, *(n_slots(nodes, shape) for nodes in (alive, types) for shape in shapes)])


def n_slots(nodes: Iterable[Node], shape: Resources) -> int:
    """Return how many trials of this shape fit on the nodes at once."""
    return sum(node.limit * _slots(node, shape) for node in nodes)


def reserve(resources: Resources) -> tune.PlacementGroupFactory:
    """Return what Ray sets aside for a trial."""
    bundle = _bundle(resources)
    if not resources.labels:
        return tune.PlacementGroupFactory([bundle])
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[dict(resources.labels)])


def _bundle(shape: Resources) -> dict[str, float]:
    """What a trial takes of a node, in Ray's words; zeros are left out."""
    wanted = {"CPU": shape.cpu, "GPU": shape.gpu, "memory": int(shape.memory_gb * 1e9)}
    if shape.accelerator_type is not None:
        wanted[f"accelerator_type:{shape.accelerator_type}"] = 0.001  # as Ray does it: the node has 1
    return {name: amount for name, amount in wanted.items() if amount}


def _slots(node: Node, shape: Resources) -> int:
    if node.labels is not None and not set(shape.labels) <= set(node.labels.items()):
        return 0
    return min(_times(node.resources.get(name, 0), amount, name == "GPU") for name, amount in _bundle(shape).items())


def _times(there: float, amount: float, is_gpu: bool) -> int:
    """How often an amount fits. A part of a GPU is a part of one: 0.6 fits twice on two of them, not three times."""
    if is_gpu and amount < 1:
        return int(there) * int(1 / amount + 1e-6)
    return int(there / amount + 1e-6)
