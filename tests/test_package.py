"""The package: what is in the wheel, which code a process gets, and where results go, installed and in a checkout."""

import importlib
import json
import re
import runpy
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from installations import (
    ROOT,
    build,
    clean_variables,
    copy_checkout,
    make_environment,
    read_seen,
    run_program,
    write_sweep,
)
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from typer.testing import CliRunner

import quantfair
from quantfair.orchestrator import checkout, provenance
from quantfair.orchestrator.checkout import ROOMS, find_command, make_links, put_checkout_last, put_current_folder_last
from quantfair.orchestrator.commands.app import app
from quantfair.orchestrator.executors import ray_preflight
from quantfair.orchestrator.planning.request import find_default_store
from quantfair.results import Store

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCUMENTS = (".md", ".png")  # for those who read the checkout
SITE_PACKAGES = sysconfig.get_path("purelib")
TINY = ("seeds=[0]", "experiments.0.train.epochs=1", "experiments.0.dataset.train_size=200", "quant=[]")


@dataclass
class Built:
    """A copy of the checkout without git, and what was built from it."""

    checkout: Path
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    copy = copy_checkout(tmp_path_factory.mktemp("copy"))
    sdist, wheel = build(copy, tmp_path_factory.mktemp("built"))
    return Built(checkout=copy, sdist=sdist, wheel=wheel)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which `quantfair` is not installed."""
    return make_environment(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel."""
    return make_environment(tmp_path_factory.mktemp("installed"), wheel=built.wheel)


def list_files(folder: Path) -> set[str]:
    """List what the package is made of, by its place in the package."""
    files = [path.relative_to(folder) for room in ROOMS for path in (folder / room).rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix not in DOCUMENTS or path.parts[1] == "cluster"]
    files = [path for path in files if "__pycache__" not in path.parts]
    top = "orchestrator/package/"
    return {f"quantfair/{path.as_posix().removeprefix(top)}" for path in files}


# What is built.


def test_the_list_of_packages_is_the_folders_with_code_or_data(built: Built) -> None:
    folders = {Path(name).parent.as_posix().replace("/", ".") for name in list_files(built.checkout)}
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert listed == sorted(folders)


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = list_files(built.checkout)
    for name in ("py.typed", "orchestrator/sweeps/quickstart.toml", "orchestrator/cluster/slurm.sh"):
        assert f"quantfair/{name}" in files
    assert {Path(name).suffix for name in files} >= {".py", ".toml", ".css", ".html", ".js", ".yaml", ".sh"}
    assert names == files  # and the wheel was built from the source distribution


