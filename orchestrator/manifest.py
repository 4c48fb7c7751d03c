"""What a store says about the sweep that filled it: the request, the plan, and where and with what it ran."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from quantfair.orchestrator.plan import PlannedTrial
from quantfair.orchestrator.request import Request
from quantfair.orchestrator.spec import SweepSpec
from quantfair.quant import ENGINE_VERSION

CODE_VERSION_VARIABLE = "QUANTFAIR_CODE_VERSION"  # what the driver found, for workers that have the files alone
PACKAGES = ("torch", "torchvision", "ray", "numpy", "pandas", "pyarrow", "scipy", "plotly")


def make_manifest(sweep: SweepSpec, plan: Iterable[PlannedTrial]) -> dict[str, Any]:
    """Return the manifest's plain values: enough to rebuild every table without the sweep file."""
    plan = list(plan)
    groupings: dict[str, list[str]] = {}
    dataset_ids = {trial.dataset: trial.dataset_id for trial in plan}
    for experiment in sweep.experiments:
        known = groupings.setdefault(dataset_ids[experiment.dataset], [])
        known += [grouping for grouping in experiment.dataset.group_by if grouping not in known]
    return {
        "name": sweep.head.name,
        "sweep": sweep.raw,
        "groupings": groupings,
        "runtimes": list(sweep.head.runtimes),
        "plan": [{**trial.columns(), "needs": list(trial.needs)} for trial in plan],
        "provenance": find_provenance(),
    }


def keep_manifest(request: Request, *, command: str) -> None:
    """Write the manifest, with the command that goes on with the sweep.

    Where nothing is to run, one that differs only by its time is left as it is, and so are the tables built from it.
    """
    manifest, store = {**make_manifest(request.sweep, request.plan), "command": command}, request.store
    if request.state.to_run or not store.has_manifest() or not _is_same(store.read_manifest(), manifest):
        store.write_manifest(manifest)


def _is_same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    new = json.loads(json.dumps(new))
    times = {"started_utc": old["provenance"].get("started_utc")}
    schema = {"schema_version": old["schema_version"]}
    return old == {**schema, **new, "provenance": {**new["provenance"], **times}}


def find_provenance() -> dict[str, str]:
    """Versions, commit and hardware of this machine, as texts."""
    return {
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": find_code_version(),
        **find_versions(),
        "platform": platform.platform(),
        "processor": name_processor(),
        "cpus": str(os.cpu_count()),
    }


@cache
def find_versions() -> dict[str, str]:
    """The versions of the engine, of Python and of the packages that results may depend on."""
    packages = {package: metadata.version(package) for package in PACKAGES}
    return {"engine_version": str(ENGINE_VERSION), "python": platform.python_version(), **packages}


@cache
def find_code_version() -> str:
    """The git commit of this program, with `+` where files were changed, or `unknown` outside a checkout."""
    if CODE_VERSION_VARIABLE in os.environ:
        return os.environ[CODE_VERSION_VARIABLE]
    root = Path(__file__).parent
    commands = (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    try:
        commit, changes = (
            subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changes else "")


def name_processor() -> str:
    """Return the model of this machine's processors."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
