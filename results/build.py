"""A store -> its tables. Predictions are the facts; everything here is derived from them and can be rebuilt.

Statistics are of the test images only. Trials stand in the order of the plan, in the tables of statistics one data set
after the other (in `disparity` one grouping after the other), so equal stores give equal tables.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import pyarrow as pa

from quantfair.results.contrasts.choices import add_choices
from quantfair.results.contrasts.tables import CONTRAST_TABLES, add_contrasts
from quantfair.results.schema import (
    DEPLOYED,
    EXACT,
    GROUPS,
    LAYERS,
    PROVENANCE,
    RUNTIMES,
    SAMPLES,
    SENSITIVITY,
    TABLES,
    TRIALS,
)
from quantfair.results.statistics.decisions import LIMIT
from quantfair.results.store.recovery import is_of_samples, scan_store
from quantfair.results.store.rows import TableBuilder, join, rows_to_table
from quantfair.results.store.store import Store
from quantfair.results.store.trial_list import count_trials, list_trials
from quantfair.results.tables.answers import DatasetAnswers, Deployed, TrialAnswers, read_all_outcomes
from quantfair.results.tables.classes import add_class_metrics
from quantfair.results.tables.devices import find_mixed_pairs
from quantfair.results.tables.disparity import add_disparity
from quantfair.results.tables.families import find_unfinished
from quantfair.results.tables.groupings import TestSet, make_test_set
from quantfair.results.tables.groups import add_group_metrics, explain_missing_logits
from quantfair.results.tables.mechanism import build_correlations, build_mechanism
from quantfair.results.tables.pairs import PairTables, add_pairs, compare_trials
from quantfair.results.tables.reliability import Reliability
from quantfair.results.tables.sensitivity import add_sensitivity
from quantfair.results.tables.shifts import add_shifts
from quantfair.results.tables.user_metrics import OwnValues
from quantfair.results.tables.verdicts import Rules
from quantfair.results.user_data.groups import add_custom_groups
from quantfair.results.user_data.metrics import load_metrics

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
    limit: float = LIMIT,
) -> dict[str, pa.Table]:
    """Return every table that is made of predictions. `ok` are the rows of finished trials, in the plan's order."""
    tables = {name: TableBuilder(TABLES[name]) for name in (*_OF_TRIALS, *CONTRAST_TABLES, "choices")}
    flags = {(pair.trial_id, pair.comparison): pair.reason for pair in find_mixed_pairs(ok)}
    rules, measured_by_id = Rules(limit, [*plan, *ok]), {}
    for dataset_id, test_set in test_sets.items():
        trials, own = [row for row in ok if row["dataset_id"] == dataset_id], own_values[dataset_id]
        measured = DatasetAnswers(test_set, trials, _read(store, trials, "torch", test_set, own=own, tables=tables))
        _add_comparisons(measured, "torch", own, plan=plan, flags=flags, tables=tables, rules=rules)
        add_choices(measured, tables["choices"])
        deployed = []
        for runtime in DEPLOYED:
            there = [row for row in trials if runtimes.get((row["trial_id"], runtime)) == "ok"]
            if there:
                found = _read_deployed(store, measured, runtime, there, runtimes=runtimes, own=own, tables=tables)
                _add_comparisons(found, runtime, own, plan=plan, flags={}, tables=tables, rules=rules)
                deployed.append(found)
        measured_by_id[dataset_id] = measured._replace(deployed=deployed)
    add_contrasts(measured_by_id, plan, tables, rules=rules)
    return {name: rows.table() for name, rows in tables.items()}


def _read(
    store: Store, trials: Trials, runtime: str, test_set: TestSet, *, own: OwnValues, tables: Mapping[str, TableBuilder]
) -> dict[str, TrialAnswers]:
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
    measured: DatasetAnswers,
    runtime: str,
    trials: Trials,
    *,
    runtimes: Statuses,
    own: OwnValues,
    tables: Mapping[str, TableBuilder],
) -> Deployed:
    trial_ids, exact = [row["trial_id"] for row in trials], {}
    if runtime == "onnxruntime":
        read = read_all_outcomes(store, trial_ids, EXACT, measured.test_set)
        exact = {answers.trial_id: answers for answers, _ in read}
    outcomes = _read(store, trials, runtime, measured.test_set, own=own, tables=tables)
    without = {trial_id for (trial_id, name), status in runtimes.items() if name == runtime and status != "ok"}
    return Deployed(runtime, measured, trials, outcomes, exact, without)


def _add_comparisons(
    measured: DatasetAnswers | Deployed,
    runtime: str,
    own: OwnValues,
    *,
    plan: Trials,
    flags: Mapping[tuple[str, str], str],
    tables: Mapping[str, TableBuilder],
    rules: Rules,
) -> None:
    """Add what is said of trials compared with others. `flags`: why to take one with care, by trial and comparison."""
    pairs, test_set = compare_trials(measured, flags), measured.test_set
    without = measured.without if isinstance(measured, Deployed) else frozenset[str]()
    unfinished = find_unfinished(measured, plan, runtime, without=without)
    places = PairTables(tables["paired_metrics"], tables["families"], tables["verdicts"])
    config_ids = {row["trial_id"]: row["config_id"] for row in measured.trials}
    add_pairs(pairs, test_set, places, unfinished=unfinished, rules=rules, config_ids=config_ids)
    add_disparity(measured, pairs, tables["disparity"])
    add_shifts(measured, flags, tables["shifts"])
    own.add_pairs(measured, flags, own=tables["own_metrics"], disparity=tables["disparity"])


