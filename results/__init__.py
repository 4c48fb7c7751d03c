"""Predictions -> statistics -> tables -> dashboard. The door: `Store`, `derive`; in a notebook: `read`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantfair.results.comparison import Comparison, compare_stores
    from quantfair.results.custom_groups import import_groups
    from quantfair.results.damage import Survey, find_damage, set_aside, survey
    from quantfair.results.devices import describe_mixed_pairs
    from quantfair.results.exports.write import write_exports
    from quantfair.results.files import DamagedError, StoreError, WriteError
    from quantfair.results.frames import Frames, read
    from quantfair.results.imports import import_predictions
    from quantfair.results.metric_frame import to_fairlearn
    from quantfair.results.page.paper_figures import draw_figure
    from quantfair.results.page.report import write_report
    from quantfair.results.predictions import make_predictions
    from quantfair.results.refresh import Derived, derive, derive_again
    from quantfair.results.schema import BLOCKED, DEPLOYED, EXACT, MIN_RANKED, RUN_DEPENDENT, SCHEMA_VERSION, TABLES
    from quantfair.results.statistics.power import (
        minimum_detectable_disparity,
        minimum_detectable_drop,
        minimum_detectable_excess,
        null_disparity,
    )
    from quantfair.results.store import Store
    from quantfair.results.tables.build import build_tables
    from quantfair.results.trial_list import count_trials, list_trials

__all__ = [
    "BLOCKED",
    "DEPLOYED",
    "EXACT",
    "MIN_RANKED",
    "RUN_DEPENDENT",
    "SCHEMA_VERSION",
    "TABLES",
    "Comparison",
    "DamagedError",
    "Derived",
    "Frames",
    "Store",
    "StoreError",
    "Survey",
    "WriteError",
    "build_tables",
    "compare_stores",
    "count_trials",
    "derive",
    "derive_again",
    "describe_mixed_pairs",
    "draw_figure",
    "find_damage",
    "import_groups",
    "import_predictions",
    "list_trials",
    "make_predictions",
    "minimum_detectable_disparity",
    "minimum_detectable_drop",
    "minimum_detectable_excess",
    "null_disparity",
    "read",
    "set_aside",
    "survey",
    "to_fairlearn",
    "write_exports",
    "write_report",
]

_HOMES = {
    "minimum_detectable_disparity": "statistics.power",
    "minimum_detectable_drop": "statistics.power",
    "minimum_detectable_excess": "statistics.power",
    "null_disparity": "statistics.power",
    "derive": "refresh",
    "derive_again": "refresh",
    "Derived": "refresh",
    "Survey": "damage",
    "survey": "damage",
    "set_aside": "damage",
    "find_damage": "damage",
    "BLOCKED": "schema",
    "DEPLOYED": "schema",
    "EXACT": "schema",
    "MIN_RANKED": "schema",
    "RUN_DEPENDENT": "schema",
    "SCHEMA_VERSION": "schema",
    "TABLES": "schema",
    "Store": "store",
    "DamagedError": "files",
    "StoreError": "files",
    "WriteError": "files",
    "build_tables": "tables.build",
    "compare_stores": "comparison",
    "Comparison": "comparison",
    "count_trials": "trial_list",
    "list_trials": "trial_list",
    "describe_mixed_pairs": "devices",
    "Frames": "frames",
    "read": "frames",
    "to_fairlearn": "metric_frame",
    "import_groups": "custom_groups",
    "import_predictions": "imports",
    "make_predictions": "predictions",
    "write_exports": "exports.write",
    "write_report": "page.report",
    "draw_figure": "page.paper_figures",
}


def __getattr__(name: str) -> Any:
    """Load a name from its file when it is first used: a worker needs no plotly, and a plan no scipy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'results' has no attribute {name!r}")
    return getattr(importlib.import_module(f"quantfair.results.{_HOMES[name]}"), name)
