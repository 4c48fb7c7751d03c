"""Deployed runtimes in a sweep: filled in for finished trials, never at their expense; what fails, and what ships."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from processes import start_process, wait_until
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from quantfair import quant
from quantfair.orchestrator.commands.app import app
from quantfair.orchestrator.config.spec import load_sweep, parse_sweep
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.planning.runtimes import fail, find_runtimes_to_measure, list_missing, read_end
from quantfair.orchestrator.trials import deployment
from quantfair.quant.deploy import latency, onnxruntime
from quantfair.results import Store

SWEEP = """
name = "shipped"
seeds = [0]

[[experiments]]
dataset = {name = "digits", task = "digit", test_share = 0.5, train_size = 200}
model = {name = "small_cnn", width = 8}
train = {epochs = 10, lr = 0.01}

[[quant]]
method = "ptq"
bits = 8
act_signed = ["auto", "always"]

[[quant]]
method = "qat"
bits = 4
epochs = 1
lr = 0.001
"""
N_TRIALS = 5
ALL = 'runtimes=["torch", "onnxruntime", "tensorrt"]'


class Place(NamedTuple):
    """A sweep file and its store."""

    file: Path
    store: Store

    def run(self, command: str, *words: str) -> tuple[int, str]:
        options = ["--store", self.store.location, *(["--executor", "inline"] if command == "sweep" else [])]
        result = CliRunner().invoke(app, [command, str(self.file), *words, *options], catch_exceptions=False)
        return result.exit_code, result.output

    def statuses(self, runtime: str) -> dict[str, str]:
        tables = {i: self.store.read_runtime(i, runtime) for i in self.store.trial_ids()}
        return {i: str(table["status"][0]) for i, table in tables.items() if table is not None}

    def mtimes(self) -> dict[str, int]:
        """When every file was written that trials leave in torch."""
        root = Path(self.store.location)
        found = [*root.glob("trials/*"), *root.glob("stages/*"), *root.glob("predictions/*.torch.parquet")]
        return {str(path): path.stat().st_mtime_ns for path in found if path.suffix != ".index"}


@pytest.fixture(scope="module", autouse=True)
def _few_calls() -> Iterator[None]:
    """Time as few calls as there must be: nothing here reads how long they took."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "_MOST_CALLS", latency._LEAST_CALLS)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A finished sweep, in torch alone. Shared: copy it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "sweep.toml").write_text(SWEEP)
    place = Place(folder / "sweep.toml", Store.open(str(folder / "store")))
    assert place.run("sweep")[0] == 0
    return place


