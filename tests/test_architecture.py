"""The rooms, their doors and their floors: who may import whom, and which file may import which heavy package."""

import ast
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import quantfair.datasets
import quantfair.orchestrator
import quantfair.quant
import quantfair.results

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "quantfair"
ROOMS = ("orchestrator", "quant", "datasets", "results")
MAY_ENTER = {"orchestrator": {"datasets", "quant", "results"}, "quant": set(), "datasets": set(), "results": set()}
# From the top down: a folder, or a file that stands alone, imports only from lines below its own.
FLOORS = {
    "orchestrator": [
        "__main__ package",
        "commands",
        "api",
        "executors",
        "trials",
        "planning",
        "config provenance text shipped",
        "checkout",
    ],
    "quant": [
        "lifecycle",
        "iao training analysis",
        "ptq deploy models prediction",
        "layers",
        "quantizer",
        "specs",
    ],
    "results": [
        "frames",
        "refresh diff",
        "build page exports",
        "contrasts",
        "tables",
        "user_data",
        "predictions",
        "store statistics configurations",
        "schema",
    ],
}
DOORS_OF_PACKAGES = {
    "ray": {
        f"orchestrator/executors/ray_{name}.py"
        for name in ("tune", "worker", "cluster", "local", "preflight", "metrics")
    },
    "plotly": {"results/page/report.py"},
    "playwright": {"results/page/paper_figures.py"},
    # Besides the runtimes: programs that are shipped with a model, which import nothing of ours.
    "onnxruntime": {"quant/deploy/onnxruntime.py", "orchestrator/shipped/predict_onnxruntime.py"},
    "tensorrt": {"quant/deploy/tensorrt/runtime.py", "orchestrator/shipped/predict_tensorrt.py"},
    "tensorrt_rtx": {"quant/deploy/tensorrt/runtime.py"},
    "pycuda": {"quant/deploy/tensorrt/buffers.py"},
}
LIGHT_FOLDERS = ("orchestrator/config", "orchestrator/planning", "quant/specs", "results/store", "results/schema.py")
LIGHT_FILES = (
    "orchestrator/commands/app.py",
    "orchestrator/executors/events.py",
    "quant/deploy/capabilities.py",
    "quant/deploy/runtimes.py",
)
HEAVY = ("torch", "ray", "plotly", "sklearn", "pandas", "onnx", "onnxruntime")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """Return the dotted name below the package: `quant.layers.modules`, and `quant.layers` for an `__init__.py`."""
    return name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(path): path for path in FILES}


@cache
def find_imports(path: Path) -> frozenset[str]:
    """Full names of everything a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # Only the thin door comes in under two names, as `orchestrator` and as `quantfair.orchestrator`.
            assert name_of(path) == "orchestrator/__main__.py", f"{name_of(path)}: relative import"
    return frozenset(names)


def find_own_imports(path: Path) -> set[str]:
    """What a file imports of ours, below the package: `results.Store`, `quant.layers.modules.swap`."""
    start = f"{PACKAGE}."
    return {name.removeprefix(start) for name in find_imports(path) if name.startswith(start)}


def find_module(imported: str) -> str:
    """Return the file or folder that an imported name belongs to."""
    return imported if imported in MODULES else imported.rpartition(".")[0]


def edges_of(room: str) -> dict[str, set[str]]:
    """For every file of a room, the files of the same room that it imports."""
    edges = defaultdict(set)
    for module, path in MODULES.items():
        if module.split(".")[0] == room and path.name != "__init__.py":
            found = {find_module(imported) for imported in find_own_imports(path)}
            edges[module] = {other for other in found if other.split(".")[0] == room}
    return edges


def test_no_room_is_imported_by_its_name_alone() -> None:
    """Hugging Face's package is called `datasets`, too: ours is `quantfair.datasets`."""
    for path in [*FILES, *(ROOT / "tests").rglob("*.py")]:
        assert not {name for name in find_imports(path) if name.split(".")[0] in ROOMS}, name_of(path)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_entered_by_their_doors_and_only_where_allowed(room: str) -> None:
    for path in (path for path in FILES if path.relative_to(ROOT).parts[0] == room):
        for imported in find_own_imports(path):
            other, *rest = imported.split(".")
            if other == room:
                continue
            assert other in MAY_ENTER[room], f"{name_of(path)} may not import {other}"
            assert len(rest) <= 1, f"{name_of(path)} enters {other} by a side window: {imported}"
            assert not rest or imported not in MODULES, f"{name_of(path)} imports the file {imported}"


