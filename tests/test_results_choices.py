"""Choices are made on val and reported on test; what picking on test would have claimed stands beside them."""

import json
from typing import Any

import numpy as np
import pytest
from contrast_study import make_row

from quantfair.results.contrasts.choices import NO_GROUP, NO_REFERENCE, NO_SEED, NO_VAL, add_choices
from quantfair.results.schema import CHOICES
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables import groupings
from quantfair.results.tables.answers import DatasetAnswers, TrialAnswers
from quantfair.results.tables.groupings import Grouping

N = 200
CODES = np.repeat([0, 1, 2], [100, 80, 20])


def make_measured(
    right: dict[str, dict[str, Any]], rows: list[dict[str, Any]], codes_V: np.ndarray = CODES
) -> DatasetAnswers:
    """Trials that are right on as many val and test images of each group as `right` says."""
    zeros = np.zeros(N, dtype=np.int64)
    parts = [("overall", ("all",), zeros, zeros), ("label", ("0",), zeros, zeros)]
    parts += [("group", ("a", "b", "few"), codes_V, CODES)]
    made = tuple(Grouping(name, names, zeros, val, test) for name, names, val, test in parts)
    test_set = groupings.TestSet("d", np.arange(N), zeros, 2, made, np.arange(N))
    outcomes = {}
    for trial_id, counts in right.items():
        val_V, test_N = (counts[split] and fill(counts[split]) for split in ("val", "test"))
        losses = zeros.astype(np.float32)
        outcomes[trial_id] = TrialAnswers(trial_id, "torch", test_N, test_N, None, losses, losses, val_V)
    return DatasetAnswers(test_set, rows, outcomes)


def fill(counts: list[int]) -> np.ndarray:
    return np.concatenate([np.arange(n) < k for n, k in zip([100, 80, 20], counts, strict=True)])


def choose(measured: DatasetAnswers) -> dict[str, Any]:
    rows = TableBuilder(CHOICES)
    add_choices(measured, rows)
    found = rows.table().to_pandas()
    return {row["grouping"]: row for row in found.to_dict("records")}


RIGHT = {
    "fp32 0": {"val": [90, 70, 10], "test": [90, 70, 10]},
    "even 0": {"val": [85, 65, 10], "test": [84, 66, 10]},
    "sharp 0": {"val": [90, 62, 18], "test": [90, 63, 0]},
}
ROWS = [make_row("fp32", "fp32", 0, reference_trial_id=None), make_row("ptq", "even", 0), make_row("ptq", "sharp", 0)]


def test_each_criterion_takes_its_best_on_val_and_says_what_that_does_on_test() -> None:
    found = choose(make_measured(RIGHT, ROWS))
    accuracy, worst = found["overall"], found["group"]
    assert (accuracy["criterion"], accuracy["config_id"], accuracy["n_configs"]) == ("accuracy", "sharp", 2)
    assert accuracy["val_value"] == pytest.approx(170 / N)
    assert accuracy["test_value"] == pytest.approx(153 / N)
    assert accuracy["best_test_value"] == pytest.approx(160 / N)
    assert (worst["criterion"], worst["config_id"]) == ("worst_group", "even")
    assert worst["val_value"] == pytest.approx(5 / 80)
    assert worst["test_value"] == worst["best_test_value"] == pytest.approx(6 / 100)
    assert (accuracy["method"], accuracy["weight_bits"], accuracy["n_seeds"]) == ("ptq", 8, 1)


def test_val_chooses_among_configurations_of_one_training() -> None:
    longer = [{**row, "config": json.dumps({"train": {"epochs": 9}})} for row in ROWS[2:]]
    rows = TableBuilder(CHOICES)
    add_choices(make_measured(RIGHT, [*ROWS[:2], *longer]), rows)
    found = rows.table().to_pandas().query("criterion == 'accuracy'").set_index("config_id")
    assert found.n_configs.to_dict() == {"even": 1, "sharp": 1}
    assert '"epochs": 9' in found.training["sharp"]


def test_what_is_missing_is_null_with_its_reason() -> None:
    no_val = choose(make_measured({**RIGHT, "even 0": {**RIGHT["even 0"], "val": None}}, ROWS))
    assert {row["reason"] for row in no_val.values()} == {NO_VAL}
    assert all(np.isnan(row["val_value"]) for row in no_val.values())
    no_reference = choose(make_measured({**RIGHT, "fp32 0": {**RIGHT["fp32 0"], "val": None}}, ROWS))
    assert (no_reference["overall"]["config_id"], no_reference["group"]["reason"]) == ("sharp", NO_REFERENCE)
    small = np.repeat([0, 1, 2], [40, 40, 120])  # few is large on val alone
    assert choose(make_measured(RIGHT, ROWS, small))["group"]["reason"] == NO_GROUP
    apart = {**ROWS[2], "seed": 1}
    assert choose(make_measured(RIGHT, [*ROWS[:2], apart]))["overall"]["reason"] == NO_SEED


def test_of_equal_configurations_the_first_of_the_plan_is_chosen() -> None:
    right = {**RIGHT, "sharp 0": RIGHT["even 0"]}
    assert choose(make_measured(right, ROWS))["overall"]["config_id"] == "even"
    assert choose(make_measured(right, [ROWS[0], ROWS[2], ROWS[1]]))["group"]["config_id"] == "sharp"
