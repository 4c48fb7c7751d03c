"""Reads an open dashboard and compares it, data set by data set and grouping by grouping, with the tables of its store.

Run it on any store: `python tests/support/page_numbers.py STORE` opens its page in Chromium and prints how
many numbers it compared, of the answers and of every chart; it fails at the first that differs.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from html_page import Page
from screen_numbers import check_limits, check_screen

from quantfair.results import Store, update_report
from quantfair.results.page.catalog import Config, Data, Grouping, make_catalog
from quantfair.results.schema import TABLES

READ = """() => Object.fromEntries([...document.querySelectorAll("figure")].map(figure => [figure.id,
    [...figure.querySelectorAll(".twin tr")].map(row => [...row.cells].map(cell =>
        [cell.textContent, cell.dataset.value === undefined ? null : Number(cell.dataset.value)]))]))"""
READ_TRIALS = """() => [...document.querySelectorAll(".trials tbody tr")].map(row => [...row.cells].map(cell =>
        [cell.textContent, cell.dataset.value === undefined ? null : Number(cell.dataset.value)]))"""
TableBuilder = list[list[tuple[str, float | None]]]
OF_MEANS = 1e-3  # pp: the page's means are of numbers with five digits, which may take each other away
STATISTICS = {
    "training images": "n_train",
    "margin of the float model": "margin",
    "accuracy of the float model": "accuracy",
    "norm of the loss's gradient": "grad_norm",
    "trace of the Hessian": "hessian_trace",
    "largest eigenvalue of the Hessian": "lambda_max",
}


class Tables:
    """The tables as frames, of torch and of one grouping, and what is looked up in them."""

    def __init__(self, tables: Mapping[str, pa.Table]):
        self.frames: dict[str, Any] = {name: table.to_pandas() for name, table in tables.items() if name != "samples"}
        for name in ("contrasts", "contrast_disparity"):
            frame = self.frames[name]
            self.frames[name] = frame[(frame.kind != "data") & frame.comparison.notna()]
        metrics = self.frames["group_metrics"]
        self.frames["group_metrics"] = metrics[metrics["class"].isna() & metrics.metric.isin(["accuracy", "ece"])]
        of_config = self.frames["trials"].set_index("trial_id").config_id
        for name in ("group_metrics", "shifts", "paired_metrics", "sensitivity", "disparity", "runtimes"):
            self.frames[name] = self.frames[name].assign(config_id=self.frames[name].trial_id.map(of_config))

    def means(self, name: str, keys: list[str], value: str, **equals: Any) -> dict[Any, float]:
        """Means over the rows that agree in `keys`; of one key the key itself."""
        frame = self.frames[name]
        for column, wanted in equals.items():
            frame = frame[frame[column] == wanted]
        groups = frame[frame[value].notna()].groupby(keys if len(keys) > 1 else keys[0], sort=False)
        return groups[value].mean().to_dict()


class Place:
    """One data set and grouping, as the page starts there: the usual sides, all seeds, torch."""

    def __init__(self, tables: Tables, data: Data, grouping: Grouping, configs: Mapping[str, Config], detail: Config):
        self.tables, self.data, self.grouping, self.configs, self.detail = tables, data, grouping, configs, detail
        here = {"runtime": "torch", "grouping": grouping.name}
        key = ["config_id", "comparison", "group"]
        self.drops = tables.means("contrasts", key, "drop_pp", **here)
        self.overall = tables.means("contrasts", key[:2], "drop_pp", runtime="torch", grouping="overall")

    def side(self, config: Config) -> str:
        return "control" if config.method == "qat" and (config.config_id, "control") in self.overall else "reference"

    def drop(self, config: Config, group: str) -> float:
        return self.drops[config.config_id, self.side(config), group]


def check_page(page: Any, tables: Mapping[str, pa.Table]) -> Counter[str]:
    """Return how many numbers of each chart's table equal the tables."""
    catalog, frames, checked = make_catalog(tables), Tables(tables), Counter[str]()
    for data in catalog.data:
        configs = {config.name: config for config in catalog.configs if config.data == data}
        choose(page, dataset=data.name, task=data.task, network=data.network)
        for grouping in data.groupings:
            choose(page, grouping=grouping.name)
            found = read(page)
            chosen = page.input_value("#filter-configuration")
            detail = next(config for config in configs.values() if config.config_id == chosen)
            place = Place(frames, data, grouping, configs, detail)
            for key, check in CHECKS.items():
                checked[key] += check(found[key], place) if found[key] else 0
            checked["trials"] += check_trials(page.evaluate(READ_TRIALS), place)
    return checked