@pytest.mark.parametrize("room", FLOORS)
def test_a_file_imports_only_from_floors_below_its_own(room: str) -> None:
    floors = {folder: number for number, line in enumerate(FLOORS[room]) for folder in line.split()}
    for module, others in edges_of(room).items():
        if module == room:
            continue
        own = module.split(".")[1]
        for other in others:
            assert other != room, f"{module} enters its own room by the door: {room}"
            folder = other.split(".")[1]
            is_below = folder == own or floors[folder] > floors[own]
            assert is_below, f"{module} imports {other}, which is not below it: {FLOORS[room]}"


def test_commands_call_the_python_door_and_nothing_else() -> None:
    allowed = ("orchestrator.api.", "orchestrator.commands.", "orchestrator.config.", "orchestrator.text.")
    for path in (ROOT / "orchestrator" / "commands").glob("*.py"):
        others = {name for name in find_own_imports(path) if not f"{name}.".startswith(allowed)}
        types = {"results.Comparison", "quant.AheadReport"}  # of what they print
        if path.name == "exit_codes.py":
            types |= {"datasets.DataError", "results.StoreError", "orchestrator.executors.events.SweepStoppedError"}
        assert others <= types, f"{name_of(path)} imports {sorted(others - types)}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_imports_itself_by_a_circle(room: str) -> None:
    edges = edges_of(room)
    for start in edges:
        reached, waiting = set[str](), [start]
        while waiting:
            found = edges[waiting.pop()] - reached
            reached |= found
            waiting += found
        assert start not in reached, f"{start} imports itself, through {sorted(edges[start] & reached)}"


@pytest.mark.parametrize("room", FLOORS)
def test_every_folder_stands_on_a_floor(room: str) -> None:
    entries = {path.stem for path in (ROOT / room).glob("*.py")}
    entries |= {path.parent.relative_to(ROOT / room).parts[0] for path in (ROOT / room).rglob("*/*.py")}
    data_folders = {"cluster", "sweeps"}  # files to copy, and sweep files
    assert entries - {"__init__"} - data_folders == {name for line in FLOORS[room] for name in line.split()}


@pytest.mark.parametrize("package", DOORS_OF_PACKAGES)
def test_heavy_packages_have_one_door(package: str) -> None:
    users = {name_of(path) for path in FILES for name in find_imports(path) if name.split(".")[0] == package}
    assert users <= DOORS_OF_PACKAGES[package]


def test_results_import_no_torch() -> None:
    for path in (ROOT / "results").rglob("*.py"):
        assert not {name for name in find_imports(path) if name.split(".")[0] in ("torch", "torchvision")}, path


def test_config_planning_specs_and_store_load_neither_torch_nor_ray() -> None:
    light = [path for path in FILES if name_of(path).startswith(LIGHT_FOLDERS) or name_of(path) in LIGHT_FILES]
    imports = "\n".join(f"import {PACKAGE}.{module_of(path)}" for path in light)
    code = f"import sys\n{imports}\nprint([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(light) > 30
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "door", [quantfair.datasets, quantfair.quant, quantfair.results], ids=lambda door: door.__name__
)
def test_everything_a_door_promises_is_there(door: ModuleType) -> None:
    assert door.__all__
    for name in door.__all__:
        assert getattr(door, name) is not None


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_has_the_name_of_what_its_door_offers(room: str) -> None:
    """Importing a file puts it into the package under its name, where it would hide the function of that name."""
    offered = __import__(f"{PACKAGE}.{room}", fromlist=["__all__"])
    entries = {path.stem for path in (ROOT / room).iterdir()}
    assert not entries & set(getattr(offered, "__all__", ()))


def test_tests_are_flat_so_that_no_test_folder_shadows_a_room() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_helpers_of_tests_stand_in_a_folder_of_their_own() -> None:
    tests = ROOT / "tests"
    flat = {path.name for path in tests.glob("*.py")}
    assert {name for name in flat if not name.startswith("test_")} == {"conftest.py"}

    others = {path.relative_to(tests) for path in tests.rglob("*.py")} - {Path(name) for name in flat}
    assert {path.parent.as_posix() for path in others} == {"benchmarks", "support"}
    assert not [path for path in others if path.name.startswith("test_")]


def test_no_absolute_path_of_a_machine_is_written_down() -> None:
    documents = [*ROOT.glob("*.md"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.md"))]
    for path in [*FILES, *(ROOT / "tests").rglob("*.py"), *documents, ROOT / "Makefile"]:
        text = path.read_text(encoding="utf-8")
        for folder in ("work", "home", "root"):
            assert f'"/{folder}/' not in text, path
            assert f" /{folder}/" not in text, path
