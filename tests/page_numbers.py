"""Reads an open dashboard and compares it, data set by data set and grouping by grouping, with the tables of its store.

Run it on any store: `PYTHONPATH=.:tests python tests/page_numbers.py STORE` opens its page in Chromium and prints how
many numbers it compared; it fails at the first that differs.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from html_page import Page
from screen_numbers import check_screen

from results import Store, derive
from results.page.catalog import Config, make_catalog
from results.schema import TABLES

READ = """() => Object.fromEntries([...document.querySelectorAll("figure")].map(figure => [figure.id,
    [...figure.querySelectorAll(".twin tr")].map(row => [...row.cells].map(cell =>
        [cell.textContent, cell.dataset.value === undefined ? null : Number(cell.dataset.value)]))]))"""
Rows = list[list[tuple[str, float | None]]]


def check_page(page: Any, tables: Mapping[str, pa.Table]) -> int:
    """Return how many numbers of the maps, of chance and of the groups of one configuration equal the tables."""
    catalog, n_checked = make_catalog(tables), 0
    contrasts = tables["contrasts"].to_pandas().query("kind != 'data' and runtime == 'torch'")
    spreads = tables["contrast_disparity"].to_pandas().query("kind != 'data' and runtime == 'torch'")
    for data in catalog.data:
        configs = {config.name: config for config in catalog.configs if config.data == data}
        choose(page, dataset=data.name, task=data.task, network=data.network)
        for grouping in data.groupings:
            choose(page, grouping=grouping.name)
            found = read(page)
            drops = index(contrasts, grouping.name)
            n_checked += check_map(found["drops"], configs, drops, index(contrasts, "overall"))
            n_checked += check_chance(found["chance"], configs, spreads[spreads.grouping == grouping.name])
            detail = next(c for c in configs.values() if c.config_id == page.input_value("#filter-configuration"))
            n_checked += check_groups(found["groups"], detail, drops)
    return n_checked


def choose(page: Any, **filters: str) -> None:
    """Set filters, in their order."""
    for name, value in filters.items():
        if page.input_value(f"#filter-{name}") != value:  # those of one choice are hidden
            page.select_option(f"#filter-{name}", value)
    page.wait_for_selector("html[data-drawn=all]", state="attached", timeout=60_000)


def read(page: Any) -> dict[str, Rows]:
    """Return the table under every chart."""
    page.evaluate("document.querySelectorAll('figure details').forEach(details => { details.open = true; })")
    page.wait_for_timeout(50)
    return page.evaluate(READ)


def index(contrasts: Any, grouping: str) -> dict[tuple[str, str, str], float]:
    """Return drops by configuration, side and group."""
    rows = contrasts[contrasts.grouping == grouping][["config_id", "comparison", "group", "drop_pp"]]
    return {(row.config_id, row.comparison, row.group): row.drop_pp for row in rows.itertuples()}


def check_map(
    rows: Rows, configs: Mapping[str, Config], drops: Mapping[Any, float], overall: Mapping[Any, float]
) -> int:
    """Compare every cell of the map."""
    groups = [text.rpartition(" (n=")[0] for text, _ in rows[0][3:]]
    for (name, _), (side, _), whole, *cells in rows[1:]:
        config_id = configs[name].config_id
        assert whole[1] == close(overall[config_id, side, "all"]), name
        for group, (_, value) in zip(groups, cells, strict=True):
            assert value == close(drops[config_id, side, group]), (name, group)
    return sum(len(row) - 2 for row in rows[1:])


def check_chance(rows: Rows, configs: Mapping[str, Config], spreads: Any) -> int:
    """Compare disparity, its floor and its p."""
    for (name, _), value, mean, floor, p, *_ in rows[1:]:
        config = configs[name]
        mine = spreads[spreads.config_id == config.config_id]
        usual = "control" if config.method == "qat" and "control" in set(mine.comparison) else "reference"
        row = mine[mine.comparison == usual].iloc[0]
        wanted = [row.drop_disparity_pp, row.null_mean_pp, row.null_q95_pp, row.perm_p]
        assert [cell[1] for cell in (value, mean, floor, p)] == [close(one) for one in wanted], name
    return 4 * (len(rows) - 1)


def check_groups(rows: Rows, config: Config, drops: Mapping[Any, float]) -> int:
    """Compare the drop of every group of the configuration in detail."""
    usual = "control" if any(key[:2] == (config.config_id, "control") for key in drops) else "reference"
    for (group, _), _, (_, value) in rows[1:]:
        assert value == close(drops[config.config_id, usual, group]), group
    return len(rows) - 1


def close(value: float) -> Any:
    """Five digits are what the page keeps."""
    return pytest.approx(value, rel=1e-4, abs=1e-9)


def check_store(location: str) -> str:
    """Compare the page of a store, and say how many numbers were compared."""
    from playwright.sync_api import sync_playwright

    from results.page.paper_figures import find_browser

    store = Store.open(location)
    derive(store)
    tables = {name: store.read_table(name) for name in TABLES if name not in ("samples", "predictions")}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(Path(location, "report.html").absolute().as_uri())
        page.wait_for_selector("html[data-drawn=all]", state="attached", timeout=60_000)
        n_drawn = check_page(page, tables)
        browser.close()
    n_written = check_screen(Page(Path(location, "report.html").read_text(encoding="utf-8")), tables)
    return f"{location}: {n_written:,} numbers of the answers and {n_drawn:,} of the charts equal the tables"


if __name__ == "__main__":
    for place in sys.argv[1:]:
        print(check_store(place))
