"""A store -> its tables. Predictions are the facts; everything here is derived from them and can be rebuilt.

Statistics are of the test images only. Trials stand in the order of the plan, in the tables of statistics one data set
after the other (in `disparity` one grouping after the other), so equal stores give equal tables.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from results.custom_groups import add_custom_groups
from results.damage import is_of_samples, survey
from results.devices import find_mixed_pairs
from results.own_metrics import load_metrics
from results.rows import Rows, join, table_of
from results.schema import (
    GROUPS,
    LAYERS,
    PROVENANCE,
    RUNTIMES,
    SAMPLES,
    SENSITIVITY,
    TABLES,
    TRIALS,
)
from results.store import Store
from results.tables.choices import add_choices
from results.tables.classes import add_class_metrics
from results.tables.contrast_tables import CONTRAST_TABLES, add_contrasts
from results.tables.disparity import add_disparity
from results.tables.families import find_unfinished
from results.tables.groupings import TestSet, make_test_set
from results.tables.groups import add_group_metrics
from results.tables.mechanism import build_correlations, build_mechanism
from results.tables.outcomes import Measured, read_all_outcomes
from results.tables.own import OwnValues
from results.tables.pairs import add_pairs, compare_trials
from results.tables.sensitivity import add_sensitivity
from results.tables.shifts import add_shifts
from results.tables.without_logits import explain_missing_logits
from results.trial_list import count_trials, list_trials


def build_tables(store: Store, *, metrics: Sequence[str] = ()) -> dict[str, pa.Table]:
    """Rebuild all tables of a store, complete or not, write them, and return them by name.

    Trials of a data set whose images are not described count as missing, since only `sweep` can describe them.
    `metrics` are a user's own, each `package.module:function`.

    Raises:
        StoreError: there is no sweep in the store, or one of `metrics` cannot be had or does not what it must.
        DamagedError: a file is damaged, or missing: the trial must be forgotten first.
    """
    own_metrics = load_metrics(metrics)
    manifest, found = store.read_manifest(), survey(store)
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
        "trials": table_of(trials, TRIALS),
        "groups": _groups(test_sets),
        "samples": _join_samples(table for table, _, _ in samples.values()),
        "runtimes": _runtimes(ok),
        "layers": _join_layers(store.read_layers(row["trial_id"]) for row in ok),
        "sensitivity": _sensitivity(store, ok, test_sets),
        "provenance": _provenance(
            manifest, trials, n_strangers=len(store.trial_ids() - {r["trial_id"] for r in trials})
        ),
        **_statistics(store, ok, test_sets, own_values, manifest["plan"]),
    }
    tables["mechanism"] = build_mechanism(store, ok, tables["group_metrics"])
    tables["correlations"] = build_correlations(tables["trials"], tables["paired_metrics"], tables["mechanism"])
    tables = explain_missing_logits(tables)
    for name, table in tables.items():
        store.write_table(name, table)
    return tables


def _statistics(
    store: Store,
    ok: list[dict[str, Any]],
    test_sets: dict[str, TestSet],
    own_values: dict[str, OwnValues],
    plan: list[dict[str, Any]],
) -> dict[str, pa.Table]:
    names = ("group_metrics", "shifts", "paired_metrics", "disparity", "families", "own_metrics")
    tables = {name: Rows(TABLES[name]) for name in names}
    metrics, shifts, paired, disparity, families, own = tables.values()
    tables |= {name: Rows(TABLES[name]) for name in (*CONTRAST_TABLES, "choices")}
    measured_by_id: dict[str, Measured] = {}
    flags = {(pair.trial_id, pair.comparison): pair.reason for pair in find_mixed_pairs(ok)}
    for dataset_id, test_set in test_sets.items():
        rows, outcomes = [row for row in ok if row["dataset_id"] == dataset_id], {}
        trial_ids = [row["trial_id"] for row in rows]
        for answers, certainty in read_all_outcomes(store, trial_ids, "torch", test_set):
            add_group_metrics(answers, certainty, test_set, metrics)
            add_class_metrics(answers, test_set, metrics)
            own_values[dataset_id].add_trial(answers, certainty, metrics)
            outcomes[answers.trial_id] = answers
        measured = measured_by_id[dataset_id] = Measured(test_set, rows, outcomes)
        pairs = compare_trials(measured, flags)
        unfinished = find_unfinished(measured, plan, "torch")
        add_pairs(pairs, test_set, paired=paired, families=families, unfinished=unfinished)
        add_disparity(measured, pairs, disparity)
        add_shifts(measured, flags, shifts)
        own_values[dataset_id].add_pairs(measured, flags, own=own, disparity=disparity)
        add_choices(measured, tables["choices"])
    add_contrasts(measured_by_id, plan, tables)
    return {name: rows.table() for name, rows in tables.items()}


def _groups(test_sets: dict[str, TestSet]) -> pa.Table:
    rows = Rows(GROUPS)
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
    rows = Rows(SENSITIVITY)
    for row in ok:
        if row["method"] in ("ptq", "qat"):
            add_sensitivity(store, row["trial_id"], test_sets[row["dataset_id"]], rows)
    return rows.table()


def _runtimes(ok: list[dict[str, Any]]) -> pa.Table:
    reason = "latency and size are measured for deployed runtimes"
    rows = [{"trial_id": r["trial_id"], "runtime": "torch", "status": "ok", "reason": reason} for r in ok]
    return table_of(rows, RUNTIMES)


def _provenance(manifest: dict[str, Any], trials: list[dict[str, Any]], *, n_strangers: int) -> pa.Table:
    facts = {
        "sweep": manifest["name"],
        **count_trials(trials, len(manifest["plan"])),
        "n_not_in_plan": n_strangers,
        "schema_version": manifest["schema_version"],
        **manifest["provenance"],
    }
    return table_of(({"key": key, "value": str(value)} for key, value in facts.items()), PROVENANCE)
