"""What is checked before the first trial starts: that it can run wherever Ray may place it.

Every resource shape fits a node; every node that may run a trial runs this very program, sees the store, and has the
data. All that is wrong is said at once.
"""

import hashlib
import platform
import uuid
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import quantfair
from quantfair.datasets import DataError, DatasetSpec, find_dataset_id
from quantfair.orchestrator.config.errors import ConfigProblem, RequestError
from quantfair.orchestrator.config.spec import Resources, ResourcesByMethod
from quantfair.orchestrator.executors.ray_cluster import SHIPPED_FOLDER, Node, find_node_types, find_nodes, n_slots
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.quant import ENGINE_VERSION, ModelSpec, fingerprint_weights
from quantfair.results import Store

ANSWER_S = 60.0
DATA_S = 900.0  # the first use of a data set converts it, and may download it
PACKAGES = ("torch", "ray", "numpy", "pyarrow")
ROOMS = ("orchestrator", "quant", "datasets", "results")
# The package's own files stand at its top already; programs that are shipped with models lie in the stores.
NO_PROGRAM = ("orchestrator/package/", "results/runs/")
ASK_FOR_LESS = "Ask for less, start such a node, or wait for one with --wait-for-nodes."
SHARED = "a folder that all nodes share, or a URI such as s3://bucket/folder"


class Need(NamedTuple):
    """What a trial of some method reads, and the id of its content by the plan."""

    method: str
    spec: DatasetSpec | ModelSpec
    content_id: str


def check_cluster(
    trials: Sequence[PlannedTrial],
    resources: ResourcesByMethod,
    store: Store,
    *,
    is_local: bool,
    waits: bool,
) -> list[str]:
    """Check that every trial can run wherever it may be placed; return warnings. `waits`: for nodes to come.

    Raises:
        RequestError: with every problem that was found.
    """
    shapes = {method: getattr(resources, method) for method in sorted({trial.method for trial in trials})}
    nodes = find_nodes()
    if is_local:
        misfits = _check_shapes(shapes, nodes, [], "Ask for less.")
    else:
        misfits = _check_shapes(shapes, nodes, find_node_types(), ASK_FOR_LESS)
    problems = [] if waits and not is_local else misfits
    if not is_local:
        used = [node for node in nodes if any(n_slots([node], shape) for shape in shapes.values())]
        answering, found = _check_machines(used, store)
        problems += found + _check_data(answering, shapes, _list_needs(trials))
    if problems:
        raise RequestError(problems, "what the cluster is to do")
    return [f"{problem} Waiting for such a node." for problem in misfits]


def _check_shapes(
    shapes: dict[str, Resources], nodes: list[Node], types: list[Node], remedy: str
) -> list[ConfigProblem]:
    there = "; ".join(sorted({_summary(node) for node in nodes}))
    could_come = "; ".join(f"up to {node.limit} {node.name}: {_summary(node)}" for node in types if node.limit)
    added = f", nor can be added with ({could_come})" if could_come else ""
    return [
        ConfigProblem(f"resources.{method}", f"asks for {_format(shape)}, which no node has ({there}){added}. {remedy}")
        for method, shape in shapes.items()
        if not n_slots([*nodes, *types], shape)
    ]


def _check_machines(nodes: list[Node], store: Store) -> tuple[list[Node], list[ConfigProblem]]:
    """Return the nodes that answer, and what is wrong with program and store."""
    if any(part.startswith(SHIPPED_FOLDER) for part in Path(store.location).parts):
        message = (
            f"is inside the folder that Ray ships with this job ({store.location}) and ends with it: name {SHARED}."
        )
        return [], [ConfigProblem("--store", message)]
    here = describe_program()
    token = uuid.uuid4().hex
    answering: list[Node] = []
    problems: list[ConfigProblem] = []
    store.write_probe(token)
    try:
        arguments = [(store, token, f"{token}.{node.node_id}") for node in nodes]
        for node, answer in ask(nodes, probe_machine, arguments, limit_s=ANSWER_S):
            if isinstance(answer, ConfigProblem):
                problems.append(answer)
                continue
            answering.append(node)
            program, fault = answer
            others = [f"{name} {program[name]} (here {here[name]})" for name in here if program[name] != here[name]]
            if others:
                remedy = "install the same there; the program itself comes from the driver."
                problems.append(ConfigProblem("", f"Node {node.name} has {', '.join(others)}: {remedy}"))
            if fault or not store.has_probe(f"{token}.{node.node_id}"):
                fault = fault or "what it wrote does not arrive here"
                message = f"{store.location} is another place on node {node.name}, or closed to it: {fault}. "
                problems.append(ConfigProblem("--store", f"{message}Name {SHARED}, with its keys on every node."))
    finally:
        store.remove_probes()
    return answering, problems


def _check_data(nodes: list[Node], shapes: dict[str, Resources], needs: list[Need]) -> list[ConfigProblem]:
    asked = [[need for need in needs if n_slots([node], shapes[need.method])] for node in nodes]
    specs = [[*dict.fromkeys((need.spec, need.content_id) for need in some)] for some in asked]
    problems = []
    for (node, answer), asked_specs in zip(
        ask(nodes, probe_data, [([spec for spec, _ in some],) for some in specs], limit_s=DATA_S), specs, strict=True
    ):
        if isinstance(answer, ConfigProblem):
            problems.append(answer)
            continue
        for (spec, content_id), found in zip(asked_specs, answer, strict=True):
            if found != content_id:
                problems.append(ConfigProblem("", _format_data(node, spec, found, content_id)))
    return problems


