"""Imported trials may come without logits: what only logits tell is null then, and this says why.

Loss, confidence, margin and entropy are nan in their outcomes, and pass through every mean as nan, which tables hold
as null.
"""

from typing import Final

import numpy as np
import pyarrow as pa

from quantfair.results.schema import IMPORTED
from quantfair.results.tables.groups import join_reasons

NO_LOGITS: Final = "imported without logits"
NO_PAIR: Final = "loss and KL: one side was imported without logits"


def explain_missing_logits(tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Return the tables, in three of them with a reason for what is null for want of logits."""
    trials = zip(*(tables["trials"][name].to_pylist() for name in ("trial_id", "method", "loss_nats")), strict=True)
    without = {trial_id for trial_id, method, loss in trials if method == IMPORTED and loss is None}
    if not without:
        return tables
    metrics, paired, disparity = (tables[name] for name in ("group_metrics", "paired_metrics", "disparity"))
    one_sided = _is_in(paired, "trial_id", without) | _is_in(paired, "other_trial_id", without)
    touched = set(paired.filter(pa.array(one_sided))["trial_id"].to_pylist())
    of_trial = _is_in(metrics, "trial_id", without) & _is_null(metrics, "value") & _is_null(metrics, "class")
    of_loss = np.array([metric.endswith("_nats") for metric in disparity["metric"].to_pylist()], bool)
    return {
        **tables,
        "group_metrics": _explain(metrics, of_trial & (metrics["n"].to_numpy() > 0), NO_LOGITS),
        "paired_metrics": _explain(paired, one_sided & _is_null(paired, "excess_loss_nats"), NO_PAIR),
        "disparity": _explain(
            disparity, of_loss & _is_in(disparity, "trial_id", touched) & _is_null(disparity, "value"), NO_PAIR
        ),
    }


def _is_in(table: pa.Table, column: str, ids: set[str]) -> np.ndarray:
    return np.array([value in ids for value in table[column].to_pylist()], bool)


def _is_null(table: pa.Table, column: str) -> np.ndarray:
    return table[column].is_null().to_numpy()


def _explain(table: pa.Table, holds_N: np.ndarray, reason: str) -> pa.Table:
    """Put `reason` before the reasons of the rows where `holds_N`."""
    reasons, place = table["reason"].to_pylist(), table.column_names.index("reason")
    for row in np.flatnonzero(holds_N):
        reasons[row] = join_reasons(reason, reasons[row])
    return table.set_column(place, table.schema.field("reason"), pa.array(reasons, pa.string()))
