"""Two stores -> a page and tables of what differs, and a summary for people."""

from typing import Any, NamedTuple

from quantfair.results.diff.differences import find_differences
from quantfair.results.page.catalog import OVERALL, make_catalog
from quantfair.results.page.formatting import format_drop
from quantfair.results.page.report import render_report
from quantfair.results.page.screens.differences import is_ranked
from quantfair.results.schema import TABLES
from quantfair.results.store.store import Store


class Comparison(NamedTuple):
    """Where the page and the tables are, and what they say in short. Drops in pp."""

    files: list[str]
    summary: dict[str, Any]


def compare_stores(store: Store, other: Store) -> Comparison:
    """Write what differs between two stores to `exports/` of the first, whose tables are up to date.

    Raises:
        StoreError: one of the two holds no sweep, or they have no configuration in common.
    """
    found = find_differences(store, other)
    tables = {name: store.read_table(name) for name in TABLES if name not in ("samples", "predictions")}
    html = render_report({**tables, **found}, against=other.location)
    names = {config.config_id: config.name for config in make_catalog(tables).configs}
    return Comparison(store.format_comparison(html, found), _summarize(found["differences"].to_pylist(), names))


def _summarize(rows: list[dict[str, Any]], names: dict[str, str]) -> dict[str, Any]:
    known = [row for row in rows if row["kind"] == "store" and row["drop_pp"] is not None]
    whole = [row for row in known if row["grouping"] == OVERALL]
    changed = [row for row in whole if row["drop_ci_low_pp"] > 0 or row["drop_ci_high_pp"] < 0]
    ranked = [row for row in known if is_ranked(row)]
    largest = max(ranked, key=lambda row: abs(row["drop_pp"]), default=None)
    return {
        "n_compared": len(whole),
        "n_changed": len(changed),
        "n_alone": sum(row["grouping"] is None for row in rows),
        "reasons": sorted({row["reason"] for row in rows if row["drop_pp"] is None and row["reason"]}),
        "largest": largest and _describe(largest, names),
    }


def _describe(row: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("grouping", "group", "drop_pp", "drop_ci_low_pp", "drop_ci_high_pp")},
        "configuration": names[row["config_id"]],
        "in_words": format_drop(row["drop_pp"], row["drop_ci_low_pp"], row["drop_ci_high_pp"]),
    }
