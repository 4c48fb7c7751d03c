"""The golden files in `tests/golden/`: what they say, how they are compared, and how they are made anew.

`python tests/support/golden_files.py ids` writes the ids of every sweep in `golden/ids/`. In place of `ids`,
`datasets` writes `golden/dataset_ids.txt` from the real data, `store` runs the sweep of `golden/store.toml` and writes
`golden/store/`, and `tables` writes `golden/tables/` and `golden/page.txt` from that store.

A golden id that has to be written again says that ids have changed. Users' stores then lose every trial: ENGINE_VERSION
in `quant` must say so, or the change is a mistake. In the same way SCHEMA_VERSION in `results` must say that a store or
a table has another form. Make nothing anew only because a test fails.
"""

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from html_page import Page

from quantfair.datasets import DatasetSpec, load_dataset
from quantfair.orchestrator.config.spec import SweepSpec, load_sweep
from quantfair.orchestrator.config.sweep_file import built_in_sweeps
from quantfair.orchestrator.executors.recovery import build_report_without_damaged
from quantfair.orchestrator.planning.plan import PlannedTrial, make_plan
from quantfair.results import Store, import_groups

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
MADE_SWEEPS = ("every_experiment", "every_quantization")  # files in `golden/`; the others are built in
WEIGHTS = f"experiments.3.model.weights={str(GOLDEN / 'weights.bin')!r}"  # a path is relative to the working folder
# Floats are equal up to this much, since the order of a sum is the machine's.
RELATIVE = 1e-9
ABSOLUTE = 1e-12
# The noise floor is of float32 sums, which differ by up to 7e-7 of their value between 1 and 2 threads and between the
# kernels of OpenBLAS 0.3.31 for Haswell, Sandy Bridge and Prescott.
FLOAT32_COLUMNS = {"disparity": ("corrected", "null_mean", "null_q95")}
FLOAT32_RELATIVE = 1e-5
FLOAT32_ABSOLUTE = 1e-6
# Parts of a finished store that no table is made of.
LEFT_OUT = ("stages", "logs", "artifacts", "tables", "report.html")
SCRUBBED = "golden"  # in place of what would name the machine


# The ids of plans.


def golden_sweeps() -> list[str]:
    """Return the name of every sweep that has golden ids."""
    return [*built_in_sweeps(), *MADE_SWEEPS]


def load_golden_sweep(name: str) -> SweepSpec:
    """Return a sweep that has golden ids."""
    if name not in MADE_SWEEPS:
        return load_sweep(name, [])
    overrides = [WEIGHTS] if name == "every_experiment" else []
    return load_sweep(str(GOLDEN / f"{name}.toml"), overrides)


def describe_plan(sweep: SweepSpec) -> str:
    """Return the plan of a sweep as text: data sets, configurations with what their ids are made of, and trials.

    A data set is called by its number, so that no data is needed. A trial names the trials that it needs or is compared
    with by their numbers in the plan.
    """
    dataset_ids: dict[DatasetSpec, str] = {}
    for experiment in sweep.experiments:
        dataset_ids.setdefault(experiment.dataset, f"{len(dataset_ids) + 1:016x}")
    plan = make_plan(sweep, dataset_ids)

    lines = [f"dataset {dataset_id} {describe_dataset(spec)}" for spec, dataset_id in dataset_ids.items()]
    configs = {trial.config_id: trial.identity for trial in plan}
    lines += [f"config {config_id} {describe_identity(identity)}" for config_id, identity in configs.items()]
    numbers = {trial.trial_id: number for number, trial in enumerate(plan, start=1)}
    lines += [describe_trial(trial, numbers) for trial in plan]
    return "\n".join(lines) + "\n"


def describe_dataset(spec: DatasetSpec) -> str:
    """Return the settings of a data set that are not at their default, as JSON."""
    return json.dumps(spec.model_dump(mode="json", exclude_defaults=True), sort_keys=True)


def describe_identity(identity: Mapping[str, str]) -> str:
    """Return what an id is made of, on one line."""
    return " ".join(f"{name}={identity[name]}" for name in sorted(identity))


