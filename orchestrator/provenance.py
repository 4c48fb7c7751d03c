"""The versions, the commit and the machine that a result came from."""

import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from quantfair.orchestrator.checkout import find_checkout, find_version
from quantfair.quant import ENGINE_VERSION

CODE_VERSION_VARIABLE = "QUANTFAIR_CODE_VERSION"  # what the driver found, for workers that have the files alone
# Every package that can change a number, or how it is drawn. Where a name is not installed it has no version: some are
# optional, and some stand in for others, as onnxruntime-gpu does.
PACKAGES = (
    *("torch", "torchvision", "ray", "numpy", "pandas", "pyarrow", "scipy", "plotly"),
    *("scikit-learn", "pillow"),  # the digits; images in files
    *("onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt", "tensorrt-rtx", "pycuda"),
    *("timm", "transformers", "safetensors"),  # what networks and weights of one's own may come from
)


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
    """Return the versions of the engine, of Python and of the packages that results may depend on."""
    packages: dict[str, str] = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):  # then no number depends on it
            packages[package] = metadata.version(package)
    return {"engine_version": str(ENGINE_VERSION), "python": platform.python_version(), **packages}


@cache
def find_code_version() -> str:
    """Return the git commit of this program, with `+` where files were changed, or its version without one.

    A program that was installed, or a copy of a checkout, has no commit, also where it lies in a folder of another
    repository.
    """
    if CODE_VERSION_VARIABLE in os.environ:
        return os.environ[CODE_VERSION_VARIABLE]
    root = find_checkout()
    if root is None or not (root / ".git").exists():
        return find_version()
    try:
        commit = _ask_git(root, "rev-parse", "--short=12", "HEAD")
        changes = _ask_git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):  # no git here, or no commit yet
        return find_version()
    return commit + ("+" if changes else "")


def _ask_git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def name_processor() -> str:
    """Return the model of this machine's processors."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
