"""What a float model says of each group before anything is quantized, and whether that tells which groups lose.

`mechanism` is of the trials that others are compared with: curvature where the trial measured it, margin, accuracy and
group size always. `correlations` is over the groups of a grouping: Spearman's rho between those and what groups lose.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from results.rows import Rows, join, table_of
from results.schema import CORRELATIONS, MECHANISM, MIN_RANKED
from results.statistics.correlation import correlate_ranks
from results.store import Store

NOT_MEASURED = "not measured: `analysis` did not name curvature when the trial ran"
FLOAT_METHODS: Final = ("fp32", "fp32_ft")
CURVATURE: Final = ("grad_norm", "hessian_trace", "lambda_max")
STATISTICS: Final = (*CURVATURE, "margin", "accuracy", "n_train")
OUTCOMES: Final = ("drop_pp", "flip_rate")
MIN_GROUPS: Final = 5
KEY: Final = ("config_id", "runtime", "comparison", "grouping")


def build_mechanism(store: Store, ok: Iterable[Mapping[str, Any]], group_metrics: pa.Table) -> pa.Table:
    """Return the table `mechanism` of the float trials."""
    ids = [row["trial_id"] for row in ok if row["method"] in FLOAT_METHODS]
    measured = [table for trial_id in ids if (table := store.read_mechanism(trial_id)) is not None]
    known = {table["trial_id"][0].as_py() for table in measured if len(table)}
    missing = [{"trial_id": trial_id, "reason": NOT_MEASURED} for trial_id in ids if trial_id not in known]
    wanted = pc.field("metric").isin(["accuracy", "margin"]) & pc.field("class").is_null()
    rows = group_metrics.filter(pc.field("trial_id").isin(pa.array(ids, pa.string())) & wanted)
    parts = [*measured, table_of(missing, MECHANISM), table_of(_list_facts(rows), MECHANISM)]
    joined = join(parts)
    assert joined is not None
    return joined


def _list_facts(group_metrics: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of margin, accuracy and group size."""
    for row in group_metrics.select(
        ["trial_id", "grouping", "group", "metric", "n", "n_train", "value", "reason"]
    ).to_pylist():
        key = {name: row[name] for name in ("trial_id", "grouping", "group")}
        yield {
            **key,
            "statistic": row["metric"],
            "n": row["n"],
            "value": row["value"],
            "split": "test",
            "reason": row["reason"],
        }
        if row["metric"] == "accuracy":
            yield {**key, "statistic": "n_train", "n": row["n_train"], "value": row["n_train"], "split": "train"}


def build_correlations(trials: pa.Table, paired_metrics: pa.Table, mechanism: pa.Table) -> pa.Table:
    """Return the table `correlations`: means over the seeds of every configuration, over its ranked groups."""
    rows, groups = Rows(CORRELATIONS), _average_over_seeds(trials, paired_metrics, mechanism)
    for key, of_key in groups.groupby(list(KEY), sort=False):
        shared: dict[str, Any] = dict(zip(KEY, key, strict=True))
        shared |= {"n_groups": len(of_key), "n_seeds": int(max(of_key["n_seeds"]))}
        for statistic in STATISTICS:
            for outcome in OUTCOMES:
                rows.add(1, **shared, statistic=statistic, outcome=outcome, **_correlate(of_key, statistic, outcome))
    return rows.table()


def _average_over_seeds(trials: pa.Table, paired_metrics: pa.Table, mechanism: pa.Table) -> Any:
    """Return a row for each configuration, comparison, grouping and ranked group, with every statistic and outcome."""
    columns = ["trial_id", "runtime", "comparison", "grouping", "group", "other_trial_id", "n", "n_flip", "drop_pp"]
    pairs: Any = paired_metrics.select(columns).filter(pc.field("n") >= MIN_RANKED).to_pandas()
    pairs = pairs[pairs["drop_pp"].notna() & (pairs["grouping"] != "overall")]
    pairs["flip_rate"] = pairs["n_flip"] / pairs["n"]
    pairs = pairs.merge(trials.select(["trial_id", "config_id"]).to_pandas(), on="trial_id")
    facts: Any = mechanism.filter(pc.field("grouping").is_valid()).to_pandas()
    wide = facts.pivot_table(index=["trial_id", "grouping", "group"], columns="statistic", values="value")
    wide = wide.reindex(columns=list(STATISTICS)).reset_index().rename(columns={"trial_id": "other_trial_id"})
    pairs = pairs.merge(wide, on=["other_trial_id", "grouping", "group"], how="left")
    by_key = pairs.groupby([*KEY, "group"], sort=False)
    return by_key[[*STATISTICS, *OUTCOMES]].mean().assign(n_seeds=by_key["trial_id"].nunique()).reset_index()


def _correlate(groups: Any, statistic: str, outcome: str) -> dict[str, Any]:
    if len(groups) < MIN_GROUPS:
        return {"reason": f"fewer than {MIN_GROUPS} groups with {MIN_RANKED} test images"}
    x, y = groups[statistic].to_numpy(), groups[outcome].to_numpy()
    if pd.isna(x).any():
        return {"reason": NOT_MEASURED if statistic in CURVATURE else f"{statistic} is not known of every group"}
    found = correlate_ranks(x, y)
    if pd.isna(found.rho):
        return {"reason": f"{statistic if len(set(x)) == 1 else outcome} is the same in every group"}
    return found._asdict()