def choose(page: Any, **filters: str) -> None:
    """Set filters, in their order."""
    for name, value in filters.items():
        if page.input_value(f"#filter-{name}") != value:  # those of one choice are hidden
            page.select_option(f"#filter-{name}", value)
    page.wait_for_selector("html[data-drawn=all]", state="attached", timeout=60_000)


def read(page: Any) -> dict[str, TableBuilder]:
    """Return the table under every chart."""
    page.evaluate("document.querySelectorAll('figure details').forEach(details => { details.open = true; })")
    page.wait_for_timeout(50)
    return page.evaluate(READ)


def compare(found: list[tuple[str, float | None]], wanted: list[Any], where: Any, *, error: float = 1e-9) -> int:
    """Compare numbers; what the tables do not know the page leaves out. The page keeps five digits."""
    known = [None if value is None or pd.isna(value) else pytest.approx(value, rel=1e-4, abs=error) for value in wanted]
    assert [value for _, value in found] == known, where
    return sum(value is not None for value in known)


def heads(rows: TableBuilder, first: int) -> list[str]:
    """The names in the head of a table, without numbers of images."""
    return [text.rpartition(" (n=")[0] or text for text, _ in rows[0][first:]]


def check_accuracy(rows: TableBuilder, place: Place) -> int:
    equals = {"runtime": "torch", "grouping": place.grouping.name, "metric": "accuracy"}
    means = place.tables.means("group_metrics", ["config_id", "group"], "value", **equals)
    ids = [place.configs[name].config_id for name in heads(rows, 2)]
    return sum(compare(row[2:], [means.get((id_, row[0][0])) for id_ in ids], row[0]) for row in rows[1:])


def check_slopes(rows: TableBuilder, place: Place) -> int:
    configs = [place.configs[name] for name in heads(rows, 2)]
    return sum(compare(row[2:], [place.drop(config, row[0][0]) for config in configs], row[0]) for row in rows[1:])


def check_drops(rows: TableBuilder, place: Place) -> int:
    n_checked = 0
    for (name, _), (side, _), *cells in rows[1:]:
        config = place.configs[name]
        wanted = [place.overall[config.config_id, side], *(place.drop(config, group) for group in heads(rows, 3))]
        n_checked += compare(cells, wanted, name)
        here = place.tables.frames["contrasts"].query("runtime == 'torch' and grouping == @place.grouping.name")
        mine = here[(here.config_id == config.config_id) & (here.comparison == side)].set_index("group")
        for group, (text, _) in zip(heads(rows, 3), cells[1:], strict=True):
            row = mine.loc[group]
            n_checked += check_limits(text, row)
            assert text.endswith("▲") == (row.excess_lower_pp > 0), (name, group)
    return n_checked


def spread_of(place: Place, config: Config) -> Any:
    frame = place.tables.frames["contrast_disparity"]
    mine = frame[(frame.config_id == config.config_id) & (frame.runtime == "torch")]
    mine = mine[(mine.grouping == place.grouping.name) & (mine.comparison == place.side(config))]
    return mine.iloc[0]


def gap_of(place: Place, config: Config) -> float | None:
    equals = {"runtime": "torch", "grouping": place.grouping.name, "metric": "acc_gap_maxmin_pp"}
    return place.tables.means("disparity", ["config_id"], "value", **equals).get(config.config_id)


def check_chance(rows: TableBuilder, place: Place) -> int:
    n_checked = 0
    for (name, _), *cells in rows[1:]:
        config = place.configs[name]
        row = spread_of(place, config)
        wanted = [row.drop_disparity_pp, row.null_mean_pp, row.null_q95_pp, row.null_p]
        n_checked += compare(cells, [*wanted, gap_of(place, config)], name)
    return n_checked


def check_tradeoff(rows: TableBuilder, place: Place) -> int:
    n_checked = 0
    for (name, _), accuracy, _, *cells in rows[1:]:
        config = place.configs[name]
        accuracies = [trial["accuracy"] for trial in config.ok]
        n_checked += compare([accuracy], [sum(accuracies) / len(accuracies)], name)
        if config.method == "fp32":
            continue
        spread, overall = spread_of(place, config), place.overall[config.config_id, place.side(config)]
        wanted = [overall, spread.drop_disparity_pp, spread.null_q95_pp, spread.null_p, gap_of(place, config)]
        n_checked += compare(cells, wanted, name)
    return n_checked


