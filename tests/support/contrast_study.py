"""A data set in memory with float models of some seeds, what tests add to it, and the tables of its contrasts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from measured_trials import make_outcomes, make_test_set

from quantfair.results.contrasts.tables import CONTRAST_TABLES, add_contrasts
from quantfair.results.schema import TABLES
from quantfair.results.statistics.decisions import LIMIT
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import DatasetAnswers, TrialAnswers
from quantfair.results.tables.verdicts import Rules

SIZES = {"a": 300, "b": 150, "c": 100, "few": 20, "nobody": 0}
N = sum(SIZES.values())
CODES = np.repeat(np.arange(len(SIZES)), list(SIZES.values()))


def make_row(method: str, config_id: str, seed: int, **columns: Any) -> dict[str, Any]:
    """The row of a trial; its reference is the trial of the configuration `fp32` unless it says otherwise."""
    row = {"trial_id": f"{config_id} {seed}", "config_id": config_id, "seed": seed, "method": method}
    row |= {"dataset_id": "d", "task": "class", "reference_trial_id": f"fp32 {seed}", "control_trial_id": None}
    quant = {name: columns[name] for name in ("calib_seed",) if name in columns}
    bits = {"weight_bits": 8, "act_bits": 8} if method in ("ptq", "qat") else {}
    given = {name: value for name, value in columns.items() if name not in (*quant, "dataset")}
    config = {"quant": {"method": method, **quant}, "dataset": columns.get("dataset", {})}
    return {**row, **bits, "config": json.dumps(config), **given}


class Study:
    """One data set of two classes in groups of SIZES, or `times` as large; float models; and what a test adds."""

    def __init__(self, n_seeds: int = 3, *, accuracy: float = 0.9, names: Sequence[str] = tuple(SIZES), times: int = 1):
        rng, n = np.random.default_rng(0), times * N
        self.labels = rng.integers(0, 2, n)
        self.test_set = make_test_set(self.labels, {"group": (names, np.repeat(CODES, times))})
        self.rows: list[dict[str, Any]] = []
        self.outcomes: dict[str, TrialAnswers] = {}
        self.floats = [np.where(rng.random(n) < accuracy, self.labels, 1 - self.labels) for _ in range(n_seeds)]
        for seed, predicted in enumerate(self.floats):
            self.add(make_row("fp32", "fp32", seed, reference_trial_id=None), predicted)

    def add(self, row: dict[str, Any], predicted: np.ndarray) -> None:
        self.rows.append(row)
        self.outcomes[row["trial_id"]] = make_outcomes(row["trial_id"], predicted, self.labels)

    def damage(self, seed: int, counts: Mapping[str, int], *, first: int = 0) -> np.ndarray:
        """The float model's answers, wrong on so many more images of each group."""
        predicted = self.floats[seed].copy()
        for name, k in counts.items():
            right = np.flatnonzero((predicted == self.labels) & (list(SIZES).index(name) == CODES))[first : first + k]
            predicted[right] = 1 - self.labels[right]
        return predicted

    def tables(self, plan: Sequence[Any] | None = None, **others: DatasetAnswers) -> dict[str, Any]:
        rows = {name: TableBuilder(TABLES[name]) for name in CONTRAST_TABLES}
        measured = {"d": DatasetAnswers(self.test_set, self.rows, self.outcomes), **others}
        rules = Rules(LIMIT, [*(plan or ()), *self.rows])
        add_contrasts(measured, self.rows if plan is None else plan, rows, rules=rules)
        return {name: table.table().to_pandas() for name, table in rows.items()}
