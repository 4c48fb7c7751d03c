"""An engine on disk: the plan, and beside it a JSON file that says where it came from and where alone it may run.

A plan runs on the kind of GPU and in the version that it was built by. Whatever does not agree is refused before
TensorRT sees it, as its own errors for the same are hard to read.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Final, NamedTuple

from quantfair.quant.deploy.runtimes import DeploymentError
from quantfair.quant.deploy.tensorrt.inspection import LayerPrecision


def write_aside(path: Path, data: bytes) -> None:
    """Write beside `path`, sync, rename: a killed writer leaves nothing under the final name."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


AGAIN: Final = "build it again on this machine"


class EngineMismatchError(DeploymentError):
    """An engine of another machine or model, or a damaged one; the message says which, and the remedy."""


class Machine(NamedTuple):
    """What an engine is bound to."""

    version: str  # of tensorrt
    compute_capability: str  # such as "8.6"
    device: str  # its name, told but not compared


class EngineFacts(NamedTuple):
    """What is known of an engine. Shapes are NCHW: the smallest, the fastest and the largest of its profile."""

    machine: Machine
    onnx_sha256: str
    engine_sha256: str
    input_name: str
    profile: tuple[tuple[int, ...], ...]
    layers: tuple[LayerPrecision, ...]


def sha256_of(data: bytes) -> str:
    """The hash by which files are compared."""
    return hashlib.sha256(data).hexdigest()


def facts_path(path: Path) -> Path:
    """The JSON file beside an engine."""
    return path.with_name(f"{path.name}.json")


def write_engine(path: Path, plan: bytes, facts: EngineFacts) -> None:
    """Write both files whole; the JSON file, without which no engine is read, comes last."""
    record = facts._asdict() | {
        "machine": facts.machine._asdict(),
        "layers": [layer._asdict() for layer in facts.layers],
    }
    write_aside(path, plan)
    write_aside(facts_path(path), json.dumps(record, indent=2).encode())


def read_engine(path: Path, machine: Machine, onnx_path: Path | None = None) -> tuple[bytes, EngineFacts]:
    """Return the plan and its facts.

    Raises:
        EngineMismatchError: they are damaged, or not of `machine` and `onnx_path`.
    """
    for file in (path, facts_path(path)):
        if not file.is_file():
            raise EngineMismatchError(f"{file} is missing: an engine is two files; {AGAIN}")
    facts, plan = _read_facts(facts_path(path)), path.read_bytes()
    if sha256_of(plan) != facts.engine_sha256:
        raise EngineMismatchError(f"{path} is damaged: it is not what {facts_path(path).name} describes; {AGAIN}")
    if (reason := _find_mismatch(facts.machine, machine)) is not None:
        raise EngineMismatchError(f"{path} {reason}; {AGAIN}")
    if onnx_path is not None and sha256_of(onnx_path.read_bytes()) != facts.onnx_sha256:
        raise EngineMismatchError(f"{path} was built from another model than {onnx_path}; {AGAIN}")
    return plan, facts


def _find_mismatch(built: Machine, here: Machine) -> str | None:
    if built.version != here.version:
        return f"was built by TensorRT {built.version}, this is {here.version}"
    if built.compute_capability != here.compute_capability:
        return (
            f"was built on {built.device} (compute capability {built.compute_capability}), "
            f"this is {here.device} ({here.compute_capability})"
        )
    return None


def _read_facts(path: Path) -> EngineFacts:
    try:
        record = json.loads(path.read_bytes())
        return EngineFacts(**record)._replace(
            machine=Machine(**record["machine"]),
            profile=tuple(tuple(shape) for shape in record["profile"]),
            layers=tuple(LayerPrecision(**layer) for layer in record["layers"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise EngineMismatchError(f"{path} is damaged ({error}); {AGAIN}") from error