def check_seeds(rows: TableBuilder, place: Place) -> int:
    n_checked, pairs = 0, place.tables.frames["paired_metrics"]
    pairs = pairs[pairs.runtime == "torch"].merge(place.tables.frames["trials"][["trial_id", "seed"]], on="trial_id")
    group = rows[0][2][0].removesuffix(": drop, pp")
    known = [one.name for one in place.grouping.groups]
    assert group in known or not any(one.is_ranked for one in place.grouping.groups), "some group is drawn"
    for (name, _), (seed, _), *cells in rows[1:]:
        config = place.configs[name]
        mine = pairs[(pairs.config_id == config.config_id) & (pairs.seed == int(seed))]
        mine = mine[mine.comparison == place.side(config)]
        own = mine[(mine.grouping == place.grouping.name) & (mine.group == group)].drop_pp
        whole = mine[mine.grouping == "overall"].drop_pp
        n_checked += compare(cells, [own.iloc[0] if group in known else None, whole.iloc[0]], (name, seed))
    return n_checked


def check_groups(rows: TableBuilder, place: Place, grouping: str | None = None) -> int:
    equals = {"runtime": "torch", "grouping": grouping or place.grouping.name, "config_id": place.detail.config_id}
    drops = place.tables.means("contrasts", ["group"], "drop_pp", comparison=place.side(place.detail), **equals)
    return sum(compare(row[2:], [drops[row[0][0]]], row[0]) for row in rows[1:])


def check_intersections(rows: TableBuilder, place: Place) -> int:
    crossed = [grouping.name for grouping in place.data.groupings if "*" in grouping.name]
    chosen = place.grouping.name if place.grouping.name in crossed else crossed[0]
    return check_groups(rows, place, chosen)


def check_flips(rows: TableBuilder, place: Place) -> int:
    contrasts, n_checked = place.tables.frames["contrasts"], 0
    mine = contrasts[(contrasts.config_id == place.detail.config_id) & (contrasts.runtime == "torch")]
    mine = mine[(mine.grouping == place.grouping.name) & (mine.comparison == place.side(place.detail))]
    by_group = mine.set_index("group")
    for (name, _), *cells in rows[1:]:
        row = by_group.loc[name]
        n_checked += compare(cells, [row.n, row.flip_rate, row.bad_flip_rate, row.good_flip_rate, row.churn_rate], name)
    return n_checked


def check_shifts(rows: TableBuilder, place: Place) -> int:
    equals = {"runtime": "torch", "grouping": place.grouping.name, "config_id": place.detail.config_id}
    side = place.side(place.detail)
    means = place.tables.means("shifts", ["group", "class"], "shift_pp", comparison=side, **equals)
    classes = [text.removeprefix("as ").removesuffix(", pp") for text in heads(rows, 1)]
    wanted = {name: [means[name, one] for one in classes] for [(name, _), *_] in rows[1:]}
    return sum(compare(row[1:], wanted[row[0][0]], row[0], error=OF_MEANS) for row in rows[1:])


def check_calibration(rows: TableBuilder, place: Place) -> int:
    bins, n_checked = place.tables.frames["reliability"], 0
    bins = bins[(bins.runtime == "torch") & (bins.grouping == place.grouping.name) & (bins.n >= 20)]
    keys = ["config_id", "group"]
    equals = {"runtime": "torch", "grouping": place.grouping.name, "metric": "ece"}
    errors = place.tables.means("group_metrics", keys, "value", **equals)
    seen = Counter[tuple[str, str]]()
    for (name, _), (group, _), *cells in rows[1:]:
        config_id = place.configs[name].config_id
        mine = bins[(bins.config_id == config_id) & (bins.group == group)].sort_values("bin")
        row = mine.iloc[seen[name, group]]
        seen[name, group] += 1
        wanted = [row.confidence, row.accuracy, row.n, errors.get((config_id, group))]
        n_checked += compare(cells, wanted, (name, group))
    return n_checked


def check_mechanism(rows: TableBuilder, place: Place) -> int:
    trials = place.tables.frames["trials"].set_index("trial_id")
    others = {trial[f"{place.side(place.detail)}_trial_id"] for trial in place.detail.ok}
    facts, n_checked = place.tables.frames["mechanism"], 0
    facts = facts[facts.trial_id.isin(others & set(trials.index)) & (facts.grouping == place.grouping.name)]
    means = facts[facts.value.notna()].groupby(["group", "statistic"]).value.mean().to_dict()
    for (group, _), *cells in rows[1:]:
        wanted = [means.get((group, STATISTICS[name])) for name in heads(rows, 2)]
        n_checked += compare(cells, [place.drop(place.detail, group), *wanted], group)
    return n_checked


