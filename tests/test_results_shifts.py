"""Shares of classes and what became of them: planted shifts, and counts by independent code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_results_tables import CLASSES, HAIR, Sweep, right_ones, set_device

from quantfair.results.statistics.intervals import drop_interval


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    planted = Sweep(tmp_path)
    planted.add("ref", planted.logits, method="fp32")
    return planted


def shifts(sweep: Sweep, comparison: str = "reference") -> Any:
    table = sweep.tables()["shifts"].query("trial_id == 'q' and comparison == @comparison")
    return table.set_index(["grouping", "group", "class"])


def test_exactly_the_planted_shift_is_found_and_nothing_elsewhere(sweep: Sweep) -> None:
    cats = [index for index in right_ones(sweep, hair=1) if sweep.labels[index] == 0][:17]
    logits = sweep.logits.copy()
    logits[cats, 2] = 20
    sweep.add("q", logits, method="ptq", reference="ref")
    found = shifts(sweep).loc["hair"]
    n = (sweep.hair[:600] == 1).sum()
    assert found.loc["grey", "shift_pp"].to_dict() == pytest.approx(
        {"cat": -1700 / n, "dog": 0, "eel": 1700 / n}, abs=1e-12
    )
    assert found.loc[("grey", "cat"), "ci_high_pp"] < 0 < found.loc[("grey", "eel"), "ci_low_pp"]
    assert (found.loc[["red", "none"], "shift_pp"] == 0).all()
    assert (found.loc[["red", "none"], "ci_low_pp"] < 0).all()
    assert found["reason"].dropna().unique().tolist() == ["no test images in this group"]
    assert found.loc["blue", ["share", "other_share", "shift_pp", "ci_low_pp", "ci_high_pp"]].isna().all(axis=None)


@pytest.mark.parametrize("comparison", ["reference", "control"])
def test_every_shift_is_that_of_independent_code(sweep: Sweep, comparison: str) -> None:
    rng = np.random.default_rng(3)
    noisy, tuned = (sweep.logits + rng.normal(size=sweep.logits.shape).astype(np.float32) for _ in range(2))
    sweep.add("ft", tuned, method="fp32_ft", reference="ref")
    sweep.add("q", noisy, method="qat", reference="ref", control="ft")
    other = {"reference": sweep.logits, "control": tuned}[comparison]
    codes = {"hair": sweep.hair, "label": sweep.labels}
    names = {"hair": HAIR, "label": CLASSES}
    found = shifts(sweep, comparison)
    assert len(found) == (1 + 3 + 4 + 8) * 3
    assert set(found["other_trial_id"]) == {{"reference": "ref", "control": "ft"}[comparison]}
    for (grouping, group, name), row in found.query("grouping in ('hair', 'label') and n > 0").iterrows():
        here = (codes[grouping] == names[grouping].index(group))[:600]
        before, after = (logits[:600][here].argmax(1) == CLASSES.index(name) for logits in (other, noisy))
        assert (row["other_share"], row["share"]) == pytest.approx((before.mean(), after.mean()), abs=1e-12)
        assert row["shift_pp"] == pytest.approx(100 * (after.mean() - before.mean()), abs=1e-10)
        expected = drop_interval((after & ~before).sum(), (before & ~after).sum(), here.sum())
        ours = row["ci_low_pp"], row["ci_high_pp"]
        assert ours == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)
    sums = found.query("n > 0").groupby(["grouping", "group"])[["share", "other_share", "shift_pp"]].sum()
    assert np.allclose(sums, [1, 1, 0], atol=1e-9)


def test_shifts_against_a_trial_without_result_are_null_with_the_reason(sweep: Sweep) -> None:
    row = sweep.plan_trial("ft", "fp32_ft", reference="ref")
    sweep.store.write_trial({**row, "status": "failed", "error": "no"})
    sweep.add("q", sweep.logits, method="qat", reference="ref", control="ft")
    found, reference = shifts(sweep, "control"), shifts(sweep)
    assert found.index.equals(reference.index)
    assert found["n"].equals(reference["n"])
    assert (found["reason"] == "the control trial ft failed or has not run").all()
    assert found[["share", "other_share", "shift_pp", "ci_low_pp", "ci_high_pp"]].isna().all(axis=None)


def test_shifts_between_two_kinds_of_device_are_flagged(sweep: Sweep) -> None:
    sweep.add("q", sweep.logits, method="ptq", reference="ref")
    set_device(sweep, "ref", "cpu")
    set_device(sweep, "q", "cuda")
    assert shifts(sweep)["reason"].str.startswith("the devices differ: the trial ran on cuda").all()
