"""A small sweep, planned and run in this process with some analysis."""

from pathlib import Path
from typing import Any

from quantfair.datasets import find_dataset_id
from quantfair.orchestrator.config.spec import Resources, parse_sweep
from quantfair.orchestrator.planning.manifest import make_manifest
from quantfair.orchestrator.planning.plan import PlannedTrial, make_plan
from quantfair.orchestrator.trials.run import run_trial
from quantfair.results import Store, build_tables


def plan_sweep(raw: dict[str, Any], *analysis: str) -> tuple[PlannedTrial, ...]:
    """Return the plan of a sweep's values."""
    sweep = parse_sweep({**raw, "analysis": list(analysis)})
    return make_plan(sweep, {e.dataset: find_dataset_id(e.dataset) for e in sweep.experiments})


def run_sweep(raw: dict[str, Any], store: Store, *analysis: str) -> Store:
    """Run every trial, each of which must succeed, and build the tables."""
    plan = plan_sweep(raw, *analysis)
    store.write_manifest(make_manifest(parse_sweep(raw), plan))
    for trial in plan:
        assert run_trial(trial, store, Resources()).status == "ok", Path(store.log_path(trial.trial_id)).read_text()
    build_tables(store)
    return store