def check_runtimes(rows: TableBuilder, place: Place) -> int:
    n_checked, times = 0, place.tables.frames["runtimes"]
    ranked = {group.name for group in place.grouping.groups if group.is_ranked}
    keys = ["config_id", "group"]
    for (name, _), (runtime, _), *cells, _ in rows[1:]:
        config_id = place.configs[name].config_id
        equals = {"runtime": runtime, "comparison": "twin", "config_id": config_id}
        whole = place.tables.frames["contrasts"].query("grouping == 'overall'")
        whole = whole[(whole.config_id == config_id) & (whole.runtime == runtime) & (whole.comparison == "twin")]
        drops = place.tables.means("contrasts", keys, "drop_pp", grouping=place.grouping.name, **equals)
        worst = max((drop for (_, group), drop in drops.items() if group in ranked), default=None)
        mine = times[(times.config_id == config_id) & (times.runtime == runtime)]
        timed = mine[(mine.batch == 1) & (mine.session != "exact")]
        row = whole.iloc[0] if len(whole) else None
        wanted = [row.drop_pp, None, worst, row.flip_rate] if row is not None else [None] * 4
        wanted += [timed.p50_ms.mean(), timed.p95_ms.mean(), mine.file_bytes.mean() / 1000]
        n_checked += compare(cells, wanted, name)
    return n_checked


def check_sensitivity(rows: TableBuilder, place: Place) -> int:
    equals = {"grouping": place.grouping.name, "config_id": place.detail.config_id}
    means = place.tables.means("sensitivity", ["layer", "group"], "drop_pp", **equals)
    wanted = {name: [means.get((name, group)) for group in heads(rows, 1)] for [(name, _), *_] in rows[1:]}
    return sum(compare(row[1:], wanted[row[0][0]], row[0], error=OF_MEANS) for row in rows[1:])


def check_trials(rows: TableBuilder, place: Place) -> int:
    """The table of trials: accuracy, drop of all images and of the worst group, seconds."""
    trials, n_checked = place.tables.frames["trials"].set_index("trial_id"), 0
    pairs = place.tables.frames["paired_metrics"]
    pairs = pairs[pairs.runtime == "torch"].set_index(["trial_id", "comparison", "grouping", "group"]).drop_pp
    for (start, _), (status, _), _, (seed, _), accuracy, drop, _, (side, _), worst, lost, seconds in rows:
        (trial_id,) = [one for one in trials.index if one.startswith(start)]
        trial = trials.loc[trial_id]
        assert (status.split(":")[0], int(seed)) == (trial.status, trial.seed)
        wanted = [trial.accuracy, pairs.get((trial_id, side, "overall", "all")), trial.total_s]
        n_checked += compare([accuracy, drop, seconds], wanted, trial_id)
        names = [group.name for group in place.grouping.groups if group.name.startswith(worst[0].removesuffix("…"))]
        if worst[0] in ("–", ""):
            continue
        drops = [pairs.get((trial_id, side, place.grouping.name, name)) for name in names]
        assert any(lost[1] == pytest.approx(one, rel=1e-4) for one in drops), trial_id
        n_checked += 1
    return n_checked


CHECKS: dict[str, Callable[[TableBuilder, Place], int]] = {
    "accuracy": check_accuracy,
    "slopes": check_slopes,
    "drops": check_drops,
    "tradeoff": check_tradeoff,
    "chance": check_chance,
    "seeds": check_seeds,
    "groups": check_groups,
    "intersections": check_intersections,
    "flips": check_flips,
    "shifts": check_shifts,
    "calibration": check_calibration,
    "mechanism": check_mechanism,
    "runtimes": check_runtimes,
    "sensitivity": check_sensitivity,
}


def check_store(location: str) -> str:
    """Compare the page of a store, and say how many numbers were compared."""
    from playwright.sync_api import sync_playwright

    from quantfair.results.page.paper_figures import find_browser

    store = Store.open(location)
    update_report(store)
    tables = {name: store.read_table(name) for name in TABLES if name not in ("samples", "predictions")}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(Path(location, "report.html").absolute().as_uri())
        page.wait_for_selector("html[data-drawn=all]", state="attached", timeout=60_000)
        drawn = check_page(page, tables)
        browser.close()
    n_written = check_screen(Page(Path(location, "report.html").read_text(encoding="utf-8")), tables)
    charts = ", ".join(f"{key} {number:,}" for key, number in drawn.items())
    n_drawn = drawn.total()
    return f"{location}: {n_written:,} numbers of the answers and {n_drawn:,} of the charts equal the tables ({charts})"


if __name__ == "__main__":
    for place in sys.argv[1:]:
        print(check_store(place))
