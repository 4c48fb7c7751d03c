"""Whole sweeps on real digits: what they leave behind, what runs again, what fails alone, what the commands say."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch
from processes import find_workers, lives, start_process, wait_until
from sklearn.metrics import balanced_accuracy_score
from typer.testing import CliRunner

from quantfair.datasets import Batches, DatasetSpec, load_dataset
from quantfair.orchestrator.commands.app import app
from quantfair.orchestrator.trials import run as trial_module
from quantfair.quant import TrainSpec, fit
from quantfair.results import RUN_DEPENDENT, TABLES, Store

ROOT = Path(__file__).resolve().parent.parent
SWEEP = """
name = "tiny"
seeds = [0, 1, 2]

[[experiments]]
dataset = {name = "digits", task = "digit", test_share = 0.5, train_size = 200}
model = {name = "small_cnn", width = 8}
train = {epochs = 20, lr = 0.01}

[[quant]]
method = "ptq"
bits = [8, 4]

[[quant]]
method = "qat"
bits = 4
epochs = 1
lr = 0.001
"""
N_TRIALS = 15


class Said(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


def run(*words: str) -> Said:
    """A command in this process."""
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    return Said(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("sweep") / "tiny.toml"
    file.write_text(SWEEP)
    return str(file)


@pytest.fixture(scope="module")
def undisturbed(tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The tiny sweep, for all tests that leave it as it is."""
    return Store.open(str(shutil.copytree(tiny_store.location, tmp_path_factory.mktemp("undisturbed") / "store")))


def rows_of(store: Store) -> dict[str, dict[str, Any]]:
    return {row["trial_id"]: row for row in store.read_table("trials").to_pylist()}


def times_of_rows(store: Store) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in Path(store.location, "trials").glob("*.parquet")}


def assert_equal_tables(first: Store, second: Store) -> None:
    for name in TABLES:
        if name in ("predictions", "provenance"):
            continue
        a, b = (store.read_table(name) for store in (first, second))
        if name == "trials":
            a, b = a.drop_columns(list(RUN_DEPENDENT)), b.drop_columns(list(RUN_DEPENDENT))
        assert a.equals(b), name
    for trial_id in first.trial_ids():
        assert first.read_predictions(trial_id, "torch").equals(second.read_predictions(trial_id, "torch"))


def test_every_trial_is_a_row_with_its_reference_and_control(undisturbed: Store) -> None:
    rows = rows_of(undisturbed)
    assert len(rows) == N_TRIALS
    assert {row["status"] for row in rows.values()} == {"ok"}
    for row in rows.values():
        assert (row["reference_trial_id"] is None) == (row["method"] == "fp32")
        assert (row["control_trial_id"] is not None) == (row["method"] == "qat")
        assert row["n_test"] == 898
        assert 0.5 < row["accuracy"] <= 1


def test_groups_add_up_to_the_test_set_and_their_accuracies_to_the_trials(undisturbed: Store) -> None:
    rows = rows_of(undisturbed)
    metrics = undisturbed.read_table("group_metrics").to_pandas()
    accuracy = metrics[metrics["metric"] == "accuracy"]
    checked = accuracy.groupby(["trial_id", "grouping"])
    assert len(checked) == N_TRIALS * 2
    for (trial_id, _), groups in checked:
        assert groups["n"].sum() == rows[trial_id]["n_test"]
        right = (groups["value"] * groups["n"]).sum()
        assert right / groups["n"].sum() == pytest.approx(rows[trial_id]["accuracy"], abs=1e-12)


def test_the_stored_accuracy_is_that_of_the_stored_predictions(undisturbed: Store) -> None:
    samples = undisturbed.read_table("samples").to_pandas().set_index("sample_id")
    for trial_id, row in rows_of(undisturbed).items():
        test = undisturbed.read_predictions(trial_id, "torch").to_pandas().query("split == 'test'")
        labels = samples.loc[test["sample_id"], "label"].to_numpy()
        assert (test["predicted"].to_numpy() == labels).mean() == row["accuracy"]


def test_macro_accuracy_is_scikit_learns_balanced_accuracy(undisturbed: Store) -> None:
    samples = undisturbed.read_table("samples").to_pandas().set_index("sample_id")
    for trial_id, row in rows_of(undisturbed).items():
        test = undisturbed.read_predictions(trial_id, "torch").to_pandas().query("split == 'test'")
        labels = samples.loc[test["sample_id"], "label"].to_numpy()
        assert row["macro_accuracy"] == pytest.approx(balanced_accuracy_score(labels, test["predicted"]))


