"""Installations of the program for tests: copies of the checkout, wheels, and environments with or without one."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

from quantfair.orchestrator.checkout import ROOMS, find_checkout

ROOT = find_checkout() or Path()
NOT_COPIED = shutil.ignore_patterns("__pycache__", "runs")
# Each process that makes the pictures adds a line of JSON to a file.
PICTURES = '''"""A user's own data set, in a module that needs other packages by their names."""

import json
import os
import sys

import datasets
import numpy as np

import quantfair
from quantfair.datasets import ArrayImages, Attribute, RawData

OTHERS = {NAMES!r}


def make() -> RawData:
    seen = {{
        "pid": os.getpid(),
        "datasets": datasets.Dataset.__module__,
        "files": {{name: __import__(name).__file__ for name in ("datasets", "quantfair", *OTHERS)}},
        "path": sys.path,
    }}
    with open({SEEN!r}, "a") as file:
        file.write(json.dumps(seen) + "\\n")
    images_NCHW = np.random.default_rng(0).integers(0, 256, (120, 1, 8, 8), dtype=np.uint8)
    kind = Attribute(np.arange(120) % 2, ("cat", "dog"))
    return RawData(ArrayImages(images_NCHW), {{"kind": kind}})
'''
SWEEP = """
name = "pictures"
seeds = [0]
quant = []
[[experiments]]
dataset = {name = "my_pictures:make", task = "kind", group_by = ["label"]}
model = {name = "small_cnn", width = 4}
train = {epochs = 1, lr = 0.003}
"""


def write_sweep(folder: Path, *names: str) -> Path:
    """Write a sweep of one trial and the module of its data, which imports packages of these names; return its file."""
    (folder / "my_pictures.py").write_text(PICTURES.format(NAMES=names, SEEN=str(folder / "seen.jsonl")))
    file = folder / "pictures.toml"
    file.write_text(SWEEP)
    return file


def read_seen(folder: Path) -> list[dict[str, Any]]:
    """Return what each process has seen that made the pictures of the sweep that was written into a folder."""
    return [json.loads(line) for line in (folder / "seen.jsonl").read_text().splitlines()]


def copy_checkout(folder: Path) -> Path:
    """Copy what the package is made of, without git, tests, links and results."""
    folder.mkdir(exist_ok=True)
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=NOT_COPIED)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, folder)
    return folder


def build(checkout: Path, folder: Path) -> tuple[Path, Path]:
    """Return a source distribution of a checkout, and the wheel that was built from it."""
    words = ["-m", "build", "--no-isolation", "--outdir", str(folder), str(checkout)]
    done = subprocess.run(
        [sys.executable, *words], env=clean_variables(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def make_environment(folder: Path, *, wheel: Path | None = None) -> Path:
    """Make an environment with the packages of this one, and of ours nothing but the wheel; return its programs.

    Its `.pth` names the folder of this environment's packages. The `.pth` files of that folder, which make an
    installed checkout be found, count for this environment alone.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    base = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=base))
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    programs = Path(sysconfig.get_path("scripts", "venv", vars=base))
    if wheel is not None:
        words = ["--python", str(programs / "python"), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
        subprocess.run([sys.executable, "-m", "pip", *words], env=clean_variables(), timeout=300, check=True)
    return programs


def clean_variables(**more: str) -> dict[str, str]:
    """Return the variables of this process without a path of modules, which would make a checkout be found."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")} | more


def run_program(*words: str | Path, cwd: Path, **more: str) -> str:
    """Run a program without a path of modules, which must end well, and return what it says."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=clean_variables(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