def build_tables(store: Store, *, metrics: Sequence[str] = (), limit_pp: float | None = None) -> dict[str, pa.Table]:
    """Rebuild all tables of a store, complete or not, write them, and return them by name.

    Trials of a data set whose images are not described count as missing, since only `sweep` can describe them.
    `metrics` are a user's own, each `package.module:function`. `limit_pp` is the limit of a loss that verdicts are
    about, in percentage points; without it that of the sweep file.

    Raises:
        StoreError: there is no sweep in the store, or one of `metrics` cannot be had or does not what it must.
        DamagedError: a file is damaged, or missing: the trial must be forgotten first.
    """
    own_metrics = load_metrics(metrics)
    manifest, found = store.read_manifest(), scan_store(store)
    of_sweep = float((manifest.get("sweep") or {}).get("limit_pp", 100 * LIMIT))
    limit = (of_sweep if limit_pp is None else limit_pp) / 100
    for error in found.damaged:
        if not is_of_samples(error):
            raise error
    trials = list_trials(store, found)
    ok = [row for row in trials if row["status"] == "ok"]
    samples = {
        dataset_id: add_custom_groups(store, dataset_id)
        for dataset_id in dict.fromkeys(row["dataset_id"] for row in ok)
    }
    test_sets = {
        dataset_id: make_test_set(dataset_id, table, attributes, [*manifest["groupings"][dataset_id], *custom])
        for dataset_id, (table, attributes, custom) in samples.items()
    }
    own_values = {
        dataset_id: OwnValues(own_metrics, table, test_sets[dataset_id])
        for dataset_id, (table, _, _) in samples.items()
    }
    tables = {
        "trials": rows_to_table(trials, TRIALS),
        "groups": _groups(test_sets),
        "samples": _join_samples(table for table, _, _ in samples.values()),
        "runtimes": _runtimes(store, ok, found.runtimes),
        "layers": _join_layers(store.read_layers(row["trial_id"]) for row in ok),
        "sensitivity": _sensitivity(store, ok, test_sets),
        "provenance": _provenance(
            manifest, trials, n_strangers=len(store.trial_ids() - {r["trial_id"] for r in trials})
        ),
        **build_statistics(
            store, ok, test_sets, own_values, plan=manifest["plan"], runtimes=found.runtimes, limit=limit
        ),
    }
    tables["mechanism"] = build_mechanism(store, ok, tables["group_metrics"])
    tables["correlations"] = build_correlations(tables["trials"], tables["paired_metrics"], tables["mechanism"])
    tables = explain_missing_logits(tables)
    for name, table in tables.items():
        store.write_table(name, table)
    return tables


def _groups(test_sets: dict[str, TestSet]) -> pa.Table:
    rows = TableBuilder(GROUPS)
    for test_set in test_sets.values():
        for grouping in test_set.groupings:
            for split in ("train", "val", "test"):
                rows.add(
                    len(grouping.names),
                    dataset_id=test_set.dataset_id,
                    split=split,
                    grouping=grouping.name,
                    group=list(grouping.names),
                    group_index=range(len(grouping.names)),
                    n=grouping.sizes(split),
                )
    return rows.table()


def _join_samples(tables: Iterable[pa.Table]) -> pa.Table:
    parts = [table.replace_schema_metadata(SAMPLES.metadata) for table in tables]
    return pa.concat_tables([SAMPLES.empty_table(), *parts], promote_options="default")


def _join_layers(tables: Iterable[pa.Table]) -> pa.Table:
    """Concatenate; a column that a table does not have is null, since an earlier version may have written it."""
    joined = join(chain([LAYERS.empty_table()], tables))
    assert joined is not None
    return joined


def _sensitivity(store: Store, ok: list[dict[str, Any]], test_sets: dict[str, TestSet]) -> pa.Table:
    rows = TableBuilder(SENSITIVITY)
    for row in ok:
        if row["method"] in ("ptq", "qat"):
            add_sensitivity(store, row["trial_id"], test_sets[row["dataset_id"]], rows)
    return rows.table()


def _runtimes(store: Store, ok: list[dict[str, Any]], statuses: Mapping[tuple[str, str], str]) -> pa.Table:
    """What was measured of every trial in torch, which is not timed, and then in the deployed runtimes."""
    shared = {"runtime": "torch", "status": "ok", "reason": "latency and size are measured for deployed runtimes"}
    torch = rows_to_table(({"trial_id": row["trial_id"], **shared} for row in ok), RUNTIMES)
    keys = [(row["trial_id"], runtime) for row in ok for runtime in DEPLOYED if (row["trial_id"], runtime) in statuses]
    deployed = join(found for key in keys if (found := store.read_runtime(*key)) is not None)
    return torch if deployed is None else pa.concat_tables([torch, deployed])


def _provenance(manifest: dict[str, Any], trials: list[dict[str, Any]], *, n_strangers: int) -> pa.Table:
    facts = {
        "sweep": manifest["name"],
        **count_trials(trials, len(manifest["plan"])),
        "n_not_in_plan": n_strangers,
        "schema_version": manifest["schema_version"],
        **manifest["provenance"],
        **({"sweep_file": json.dumps(manifest["sweep"])} if manifest.get("sweep") else {}),
    }
    return rows_to_table(({"key": key, "value": str(value)} for key, value in facts.items()), PROVENANCE)
