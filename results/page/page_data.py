"""Tables -> the compact form of them that the page carries: plain lists by column, small enough to be mailed.

The page has a trimmed copy of the tables and computes nothing that a table has: numbers keep DIGITS significant digits,
a text column is a list of its values and the place of each row's value in it, and trials and configurations are the
numbers of their rows. What holds too many rows is thinned by rules that `left_out` tells in words. No row is of a
single image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from quantfair.results.page.catalog import OVERALL, Catalog, Tables, take
from quantfair.results.schema import COMPARISONS, DEPLOYED, SETTINGS
from quantfair.results.tables.verdicts import ALL_IMAGES, RECIPE, choose_judged

DIGITS: Final = 5
METRICS: Final = ("accuracy", "loss_nats", "confidence", "margin", "entropy_nats", "ece", "f1")
SIDES: Final = (*COMPARISONS, "twin")
MOST_ROWS: Final = 100_000  # of one table; 1,000 trials of 45 groups have 60,000 pairs
_KEYS: Final = ("runtime", "comparison", "grouping", "group")
_DROP: Final = ("n", "drop_pp", "excess_pp", "excess_lower_pp")
_PAIRS: Final = (*_DROP, "n_rw", "n_wr", "n_flip")
_CONTRASTS: Final = (*_DROP, "n_seeds", "flip_rate", "bad_flip_rate", "good_flip_rate", "churn_rate")
_EVENNESS: Final = ("drop_disparity_pp", "null_mean_pp", "null_q95_pp", "null_p")
_DISPARITIES: Final = ("drop_disparity_pp", "acc_gap_maxmin_pp", "phi_loss_nats")

Columns = dict[str, Any]


class PageData:
    """Collects the tables of the page. `left_out` says in words what was too much, by table."""

    def __init__(self, catalog: Catalog, tables: Tables):
        self.tables, self.catalog = tables, catalog
        self.trial_ids = pd.Index([trial["trial_id"] for trial in catalog.trials], dtype="object")
        self.config_ids = pd.Index([config.config_id for config in catalog.configs], dtype="object")
        self.n_seeds = len(self.trial_ids) / max(len(self.config_ids), 1)
        self.left_out: dict[str, str] = {}

    def collect(self) -> dict[str, Columns]:
        """Return every table of the page by name, column by column."""
        return {
            "configs": self._configs(),
            "trials": self._trials(),
            "groups": self._groups(),
            "values": self._values(),
            "pairs": self._pairs(),
            "contrasts": self._contrasts(),
            "evenness": self._evenness(),
            "verdicts": self._verdicts(),
            "disparities": self._disparities(),
            "shifts": self._shifts(),
            "mechanism": self._mechanism(),
            "correlations": self._correlations(),
            "runtimes": self._runtimes(),
            "sensitivity": self._sensitivity(),
            "reliability": self._reliability(),
        }

    def _configs(self) -> Columns:
        configs = self.catalog.configs
        settings = [setting.name for setting in SETTINGS if setting.on_page]
        columns = {
            "id": [config.config_id for config in configs],
            "data": [self.catalog.data.index(config.data) for config in configs],
            **{name: [getattr(config, name) for config in configs] for name in ("method", "variant", "bits", "name")},
            **{name: [config.trials[0][name] for config in configs] for name in settings},
            "primary": [config.is_primary for config in configs],
        }
        return {name: pack(pa.array(values)) for name, values in columns.items()}

    def _trials(self) -> Columns:
        place = {id_: number for number, config in enumerate(self.catalog.configs) for id_ in _ids_of(config.trials)}
        trials = self.catalog.trials
        names = ("seed", "status", "accuracy", "n_test", "total_s", "error")
        columns = {name: [_shorten(trial[name]) for trial in trials] for name in names}
        columns |= {"id": list(self.trial_ids), "config": [place[trial["trial_id"]] for trial in trials]}
        at = {trial["trial_id"]: number for number, trial in enumerate(trials)}
        for side in ("reference", "control"):
            columns[side] = [at.get(trial[f"{side}_trial_id"]) for trial in trials]
        return {name: pack(pa.array(values)) for name, values in columns.items()}

    def _groups(self) -> Columns:
        rows = [
            (number, grouping.name, grouping.title, grouping.by_class, group.name, group.n, group.n_train)
            for number, data in enumerate(self.catalog.data)
            for grouping in data.groupings
            for group in grouping.groups
        ]
        names = ("data", "grouping", "title", "by_class", "group", "n", "n_train")
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        return {name: pack(pa.array(values)) for name, values in zip(names, columns, strict=True)}

    def _values(self) -> Columns:
        """Return a row for each trial, runtime, grouping and group, with a column for each metric."""
        table = take(self.tables, "group_metrics")
        table = table.filter(pc.field("class").is_null() & pc.field("value").is_valid())
        own = [name for name in table["metric"].unique().to_pylist() if name not in _KNOWN_METRICS]
        table = self._thin("values", table.filter(pc.field("metric").isin([*METRICS, *own])), len(METRICS))
        rows, first = _number_rows(table, ("trial_id", "runtime", "grouping", "group"))
        columns = self._keys(table.take(first), ("runtime", "grouping", "group"))
        for metric in (*METRICS, *own):
            here = table["metric"].to_numpy() == metric
            values = np.full(len(first), np.nan)
            values[rows[here]] = table["value"].to_numpy()[here]
            columns[metric] = pack(pa.array(values, from_pandas=True))
        return columns

    def _pairs(self) -> Columns:
        table = take(self.tables, "paired_metrics")
        table = self._thin("pairs", table.filter(pc.field("comparison").isin(SIDES) & pc.field("drop_pp").is_valid()))
        return self._keys(table, _KEYS) | _pack_all(table, _PAIRS) | _pack_limits(table)

    def _contrasts(self) -> Columns:
        table = self._thin(
            "contrasts", take(self.tables, "contrasts").filter(_is_comparison() & pc.field("drop_pp").is_valid())
        )
        return self._keys(table, _KEYS) | _pack_all(table, _CONTRASTS) | _pack_limits(table)

    def _evenness(self) -> Columns:
        table = self._thin("evenness", take(self.tables, "contrast_disparity").filter(_is_comparison()))
        return self._keys(table, _KEYS[:-1]) | _pack_all(table, _EVENNESS)

    def _verdicts(self) -> Columns:
        """Return a row for each recipe: its own, or that of its one file."""
        table = take(self.tables, "verdicts").filter(pc.field("grouping") != OVERALL)
        table = self._thin("verdicts", table.take(_choose_judged(table)))
        out_of_play = pa.array(
            ["\x01".join(names or ()) or None for names in table["out_of_play"].to_pylist()], pa.string()
        )
        named = pa.array([None if name == ALL_IMAGES else name for name in table["group"].to_pylist()], pa.string())
        return self._keys(table, _KEYS[:-1]) | {"group": pack(named), "out_of_play": pack(out_of_play)}

    def _disparities(self) -> Columns:
        table = take(self.tables, "disparity")
        wanted = pc.field("metric").isin(_DISPARITIES) & pc.field("value").is_valid()
        table = self._thin("disparities", table.filter(wanted))
        return self._keys(table, ("runtime", "comparison", "grouping", "metric")) | _pack_all(
            table, ("value", "null_mean", "null_q95", "null_p")
        )

    def _shifts(self) -> Columns:
        table = take(self.tables, "shifts")
        table = table.filter(pc.field("comparison").isin(SIDES) & pc.field("shift_pp").is_valid())
        return self._by_seed("shifts", table, (*_KEYS, "class"), "shift_pp")

    def _mechanism(self) -> Columns:
        """Return what the float models say of their groups."""
        table = take(self.tables, "mechanism").filter(pc.field("value").is_valid())
        return self._by_seed("mechanism", table, ("grouping", "group", "statistic"), "value")

    def _correlations(self) -> Columns:
        table = take(self.tables, "correlations")
        table = self._thin("correlations", table.filter(pc.field("rho").is_valid()))
        return self._keys(table, ("runtime", "comparison", "grouping", "statistic", "outcome")) | _pack_all(
            table, ("rho", "p", "n_groups")
        )

    def _runtimes(self) -> Columns:
        table = self._thin("runtimes", take(self.tables, "runtimes").filter(pc.field("runtime").isin(DEPLOYED)))
        numbers = ("batch", "file_bytes", "p50_ms", "p95_ms")
        return self._keys(table, ("runtime", "session", "status")) | _pack_all(table, (*numbers, "reason"))

    def _sensitivity(self) -> Columns:
        table = take(self.tables, "sensitivity").filter(pc.field("drop_pp").is_valid())
        return self._by_seed("sensitivity", table, ("layer", "grouping", "group"), "drop_pp", beside=("n",))

    def _reliability(self) -> Columns:
        """Return the bins of the named configurations: those of all would be a fifth of the page."""
        table = self.tables.get("reliability")
        if table is None:
            return {}
        named = [config.config_id for config in self.catalog.configs if config.is_primary]
        wanted = pc.field("accuracy").is_valid() & pc.field("config_id").isin(pa.array(named, pa.string()))
        table = self._thin("reliability", table.filter(wanted))
        return self._keys(table, ("runtime", "grouping", "group")) | _pack_all(
            table, ("bin", "n", "confidence", "accuracy", "ci_low", "ci_high")
        )

    def _thin(self, name: str, table: pa.Table, times: float = 1) -> pa.Table:
        """Return a table of at most MOST_ROWS * `times` rows: the simulation alone, or nothing at all."""
        if len(table) <= MOST_ROWS * times:
            return table
        of_torch = table.filter(pc.field("runtime") == "torch") if "runtime" in table.column_names else table
        if len(of_torch) <= MOST_ROWS * times:
            self.left_out[name] = f"of deployed runtimes: {len(table):,} rows are too many for a page"
            return of_torch
        self.left_out[name] = f"{len(of_torch):,} rows are too many for a page; they are in the tables of the store"
        return table.slice(0, 0)

    def _keys(self, table: pa.Table, names: Sequence[str]) -> Columns:
        """Return the columns that tell rows apart, trials and configurations as numbers."""
        columns = {name: pack(table[name].combine_chunks()) for name in names}
        for name, ids in (("trial", self.trial_ids), ("config", self.config_ids)):
            if f"{name}_id" in table.column_names:
                columns[name] = ids.get_indexer(table[f"{name}_id"].to_numpy()).tolist()
        return columns

    def _by_seed(
        self, name: str, table: pa.Table, keys: Sequence[str], value: str, *, beside: Sequence[str] = ()
    ) -> Columns:
        """Return the rows of each trial, or where those are too many, means over the trials of each configuration.

        `beside` are columns that are the same for every seed.
        """
        if len(table) <= MOST_ROWS:
            return self._keys(table, keys) | _pack_all(table, (value, *beside))
        self.left_out[f"{name} of single seeds"] = f"{len(table):,} rows are too many for a page, which has their means"
        table = self._thin(name, table, self.n_seeds)
        place = {id_: number for number, config in enumerate(self.catalog.configs) for id_ in _ids_of(config.trials)}
        of_trial = np.array([place[id_] for id_ in self.trial_ids])
        trials = self.trial_ids.get_indexer(table["trial_id"].to_numpy())
        table = table.append_column("config_number", pa.array(of_trial[trials], pa.int64()))
        rows, first = _number_rows(table, ("config_number", *keys))
        sums = np.bincount(rows, weights=table[value].to_numpy(), minlength=len(first))
        columns = {name: pack(table[name].take(first).combine_chunks()) for name in (*keys, *beside)}
        columns["config"] = pack(table["config_number"].take(first).combine_chunks())
        return columns | {value: pack(pa.array(sums / np.bincount(rows, minlength=len(first))))}


_KNOWN_METRICS: Final = (*METRICS, "recall", "precision", "fpr", "prediction_share")


def pack(array: pa.Array) -> Any:
    """Return a column as the page holds it: texts as values and places, numbers with DIGITS significant digits."""
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        coded = array.dictionary_encode()
        return {"values": coded.dictionary.to_pylist(), "codes": coded.indices.to_pylist()}
    return _round(array.to_numpy(zero_copy_only=False)) if pa.types.is_floating(array.type) else array.to_pylist()


def _pack_all(table: pa.Table, names: Sequence[str]) -> Columns:
    return {name: pack(table[name].combine_chunks()) for name in names}


def _pack_limits(table: pa.Table) -> Columns:
    """Return the limits that words rest on, or of a group that takes no part those of its 95 % interval."""
    limits = {"low_pp": ("lower_pp", "drop_ci_low_pp"), "high_pp": ("upper_pp", "drop_ci_high_pp")}
    columns = {name: [table[one].to_numpy() for one in both] for name, both in limits.items()}
    return {name: _round(np.where(np.isnan(limit), end, limit)) for name, (limit, end) in columns.items()}


def _choose_judged(table: pa.Table) -> pa.Array:
    """Return the rows of `verdicts` that the page shows, as `choose_judged`."""
    rows: dict[tuple[str, ...], list[tuple[int, dict[str, Any]]]] = {}
    keys = ("config_id", "runtime", "comparison", "grouping")
    for place, row in enumerate(table.select([*keys, "scope", "word"]).to_pylist()):
        rows.setdefault(tuple(row[name] for name in keys), []).append((place, row))
    chosen = []
    for alike in rows.values():
        by_scope = sorted(alike, key=lambda one: one[1]["scope"] != RECIPE)
        if by_scope[0][1]["scope"] == RECIPE:
            found = choose_judged([row for _, row in by_scope])
            chosen.append(next(place for place, row in by_scope if row is found))
    return pa.array(sorted(chosen), pa.int64())


def _round(values: np.ndarray) -> list[float | None]:
    """Return numbers with DIGITS significant digits, None for NaN; those under 1e-15, such as some p, become 0.

    Powers of ten up to 1e22 are exact, so decimals stay short.
    """
    values = np.where(np.abs(values) < 1e-15, 0.0, values)
    size = np.abs(np.where(np.isfinite(values) & (values != 0), values, 1.0))
    factors = 10.0 ** (DIGITS - 1 - np.floor(np.log10(size)))
    rounded = np.where(factors >= 1, np.round(values * factors) / factors, np.round(values))
    found: list[float | None] = rounded.tolist()
    for place in np.flatnonzero(np.isnan(values)):
        found[place] = None
    return found


def _number_rows(table: pa.Table, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row the number of its key, by first appearance of sorted keys, and the first row of each key."""
    codes = np.zeros(len(table), np.int64)
    for name in keys:
        coded = table[name].combine_chunks().dictionary_encode()
        codes = codes * (len(coded.dictionary) + 1) + coded.indices.fill_null(len(coded.dictionary)).to_numpy()
    _, first, rows = np.unique(codes, return_index=True, return_inverse=True)
    return rows, first


def _is_comparison() -> pc.Expression:
    return pc.field("comparison").isin(SIDES) & (pc.field("kind") != "data")


def _ids_of(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    return [trial["trial_id"] for trial in trials]


def _shorten(value: Any) -> Any:
    return value[:400] if isinstance(value, str) else value
