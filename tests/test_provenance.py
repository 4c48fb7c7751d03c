"""A store says which versions made it: of every package that can change a number."""

import ast
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from golden_files import derive_golden, list_tables
from html_page import Page

from quantfair.orchestrator import provenance
from quantfair.orchestrator.provenance import PACKAGES, find_provenance, find_versions
from quantfair.results.page.report import render_report

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("orchestrator", "quant", "datasets", "results")
# Packages that are imported and cannot change a number of a result.
NO_NUMBERS = {
    "fairlearn": "a view of numbers that are stored already",
    "playwright": "drives the browser that draws figures",
    "protobuf": "carries ONNX files",
    "pydantic": "checks settings",
    "pydantic-core": "checks settings",
    "pyyaml": "writes the files of clusters",
    "rich": "draws in terminals",
    "typer": "reads commands",
    "typing-extensions": "types",
}


def find_imported_packages() -> dict[str, set[str]]:
    """Return for every name that the rooms import the distributions that have it here: several of a namespace."""
    names = set[str]()
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.add(node.module.split(".")[0])
    homes = metadata.packages_distributions()
    third_party = names - set(sys.stdlib_module_names) - {"quantfair"}
    # NVIDIA's packages for one version of CUDA belong to one without: tensorrt-rtx-cu13 to tensorrt-rtx.
    return {
        name: {re.sub(r"-cu\d+$", "", home.lower().replace("_", "-")) for home in homes.get(name, ())}
        for name in third_party
    }


def test_every_package_that_is_imported_is_recorded_or_changes_no_number() -> None:
    imported = find_imported_packages()
    assert {"torch", "numpy", "onnx", "onnxruntime", "PIL", "sklearn"} <= imported.keys()
    known = {*PACKAGES, *NO_NUMBERS}
    assert {name: homes for name, homes in imported.items() if homes and not homes & known} == {}


def test_every_package_that_a_result_needs_is_recorded() -> None:
    lines = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    assert lines
    needed = {re.split(r"[\[><=~ ]", name)[0].lower() for name in re.findall(r'^\s*"([^"]+)"', lines[1], re.MULTILINE)}
    assert {"torch", "onnxruntime"} <= needed
    assert needed - set(PACKAGES) - NO_NUMBERS.keys() == set()
    versions = find_versions()
    for name in needed & set(PACKAGES):
        assert versions[name] == metadata.version(name)


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package"))
    found = find_versions.__wrapped__()
    assert found.keys() == {"engine_version", "python", "numpy"}


def test_the_manifest_of_a_sweep_names_the_version_of_onnx_runtime() -> None:
    assert find_provenance()["onnxruntime"] == metadata.version("onnxruntime")


# The methods paragraph.


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """The tables of a store whose provenance does not name ONNX Runtime, which measured in it."""
    tables = list_tables(derive_golden(tmp_path_factory.mktemp("golden")))
    return {**tables, "provenance": tables["provenance"].filter(pc.field("key") != "onnxruntime")}


def read_methods(tables: dict[str, pa.Table]) -> str:
    return Page(render_report(tables)).by_id("methods-text").words


def change_runtimes(tables: dict[str, pa.Table], **columns: Any) -> dict[str, pa.Table]:
    """Return the tables with other columns of `runtimes`, each a function of a row."""
    table = tables["runtimes"]
    rows = [{**row, **{name: made(row) for name, made in columns.items()}} for row in table.to_pylist()]
    return {**tables, "runtimes": pa.Table.from_pylist(rows, schema=table.schema)}


def test_methods_name_the_version_of_torch_and_of_every_runtime_that_measured(tables: dict[str, pa.Table]) -> None:
    recorded = dict(zip(*(tables["provenance"][name].to_pylist() for name in ("key", "value")), strict=True))
    assert "onnxruntime" not in recorded
    (version,) = set(tables["runtimes"]["version"].to_pylist()) - {None}
    assert version.startswith("onnxruntime ")
    end = f"(Quantfair, code version {recorded['code_version']}; torch {recorded['torch']}; {version}.)"
    assert read_methods(tables).endswith(end)


def test_methods_name_both_versions_where_machines_differed(tables: dict[str, pa.Table]) -> None:
    first = tables["trials"]["trial_id"][0].as_py()

    def other(row: dict[str, Any]) -> str | None:
        return "onnxruntime 1.0.0" if row["version"] and row["trial_id"] == first else row["version"]

    said = read_methods(change_runtimes(tables, version=other))
    (version,) = set(tables["runtimes"]["version"].to_pylist()) - {None}
    assert said.endswith(f"; onnxruntime 1.0.0; {version}.)")


def test_methods_name_tensorrt_where_it_measured(tables: dict[str, pa.Table]) -> None:
    said = read_methods(
        change_runtimes(
            tables,
            runtime=lambda row: "tensorrt" if row["runtime"] == "onnxruntime" else row["runtime"],
            version=lambda row: row["version"] and "tensorrt 10.13.2",
        )
    )
    assert said.endswith("; tensorrt 10.13.2.)")
    assert "onnxruntime" not in said


def test_methods_name_no_runtime_that_measured_nothing(tables: dict[str, pa.Table]) -> None:
    of_torch = tables["runtimes"].filter(pc.field("runtime") == "torch")
    said = read_methods({**tables, "runtimes": of_torch})
    assert "onnxruntime" not in said
