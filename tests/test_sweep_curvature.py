"""A small sweep that asks for curvature: float trials measure it of their training images; nothing else changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from inline_sweep import plan_sweep, run_sweep

from quantfair.datasets import Batches, load_dataset
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.trials import analysis
from quantfair.orchestrator.trials.analysis import write_curvature
from quantfair.quant import Curvature, build_model, load_weights, measure_curvature
from quantfair.results import Store

SWEEP = {
    "name": "curved",
    "seeds": [0],
    "experiments": [
        {
            "dataset": {"name": "digits", "task": "digit", "test_share": 0.5, "train_size": 200},
            "model": {"name": "small_cnn", "width": 8},
            "train": {"epochs": 4, "lr": 0.01},
        }
    ],
    "quant": [{"method": "qat", "bits": 4, "epochs": 1, "lr": 0.001}],
}
STATISTICS = ["grad_norm", "hessian_trace", "lambda_max"]


def plan_of(*analysis: str) -> tuple[PlannedTrial, ...]:
    return plan_sweep(SWEEP, *analysis)


@pytest.fixture(scope="module")
def curved(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return run_sweep(SWEEP, Store.open(str(tmp_path_factory.mktemp("curved"))), "curvature")


def id_of(method: str) -> str:
    (found,) = (trial.trial_id for trial in plan_of() if trial.method == method)
    return found


def test_float_trials_measure_every_group_and_others_nothing(curved: Store) -> None:
    mechanism = curved.read_table("mechanism").to_pandas()
    assert set(mechanism["trial_id"]) == {id_of("fp32"), id_of("fp32_ft")}
    assert curved.read_mechanism(id_of("qat")) is None
    rows = mechanism.query("statistic in @STATISTICS")
    assert len(rows) == 2 * 10 * len(STATISTICS)
    assert set(rows["grouping"]) == {"label"}
    assert (rows.query("statistic != 'hessian_trace'")["value"] > 0).all()
    assert rows["standard_error"].notna().equals(rows["statistic"] == "hessian_trace")
    assert rows["reason"].isna().all()


def test_the_values_are_of_the_stored_weights_and_the_groups_training_images(curved: Store) -> None:
    (trial,) = (trial for trial in plan_of() if trial.method == "fp32")
    dataset = load_dataset(trial.dataset)
    model = build_model(trial.model, in_channels=1, n_classes=10, task="digit", heads={}, seed=5)
    load_weights(model, curved.read_stage(trial.trial_id))
    train = dataset.splits["train"]
    threes = train[dataset.labels_N[train] == 3]
    torch.set_num_threads(1)
    expected = measure_curvature(model, Batches(dataset, threes, batch_size=len(threes)).epoch)
    rows = curved.read_table("mechanism").to_pandas().query("trial_id == @trial.trial_id and group == '3'")
    found = rows.set_index("statistic")
    assert (found.loc[STATISTICS, "n"] == len(threes)).all()
    assert found.loc["n_train", "value"] == len(threes)
    for name in STATISTICS:
        assert found.loc[name, "value"] == pytest.approx(getattr(expected, name), rel=1e-3)


def test_asking_for_it_changes_no_prediction(curved: Store, tmp_path: Path) -> None:
    plain = run_sweep(SWEEP, Store.open(str(tmp_path)))
    for trial in plan_of():
        assert curved.read_predictions(trial.trial_id, "torch").equals(plain.read_predictions(trial.trial_id, "torch"))
    mechanism = plain.read_table("mechanism").to_pandas()
    reasons = mechanism[mechanism["statistic"].isna()]["reason"]
    assert list(reasons) == ["not measured: `analysis` did not name curvature when the trial ran"] * 2


def test_ten_classes_are_correlated_with_what_qat_loses_against_both(curved: Store) -> None:
    rows = curved.read_table("correlations").to_pandas()
    of_qat = rows[rows["config_id"] == next(t.config_id for t in plan_of() if t.method == "qat")]
    assert set(of_qat["comparison"]) == {"reference", "control"}
    assert set(of_qat["n_groups"]) == {10}
    assert of_qat[of_qat["reason"].isna()]["rho"].between(-1, 1).all()
    assert (of_qat["rho"].isna() == of_qat["reason"].notna()).all()


def test_large_groups_are_sampled_and_what_has_no_value_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial,) = (trial for trial in plan_of() if trial.method == "fp32")
    dataset, store, asked = load_dataset(trial.dataset), Store.open(str(tmp_path)), []
    train = dataset.splits["train"]
    dataset = replace(dataset, splits={**dataset.splits, "train": train[dataset.labels_N[train] != 7]})
    monkeypatch.setattr(analysis, "MOST_OF_A_GROUP", 5)
    found = Curvature(5, 1.0, 2.0, 0.1, float("nan"))
    monkeypatch.setattr(analysis.quant, "measure_curvature", lambda model, batches: found)

    def batches(indices: np.ndarray) -> Batches:
        asked.append(indices)
        return Batches(dataset, indices, batch_size=64)

    write_curvature(store, "t", torch.nn.Identity(), dataset=dataset, groupings=["label"], batches=batches)
    table = store.read_mechanism("t")
    assert table is not None
    rows = table.to_pandas().set_index(["group", "statistic"])
    assert {len(indices) for indices in asked} == {5}
    assert all(len(set(dataset.labels_N[indices])) == 1 for indices in asked)
    assert rows.loc[("7", "grad_norm"), "reason"] == "no training images in this group"
    assert rows.loc[("3", "lambda_max"), "reason"] == "not found: the Lanczos iterations did not converge"
    assert table["value"].null_count == 3 + 9
