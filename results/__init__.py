"""Predictions -> statistics -> tables -> dashboard. The door: `Store`, `update_report`; in a notebook: `read`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantfair.results.build import build_tables
    from quantfair.results.diff.compare import Comparison, compare_stores
    from quantfair.results.exports.files import write_exports
    from quantfair.results.frames import Frames, read, to_fairlearn
    from quantfair.results.page.charts import CHART_KEYS
    from quantfair.results.page.paper_figures import draw_figure
    from quantfair.results.page.report import write_report
    from quantfair.results.predictions import make_predictions
    from quantfair.results.refresh import Derived, update_report, update_report_as_before
    from quantfair.results.schema import (
        BLOCKED,
        DEPLOYED,
        EXACT,
        MIN_RANKED,
        RUN_DEPENDENT,
        SCHEMA_VERSION,
        SETTINGS,
        TABLES,
    )
    from quantfair.results.statistics.power import (
        images_for_no,
        minimum_detectable_disparity,
        minimum_detectable_drop,
        minimum_detectable_excess,
        null_disparity,
        seeds_for_no,
        smallest_group_for_no,
    )
    from quantfair.results.statistics.scores import score_answers
    from quantfair.results.store.files import DamagedError, StoreError, WriteError
    from quantfair.results.store.recovery import StoreScan, find_damage, quarantine, scan_store
    from quantfair.results.store.store import Store
    from quantfair.results.store.trial_list import count_trials, list_trials
    from quantfair.results.tables.devices import describe_mixed_pairs
    from quantfair.results.user_data.groups import import_groups
    from quantfair.results.user_data.predictions import import_predictions

__all__ = [
    "BLOCKED",
    "CHART_KEYS",
    "DEPLOYED",
    "EXACT",
    "MIN_RANKED",
    "RUN_DEPENDENT",
    "SCHEMA_VERSION",
    "SETTINGS",
    "TABLES",
    "Comparison",
    "DamagedError",
    "Derived",
    "Frames",
    "Store",
    "StoreError",
    "StoreScan",
    "WriteError",
    "build_tables",
    "compare_stores",
    "count_trials",
    "describe_mixed_pairs",
    "draw_figure",
    "find_damage",
    "images_for_no",
    "import_groups",
    "import_predictions",
    "list_trials",
    "make_predictions",
    "minimum_detectable_disparity",
    "minimum_detectable_drop",
    "minimum_detectable_excess",
    "null_disparity",
    "quarantine",
    "read",
    "scan_store",
    "score_answers",
    "seeds_for_no",
    "smallest_group_for_no",
    "to_fairlearn",
    "update_report",
    "update_report_as_before",
    "write_exports",
    "write_report",
]

_HOMES = {
    "BLOCKED": "schema",
    "CHART_KEYS": "page.charts",
    "Comparison": "diff.compare",
    "DEPLOYED": "schema",
    "DamagedError": "store.files",
    "Derived": "refresh",
    "EXACT": "schema",
    "Frames": "frames",
    "MIN_RANKED": "schema",
    "RUN_DEPENDENT": "schema",
    "SCHEMA_VERSION": "schema",
    "SETTINGS": "schema",
    "Store": "store.store",
    "StoreError": "store.files",
    "StoreScan": "store.recovery",
    "TABLES": "schema",
    "WriteError": "store.files",
    "build_tables": "build",
    "compare_stores": "diff.compare",
    "count_trials": "store.trial_list",
    "update_report": "refresh",
    "update_report_as_before": "refresh",
    "describe_mixed_pairs": "tables.devices",
    "draw_figure": "page.paper_figures",
    "find_damage": "store.recovery",
    "images_for_no": "statistics.power",
    "import_groups": "user_data.groups",
    "import_predictions": "user_data.predictions",
    "list_trials": "store.trial_list",
    "make_predictions": "predictions",
    "minimum_detectable_disparity": "statistics.power",
    "minimum_detectable_drop": "statistics.power",
    "minimum_detectable_excess": "statistics.power",
    "null_disparity": "statistics.power",
    "read": "frames",
    "quarantine": "store.recovery",
    "scan_store": "store.recovery",
    "score_answers": "statistics.scores",
    "seeds_for_no": "statistics.power",
    "smallest_group_for_no": "statistics.power",
    "to_fairlearn": "frames",
    "write_exports": "exports.files",
    "write_report": "page.report",
}


def __getattr__(name: str) -> Any:
    """Load a name from its file when it is first used: a worker needs no plotly, and a plan no scipy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'results' has no attribute {name!r}")
    return getattr(importlib.import_module(f"quantfair.results.{_HOMES[name]}"), name)
