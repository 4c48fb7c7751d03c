"""What a store says about the sweep that filled it: the request, the plan, and where and with what it ran."""

import json
from collections.abc import Iterable
from typing import Any

from quantfair.orchestrator.config.spec import SweepSpec
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.planning.request import SweepState
from quantfair.orchestrator.provenance import find_provenance


def make_manifest(sweep: SweepSpec, plan: Iterable[PlannedTrial]) -> dict[str, Any]:
    """Return the manifest's plain values: enough to rebuild every table without the sweep file."""
    plan = list(plan)
    groupings: dict[str, list[str]] = {}
    dataset_ids = {trial.dataset: trial.dataset_id for trial in plan}
    for experiment in sweep.experiments:
        known = groupings.setdefault(dataset_ids[experiment.dataset], [])
        known += [grouping for grouping in experiment.dataset.group_by if grouping not in known]
    return {
        "name": sweep.head.name,
        "sweep": sweep.raw,
        "groupings": groupings,
        "runtimes": list(sweep.head.runtimes),
        "plan": [{**trial.columns(), "needs": list(trial.needs)} for trial in plan],
        "provenance": find_provenance(),
    }


def keep_manifest(state: SweepState, *, command: str | None) -> None:
    """Write the manifest, with the command that goes on with the sweep.

    Where nothing is to run, one that differs only by its time is left as it is, and so are the tables built from it.
    """
    manifest = {**make_manifest(state.sweep, state.plan), "command": command}
    store = state.store
    if state.progress.to_run or not store.has_manifest() or not _is_same(store.read_manifest(), manifest):
        store.write_manifest(manifest)


def _is_same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    new = json.loads(json.dumps(new))
    times = {"started_utc": old["provenance"].get("started_utc")}
    schema = {"schema_version": old["schema_version"]}
    return old == {**schema, **new, "provenance": {**new["provenance"], **times}}
