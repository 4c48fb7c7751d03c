"""A store -> its tables. Predictions are the facts; everything here is derived from them and can be rebuilt.

Statistics are of the test images only. Trials stand in the order of the plan, in the tables of statistics one data set
after the other (in `disparity` one grouping after the other), so equal stores give equal tables.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from quantfair.results.custom_groups import add_custom_groups
from quantfair.results.damage import is_of_samples, survey
from quantfair.results.own_metrics import load_metrics
from quantfair.results.rows import Rows, join, table_of
from quantfair.results.schema import DEPLOYED, GROUPS, LAYERS, PROVENANCE, RUNTIMES, SAMPLES, SENSITIVITY, TRIALS
from quantfair.results.store import Store
from quantfair.results.tables.groupings import TestSet, make_test_set
from quantfair.results.tables.mechanism import build_correlations, build_mechanism
from quantfair.results.tables.own import OwnValues
from quantfair.results.tables.sensitivity import add_sensitivity
from quantfair.results.tables.statistics import build_statistics
from quantfair.results.tables.without_logits import explain_missing_logits
from quantfair.results.trial_list import count_trials, list_trials


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
        "runtimes": _runtimes(store, ok, found.runtimes),
        "layers": _join_layers(store.read_layers(row["trial_id"]) for row in ok),
        "sensitivity": _sensitivity(store, ok, test_sets),
        "provenance": _provenance(
            manifest, trials, n_strangers=len(store.trial_ids() - {r["trial_id"] for r in trials})
        ),
        **build_statistics(store, ok, test_sets, own_values, plan=manifest["plan"], runtimes=found.runtimes),
    }
    tables["mechanism"] = build_mechanism(store, ok, tables["group_metrics"])
    tables["correlations"] = build_correlations(tables["trials"], tables["paired_metrics"], tables["mechanism"])
    tables = explain_missing_logits(tables)
    for name, table in tables.items():
        store.write_table(name, table)
    return tables


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


def _runtimes(store: Store, ok: list[dict[str, Any]], statuses: Mapping[tuple[str, str], str]) -> pa.Table:
    """What was measured of every trial in torch, which is not timed, and then in the deployed runtimes."""
    shared = {"runtime": "torch", "status": "ok", "reason": "latency and size are measured for deployed runtimes"}
    torch = table_of(({"trial_id": row["trial_id"], **shared} for row in ok), RUNTIMES)
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
    return table_of(({"key": key, "value": str(value)} for key, value in facts.items()), PROVENANCE)
