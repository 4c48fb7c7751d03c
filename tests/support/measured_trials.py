"""Data sets and answers to them in memory, and the tables made of them, for tests of statistics that need no store."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quantfair.results.schema import DISPARITY, FAMILIES, PAIRED_METRICS, VERDICTS
from quantfair.results.statistics.decisions import LIMIT
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import DatasetAnswers, TrialAnswers
from quantfair.results.tables.disparity import add_disparity
from quantfair.results.tables.families import find_unfinished
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.pairs import PairTables, add_pairs, compare_trials
from quantfair.results.tables.verdicts import Rules


def make_test_set(labels_N: np.ndarray, groupings: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> TestSet:
    """Return a data set of test images only, with `overall`, `label` and groupings given by names and codes."""
    n_classes, nobody = int(labels_N.max()) + 1, np.zeros(0, dtype=np.int64)
    everything = {"overall": (["all"], np.zeros(len(labels_N), dtype=np.int64))}
    everything |= {"label": ([str(k) for k in range(n_classes)], labels_N), **groupings}
    made = tuple(Grouping(name, tuple(names), nobody, nobody, codes) for name, (names, codes) in everything.items())
    return TestSet("d", np.arange(len(labels_N)), labels_N, n_classes, made, nobody)


def make_outcomes(
    trial_id: str, predicted_N: np.ndarray, labels_N: np.ndarray, loss_N: np.ndarray | None = None
) -> TrialAnswers:
    """Return a trial's answers; without losses they are 0.1 nats where it is right and 2 where it is wrong."""
    right_N = predicted_N == labels_N
    loss_N = np.where(right_N, 0.1, 2) if loss_N is None else loss_N
    nan_N = np.full(len(labels_N), np.nan, dtype=np.float32)
    return TrialAnswers(trial_id, "torch", predicted_N, right_N, predicted_N, loss_N.astype(np.float32), nan_N, None)


def make_trial(trial_id: str, method: str, reference: str | None = None, control: str | None = None) -> dict[str, Any]:
    """Return the row of a trial, or of its plan."""
    row = {"trial_id": trial_id, "method": method, "dataset_id": "d", "task": "digit"}
    return row | {"reference_trial_id": reference, "control_trial_id": control}


def make_tables(
    test_set: TestSet, trials: Sequence[dict[str, Any]], outcomes: Sequence[TrialAnswers], plan: Sequence[Any] = ()
) -> dict[str, Any]:
    """Return the tables of pairs. The plan is that of the trials where none is given."""
    tables = {
        "paired_metrics": TableBuilder(PAIRED_METRICS),
        "families": TableBuilder(FAMILIES),
        "verdicts": TableBuilder(VERDICTS),
    }
    disparity = TableBuilder(DISPARITY)
    measured = DatasetAnswers(test_set, trials, {answers.trial_id: answers for answers in outcomes})
    pairs, unfinished = compare_trials(measured, {}), find_unfinished(measured, plan or trials, "torch")
    config_ids = {row["trial_id"]: row.get("config_id", row["trial_id"]) for row in trials}
    rules = Rules(LIMIT, [*plan, *trials])
    add_pairs(pairs, test_set, PairTables(*tables.values()), unfinished=unfinished, rules=rules, config_ids=config_ids)
    add_disparity(measured, pairs, disparity)
    return {name: rows.table().to_pandas() for name, rows in {**tables, "disparity": disparity}.items()}
