"""The folders as one package: what a wheel holds, what a checkout shows, and that no other package is hidden."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from quantfair.orchestrator.checkout import find_checkout, make_links, put_checkout_last
from quantfair.orchestrator.planning.request import find_default_store

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("orchestrator", "quant", "datasets", "results")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PLACES = SETTINGS["tool"]["setuptools"]["package-dir"]
FACTORY = """
import datasets
import numpy as np
from quantfair.datasets import ArrayImages, Attribute, RawData

assert hasattr(datasets, "Dataset"), f"not Hugging Face's: {datasets}"


def make():
    draw = np.random.default_rng(0)
    images = ArrayImages(draw.integers(0, 255, (300, 1, 8, 8), dtype=np.uint8))
    return RawData(images, {"class": Attribute(draw.integers(0, 3, 300), ("a", "b", "c"))})
"""
SWEEP = """
name = "neighbours"
seeds = [0]
[[experiments]]
dataset = {name = "FACTORY:make", task = "class", group_by = ["label"], test_share = 0.3}
model = {name = "small_cnn", width = 4}
train = {epochs = 1, lr = 0.003}
[[quant]]
method = "ptq"
"""


def copy_checkout(folder: Path) -> Path:
    """The files that git knows, in a folder of their own."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        source, place = ROOT / name, folder / name
        if source.is_file() and not name.startswith("tests/"):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(source.read_bytes())
    return folder


def find_folder(package: str) -> Path:
    """The folder of a package, by `package-dir` of itself or of the nearest package above it."""
    inner: list[str] = []
    while package not in PLACES:
        package, _, last = package.rpartition(".")
        inner.insert(0, last)
    return ROOT.joinpath(PLACES[package], *inner)


def environment(*paths: Path) -> dict[str, str]:
    """This process's variables, with nothing but these paths to find packages besides the installed ones."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel and a source distribution, built from a copy of the checkout without the network."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    out = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"wheel": next(out.glob("*.whl")), "sdist": next(out.glob("*.tar.gz"))}


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs, as site-packages would."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built["wheel"]) as wheel:
        wheel.extractall(folder)
    return folder


def test_every_folder_with_code_is_a_package() -> None:
    listed = {find_folder(package) for package in SETTINGS["tool"]["setuptools"]["packages"]}
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert listed == folders


def test_a_wheel_holds_every_file_that_the_program_reads(built: dict[str, Path]) -> None:
    names = set(zipfile.ZipFile(built["wheel"]).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"quantfair"}
    read = (".py", ".toml", ".css", ".html", ".js", ".yaml", ".yml", ".json", ".sh")
    tracked = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = {name for name in tracked.split() if name.endswith(read) and (ROOT / name).is_file()}
    package = {name for name in wanted if name.startswith("orchestrator/package/")}
    wanted = {f"quantfair/{name}" for name in wanted - package} | {f"quantfair/{Path(name).name}" for name in package}
    assert wanted | {"quantfair/py.typed"} <= names


def test_a_source_distribution_holds_what_the_wheel_is_built_from(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "orchestrator/package/__init__.py"} <= names
    assert {"results/page/report.css", "orchestrator/sweeps/quickstart.toml"} <= names


def test_a_new_file_of_a_checkout_is_there_for_python_and_the_type_checker_at_once(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path / "checkout")
    links = make_links(folder, folder / ".links")
    (folder / "quant" / "just_made.py").write_text('NEW: int = "text"\n')
    user = folder / "user.py"
    user.write_text("from quantfair.quant.just_made import NEW\n\nprint(NEW)\nreveal_type(NEW)\n")
    code = "from quantfair.quant.just_made import NEW; print(NEW)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(links), capture_output=True, text=True)
    assert done.stdout.strip() == "text", done.stderr
    (folder / "checked.json").write_text('{"include": ["user.py", "quant/just_made.py"], "extraPaths": [".links"]}')
    checker = Path(sys.executable).with_name("basedpyright")
    command = [str(checker), "--project", "checked.json", "--pythonpath", sys.executable]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    assert "just_made.py:1:12 - error" in said, said
    assert 'Type of "NEW" is "int"' in said
    assert "could not be resolved" not in said


def test_links_that_are_there_already_are_kept_and_wrong_ones_mended(tmp_path: Path) -> None:
    first = make_links(ROOT, tmp_path)
    (first / "quantfair" / "quant").unlink()
    (first / "quantfair" / "quant").symlink_to(tmp_path)
    make_links(ROOT, tmp_path)
    assert (first / "quantfair" / "quant").resolve() == ROOT / "quant"
    assert sorted(path.name for path in (first / "quantfair").iterdir() if path.name.startswith(".")) == []


def test_the_checkout_stands_last_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(ROOT) not in sys.path[:-1]
    monkeypatch.setattr(sys, "path", [str(ROOT), "/elsewhere", "", str(ROOT)])
    monkeypatch.chdir(ROOT)
    put_checkout_last()
    assert sys.path == ["/elsewhere", str(ROOT)]


def test_hugging_faces_datasets_is_found_next_to_ours() -> None:
    code = "import quantfair, datasets, quantfair.datasets as ours; "
    code += "print(datasets.Dataset.__module__, ours.SOURCES['digits'])"
    links = make_links(ROOT, ROOT / ".links")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(links), capture_output=True, text=True
    )
    assert done.stdout.startswith("datasets.arrow_dataset"), done.stderr


def sweep_with_neighbours(folder: Path, *words: str, program: list[str], cwd: Path, paths: list[Path]) -> str:
    """Sweep a factory that imports Hugging Face's datasets; return what was printed."""
    (folder / "sweep.toml").write_text(SWEEP.replace("FACTORY", "neighbour_factory"))
    command = [sys.executable, "-m", *program, "sweep", str(folder / "sweep.toml"), *words]
    variables = {**environment(*paths), "QUANTFAIR_DATA": str(folder / "data")}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.alone)])
def test_in_a_checkout_without_an_installation_both_are_found_and_the_users_module_too(
    tmp_path: Path, executor: str
) -> None:
    folder = copy_checkout(tmp_path / "checkout")
    (folder / "neighbour_factory.py").write_text(FACTORY)
    said = sweep_with_neighbours(tmp_path, "--executor", executor, program=["orchestrator"], cwd=folder, paths=[])
    assert "2 of 2 trials ok" in said
    assert (folder / "results" / "runs" / "neighbours" / "report.html").is_file()


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=[pytest.mark.alone, pytest.mark.slow])])
def test_a_wheel_sweeps_from_an_empty_folder(installed: Path, tmp_path: Path, executor: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "neighbour_factory.py").write_text(FACTORY)
    said = sweep_with_neighbours(tmp_path, "--executor", executor, program=["quantfair"], cwd=empty, paths=[installed])
    assert "2 of 2 trials ok" in said
    assert (empty / "quantfair-runs" / "neighbours" / "report.html").is_file()
    status = [sys.executable, "-m", "quantfair", "status", "quantfair-runs/neighbours", "--json"]
    done = subprocess.run(status, cwd=empty, env=environment(installed), capture_output=True, text=True, check=True)
    assert '"command": "quantfair sweep ' in done.stdout


def test_results_of_a_checkout_go_to_its_own_folder_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_checkout() == ROOT
    assert find_default_store("mine") == ROOT / "results" / "runs" / "mine"
    monkeypatch.setattr("quantfair.orchestrator.planning.request.find_checkout", lambda: None)
    assert find_default_store("mine") == Path("quantfair-runs", "mine")
