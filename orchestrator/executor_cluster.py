"""Ray and its machines: to connect, to count what runs at once, and to say what a trial reserves."""

import logging
import os
import signal

import ray
from ray import tune
from ray.job_config import JobConfig

from orchestrator.problems import Problem, RequestError
from orchestrator.spec import Resources, ResourcesByMethod

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints banners even at verbose=0
    "RAY_AUTH_MODE": "disabled",  # else ray.init writes a token into the home directory
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # trials keep the driver's working directory
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C raises KeyboardInterrupt here, as everywhere
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # the store resumes a sweep, not Tune
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # the searcher keeps them few; Tune alone starts workers one after another
    "TUNE_RESULT_BUFFER_LENGTH": "1",
}
OBJECT_STORE_BYTES = 150_000_000


def connect(address: str | None, *, job: dict[str, str]) -> str | None:
    """Start a Ray that lives as long as this process, or join the one at `address`; return its dashboard's URL.

    `job` is what the dashboard says of this driver.
    """
    os.environ.update(ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what is lost with a worker is told in our own words
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "job_config": JobConfig(metadata=job)}
    if address is None:
        context = ray.init(address="local", object_store_memory=OBJECT_STORE_BYTES, **quiet)
    else:
        context = ray.init(address=address, **quiet)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has put its own in place, which ends us at once
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


def count_slots(resources: ResourcesByMethod, methods: set[str]) -> int:
    """Return how many trials of these methods Ray runs at once. Raises RequestError for a shape that fits no node."""
    shapes: dict[str, Resources] = {name: shape for name, shape in dict(resources).items() if name in methods}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    problems = [
        Problem(f"resources.{method}", f"asks for {shape}, and no node has that much: {_summary(nodes)}. Ask for less.")
        for method, shape in shapes.items()
        if not any(_slots(node, shape) >= 1 for node in nodes)
    ]
    if problems:
        raise RequestError(problems, "the resources")
    return max(sum(int(_slots(node, shape)) for node in nodes) for shape in shapes.values())


def reserve(resources: Resources) -> tune.PlacementGroupFactory:
    """Return what Ray sets aside for a trial."""
    return tune.PlacementGroupFactory([{"CPU": resources.cpu, "GPU": resources.gpu}])


def _slots(node: dict[str, float], shape: Resources) -> float:
    slots = node.get("CPU", 0) / shape.cpu
    return min(slots, node.get("GPU", 0) / shape.gpu) if shape.gpu else slots


def _summary(nodes: list[dict[str, float]]) -> str:
    return "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