def _format_data(node: Node, spec: DatasetSpec | ModelSpec, found: str, content_id: str) -> str:
    what = f"data set {spec.name}" if isinstance(spec, DatasetSpec) else f"weights {spec.weights}"
    fault = f"has another content there ({found[:16]}, here {content_id[:16]})" if _is_id(found) else f"fails: {found}"
    remedy = "Put it into a folder that all nodes share, under an absolute path (data sets: QUANTFAIR_DATA)."
    return f"Node {node.name}: the {what} {fault}. {remedy}"


def _is_id(text: str) -> bool:
    return len(text) in (16, 64) and all(sign in "0123456789abcdef" for sign in text)


def ask(
    nodes: Sequence[Node], probe: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], *, limit_s: float
) -> Iterator[tuple[Node, Any]]:
    """Run a function on every node at once; yield what it returns there, or the Problem why it does not."""
    remote = ray.remote(probe)
    references = [
        remote.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(str(node.node_id), soft=False)
        ).remote(*args)
        for node, args in zip(nodes, arguments, strict=True)
    ]
    if references:
        ray.wait(references, num_returns=len(references), timeout=limit_s)
    for node, reference in zip(nodes, references, strict=True):
        try:
            yield node, ray.get(reference, timeout=0)
        except GetTimeoutError:
            ray.cancel(reference, force=True)
            yield (
                node,
                ConfigProblem("", f"Node {node.name} does not answer within {limit_s:g} s: remove or restart it."),
            )
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            reason = f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1]}"
            remedy = "install the driver's packages there, in their versions"
            message = f"Node {node.name} cannot run this program ({reason}): {remedy}."
            yield node, ConfigProblem("", message)


def probe_machine(store: Store, token: str, reply: str) -> tuple[dict[str, str], str | None]:
    """On a node: return its program, and why its store is another place, or None. Write the reply into the store."""
    try:
        if not store.has_probe(token):
            return describe_program(), "what the driver wrote is not there"
        store.write_probe(reply)
    except OSError as error:
        return describe_program(), f"it cannot be read and written ({error})"
    return describe_program(), None


def probe_data(specs: Sequence[DatasetSpec | ModelSpec]) -> list[str]:
    """On a node: return the id of the content of each data set or file of weights, or what is wrong with it."""
    return [_find_content_id(spec) for spec in specs]


def _find_content_id(spec: DatasetSpec | ModelSpec) -> str:
    try:
        return find_dataset_id(spec) if isinstance(spec, DatasetSpec) else str(fingerprint_weights(spec))
    except (DataError, ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"


def describe_program() -> dict[str, str]:
    """Return what must be equal on all nodes: the program, its engine, Python and the packages that count."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {"engine": str(ENGINE_VERSION), "program": hash_program(), "Python": platform.python_version(), **versions}


def hash_program() -> str:
    """Return 12 hex digits over the source files of the package: installed, linked or shipped, they are the same."""
    assert quantfair.__file__ is not None
    top = Path(quantfair.__file__).parent  # of the package's own files, which a checkout has in `orchestrator/package`
    root = Path(__file__).parents[2]  # of the rooms
    files = {path.name: path for path in top.glob("*.py")}
    for room in ROOMS:
        files |= {path.relative_to(root).as_posix(): path for path in (root / room).rglob("*.py")}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        if not name.startswith(NO_PROGRAM):
            digest.update(name.encode() + b"\n" + path.read_bytes())
    return digest.hexdigest()[:12]


def _list_needs(trials: Sequence[PlannedTrial]) -> list[Need]:
    needs = [Need(trial.method, trial.dataset, trial.dataset_id) for trial in trials]
    needs += [Need(trial.method, trial.model, trial.weights_id) for trial in trials if trial.weights_id is not None]
    return list(dict.fromkeys(needs))


def _summary(node: Node) -> str:
    kinds = [name.partition(":")[2] for name in node.resources if name.startswith("accelerator_type:")]
    labels = [f"{name}={value}" for name, value in (node.labels or {}).items() if not name.startswith("ray.io/")]
    amounts = f"{node.resources.get('CPU', 0):g} CPUs, {node.resources.get('GPU', 0):g} GPUs"
    return ", ".join([amounts, *kinds, *labels])


def _format(shape: Resources) -> str:
    """Return "cpu 1, gpu 0.5, accelerator_type A100, labels pool=gpu"; nothing of what is not asked for."""
    said = {"cpu": f"{shape.cpu:g}", "gpu": f"{shape.gpu:g}", "memory_gb": f"{shape.memory_gb:g}"}
    words = [f"{name} {amount}" for name, amount in said.items() if amount != "0"]
    words += [f"accelerator_type {shape.accelerator_type}"] if shape.accelerator_type else []
    return ", ".join([*words, *(f"labels {name}={value}" for name, value in shape.labels)])