def test_the_source_distribution_holds_what_a_reader_needs(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md"} <= names
    assert {"CONTRIBUTING.md", "quant/README.md", "results/COLUMNS.md", "results/dashboard.png"} <= names
    assert {name for name in names if name.endswith(".pyc")} == set()


def test_the_metadata_is_what_the_project_says(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        (place,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Metadata.from_email(wheel.read(place), validate=True)  # as a package index does
        folder = place.removesuffix("METADATA")
        assert wheel.read(f"{folder}licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert wheel.read(f"{folder}top_level.txt") == b"quantfair\n"
        assert wheel.read(f"{folder}entry_points.txt") == b"[console_scripts]\nquantfair = quantfair.__main__:main\n"
    said = PROJECT["project"]
    assert metadata.name == "quantfair"
    assert str(metadata.version) == said["version"] == quantfair.__version__
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description_content_type == "text/markdown"
    assert (metadata.description or "").strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    assert set(metadata.provides_extra or ()) == set(said["optional-dependencies"])
    needed = {need for need in metadata.requires_dist or () if need.marker is None}
    assert needed == {Requirement(text) for text in said["dependencies"]}


# Which code a process gets.


def test_a_new_file_is_found_and_type_checked_without_an_installation(tmp_path: Path) -> None:
    copy = copy_checkout(tmp_path)
    links = make_links(copy, copy / ".links")
    (copy / "quant" / "brand_new.py").write_text("def double(n: int) -> int:\n    return 2 * n\n")
    (copy / "user.py").write_text(
        "from quantfair.quant.brand_new import double\n\nprint(double(4))\n\n\ndef wrong() -> int:\n"
        "    return double('4')\n"
    )
    (copy / "pyrightconfig.json").write_text(json.dumps({"include": ["user.py"], "extraPaths": [".links"]}))
    assert run_program(sys.executable, "user.py", cwd=copy, PYTHONPATH=str(links)) == "8\n"
    checker = Path(sys.executable).with_name("basedpyright")
    done = subprocess.run(
        [checker, "--outputjson"], cwd=copy, env=clean_variables(), capture_output=True, text=True, check=False
    )
    found = [(one["rule"], one["range"]["start"]["line"]) for one in json.loads(done.stdout)["generalDiagnostics"]]
    errors = [one for one in found if one[0] in ("reportArgumentType", "reportMissingImports", "reportAttributeAccess")]
    assert errors == [("reportArgumentType", 6)]


def test_a_link_that_leads_elsewhere_is_mended(tmp_path: Path) -> None:
    package = tmp_path / "quantfair"
    package.mkdir()
    (package / "quant").symlink_to(tmp_path)
    make_links(ROOT, tmp_path)
    assert (package / "quant").resolve() == ROOT / "quant"
    assert {path.name for path in package.iterdir()} == {*ROOMS, "__init__.py", "__main__.py", "py.typed"}


def test_hugging_face_has_its_name_in_the_tests() -> None:
    datasets = importlib.import_module("datasets")
    assert str(datasets.__file__).startswith(SITE_PACKAGES)
    assert datasets.Dataset.from_dict({"a": [1, 2]}).num_rows == 2
    places = {place: number for number, place in enumerate(sys.path)}
    assert places.get(str(ROOT), len(places)) > places[SITE_PACKAGES]


def test_a_checkout_goes_last_wherever_it_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", ["", "first", str(ROOT), str(tmp_path)])
    put_checkout_last()
    assert sys.path == ["first", str(tmp_path), str(ROOT)]
    put_checkout_last()
    assert sys.path == ["first", str(tmp_path), str(ROOT)]


def test_the_current_folder_goes_last_for_an_installed_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "first", str(tmp_path)])
    put_current_folder_last()
    assert sys.path == ["first", str(tmp_path)]


def check_seen(seen: Iterable[dict[str, Any]], *, package: Path, last: Path) -> None:
    """Check that a process had Hugging Face's `datasets`, our package from a folder, and the user's folder last."""
    for one in seen:
        assert one["datasets"].startswith("datasets.")
        assert Path(one["files"]["datasets"]) == Path(SITE_PACKAGES) / "datasets" / "__init__.py"
        assert Path(one["files"]["quantfair"]) == package / "__init__.py"
        assert one["path"][-1] == str(last)
        assert str(last) not in one["path"][:-1]


def test_a_checkout_without_an_installation_finds_a_users_module(bare: Path, tmp_path: Path) -> None:
    copy = copy_checkout(tmp_path / "checkout")
    file = write_sweep(copy)
    said = run_program(bare / "python", "-m", "orchestrator", "plan", file, cwd=copy)
    assert "1 trial" in said
    check_seen(read_seen(copy), package=copy / ".links" / "quantfair", last=copy)


@pytest.mark.parametrize(
    "executor",
    [pytest.param("inline", marks=pytest.mark.slow), pytest.param("ray", marks=(pytest.mark.alone, pytest.mark.slow))],
)
def test_a_checkout_without_an_installation_sweeps_a_users_module(executor: str, bare: Path, tmp_path: Path) -> None:
    copy = copy_checkout(tmp_path / "checkout")
    file = write_sweep(copy)
    words = ["sweep", file, "--executor", executor]
    said = run_program(bare / "python", "-m", "orchestrator", *words, cwd=copy)
    assert "1 of 1 trials ok, 0 failed, 0 missing" in said
    store = Store.open(str(copy / "results" / "runs" / "pictures"))
    assert store.read_manifest()["command"].startswith(f"python -m orchestrator sweep {file} --store")
    assert store.read_trials()["code_version"].to_pylist() == [PROJECT["project"]["version"]]
    processes = read_seen(copy)
    check_seen(processes, package=copy / ".links" / "quantfair", last=copy)
    assert len({one["pid"] for one in processes}) == (1 if executor == "inline" else 2)


# A wheel.


def test_a_wheel_is_swept_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    said = run_program(installed / "quantfair", "sweep", "quickstart", *TINY, "--executor", "inline", cwd=tmp_path)
    assert "1 of 1 trials ok, 0 failed, 0 missing" in said
    assert {path.name for path in tmp_path.iterdir()} == {"quantfair-runs"}
    place = tmp_path / "quantfair-runs" / "quickstart"
    store = Store.open(str(place))
    command = store.read_manifest()["command"]
    assert command.startswith("quantfair sweep quickstart 'seeds=[0]'")
    assert command.endswith(f"--store {place} --executor inline")
    assert store.read_trials()["code_version"].to_pylist() == [PROJECT["project"]["version"]]
    status = run_program(installed / "quantfair", "status", "quantfair-runs/quickstart", "--json", cwd=tmp_path)
    assert json.loads(status)["command"] == command
    assert (place / "report.html").is_file()


@pytest.mark.parametrize(
    "executor",
    [pytest.param("inline", marks=pytest.mark.slow), pytest.param("ray", marks=(pytest.mark.alone, pytest.mark.slow))],
)
def test_a_wheel_lives_next_to_packages_with_common_names(executor: str, installed: Path, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, "timm", "transformers")
    words = ["sweep", file.name, "--executor", executor]
    said = run_program(installed / "quantfair", *words, cwd=tmp_path)
    assert "1 of 1 trials ok, 0 failed, 0 missing" in said
    page = tmp_path / "quantfair-runs" / "pictures" / "report.html"
    page.unlink()
    run_program(installed / "quantfair", "report", "quantfair-runs/pictures", cwd=tmp_path)
    assert page.is_file()
    processes = read_seen(tmp_path)
    assert len({one["pid"] for one in processes}) == (1 if executor == "inline" else 2)
    for one in processes:
        assert Path(one["files"]["quantfair"]).is_relative_to(installed.parent)
        others = {Path(one["files"][name]).parent.parent for name in ("datasets", "timm", "transformers")}
        assert others == {Path(SITE_PACKAGES)}


def test_an_editable_installation_is_used_as_it_is(tmp_path: Path) -> None:
    copy = copy_checkout(tmp_path / "checkout")
    programs = make_environment(tmp_path / "editable")
    words = ["--python", programs / "python", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable"]
    run_program(sys.executable, "-m", "pip", *words, copy, cwd=tmp_path)
    code = "from orchestrator.checkout import use_checkout; use_checkout(); import quantfair; print(quantfair.__file__)"
    said = run_program(programs / "python", "-c", code, cwd=copy)
    assert said == f"{copy / 'orchestrator' / 'package' / '__init__.py'}\n"
    assert not (copy / ".links").exists()


def test_a_folder_on_the_path_that_nobody_may_look_into_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    monkeypatch.setattr(sys, "path", ["/closed/lib", *sys.path])
    put_checkout_last()
    assert "/closed/lib" in sys.path


def test_a_checkout_goes_before_a_wheel(installed: Path, tmp_path: Path) -> None:
    copy = copy_checkout(tmp_path / "checkout")
    code = "from orchestrator.checkout import use_checkout; use_checkout(); import quantfair; print(quantfair.__file__)"
    linked = copy / ".links" / "quantfair" / "__init__.py"
    assert run_program(installed / "python", "-c", code, cwd=copy) == f"{linked}\n"


def test_a_checkout_that_cannot_be_written_to_is_used_through_links_elsewhere(bare: Path, tmp_path: Path) -> None:
    copy = copy_checkout(tmp_path / "checkout")
    (copy / ".links").touch()  # stands for a folder that this user may not write to: root may
    own = tmp_path / "own"
    own.mkdir()
    code = "from orchestrator.checkout import use_checkout; use_checkout(); import quantfair; print(quantfair.__file__)"
    place = Path(run_program(bare / "python", "-c", code, cwd=copy, TMPDIR=str(own)).strip())
    assert place.is_relative_to(own)
    assert not list(own.iterdir())  # it ends with its process


def test_a_wheel_in_a_checkout_leaves_the_names_of_its_folders_to_others(
    installed: Path, built: Built, tmp_path: Path
) -> None:
    code = "import quantfair, importlib.util as u; print(quantfair.__file__); print(u.find_spec('datasets').origin)"
    ours, theirs = run_program(installed / "python", "-c", code, cwd=built.checkout).split()
    assert Path(ours).is_relative_to(installed.parent)
    assert Path(theirs).is_relative_to(SITE_PACKAGES)


# Where results go, and how the command is called.


def test_results_of_a_checkout_go_into_it_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_default_store("mine") == ROOT / "results" / "runs" / "mine"


def test_the_command_is_the_one_that_works_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    assert find_command() == ["python", "-m", "orchestrator"]
    monkeypatch.chdir(tmp_path)
    assert find_command() == ["quantfair"]
    monkeypatch.setattr(checkout, "find_checkout", lambda: None)
    monkeypatch.chdir(ROOT)
    assert find_command() == ["quantfair"]


@pytest.mark.parametrize(("module", "name"), [("orchestrator", "python -m orchestrator"), ("quantfair", "quantfair")])
def test_help_calls_the_command_as_it_was_started(
    module: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["started", "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(module, run_name="__main__")
    assert f"Usage: {name} [OPTIONS] COMMAND" in capsys.readouterr().out


# Which version it is.


def test_the_command_line_says_its_version() -> None:
    said = CliRunner().invoke(app, ["--version"])
    assert said.exit_code == 0
    assert said.stdout == f"quantfair {PROJECT['project']['version']}\n"


def test_the_version_is_written_down_once() -> None:
    version = re.escape(PROJECT["project"]["version"])
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert [path for path in files if re.search(rf"version__ = |[\"']{version}[\"']", path.read_text())] == []
    assert "version:" not in (ROOT / "CITATION.cff").read_text().replace("cff-version:", "")


def ask_git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_the_code_version_is_the_commit_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = provenance.find_code_version.__wrapped__
    monkeypatch.delenv(provenance.CODE_VERSION_VARIABLE, raising=False)
    monkeypatch.setattr(provenance, "find_checkout", lambda: tmp_path)
    ask_git(tmp_path, "init", "--quiet")
    assert find() == quantfair.__version__  # no commit yet
    (tmp_path / "file").write_text("one")
    ask_git(tmp_path, "add", "file")
    ask_git(tmp_path, "commit", "--quiet", "--message", "One")
    commit = ask_git(tmp_path, "rev-parse", "HEAD")[:12]
    assert find() == commit
    (tmp_path / "file").write_text("two")
    assert find() == f"{commit}+"


def test_a_copy_in_a_folder_of_another_repository_has_a_version_and_no_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find = provenance.find_code_version.__wrapped__
    monkeypatch.delenv(provenance.CODE_VERSION_VARIABLE, raising=False)
    ask_git(tmp_path, "init", "--quiet")
    ask_git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "Theirs")
    (tmp_path / "shipped").mkdir()
    monkeypatch.setattr(provenance, "find_checkout", lambda: tmp_path / "shipped")
    assert find() == quantfair.__version__
    monkeypatch.setattr(provenance, "find_checkout", lambda: None)  # as from a wheel
    assert find() == quantfair.__version__
    monkeypatch.setenv(provenance.CODE_VERSION_VARIABLE, "abc+")  # what the driver found
    assert find() == "abc+"


def test_a_program_has_one_hash_installed_editable_linked_and_shipped(
    built: Built, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        wheel.extractall(tmp_path / "installed")
    make_links(ROOT, tmp_path / "links")
    make_links(built.checkout, tmp_path / "shipped")  # the copy of a checkout that Ray ships is used through links

    def hash_at(top: Path, rooms: Path) -> str:
        place = rooms / "orchestrator" / "executors" / "ray_preflight.py"
        assert place.is_file()
        monkeypatch.setattr(quantfair, "__file__", str(top / "__init__.py"))
        monkeypatch.setattr(ray_preflight, "__file__", str(place))
        return ray_preflight.hash_program()

    def hash_in(folder: str) -> str:
        package = tmp_path / folder / "quantfair"
        return hash_at(package, package)

    hashes = {folder: hash_in(folder) for folder in ("installed", "links", "shipped")}
    assert set(hashes.values()) == {hashes["links"]}
    # `pip install --editable` alone finds the package in its folder, and the rooms beside one another.
    assert hash_at(ROOT / "orchestrator" / "package", ROOT) == hashes["links"]
    stored = built.checkout / "results" / "runs" / "mine" / "predict.py"
    stored.parent.mkdir(parents=True)
    stored.write_text("# a program that was shipped with a model")
    assert hash_in("shipped") == hashes["links"]
    for name in ("__init__.py", "quant/__init__.py"):
        changed = tmp_path / "installed" / "quantfair" / name
        changed.write_text(f"{changed.read_text()}\n")
        assert hash_in("installed") not in hashes.values()