def describe_trial(trial: PlannedTrial, numbers: Mapping[str, int]) -> str:
    """Return a trial on one line; `numbers` has the place of every trial in the plan."""

    def number_of(trial_id: str | None) -> str:
        return "-" if trial_id is None else str(numbers[trial_id])

    needs = ",".join(map(number_of, trial.needs)) or "-"
    links = f"needs {needs} reference {number_of(trial.reference_trial_id)} control {number_of(trial.control_trial_id)}"
    return f"trial {numbers[trial.trial_id]} {trial.trial_id} {trial.config_id} {trial.method} {links} | {trial.label}"


def find_built_in_datasets() -> list[DatasetSpec]:
    """Return every data set of the built-in sweeps once."""
    sweeps = (load_sweep(name, []) for name in built_in_sweeps())
    return list(dict.fromkeys(experiment.dataset for sweep in sweeps for experiment in sweep.experiments))


def describe_real_datasets(name: str) -> list[str]:
    """Return the data sets of one source that built-in sweeps use, with the ids that the real files give them."""
    specs = [spec for spec in find_built_in_datasets() if spec.name == name]
    return [f"{name} {load_dataset(spec).dataset_id} {describe_dataset(spec)}" for spec in specs]


# Tables.


def find_differences(found: pa.Table, golden: pa.Table, *, float32: Sequence[str] = ()) -> list[str]:
    """Return in words what differs between two tables, column by column; nothing where they are equal.

    `float32` names the columns whose values are of float32 sums.
    """
    if found.column_names != golden.column_names:
        missing = [name for name in golden.column_names if name not in found.column_names]
        added = [name for name in found.column_names if name not in golden.column_names]
        return [f"columns: missing {missing}, new {added}; where both are empty, their order is another one"]
    if len(found) != len(golden):
        return [f"{len(found)} rows, golden has {len(golden)}"]
    differences = []
    for name in golden.column_names:
        if found[name].type != golden[name].type:
            differences.append(f"{name}: {found[name].type}, golden has {golden[name].type}")
            continue
        relative, absolute = (FLOAT32_RELATIVE, FLOAT32_ABSOLUTE) if name in float32 else (RELATIVE, ABSOLUTE)
        same = partial(is_same, relative=relative, absolute=absolute)
        pairs = list(zip(found[name].to_pylist(), golden[name].to_pylist(), strict=True))
        rows = [row for row, (value, wanted) in enumerate(pairs) if not same(value, wanted)]
        if rows:
            value, wanted = pairs[rows[0]]
            extent = f"{len(rows)} of {len(pairs)} rows differ, first row {rows[0]}"
            differences.append(f"{name}: {extent}: {value!r}, golden has {wanted!r}")
    return differences


def is_same(value: Any, wanted: Any, *, relative: float, absolute: float) -> bool:
    """Return whether two values of a table are equal, floats up to the larger of two tolerances."""
    if isinstance(value, list) and isinstance(wanted, list):
        same = partial(is_same, relative=relative, absolute=absolute)
        return len(value) == len(wanted) and all(map(same, value, wanted))
    if isinstance(value, float) and isinstance(wanted, float):
        return math.isclose(value, wanted, rel_tol=relative, abs_tol=absolute)
    return type(value) is type(wanted) and value == wanted


def derive_golden(folder: Path) -> Store:
    """Copy the golden store into a folder, build its tables and its page there, and return that store."""
    shutil.copytree(GOLDEN / "store", folder, dirs_exist_ok=True)
    store = Store.open(str(folder))
    build_report_without_damaged(store)
    return store


def list_tables(store: Store) -> dict[str, pa.Table]:
    """Return every table that was built, by name."""
    names = (name.removesuffix(".parquet") for name in store.list_files("tables") if name.endswith(".parquet"))
    return {name: store.read_table(name) for name in sorted(names)}


def describe_page(html: str) -> str:
    """Return the form of the tables that a page carries: their columns and how many rows they have."""
    tables: dict[str, dict[str, Any]] = Page(html).data["tables"]
    return "".join(f"{name} {count_rows(columns)}: {', '.join(columns)}\n" for name, columns in tables.items())


