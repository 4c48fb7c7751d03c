"""The rooms and their doors: who may import whom, and which file may import which heavy package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("orchestrator", "quant", "datasets", "results")
MAY_ENTER = {"orchestrator": {"datasets", "quant", "results"}, "quant": set(), "datasets": set(), "results": set()}
DOORS_OF_PACKAGES = {
    "ray": {f"orchestrator/executor_{name}.py" for name in ("ray", "worker", "cluster", "preflight", "metrics")},
    "plotly": {"results/page/report.py"},
    "playwright": {"results/page/paper_figures.py"},
    # Besides the runtimes: programs that are shipped with a model, which import nothing of ours.
    "onnxruntime": {"quant/deploy/onnxruntime.py", "orchestrator/shipped/predict_onnxruntime.py"},
    "tensorrt": {"quant/deploy/tensorrt/runtime.py", "orchestrator/shipped/predict_tensorrt.py"},
    "tensorrt_rtx": {"quant/deploy/tensorrt/runtime.py"},
    "pycuda": {"quant/deploy/tensorrt/buffers.py"},
}
LIGHT_FILES = (
    *(
        "orchestrator/config/spec.py",
        "orchestrator/planning/plan.py",
        "orchestrator/planning/bundle_queue.py",
        "orchestrator/commands/app.py",
    ),
    *("orchestrator/planning/request.py", "orchestrator/executors/events.py", "orchestrator/config/sweep_file.py"),
    *("orchestrator/planning/durations.py", "orchestrator/planning/forecast.py", "orchestrator/commands/plan.py"),
    "orchestrator/config/json_schema.py",
    *(
        "orchestrator/planning/request.py",
        "orchestrator/executors/events.py",
        "orchestrator/executors/progress.py",
        "orchestrator/commands/status.py",
    ),
    *("quant/specs/methods.py", "quant/specs/model.py", "quant/specs/training.py", "datasets/spec.py"),
    *(
        "quant/deploy/capabilities.py",
        "quant/deploy/tensorrt/rules.py",
        "quant/deploy/tensorrt/runtime.py",
        "quant/deploy/tensorrt/check.py",
    ),
)
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def find_imports(path: Path) -> set[str]:
    """Full names of everything a file imports, also inside functions; relative imports are not used here."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_rooms_are_entered_by_their_doors_and_only_where_allowed(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for imported in find_imports(path):
        other, *rest = imported.split(".")
        if other not in ROOMS or other == room:
            continue
        assert other in MAY_ENTER[room], f"{name_of(path)} may not import {other}"
        assert len(rest) <= 1, f"{name_of(path)} enters {other} by a side window: {imported}"
        place = ROOT / other / "/".join(rest)
        assert not rest or not (place.is_dir() or place.with_suffix(".py").exists()), (
            f"{name_of(path)} imports the file {imported}"
        )


@pytest.mark.parametrize("package", DOORS_OF_PACKAGES)
def test_heavy_packages_have_one_door(package: str) -> None:
    users = {name_of(path) for path in FILES for name in find_imports(path) if name.split(".")[0] == package}
    assert users <= DOORS_OF_PACKAGES[package]


def test_results_import_no_torch() -> None:
    for path in (ROOT / "results").rglob("*.py"):
        assert not {name for name in find_imports(path) if name.split(".")[0] in ("torch", "torchvision")}, path


@pytest.mark.parametrize("file", LIGHT_FILES)
def test_specs_and_plan_load_neither_torch_nor_ray(file: str) -> None:
    module = file.removesuffix(".py").replace("/", ".")
    code = (
        f"import sys, {module}; print([name for name in ('torch', 'ray', 'plotly', 'sklearn') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("room", ROOMS)
def test_everything_a_door_promises_is_there(room: str) -> None:
    module = __import__(room)
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None


def test_tests_are_flat_so_that_no_test_folder_shadows_a_room() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_absolute_path_of_a_machine_is_written_down() -> None:
    for path in [*FILES, *(ROOT / "tests").rglob("*.py"), ROOT / "README.md", ROOT / "Makefile"]:
        text = path.read_text(encoding="utf-8")
        for folder in ("work", "home", "root"):
            assert f'"/{folder}/' not in text, path
            assert f" /{folder}/" not in text, path
