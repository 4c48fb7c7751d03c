"""A small sweep that asks for SQNR and sensitivity: what they hold, and that they change nothing else."""

import numpy as np
import pytest
from inline_sweep import plan_sweep, run_sweep

from quantfair.orchestrator.config.errors import RequestError
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.results import Store

SWEEP = {
    "name": "analysed",
    "seeds": [0],
    "experiments": [
        {
            "dataset": {"name": "digits", "task": "digit", "test_share": 0.5, "train_size": 200},
            "model": {"name": "small_cnn", "width": 8},
            "train": {"epochs": 15, "lr": 0.01},
        }
    ],
    "quant": [
        {"method": "ptq", "bits": [16, 3]},
        {"method": "ptq", "bits": 8, "overrides": {"*": {"quantize": False}}},
        {"method": "qat", "bits": 3, "init": ["fp32", "scratch"], "epochs": 1, "lr": 0.001},
    ],
}


def plan_of(*analysis: str) -> tuple[PlannedTrial, ...]:
    return plan_sweep(SWEEP, *analysis)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return run_sweep(SWEEP, Store.open(str(tmp_path_factory.mktemp("analysed"))), "sqnr", "sensitivity")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return run_sweep(SWEEP, Store.open(str(tmp_path_factory.mktemp("plain"))))


def id_of(method: str, *, weight_bits: int, init: str | None = None, overrides: bool = False) -> str:
    (found,) = (
        trial.trial_id
        for trial in plan_of()
        if trial.method == method
        and (trial.columns()["weight_bits"], trial.columns()["init"]) == (weight_bits, init)
        and ("overrides" in trial.columns()["config"]) == overrides
    )
    return found


def test_analysis_is_no_part_of_a_trials_identity_and_travels_to_its_worker() -> None:
    asked = plan_of("sensitivity", "sqnr")
    assert [trial.trial_id for trial in asked] == [trial.trial_id for trial in plan_of()]
    assert all(
        PlannedTrial.model_validate_json(trial.model_dump_json()).analysis == ("sensitivity", "sqnr") for trial in asked
    )
    with pytest.raises(RequestError, match=r"`analysis.0` must be one of sqnr, sensitivity, curvature, got 'sqnrs'"):
        plan_of("sqnrs")


def test_analysis_changes_no_other_result(analysed: Store, plain: Store) -> None:
    for trial in plan_of():
        one, other = (store.read_predictions(trial.trial_id, "torch") for store in (analysed, plain))
        assert one.equals(other)
    dropped = ["sqnr_db", "reason"]
    one, other = (store.read_table("layers").drop_columns(dropped) for store in (analysed, plain))
    assert one.equals(other)


def test_the_noise_of_layers_is_there_where_they_are_quantized(analysed: Store, plain: Store) -> None:
    layers = analysed.read_table("layers").to_pandas().set_index("trial_id")
    quantized = layers[layers["status"] == "quantized"]
    assert quantized[["weight_sqnr_db", "sqnr_db"]].notna().all().all()
    assert quantized["reason"].isna().all()
    assert layers.loc[layers["status"] == "float", ["weight_sqnr_db", "sqnr_db"]].isna().all().all()
    fine, coarse = (quantized.loc[id_of("ptq", weight_bits=bits)] for bits in (16, 3))
    assert (fine["sqnr_db"] > 60).all()
    assert (coarse["sqnr_db"] < 25).all()
    not_asked = plain.read_table("layers").to_pandas().query("status == 'quantized'")
    assert set(not_asked["reason"]) == {"sqnr_db: not asked for"}
    assert not_asked["weight_sqnr_db"].notna().all()


def test_sensitivity_is_zero_at_16_bits_and_not_at_3(analysed: Store) -> None:
    table = analysed.read_table("sensitivity").to_pandas().query("grouping == 'overall'").set_index("trial_id")
    fine, coarse = (table.loc[id_of("ptq", weight_bits=bits)] for bits in (16, 3))
    assert len(fine) == len(coarse) == 4
    assert fine["n_flip"].sum() == 0
    assert coarse["n_flip"].sum() > 0
    assert set(table.loc[id_of("qat", weight_bits=3, init="fp32"), "layer"]) == set(coarse["layer"])
    assert table["n"].nunique() == 1


def test_groups_of_a_layer_add_up_and_their_float_side_is_the_reference(analysed: Store) -> None:
    ptq = id_of("ptq", weight_bits=3)
    table = analysed.read_table("sensitivity").to_pandas().query("trial_id == @ptq")
    counts = table.groupby(["layer", "grouping"])[["n", "n_rr", "n_rw", "n_wr", "n_ww", "n_flip"]].sum()
    assert counts.xs("label", level="grouping").equals(counts.xs("overall", level="grouping"))
    (reference,) = (trial.trial_id for trial in plan_of() if trial.method == "fp32")
    val = analysed.read_predictions(reference, "torch").to_pandas().query("split == 'val'")
    kept = analysed.read_layer_predictions(ptq)
    assert kept is not None
    for _, of_layer in kept.to_pandas().groupby("layer"):
        assert np.array_equal(of_layer["sample_id"], val["sample_id"])
        assert np.array_equal(of_layer["float_predicted"], val["predicted"])


def test_what_was_not_measured_is_a_row_with_a_reason(analysed: Store, plain: Store) -> None:
    rows = analysed.read_table("sensitivity").to_pandas().set_index("trial_id")
    assert rows.loc[id_of("ptq", weight_bits=8, overrides=True), "reason"] == "no layer is quantized"
    missing = plain.read_table("sensitivity").to_pandas()
    assert list(missing["trial_id"]) == [trial.trial_id for trial in plan_of() if trial.method in ("ptq", "qat")]
    assert set(missing["reason"]) == {"not measured: `analysis` did not name sensitivity when the trial ran"}