def count_rows(columns: Mapping[str, Any]) -> int:
    """Return how many rows a table of the page has: a column is a list, or has one of places."""
    lengths = {len(column) if isinstance(column, list) else len(column["codes"]) for column in columns.values()}
    assert len(lengths) <= 1, lengths
    return next(iter(lengths), 0)


# Making them anew.


def write_ids() -> None:
    """Write the ids of every plan."""
    folder = GOLDEN / "ids"
    folder.mkdir(exist_ok=True)
    for name in golden_sweeps():
        (folder / f"{name}.txt").write_text(describe_plan(load_golden_sweep(name)))


def write_dataset_ids() -> None:
    """Write the ids of the data sets of the built-in sweeps."""
    names = sorted({spec.name for spec in find_built_in_datasets()})
    lines = [line for name in names for line in describe_real_datasets(name)]
    (GOLDEN / "dataset_ids.txt").write_text("\n".join(lines) + "\n")


def write_store() -> None:
    """Run the golden sweep and keep what tables are made of, with nothing that names this machine."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(str(Path(folder) / "store"))
        words = ("sweep", str(GOLDEN / "store.toml"), "--executor", "inline", "--store", store.location)
        subprocess.run([sys.executable, "-m", "orchestrator", *words], check=True)
        import_groups(store, describe_ink(store).encode(), source="golden_files.py")
        for name in LEFT_OUT:
            path = Path(store.location, name)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        scrub(store)
        shutil.rmtree(GOLDEN / "store", ignore_errors=True)
        shutil.copytree(store.location, GOLDEN / "store", ignore=shutil.ignore_patterns(".*", "trials.index.parquet"))


def describe_ink(store: Store) -> str:
    """Return a second grouping as CSV: how much ink a digit has, in thirds of each split, so that all are ranked."""
    sweep = load_sweep(str(GOLDEN / "store.toml"), [])
    dataset = load_dataset(sweep.experiments[0].dataset)
    samples, _ = store.read_samples(dataset.dataset_id)
    ids_N = samples["sample_id"].to_numpy()
    ink_N = dataset.images.batch(ids_N).mean(axis=(1, 2, 3))
    lines = ["sample_id,ink"]
    for split in ("train", "val", "test"):
        rows = np.flatnonzero(samples["split"].to_numpy(zero_copy_only=False) == split)
        order = rows[np.argsort(ink_N[rows], kind="stable")]
        for name, part in zip(("little", "some", "much"), np.array_split(order, 3), strict=True):
            lines += [f"{ids_N[row]},{name}" for row in sorted(part)]
    return "\n".join(lines) + "\n"


def scrub(store: Store) -> None:
    """Replace what names this machine in the manifest and in the files of runtimes."""
    path = Path(store.location, "manifest.json")
    manifest = json.loads(path.read_text())
    manifest["command"] = "python -m orchestrator sweep tests/golden/store.toml --executor inline"
    manifest["provenance"] |= dict.fromkeys(("platform", "processor", "cpus"), SCRUBBED)
    path.write_text(json.dumps(manifest))
    for name in store.list_files("runtimes"):
        table = store.files.read_parquet(f"runtimes/{name}", None)
        place = table.column_names.index("device")
        device = pa.array([None if old is None else SCRUBBED for old in table["device"].to_pylist()], pa.string())
        store.files.write_parquet(f"runtimes/{name}", table.set_column(place, table.schema.field(place), device))


def write_tables() -> None:
    """Write the tables and the form of the page that today's code makes of the golden store."""
    folder = GOLDEN / "tables"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with tempfile.TemporaryDirectory() as copy:
        store = derive_golden(Path(copy))
        for name, table in list_tables(store).items():
            pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
        (GOLDEN / "page.txt").write_text(describe_page(store.read_report()))


PARTS = {"ids": write_ids, "datasets": write_dataset_ids, "store": write_store, "tables": write_tables}

if __name__ == "__main__":
    for part in sys.argv[1:]:
        PARTS[part]()
        print(f"wrote the golden {part}")