def test_the_order_of_the_data_follows_the_seed() -> None:
    orders = []
    for seed in (0, 1):
        layer = torch.nn.Linear(64, 10)
        with torch.no_grad():
            layer.weight.zero_()
        model = torch.nn.Sequential(torch.nn.Flatten(), layer)
        data = load_dataset(DatasetSpec(name="digits", task="digit"))
        batches = Batches(data, data.splits["train"], batch_size=64)
        fit(model, TrainSpec(epochs=1, lr=0.01), train=batches, val=batches, seed=seed, log=lambda _: None)
        orders.append(layer.weight.detach().clone())
    assert not torch.equal(*orders)


def test_the_same_command_again_runs_nothing_and_starts_no_ray(
    undisturbed: Store, sweep_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "quantfair.orchestrator.executors.ray_tune", None)  # importing it would fail
    before = times_of_rows(undisturbed)
    said = run("sweep", sweep_file, "--store", undisturbed.location)
    assert said.exit_code == 0
    assert "Nothing to run: all 15 trials of tiny are finished." in said.stdout
    assert times_of_rows(undisturbed) == before


def test_deleting_a_row_runs_exactly_that_trial(sweep_file: str, undisturbed: Store) -> None:
    before, tables = times_of_rows(undisturbed), undisturbed.read_table("paired_metrics")
    victim = sorted(before)[3]
    undisturbed.remove_trial(victim)
    said = run("sweep", sweep_file, "--executor", "inline", "--store", undisturbed.location)
    after = times_of_rows(undisturbed)
    assert said.exit_code == 0
    assert {trial_id for trial_id in after if after[trial_id] != before[trial_id]} == {victim}
    assert undisturbed.read_table("paired_metrics").equals(tables)


def test_an_axis_more_runs_only_the_new_trials(sweep_file: str, undisturbed: Store) -> None:
    said = run("plan", sweep_file, "quant.0.bits=[8, 4, 6]", "--store", undisturbed.location, "--json")
    counts = json.loads(said.stdout)["by_method"]["ptq"]
    assert counts == {"planned": 9, "ok": 6, "failed": 0, "blocked": 0, "to_run": 3}


def test_preset_iao_is_an_axis_of_its_own(sweep_file: str, tmp_path: Path) -> None:
    presets = ['quant.0.preset=["none", "iao"]', "quant.1.preset=iao", "seeds=[0]"]
    said = run("sweep", sweep_file, *presets, "--executor", "inline", "--store", str(tmp_path))
    assert said.exit_code == 0, said
    found = [(row["method"], row["preset"]) for row in rows_of(Store.open(str(tmp_path))).values()]
    expected = [("fp32", None), ("fp32_ft", None), ("qat", "iao"), *[("ptq", "iao"), ("ptq", "none")] * 2]
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_ptq_of_the_control_and_qat_from_scratch_are_compared_with_what_they_say(
    sweep_file: str, tmp_path: Path
) -> None:
    recipe = "epochs=1, lr=0.001"
    overrides = [f"quant.0={{method='ptq', bits=16, base='fp32_ft', {recipe}}}", "quant.1.init='scratch'", "seeds=[0]"]
    said = run("sweep", sweep_file, *overrides, "--executor", "inline", "--store", str(tmp_path))
    store = Store.open(str(tmp_path))
    rows = {row["method"]: row for row in rows_of(store).values()}
    assert said.exit_code == 0
    assert list(rows) == ["fp32", "fp32_ft", "ptq", "qat"]
    assert rows["ptq"]["reference_trial_id"] == rows["fp32_ft"]["trial_id"]
    kl = store.read_predictions(rows["ptq"]["trial_id"], "torch")["kl_nats"].to_numpy()
    assert kl.max() < 1e-3  # 16 bits of the fine-tuned model, not of fp32
    assert rows["qat"]["accuracy"] < rows["fp32"]["accuracy"]  # one epoch from scratch
    assert rows["qat"]["control_reason"].startswith("trained from scratch with other steps or selection than fp32")


