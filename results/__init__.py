"""Predictions -> statistics -> tables -> dashboard. The door: `Store`, `build_tables`, `write_report`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from results.custom_groups import import_groups
    from results.devices import describe_mixed_pairs
    from results.group_tables import MIN_RANKED
    from results.predictions import make_predictions
    from results.report import write_report
    from results.schema import BLOCKED, RUN_DEPENDENT, SCHEMA_VERSION, TABLES
    from results.store import Store, StoreError, WriteError
    from results.tables import build_tables, count_trials, list_trials

__all__ = [
    "BLOCKED",
    "MIN_RANKED",
    "RUN_DEPENDENT",
    "SCHEMA_VERSION",
    "TABLES",
    "Store",
    "StoreError",
    "WriteError",
    "build_tables",
    "count_trials",
    "describe_mixed_pairs",
    "import_groups",
    "list_trials",
    "make_predictions",
    "write_report",
]

_HOMES = {
    "BLOCKED": "schema",
    "MIN_RANKED": "group_tables",
    "RUN_DEPENDENT": "schema",
    "SCHEMA_VERSION": "schema",
    "TABLES": "schema",
    "Store": "store",
    "StoreError": "store",
    "WriteError": "store",
    "build_tables": "tables",
    "count_trials": "tables",
    "list_trials": "tables",
    "describe_mixed_pairs": "devices",
    "import_groups": "custom_groups",
    "make_predictions": "predictions",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    """Load a name from its file when it is first used: a worker needs no plotly, and a plan no scipy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'results' has no attribute {name!r}")
    return getattr(importlib.import_module(f"results.{_HOMES[name]}"), name)
