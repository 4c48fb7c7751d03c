"""What a float model says of each group before anything is quantized, and whether that tells which groups lose.

`mechanism` is of the trials that others are compared with: curvature where the trial measured it, margin, accuracy and
group size always. `correlations` is over the groups of a grouping: Spearman's rho between those and what groups lose.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from quantfair.results.schema import CORRELATIONS, MECHANISM, MIN_RANKED
from quantfair.results.statistics.correlation import correlate_ranks
from quantfair.results.store.rows import TableBuilder, join, rows_to_table
from quantfair.results.store.store import Store

NOT_MEASURED = "not measured: `analysis` did not name curvature when the trial ran"
FLOAT_METHODS: Final = ("fp32", "fp32_ft")
CURVATURE: Final = ("grad_norm", "hessian_trace", "lambda_max")
STATISTICS: Final = (*CURVATURE, "margin", "accuracy", "n_train")
OUTCOMES: Final = ("drop_pp", "flip_rate")
PAIRS: Final = tuple(itertools.product(STATISTICS, OUTCOMES))
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
    parts = [*measured, rows_to_table(missing, MECHANISM), rows_to_table(_list_facts(rows), MECHANISM)]
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
    groups, rows = _average_over_seeds(trials, paired_metrics, mechanism), TableBuilder(CORRELATIONS)
    by_key = groups.groupby(list(KEY), sort=False)
    groups = groups.iloc[np.argsort(by_key.ngroup().to_numpy(), kind="stable")]
    keys = by_key.agg(n_groups=("group", "size"), n_seeds=("n_seeds", "max")).reset_index()
    rho_KP, p_KP, reason_KP = _correlate(groups, keys["n_groups"].to_numpy())
    rows.add(
        rho_KP.size,
        **{name: list(np.repeat(keys[name].to_numpy(), len(PAIRS))) for name in keys.columns},
        statistic=[statistic for statistic, _ in PAIRS] * len(keys),
        outcome=[outcome for _, outcome in PAIRS] * len(keys),
        rho=rho_KP.ravel(),
        p=p_KP.ravel(),
        reason=list(reason_KP.ravel()),
    )
    return rows.table()


def _average_over_seeds(trials: pa.Table, paired_metrics: pa.Table, mechanism: pa.Table) -> Any:
    """Return a row for each configuration, comparison, grouping and ranked group, with every statistic and outcome.

    What is not known of every seed is nan: a mean over other seeds would not belong to the outcome.
    """
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
    values, n_seeds = by_key[[*STATISTICS, *OUTCOMES]], by_key.size()
    return values.mean().where(values.count().eq(n_seeds, axis=0)).assign(n_seeds=n_seeds).reset_index()


def _correlate(groups: Any, n_groups_K: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rho, p and reason of all PAIRS for each of K keys, whose groups stand together. Keys with as many groups
    are one call.
    """
    rho_KP, p_KP = np.full((2, len(n_groups_K), len(PAIRS)), np.nan)
    reason_KP, starts_K = np.full(rho_KP.shape, None, dtype=object), np.cumsum(n_groups_K) - n_groups_K
    for n_groups in np.unique(n_groups_K):
        keys = np.flatnonzero(n_groups_K == n_groups)
        rows_KG = starts_K[keys][:, None] + np.arange(n_groups)
        values = {name: groups[name].to_numpy()[rows_KG] for name in (*STATISTICS, *OUTCOMES)}
        for index, (statistic, outcome) in enumerate(PAIRS):
            x_KG, y_KG = values[statistic], values[outcome]
            reason_K = reason_KP[keys, index] = _find_reasons(x_KG, y_KG, statistic, outcome)
            fit_K = np.array([reason is None for reason in reason_K], dtype=bool)
            rho_KP[keys[fit_K], index], p_KP[keys[fit_K], index] = correlate_ranks(x_KG[fit_K], y_KG[fit_K])
    return rho_KP, p_KP, reason_KP


def _find_reasons(x_KG: np.ndarray, y_KG: np.ndarray, statistic: str, outcome: str) -> np.ndarray:
    """Return why there is no correlation, None where there is one."""
    unknown = NOT_MEASURED if statistic in CURVATURE else f"{statistic} is not known"
    conditions = {
        f"fewer than {MIN_GROUPS} groups with {MIN_RANKED} test images": np.full(len(x_KG), x_KG.shape[1] < MIN_GROUPS),
        unknown: np.isnan(x_KG).all(axis=1),
        f"{statistic} is not known of every group and seed": np.isnan(x_KG).any(axis=1),
        f"{statistic} is the same in every group": np.ptp(x_KG, axis=1) == 0,
        f"{outcome} is the same in every group": np.ptp(y_KG, axis=1) == 0,
    }
    words = np.array([*conditions, None], dtype=object)
    return words[np.argmax([*conditions.values(), np.ones(len(x_KG), dtype=bool)], axis=0)]