def test_qat_from_scratch_takes_the_same_steps_as_fp32_which_is_its_control(sweep_file: str, tmp_path: Path) -> None:
    scratch = "quant=[{method='qat', init='scratch', bits=16, act_observer='minmax'}]"
    overrides = [scratch, "seeds=[0]", "experiments.0.train.epochs=2"]
    said = run("sweep", sweep_file, *overrides, "--executor", "inline", "--store", str(tmp_path))
    assert said.exit_code == 0
    store = Store.open(str(tmp_path))
    fp32, qat = rows_of(store).values()
    assert qat["control_trial_id"] == qat["reference_trial_id"] == fp32["trial_id"]
    logs = [Path(store.log_path(row["trial_id"])).read_text() for row in (fp32, qat)]
    losses = [[float(loss) for loss in re.findall(r"epoch ./2: train loss (\S+) nats", log)] for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # nothing is clipped at 16 bits: the same steps
    assert len(losses[0]) == 2
    assert qat["calibrate_s"] > 0 == fp32["calibrate_s"]


def test_a_narrower_request_says_what_it_does_not_show(sweep_file: str, tmp_path: Path, undisturbed: Store) -> None:
    shutil.copytree(undisturbed.location, tmp_path / "copy")
    said = run("sweep", sweep_file, "seeds=[0]", "--store", str(tmp_path / "copy"))
    assert "10 finished trials in the store are not part of this request, and are not shown." in said.stdout
    assert "5 of 5 trials ok" in said.stdout


def test_a_trial_that_raises_is_a_row_and_the_sweep_goes_on(
    sweep_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = trial_module.BUILDERS["ptq"]

    def fail_at_four_bits(bench: trial_module.TrialContext) -> trial_module.BuiltModel:
        if bench.trial.quant.weight_bits == 4:  # type: ignore[union-attr]
            raise RuntimeError("no luck at 4 bits")
        return build(bench)

    monkeypatch.setitem(trial_module.BUILDERS, "ptq", fail_at_four_bits)
    words = ("sweep", sweep_file, "seeds=[0]", "--executor", "inline", "--store", str(tmp_path))
    said = run(*words)
    store = Store.open(str(tmp_path))
    failed = [row for row in rows_of(store).values() if row["status"] == "failed"]
    assert said.exit_code == 1
    assert "4 of 5 trials ok, 1 failed, 0 missing." in said.stdout
    assert [row["error"] for row in failed] == ["RuntimeError: no luck at 4 bits"]
    assert "fail_at_four_bits" in failed[0]["traceback"]
    assert "no luck at 4 bits" in Path(store.log_path(failed[0]["trial_id"])).read_text()

    monkeypatch.setitem(trial_module.BUILDERS, "ptq", build)
    before = times_of_rows(store)
    again = run(*words)
    assert again.exit_code == 1
    assert "Nothing to run" in again.stdout
    assert times_of_rows(store) == before
    assert run(*words, "--retry-failed").exit_code == 0
    after = times_of_rows(store)
    assert {t for t in after if after[t] != before[t]} == {failed[0]["trial_id"]}


def test_a_diverged_stage_names_its_step_and_stops_only_its_own_children(sweep_file: str, tmp_path: Path) -> None:
    overrides = ["seeds=[0]", "experiments.0.train.lr=[0.01, 1e30]"]
    said = run("sweep", sweep_file, *overrides, "--executor", "inline", "--store", str(tmp_path))
    rows = rows_of(Store.open(str(tmp_path)))
    failed = {row["method"]: row["error"] for row in rows.values() if row["status"] == "failed"}
    assert said.exit_code == 1
    assert [row["status"] for row in rows.values()].count("ok") == 5
    assert "DivergedError" in failed["fp32"]
    assert "step" in failed["fp32"]
    assert failed["qat"].startswith("not run: it needs trial ")
    assert "which failed: DivergedError" in failed["qat"]
    status = json.loads(run("status", str(tmp_path), "--json").stdout)
    counts = [status[f"n_{name}"] for name in ("planned", "ok", "failed", "blocked", "missing")]
    assert counts == [10, 5, 1, 4, 0]
    assert said.stdout.count("  failed: ") == 1
    assert "5 of 10 trials ok, 1 failed, 4 blocked by a failed one, 0 missing." in said.stdout
    again = run("sweep", sweep_file, *overrides, "--executor", "inline", "--store", str(tmp_path))
    assert "Nothing to run of tiny: 5 trials are ok, 1 failed and 4 need one of those" in again.stdout


def test_a_gpu_that_is_not_there_is_a_failed_trial_that_says_so(
    sweep_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = (
        "sweep",
        sweep_file,
        "seeds=[0]",
        "resources.ptq.gpu=0.5",
        "--executor",
        "inline",
        "--store",
        str(tmp_path),
    )
    assert run(*words).exit_code == 1
    errors = {row["method"]: row["error"] for row in rows_of(Store.open(str(tmp_path))).values()}
    assert errors["ptq"] == "RuntimeError: 0.5 GPUs were asked for, but torch sees none here: set `gpu` to 0."
    assert errors["qat"] is None


def test_methods_on_different_devices_are_warned_of_before_and_after(
    sweep_file: str, tmp_path: Path, undisturbed: Store
) -> None:
    words = (sweep_file, "seeds=[0]", "--store", str(tmp_path / "store"))
    warning = "warning: 2 ptq trials on cuda with the reference on cpu: a part of what they differ by"
    assert "warning" not in run("plan", *words).stdout
    said = run("plan", *words, "resources.ptq.gpu=0.5").stdout
    assert warning in said
    assert said.count("warning") == 1
    assert len(json.loads(run("plan", *words, "resources.ptq.gpu=1", "--json").stdout)["warnings"]) == 1

    shutil.copytree(undisturbed.location, tmp_path / "store")
    assert "warning" not in run("plan", *words, "resources.ptq.gpu=1").stdout  # they are finished, on the cpu
    store = Store.open(str(tmp_path / "store"))
    for row in rows_of(store).values():
        if row["method"] == "ptq" and row["seed"] == 0:
            store.write_trial({**row, "device": "cuda"})
    said = run("sweep", *words).stdout
    assert warning in said
    assert run("report", store.location).stdout.count("warning: ") == 1
    assert "Devices differ" in Path(store.location, "report.html").read_text()


def test_torch_gets_as_many_threads_as_whole_cpus(sweep_file: str, tmp_path: Path) -> None:
    words = ("sweep", sweep_file, "seeds=[0]", "quant=[]", "resources.fp32.cpu=2.5", "experiments.0.train.epochs=1")
    try:
        assert run(*words, "--executor", "inline", "--store", str(tmp_path)).exit_code == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_status_and_report_work_on_a_partial_store(sweep_file: str, tmp_path: Path, undisturbed: Store) -> None:
    partial = tmp_path / "partial"
    shutil.copytree(undisturbed.location, partial)
    victims = sorted((partial / "trials").iterdir())[::2]
    for victim in victims:
        victim.unlink()
    said = run("status", str(partial))
    assert said.exit_code == 0
    assert f"tiny: {N_TRIALS - len(victims)} of {N_TRIALS} trials ok, 0 failed, {len(victims)} missing" in said.stdout
    report = json.loads(run("report", str(partial), "--json").stdout)
    assert (report["n_ok"], report["n_missing"]) == (N_TRIALS - len(victims), len(victims))
    assert Path(report["dashboard"]).stat().st_size > 1_000_000


def test_bad_requests_end_with_2_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "quantfair.orchestrator.executors.ray_tune", None)
    store = ("--store", str(tmp_path / "store"))
    said = run("sweep", "quickstart", "quant.0.bits=17", "quant.1.epochs=0", *store)
    assert said.exit_code == 2
    assert said.stderr.startswith("2 problems in quickstart:")
    assert run("sweep", "no-such-sweep", *store).exit_code == 2
    assert run("sweep", "quickstart", "mnist", *store).exit_code == 2
    assert run("status", str(tmp_path / "nothing")).stderr.startswith(f"{tmp_path / 'nothing'} holds no sweep")
    monkeypatch.setenv("QUANTFAIR_DATA", str(tmp_path / "no-data"))
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["file:///no/such/folder/"])
    said = run("sweep", "mnist", *store)
    assert said.exit_code == 2
    assert "QUANTFAIR_DATA" in said.stderr
    assert not (tmp_path / "store").exists()


def start(*words: str) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "orchestrator", *words]
    return start_process(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_sweep_killed_on_ray_goes_on_and_ends_like_an_undisturbed_inline_one(
    sweep_file: str, tmp_path: Path, undisturbed: Store
) -> None:
    store = Store.open(str(tmp_path))
    words = ("sweep", sweep_file, "--store", store.location)
    first = start(*words)
    wait_until(lambda: len(store.trial_ids()) >= 2 or first.poll() is not None, "two rows")
    assert first.poll() is None, first.communicate()[0]
    workers = find_workers(first.pid)
    assert workers or not Path("/proc").is_dir()
    os.kill(first.pid, signal.SIGKILL)
    before = times_of_rows(store)
    first.communicate()
    wait_until(lambda: not any(map(lives, workers)), "workers are gone", seconds=30)  # Ray's own take a minute
    assert 2 <= len(before) < N_TRIALS
    second = start(*words)
    said = second.communicate(timeout=240)[0]
    assert second.returncode == 0, said
    after = times_of_rows(store)
    assert {trial_id: after[trial_id] for trial_id in before} == before
    assert len(after) == N_TRIALS
    assert f"[{N_TRIALS}/{N_TRIALS}]" in said
    assert "Ray dashboard: http://" in said
    assert_equal_tables(store, undisturbed)


@pytest.mark.slow  # `test_cluster.py` has every shape of it
def test_more_than_any_node_has_is_refused_before_waiting_for_ever(sweep_file: str, tmp_path: Path) -> None:
    process = start("sweep", sweep_file, "resources.qat.gpu=64", "--store", str(tmp_path))
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert "`resources.qat` asks for" in said
    assert "gpu 64, which no node has (" in said


def test_tables_have_their_complete_schemas(undisturbed: Store) -> None:
    for name, schema in TABLES.items():
        if name == "predictions":
            continue
        table = undisturbed.read_table(name)
        assert set(schema.names) <= set(table.column_names)
        assert all(table.schema.field(field.name).type == field.type for field in schema)
        assert not any(_has_nan(column) for column in table.columns)


def _has_nan(column: pa.ChunkedArray) -> bool:
    return pa.types.is_floating(column.type) and bool(np.isnan(column.drop_null().to_numpy()).any())
