"""Predictions -> the tables of statistics, one data set after the other: first of torch, then of deployed runtimes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from quantfair.results.devices import find_mixed_pairs
from quantfair.results.rows import Rows
from quantfair.results.schema import DEPLOYED, EXACT, TABLES
from quantfair.results.store import Store
from quantfair.results.tables.choices import add_choices
from quantfair.results.tables.classes import add_class_metrics
from quantfair.results.tables.contrast_tables import CONTRAST_TABLES, add_contrasts
from quantfair.results.tables.disparity import add_disparity
from quantfair.results.tables.families import find_unfinished
from quantfair.results.tables.groupings import TestSet
from quantfair.results.tables.groups import add_group_metrics
from quantfair.results.tables.outcomes import Deployed, Measured, Outcomes, read_all_outcomes
from quantfair.results.tables.own import OwnValues
from quantfair.results.tables.pairs import add_pairs, compare_trials
from quantfair.results.tables.reliability import Reliability
from quantfair.results.tables.shifts import add_shifts

Trials = Sequence[Mapping[str, Any]]
Statuses = Mapping[tuple[str, str], str]  # of deployed runtimes, by trial_id and runtime
_OF_TRIALS: Final = ("group_metrics", "shifts", "paired_metrics", "disparity", "families", "own_metrics", "reliability")


def build_statistics(
    store: Store,
    ok: Trials,
    test_sets: Mapping[str, TestSet],
    own_values: Mapping[str, OwnValues],
    *,
    plan: Trials,
    runtimes: Statuses,
) -> dict[str, pa.Table]:
    """Return every table that is made of predictions. `ok` are the rows of finished trials, in the plan's order."""
    tables = {name: Rows(TABLES[name]) for name in (*_OF_TRIALS, *CONTRAST_TABLES, "choices")}
    flags = {(pair.trial_id, pair.comparison): pair.reason for pair in find_mixed_pairs(ok)}
    measured_by_id = {}
    for dataset_id, test_set in test_sets.items():
        trials, own = [row for row in ok if row["dataset_id"] == dataset_id], own_values[dataset_id]
        measured = Measured(test_set, trials, _read(store, trials, "torch", test_set, own=own, tables=tables))
        _add_comparisons(measured, "torch", own, plan=plan, flags=flags, tables=tables)
        add_choices(measured, tables["choices"])
        deployed = []
        for runtime in DEPLOYED:
            there = [row for row in trials if runtimes.get((row["trial_id"], runtime)) == "ok"]
            if there:
                found = _read_deployed(store, measured, runtime, there, runtimes=runtimes, own=own, tables=tables)
                _add_comparisons(found, runtime, own, plan=plan, flags={}, tables=tables)
                deployed.append(found)
        measured_by_id[dataset_id] = measured._replace(deployed=deployed)
    add_contrasts(measured_by_id, plan, tables)
    return {name: rows.table() for name, rows in tables.items()}


def _read(
    store: Store, trials: Trials, runtime: str, test_set: TestSet, *, own: OwnValues, tables: Mapping[str, Rows]
) -> dict[str, Outcomes]:
    """Read what trials answered, and add what is said of each alone, and of the seeds of a configuration together."""
    outcomes, reliability = {}, Reliability(test_set, trials)
    for answers, certainty in read_all_outcomes(store, [row["trial_id"] for row in trials], runtime, test_set):
        add_group_metrics(answers, certainty, test_set, tables["group_metrics"])
        add_class_metrics(answers, test_set, tables["group_metrics"])
        own.add_trial(answers, certainty, tables["group_metrics"])
        reliability.add_trial(answers, certainty)
        outcomes[answers.trial_id] = answers
    reliability.add_rows(tables["reliability"], runtime)
    return outcomes


def _read_deployed(
    store: Store,
    measured: Measured,
    runtime: str,
    trials: Trials,
    *,
    runtimes: Statuses,
    own: OwnValues,
    tables: Mapping[str, Rows],
) -> Deployed:
    trial_ids, exact = [row["trial_id"] for row in trials], {}
    if runtime == "onnxruntime":
        read = read_all_outcomes(store, trial_ids, EXACT, measured.test_set)
        exact = {answers.trial_id: answers for answers, _ in read}
    outcomes = _read(store, trials, runtime, measured.test_set, own=own, tables=tables)
    without = {trial_id for (trial_id, name), status in runtimes.items() if name == runtime and status != "ok"}
    return Deployed(runtime, measured, trials, outcomes, exact, without)


def _add_comparisons(
    measured: Measured | Deployed,
    runtime: str,
    own: OwnValues,
    *,
    plan: Trials,
    flags: Mapping[tuple[str, str], str],
    tables: Mapping[str, Rows],
) -> None:
    """Add what is said of trials beside others. `flags`: why to take one with care, by trial and comparison."""
    pairs, test_set = compare_trials(measured, flags), measured.test_set
    without = measured.without if isinstance(measured, Deployed) else frozenset[str]()
    unfinished = find_unfinished(measured, plan, runtime, without=without)
    paired, families = tables["paired_metrics"], tables["families"]
    add_pairs(pairs, test_set, paired=paired, families=families, unfinished=unfinished)
    add_disparity(measured, pairs, tables["disparity"])
    add_shifts(measured, flags, tables["shifts"])
    own.add_pairs(measured, flags, own=tables["own_metrics"], disparity=tables["disparity"])
