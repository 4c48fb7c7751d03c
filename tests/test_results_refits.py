"""How much of a drop offsets of classes explain: planted shifts and planted damage, and counts by independent code."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from test_results_tables import HAIR, Sweep, damage, right_ones

from quantfair.results import make_predictions
from quantfair.results.statistics.intervals import drop_interval


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    planted = Sweep(tmp_path)
    planted.add("ref", planted.logits, method="fp32")
    return planted


def pairs(sweep: Sweep, grouping: str) -> Any:
    table = sweep.tables()["paired_metrics"]
    return table[(table["grouping"] == grouping) & (table["n"] > 0)].set_index("group")


def test_a_planted_shift_between_classes_is_all_that_was_lost(sweep: Sweep) -> None:
    sweep.add("ptq", sweep.logits + np.array([2.5, 0, 0], np.float32), method="ptq", reference="ref")
    paired = pairs(sweep, "label")
    assert paired.loc[["dog", "eel"], "drop_pp"].min() > 15
    assert paired.loc["cat", "drop_pp"] < -5
    assert paired["refit_drop_pp"].abs().max() < 1
    assert np.allclose(paired["prior_shift_pp"], paired["drop_pp"] - paired["refit_drop_pp"], atol=1e-9)


def test_planted_damage_is_left_when_shifts_are_undone(sweep: Sweep) -> None:
    sweep.add("ptq", damage(sweep, right_ones(sweep, hair=1)[:60]), method="ptq", reference="ref")
    grey = pairs(sweep, "hair").loc["grey"]
    assert grey["refit_drop_pp"] == pytest.approx(grey["drop_pp"], abs=2)
    assert grey["refit_drop_ci_low_pp"] > 20


def test_counts_and_intervals_of_refitted_answers_are_those_of_independent_code(sweep: Sweep) -> None:
    rng = np.random.default_rng(1)
    noisy = sweep.logits + rng.normal(size=sweep.logits.shape).astype(np.float32)
    sweep.add("ptq", noisy, method="ptq", reference="ref")
    refits = [
        sweep.store.read_predictions(name, "torch").to_pandas().query("split == 'test'") for name in ("ref", "ptq")
    ]
    before, after = (refit["predicted_refit"].to_numpy() == sweep.labels[:600] for refit in refits)
    for group, row in pairs(sweep, "hair").iterrows():
        here = sweep.hair[:600] == HAIR.index(str(group))
        lost, won = int((before & ~after & here).sum()), int((~before & after & here).sum())
        assert (row["refit_n_rw"], row["refit_n_wr"]) == (lost, won)
        assert row["refit_drop_pp"] == pytest.approx(100 * (before[here].mean() - after[here].mean()), abs=1e-9)
        interval = drop_interval(lost, won, here.sum())
        ours = row["refit_drop_ci_low_pp"], row["refit_drop_ci_high_pp"]
        assert ours == pytest.approx((100 * interval.low, 100 * interval.high), abs=1e-9)


def test_without_val_predictions_refitted_columns_are_null_with_a_reason(sweep: Sweep) -> None:
    sweep.add("ptq", sweep.logits, method="ptq", reference="ref")
    table = sweep.store.read_predictions("ptq", "torch")
    here = table.filter(pc.field("split") == "test")["sample_id"].to_numpy()
    columns = {"trial_id": "ptq", "runtime": "torch", "sample_ids_N": here, "splits_N": np.repeat("test", len(here))}
    test_only = make_predictions(
        sweep.logits[here], sweep.labels[here], **columns, reference_logits_NK=None, keep_logits=False
    )
    sweep.store.write_predictions("ptq", "torch", test_only)
    paired = pairs(sweep, "hair")
    assert paired.filter(regex="refit|prior_shift").isna().all(axis=None)
    assert paired["reason"].str.endswith("refit: without predictions of val images, no offsets were fitted").all()
    assert (paired["drop_pp"] == 0).all()