@pytest.fixture(scope="module")
def deployed(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The same with every runtime filled in. Shared: copy it."""
    place = copy(finished, tmp_path_factory.mktemp("deployed"))
    before = place.mtimes()
    code, _ = place.run("sweep", ALL)
    assert code == 0
    assert place.mtimes() == before  # no trial was redone
    return place


def copy(place: Place, folder: Path) -> Place:
    shutil.copytree(place.store.location, folder / "store")
    return Place(place.file, Store.open(str(folder / "store")))


def test_a_finished_store_gets_the_runtime_alone_for_every_method(deployed: Place) -> None:
    assert set(deployed.statuses("onnxruntime").values()) == {"ok"}
    assert len(deployed.statuses("onnxruntime")) == N_TRIALS
    rows = deployed.store.read_table("runtimes").to_pandas().query("runtime == 'onnxruntime'")
    assert (
        sorted(rows.groupby("trial_id").apply(lambda r: tuple(zip(r.session, r.batch.fillna(0), strict=True))))
        == [(("fast", 1.0), ("fast", 256.0), ("exact", 0.0))] * N_TRIALS
    )
    exact = rows.query("session == 'exact'")
    assert (exact["n_flip"] <= 0.005 * exact["n_test"]).all()
    assert rows["file_bytes"].gt(0).all()
    assert rows.query("session == 'fast'")["p50_ms"].gt(0).all()


def test_predictions_of_a_restored_model_are_those_of_the_trial(deployed: Place) -> None:
    for trial_id in deployed.store.trial_ids():
        torch, exact = (deployed.store.read_predictions(trial_id, name) for name in ("torch", "onnxruntime_exact"))
        same = np.mean(torch["predicted"].to_numpy() == exact["predicted"].to_numpy())
        assert same >= 0.995


def test_a_log_goes_on_where_the_trial_ended(deployed: Place, finished: Place) -> None:
    for trial_id in finished.store.trial_ids():
        before, after = (place.store.read_log(trial_id) for place in (finished, deployed))
        assert after.startswith(before)
        assert after.count("measures onnxruntime") == 1
        assert "of 898 test answers are not torch's" in after


def test_a_second_sweep_has_nothing_to_do(deployed: Place) -> None:
    code, said = deployed.run("sweep", ALL)
    assert code == 0
    assert "Nothing to run: all 5 trials of shipped are finished." in said


def test_what_tensorrt_cannot_represent_or_run_here_is_a_row_that_says_why(deployed: Place) -> None:
    code, said = deployed.run("plan", ALL)
    assert code == 0
    assert "onnxruntime: 5 ok, 0 failed, 0 unsupported, 0 missing" in said
    assert "tensorrt: 0 ok, 0 failed, 5 unsupported, 0 missing" in said
    why = quant.RUNTIMES["tensorrt"].load().why_unavailable()
    assert f"unsupported: 3 x {why}; then `sweep --retry-failed` measures it" in said
    assert 'unsupported: 1 x act_signed = "auto": TensorRT has no unsigned integers' in said
    assert "unsupported: 1 x weight_bits = 4 and act_bits = 4: TensorRT has INT4 for weights alone" in said


def test_status_counts_runtimes_and_plan_foresees_them(finished: Place, tmp_path: Path) -> None:
    place = copy(finished, tmp_path)
    _, said = place.run("plan", ALL)
    assert "onnxruntime: 0 ok, 0 failed, 0 unsupported, 5 missing" in said
    assert "left: 5 trials" in said
    code, _ = place.run("sweep", ALL, "--limit", "2")
    assert code == 0
    result = CliRunner().invoke(app, ["status", place.store.location, "--json"])
    summary = json.loads(result.output)["runtimes"]
    assert [summary[name]["missing"] for name in ("onnxruntime", "tensorrt")] == [3, 3]


def break_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise quant.RuntimeFailureError("no\nsuch kernel")

    monkeypatch.setattr(onnxruntime, "open_predictors", refuse)


def test_a_runtime_that_fails_is_a_row_and_runs_again_when_asked(
    finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copy(finished, tmp_path)
    words = 'runtimes=["torch", "onnxruntime"]'
    with monkeypatch.context() as patch:
        break_onnxruntime(patch)
        code, said = place.run("sweep", words)
    assert code == 1
    assert "failed: 5 x RuntimeFailureError: no such kernel" in said
    assert all(place.store.read_status(i) == "ok" for i in place.store.trial_ids())
    assert "Nothing to run" in place.run("sweep", words)[1]
    before = place.mtimes()
    code, said = place.run("sweep", words, "--retry-failed", "--limit", "2")
    assert (code, "onnxruntime: 2 ok, 3 failed, 0 unsupported, 0 missing" in said) == (1, True)
    assert place.mtimes() == before


def test_a_model_that_was_not_kept_says_how_it_comes_back(finished: Place, tmp_path: Path) -> None:
    place = copy(finished, tmp_path)
    trials = place.store.read_trials().to_pandas().set_index("trial_id")
    lost = str(trials.index[trials["method"] == "qat"][0])
    Path(place.store.location, "stages", f"{lost}.pt").unlink()
    code, said = place.run("sweep", 'runtimes=["torch", "onnxruntime"]')
    assert code == 1
    assert f"stages/{lost}.pt is missing: delete trials/{lost}.parquet, and `sweep` runs the trial again" in said
    place.store.remove_trial(lost)
    assert place.run("sweep", 'runtimes=["torch", "onnxruntime"]')[0] == 0
    assert place.statuses("onnxruntime")[lost] == "ok"


def test_a_lost_float_stage_is_trained_anew_before_runtimes_need_it(finished: Place, tmp_path: Path) -> None:
    place = copy(finished, tmp_path)
    trials = place.store.read_trials().to_pandas().set_index("trial_id")
    lost = str(trials.index[trials["method"] == "fp32"][0])
    Path(place.store.location, "stages", f"{lost}.pt").unlink()
    code, said = place.run("sweep", 'runtimes=["torch", "onnxruntime"]')
    assert code == 0
    assert f"stages/{lost}.pt is missing; `sweep` runs trial {lost} again" in said
    assert set(place.statuses("onnxruntime").values()) == {"ok"}


@pytest.mark.parametrize("folder", ["predictions", "runtimes"])
def test_damage_of_a_runtime_costs_that_runtime_alone(deployed: Place, folder: str, tmp_path: Path) -> None:
    place = copy(deployed, tmp_path)
    before, trial_id = place.mtimes(), min(place.store.trial_ids())
    Path(place.store.location, folder, f"{trial_id}.onnxruntime.parquet").write_bytes(b"PAR1 damaged")
    result = CliRunner().invoke(app, ["report", place.store.location])
    assert f"`sweep` measures trial {trial_id} in onnxruntime again" in result.output
    assert "onnxruntime: 4 ok, 0 failed, 0 unsupported, 1 missing" in result.output
    assert place.run("sweep", ALL)[0] == 0
    assert place.statuses("onnxruntime")[trial_id] == "ok"
    assert place.mtimes() == before


def test_an_export_that_is_impossible_names_the_cause_in_its_row(
    finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise quant.ExportError("SmallCnn cannot be exported: it branches")

    monkeypatch.setattr(deployment, "export_trial", refuse)
    place = copy(finished, tmp_path)
    assert (
        "failed: 5 x ExportError: SmallCnn cannot be exported: it branches"
        in place.run("sweep", 'runtimes=["torch", "onnxruntime"]')[1]
    )


def planned(**quant_settings: Any) -> PlannedTrial:
    from quantfair.datasets import find_dataset_id
    from quantfair.orchestrator.planning.plan import make_plan

    raw = {**load_sweep("quickstart", []).raw, "runtimes": ["torch", "onnxruntime", "tensorrt"], "seeds": [0]}
    sweep = parse_sweep({**raw, "quant": [{"method": "ptq", **quant_settings}]})
    return make_plan(sweep, {e.dataset: find_dataset_id(e.dataset) for e in sweep.experiments})[-1]


@pytest.mark.parametrize(
    ("status", "settings", "plainly", "retried"),
    [
        ("ok", {"act_signed": "always"}, False, False),
        ("failed", {"act_signed": "always"}, False, True),
        ("unsupported", {"act_signed": "always"}, False, True),  # of the worker: another one may have a GPU
        ("unsupported", {"act_signed": "auto"}, False, False),  # of the settings: for good
    ],
)
def test_which_runtimes_are_measured_again(status: str, settings: dict[str, Any], plainly: bool, retried: bool) -> None:
    trial = planned(**settings)
    measured = {(trial.trial_id, runtime): status for runtime in ("onnxruntime", "tensorrt")}
    for retry, expected in ((False, plainly), (True, retried)):
        assert ("tensorrt" in find_runtimes_to_measure(trial, measured, retry_failed=retry)) == expected
    assert find_runtimes_to_measure(trial, {}, retry_failed=False) == ("onnxruntime", "tensorrt")


def test_a_trial_that_is_ended_from_outside_loses_the_runtime_that_came_next_and_not_its_row(tmp_path: Path) -> None:
    trial, store = planned(bits=8), Store.open(str(tmp_path))
    assert read_end(trial, store) is None
    store.write_trial({**trial.columns(), "status": "ok"})
    assert read_end(trial, store) is None
    store.write_runtime(trial.trial_id, "onnxruntime", [{"status": "ok"}])
    assert list_missing(trial, store) == ["tensorrt"]
    assert fail(trial, store, "TimedOut: too long") == "ok"
    assert store.read_status(trial.trial_id) == "ok"
    rows = store.read_runtime(trial.trial_id, "tensorrt")
    assert rows is not None
    assert rows.to_pylist()[0]["reason"] == "TimedOut: too long"
    assert read_end(trial, store) == "ok"


def test_a_trial_without_a_row_that_is_ended_from_outside_has_failed(tmp_path: Path) -> None:
    trial, store = planned(bits=8), Store.open(str(tmp_path))
    assert fail(trial, store, "WorkerDied: lost") == "failed"
    assert read_end(trial, store) == "failed"


def test_a_trial_that_failed_by_itself_just_before_it_is_ended_stays_failed(tmp_path: Path) -> None:
    trial, store = planned(bits=8), Store.open(str(tmp_path))
    store.write_trial({**trial.columns(), "status": "failed", "error": "ValueError: it was so"})
    assert fail(trial, store, "TimedOut: too late") == "failed"
    assert store.read_runtime(trial.trial_id, "onnxruntime") is None


def test_a_time_limit_ends_the_runtime_and_leaves_the_trial(
    finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*_: object, **__: object) -> None:
        time.sleep(30)

    monkeypatch.setattr(onnxruntime, "open_predictors", wait)
    monkeypatch.setattr(deployment, "export_trial", lambda *_, **__: None)
    place = copy(finished, tmp_path)
    before = place.mtimes()
    code, said = place.run("sweep", 'runtimes=["torch", "onnxruntime"]', "retry.timeout_s=0.3", "--limit", "1")
    assert code == 1
    assert "TimedOut: ran longer than retry.timeout_s = 0.3" in said
    assert place.mtimes() == before


def export(place: Place, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["export", place.store.location, *words], catch_exceptions=False)
    return result.exit_code, result.output


def test_an_export_classifies_images_with_nothing_of_ours(finished: Place, tmp_path: Path) -> None:
    trials = finished.store.read_trials().to_pandas()
    trial_id = str(trials.loc[trials["method"] == "qat", "trial_id"].iloc[0])
    code, said = export(finished, trial_id[:8], "--output", str(tmp_path / "out"))
    assert code == 0
    assert said.split() == [str(tmp_path / "out" / name) for name in ("model.onnx", "predict.py")]
    source: Any = load_digits()
    sixteenths, paths = source.images[:20], []
    for index, image in enumerate(sixteenths):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(paths[-1])
    command = [sys.executable, "predict.py", *map(str, paths)]
    run = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True, check=True)
    named = [line.split(": ")[1].split()[0] for line in run.stdout.splitlines()]
    assert np.mean(np.array(named) == source.target[:20].astype(str)) >= 0.8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zzz"], "'zzz' begins no trial's id of this sweep"),
        ([""], "begins the ids of 5 trials"),
        (
            ["{qat}", "--runtime", "tensorrt"],
            "cannot be met: weight_bits = 4 and act_bits = 4: TensorRT",
        ),
        (["{fp32}", "--runtime", "tensorrt"], "cannot be met: tensorrt cannot be imported"),
        (["{qat}", "--half"], "export it without `half`"),
    ],
)
def test_an_export_that_cannot_be_says_why_and_leaves_nothing(
    finished: Place, words: list[str], message: str, tmp_path: Path
) -> None:
    trials = finished.store.read_trials().to_pandas().set_index("method")["trial_id"]
    ids = {method: str(trials[method]) for method in ("fp32", "qat")}
    code, said = export(finished, *(word.format(**ids) for word in words), "--output", str(tmp_path / "out"))
    assert code == 2
    assert message in said
    assert not list(tmp_path.rglob("*.*"))


def test_a_folder_that_cannot_be_made_is_named(finished: Place, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    code, said = export(finished, min(finished.store.trial_ids()), "--output", str(tmp_path / "out"))
    assert (code, "`--output` cannot be made" in said) == (2, True)


def test_a_trial_whose_data_or_weights_changed_says_so(finished: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    trial_id = min(finished.store.trial_ids())
    monkeypatch.setattr("quantfair.orchestrator.trials.export.find_dataset_id", lambda spec: "of other data")
    code, said = export(finished, trial_id)
    assert code == 2
    assert f"{trial_id} cannot be built here: its data or weights changed since it ran" in said

    def refuse(*_: object) -> None:
        raise ValueError("`model.weights`: there is no file w.pt; give the path of a state dict")

    monkeypatch.setattr("quantfair.orchestrator.trials.export.make_plan", refuse)
    code, said = export(finished, trial_id)
    assert code == 2
    assert "there is no file w.pt" in said


def test_a_trial_that_is_not_finished_cannot_be_exported(finished: Place, tmp_path: Path) -> None:
    place = copy(finished, tmp_path)
    trial_id = min(place.store.trial_ids())
    place.store.remove_trial(trial_id)
    code, said = export(place, trial_id)
    assert (code, "is not finished: run the sweep first" in said) == (2, True)


@pytest.mark.slow
def test_on_ray_a_killed_sweep_goes_on_with_the_runtimes_that_are_missing(finished: Place, tmp_path: Path) -> None:
    place = copy(finished, tmp_path)
    before, words = place.mtimes(), ["sweep", str(place.file), 'runtimes=["torch", "onnxruntime"]']
    command = [sys.executable, "-m", "orchestrator", *words, "--store", place.store.location]
    driver = start_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: driver.poll() is not None or place.statuses("onnxruntime"), "a row of ONNX Runtime")
    driver.kill()
    driver.wait()
    kept = {path: path.stat().st_mtime_ns for path in Path(place.store.location, "runtimes").iterdir()}
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert set(place.statuses("onnxruntime").values()) == {"ok"}
    assert len(place.statuses("onnxruntime")) == N_TRIALS
    assert place.mtimes() == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
