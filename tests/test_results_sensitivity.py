"""The table `sensitivity`: planted damage of one layer is found where it was planted, and gaps have reasons."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from quantfair.results import Store, StoreError, build_tables, make_predictions

N, N_VAL = 120, 80  # the first images are val, the others test
RNG = np.random.default_rng(0)
LABELS_N = RNG.integers(0, 2, N)
HAIR_N = np.array(["red", "grey"])[RNG.integers(0, 2, N)]
SPLITS_N = np.array(["val"] * N_VAL + ["test"] * (N - N_VAL))
VAL = np.arange(N_VAL)
FLOAT_N = np.where(RNG.random(N_VAL) < 0.9, LABELS_N[:N_VAL], 1 - LABELS_N[:N_VAL])


def layer_table(layer: str, predicted_N: np.ndarray, order: np.ndarray = VAL) -> pa.Table:
    columns = {"layer": pa.repeat(layer, len(order)), "sample_id": order, "predicted": predicted_N[order]}
    return pa.table({"trial_id": pa.repeat("ptq", len(order)), **columns, "float_predicted": FLOAT_N[order]})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A float trial and a PTQ trial, both ok, without sensitivity."""
    store, columns = Store.open(str(tmp_path)), {"dataset_id": ["d"] * N, "sample_id": np.arange(N), "split": SPLITS_N}
    samples = pa.table({**columns, "label": LABELS_N, "source": pa.nulls(N, pa.string()), "hair": HAIR_N})
    store.write_samples("d", samples, {"label": ["cat", "dog"], "hair": ["red", "grey", "blue"]})
    plan: list[dict[str, Any]] = [{"trial_id": "ref", "method": "fp32", "dataset_id": "d"}]
    plan += [{"trial_id": "ptq", "method": "ptq", "dataset_id": "d", "reference_trial_id": "ref"}]
    for trial in plan:
        shared = {"runtime": "torch", "sample_ids_N": np.arange(N), "splits_N": SPLITS_N, "keep_logits": False}
        logits_NK = RNG.normal(size=(N, 2))
        made = make_predictions(
            logits_NK, LABELS_N, trial_id=trial["trial_id"], reference_logits_NK=logits_NK, **shared
        )
        store.write_predictions(trial["trial_id"], "torch", made)
        store.write_layers(trial["trial_id"], [{"trial_id": trial["trial_id"], "layer": "fc"}])
        store.write_trial({**trial, "status": "ok"})
    planned = [{**trial, "needs": []} for trial in plan]
    store.write_manifest(
        {"name": "planted", "runtimes": ["torch"], "groupings": {"d": ["hair"]}, "plan": planned, "provenance": {}}
    )
    return store


def test_damage_of_one_layer_is_counted_in_its_group_and_layer_alone(store: Store) -> None:
    victims = np.flatnonzero((LABELS_N[:N_VAL] == FLOAT_N) & (HAIR_N[:N_VAL] == "grey"))[:7]
    damaged_N = FLOAT_N.copy()
    damaged_N[victims] = 1 - damaged_N[victims]
    shuffled = np.random.default_rng(1).permutation(VAL)
    store.write_layer_predictions("ptq", [layer_table("conv", FLOAT_N), layer_table("fc", damaged_N, shuffled)])
    table = build_tables(store)["sensitivity"].to_pandas()
    assert set(table["trial_id"]) == {"ptq"}
    assert set(table["split"]) == {"val"}
    assert set(table["grouping"]) == {"overall", "label", "hair"}
    assert (table["n_rr"] + table["n_rw"] + table["n_wr"] + table["n_ww"] == table["n"]).all()
    conv, fc = (
        table[(table["layer"] == layer) & (table["grouping"] == "hair")].set_index("group") for layer in ("conv", "fc")
    )
    assert conv["n_flip"].sum() == 0
    assert fc["n_rw"].to_dict() == fc["n_flip"].to_dict() == {"red": 0, "grey": 7, "blue": 0}
    grey = (HAIR_N[:N_VAL] == "grey").sum()
    right_before, right_after = ((p == LABELS_N[:N_VAL])[HAIR_N[:N_VAL] == "grey"].mean() for p in (FLOAT_N, damaged_N))
    assert fc.loc["grey", "n"] == grey
    assert fc.loc["grey", "drop_pp"] == pytest.approx(100 * (right_before - right_after)) == pytest.approx(700 / grey)
    assert np.isnan(fc.loc["blue", "drop_pp"])
    assert fc.loc["blue", "reason"] == "no val images in this group"
    assert fc["reason"].isna().to_dict() == {"red": True, "grey": True, "blue": False}
    overall = table[(table["layer"] == "fc") & (table["grouping"] == "overall")].iloc[0]
    assert (overall["group"], overall["n"], overall["n_rw"]) == ("all", N_VAL, 7)


@pytest.mark.parametrize(
    ("tables", "reason"),
    [(None, "not measured: `analysis` did not name sensitivity when the trial ran"), ([], "no layer is quantized")],
)
def test_a_trial_without_it_is_one_row_with_a_reason(store: Store, tables: list[pa.Table] | None, reason: str) -> None:
    if tables is not None:
        store.write_layer_predictions("ptq", tables)
    (row,) = build_tables(store)["sensitivity"].to_pylist()
    assert {name for name, value in row.items() if value is not None} == {"trial_id", "reason"}
    assert (row["trial_id"], row["reason"]) == ("ptq", reason)


def test_predictions_of_other_images_are_refused(store: Store) -> None:
    store.write_layer_predictions("ptq", [layer_table("conv", FLOAT_N, VAL[1:])])
    with pytest.raises(StoreError, match=r"Trial ptq predicted other images than the val images.* layer conv\. Delete"):
        build_tables(store)


def test_layers_of_an_earlier_version_get_the_new_columns_as_nulls(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = store.read_layers
    monkeypatch.setattr(store, "read_layers", lambda trial_id: read(trial_id).drop_columns(["weight_sqnr_db"]))
    layers = build_tables(store)["layers"]
    assert layers["weight_sqnr_db"].null_count == len(layers) == 2
