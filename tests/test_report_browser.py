"""The page in a real browser: it draws everything, asks for nothing, and works by keyboard, on a phone, in the dark."""

import codecs
import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from axe import find_violations
from page_numbers import check_page
from simulated_sweep import GROUP_NAMES, make_tables

from quantfair.results import CHART_KEYS
from quantfair.results.page.report import render_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
N_CHARTS = len(CHART_KEYS)
SETTINGS: dict[str, Any] = {
    "datasets": ("digits", "faces"),
    "mixtures": (None, "shares:0.6,0.2,0.1,0.05,0.03,0.02"),
    "runtimes": ("torch", "onnxruntime"),
    "bits": (8, 4),
}
FACES = "dataset=faces%2C+as+it+comes&grouping=ethnicity"
READ = """() => Object.fromEntries([...document.querySelectorAll("figure")].map(figure => [figure.id, {
    title: figure.querySelector("h3").textContent,
    says: figure.querySelector(".says").textContent,
    note: figure.querySelector(".note").textContent,
    drawn: figure.querySelectorAll(".main-svg").length > 0,
    rows: [...figure.querySelectorAll(".twin tr")].map(row => [...row.cells].map(cell =>
        [cell.textContent, cell.dataset.value === undefined ? null : Number(cell.dataset.value)]))}]))"""

PLACE = "[...document.activeElement.closest('tbody').rows].indexOf(document.activeElement.parentElement)"
ACTIVE = "(document.activeElement.id || document.activeElement.textContent).slice(0, 30)"


@pytest.fixture(scope="module")
def tables() -> dict[str, pa.Table]:
    return dict(make_tables(**SETTINGS))


@pytest.fixture(scope="module")
def file(tables: dict[str, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(tables), encoding="utf-8")
    return path


class Visit:
    """An open page, with everything that it complained about or asked for."""

    def __init__(self, browser: "Browser", file: Path, *, width: int = 1280, scheme: str = "light", filters: str = ""):
        self.trouble: list[str] = []
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": 800}, color_scheme="dark" if scheme == "dark" else "light"
        )
        self.page.on("console", lambda message: self.trouble.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", lambda request: self.trouble.append(request.url))
        self.page.goto(f"{file.as_uri()}#{filters}")
        self.wait()
        self.trouble = [line for line in self.trouble if not line.startswith(file.as_uri())]

    def wait(self) -> None:
        self.page.wait_for_selector("html[data-drawn=all]", state="attached", timeout=60_000)

    def go_to(self, filters: str) -> None:
        """Show what an address says, without loading the page again."""
        self.page.evaluate("filters => { location.hash = filters; }", filters)
        self.page.wait_for_timeout(50)  # the event of the address comes later
        self.wait()

    def choose(self, **filters: str) -> None:
        for name, value in filters.items():
            self.page.select_option(f"#filter-{name}", value)
        self.wait()

    def read(self) -> dict[str, Any]:
        """What every chart says and its table holds."""
        self.page.evaluate("document.querySelectorAll('figure details').forEach(details => { details.open = true; })")
        self.page.wait_for_timeout(50)  # the event of opening comes later
        return self.page.evaluate(READ)


@pytest.fixture(scope="module")
def open_page(browser: "Browser", file: Path) -> Visit:
    return Visit(browser, file, filters=FACES)


@pytest.fixture
def visit(open_page: Visit) -> Visit:
    """The page, as it is when it was just opened: it is loaded once for all tests that leave no trace in it."""
    open_page.page.mouse.move(0, 0)  # a group under the mouse is highlighted
    open_page.go_to(FACES)
    return open_page


def test_every_chart_is_drawn_without_a_request_or_a_complaint(visit: Visit) -> None:
    found = visit.read()
    assert tuple(found) == CHART_KEYS
    assert visit.page.evaluate("quantfair.keys") == list(CHART_KEYS)
    assert [key for key, chart in found.items() if not chart["drawn"]] == []
    assert all(chart["says"].endswith(".") and len(chart["rows"]) > 1 for chart in found.values())
    assert visit.trouble == []
    assert visit.page.evaluate("window.stolen") is None


# Numbers: of the state that the page starts in, of one seed, of another runtime


def frame_of(tables: dict[str, pa.Table], name: str) -> Any:
    """A table, with the settings of the trial's configuration, of the faces as they come."""
    trials = tables["trials"].to_pandas()
    trials = trials[(trials.dataset == "faces") & (trials.imbalance == "none")]
    settings = ["config_id", "method", "base", "weight_bits", "act_observer"]
    frame = tables[name].to_pandas()
    if "trial_id" in frame:
        return frame.merge(trials[["trial_id", "seed", *settings]], on="trial_id")
    return frame.merge(trials[settings].drop_duplicates(), on="config_id")


def only(frame: Any, **equals: Any) -> Any:
    for column, value in equals.items():
        frame = frame[frame[column] == value]
    return frame


def name_of(row: Any) -> str:
    """What the page calls a configuration of these tables."""
    if row.method == "fp32_ft":
        return "FP32-FT"
    variant = {"ptq": "PTQ", "qat": "QAT"}[row.method] + (" on FP32-FT" if row.base == "fp32_ft" else "")
    return f"{variant} {int(row.weight_bits)}, {row.act_observer}"


def is_usual(frame: Any) -> Any:
    """QAT against its control, all others against their reference."""
    return frame.comparison == frame.method.map(lambda method: "control" if method == "qat" else "reference")


def check_map(rows: list[Any], drops: Any, overall: Any, groups: list[str]) -> None:
    """Compare the table of the map with drops by configuration and group."""
    assert len(rows) == 1 + len(overall) > 10
    by_name = {name_of(row): row for row in overall.itertuples()}
    for name, _, whole, *cells in rows[1:]:
        row = by_name[name[0]]
        assert whole[1] == pytest.approx(row.drop_pp, rel=1e-4, abs=1e-9)
        mine = drops[drops.config_id == row.config_id].set_index("group").drop_pp
        assert [value for _, value in cells] == pytest.approx(list(mine[groups]), rel=1e-4, abs=1e-9)


def groups_in(rows: list[Any]) -> list[str]:
    """The groups named in the head of the map: "Few (n=36)"."""
    return [text.rpartition(" (n=")[0] for text, _ in rows[0][3:]]


def test_the_map_is_contrasts_over_seeds_and_pairs_of_one_seed(visit: Visit, tables: dict[str, pa.Table]) -> None:
    contrasts = frame_of(tables, "contrasts")
    contrasts = contrasts[contrasts.comparison.notna() & (contrasts.kind != "data") & (contrasts.runtime == "torch")]
    contrasts = contrasts[is_usual(contrasts)]
    rows = visit.read()["drops"]["rows"]
    groups = groups_in(rows)
    assert sorted(groups) == sorted(GROUP_NAMES)
    check_map(rows, only(contrasts, grouping="ethnicity"), only(contrasts, grouping="overall"), groups)
    visit.choose(seed="1")
    pairs = only(frame_of(tables, "paired_metrics"), runtime="torch", seed=1)
    pairs = pairs[is_usual(pairs)]
    rows = visit.read()["drops"]["rows"]
    check_map(rows, only(pairs, grouping="ethnicity"), only(pairs, grouping="overall"), groups)


def test_every_data_set_and_grouping_equals_the_tables(visit: Visit, tables: dict[str, pa.Table]) -> None:
    checked = check_page(visit.page, tables)
    assert len(checked) == N_CHARTS + 1  # the table of trials
    assert min(checked.values()) >= 20, checked


def test_other_sides_and_runtimes_are_their_rows(visit: Visit, tables: dict[str, pa.Table]) -> None:
    contrasts = frame_of(tables, "contrasts")
    contrasts = contrasts[contrasts.kind != "data"]
    for runtime, comparison in (("torch", "control"), ("onnxruntime", "twin"), ("onnxruntime", "reference")):
        visit.choose(runtime=runtime, comparison=comparison)
        mine = only(contrasts, runtime=runtime, comparison=comparison)
        mine = mine[mine.method != "fp32"]
        rows = visit.read()["drops"]["rows"]
        if comparison == "control":
            assert {row[0][0].split(" ")[0] for row in rows[1:]} == {"QAT"}
            assert len(rows) == 1 + 4
            continue
        check_map(rows, only(mine, grouping="ethnicity"), only(mine, grouping="overall"), groups_in(rows))


def test_accuracy_is_the_mean_of_group_metrics(visit: Visit, tables: dict[str, pa.Table]) -> None:
    metrics = only(frame_of(tables, "group_metrics"), runtime="torch", grouping="ethnicity")
    metrics = metrics[metrics["class"].isna()]
    for metric in ("accuracy", "loss_nats", "ece"):
        visit.choose(metric=metric)
        rows = visit.read()["accuracy"]["rows"]
        heads = [text for text, _ in rows[0][2:]]
        assert len(rows) == 1 + 6
        means = only(metrics, metric=metric).groupby(["config_id", "group"]).value.mean()
        names = {config_id: "FP32" if row.method == "fp32" else name_of(row) for config_id, row in named(metrics)}
        ids = {name: config_id for config_id, name in names.items()}
        for name, _, *cells in rows[1:]:
            wanted = [means.get((ids[head], name[0])) for head in heads]
            found = [value for _, value in cells]
            assert [value is None or pd.isna(value) for value in wanted] == [value is None for value in found]
            known = [(a, b) for a, b in zip(found, wanted, strict=True) if a is not None]
            assert [a for a, _ in known] == pytest.approx([b for _, b in known], rel=1e-4)


def named(frame: Any) -> list[tuple[str, Any]]:
    rows = frame.drop_duplicates("config_id").itertuples()
    return [(str(row.config_id), row) for row in rows]


def test_chance_and_tradeoff_are_disparities_of_contrasts(visit: Visit, tables: dict[str, pa.Table]) -> None:
    spreads = only(frame_of(tables, "contrast_disparity"), runtime="torch", grouping="ethnicity")
    spreads = spreads[(spreads.kind != "data") & spreads.comparison.notna()]
    spreads = spreads[is_usual(spreads)]
    by_name = {name_of(row): row for row in spreads.itertuples()}
    found = visit.read()
    assert len(found["chance"]["rows"]) == 1 + len(by_name)
    for name, *cells, _ in found["chance"]["rows"][1:]:
        row = by_name[name[0]]
        wanted = [row.drop_disparity_pp, row.null_mean_pp, row.null_q95_pp, row.null_p]
        found_here = [np.nan if cell[1] is None else cell[1] for cell in cells]
        assert found_here == pytest.approx(wanted, rel=1e-4, abs=1e-9, nan_ok=True)
    assert spreads.null_p.isna().all(), "of three seeds"
    assert found["chance"]["says"] == "Of several seeds no test is known: choose one seed."
    gaps = only(frame_of(tables, "disparity"), runtime="torch", grouping="ethnicity", metric="acc_gap_maxmin_pp")
    means = gaps.groupby("config_id").value.mean()
    drops = only(frame_of(tables, "contrasts"), runtime="torch", grouping="overall")
    drops = drops[is_usual(drops) & (drops.kind != "data")].set_index("config_id").drop_pp
    for name, accuracy, side, overall, disparity, _, _, gap in found["tradeoff"]["rows"][1:]:
        if name[0] == "FP32":
            assert disparity[1] == 0
            continue
        row = by_name[name[0]]
        assert disparity[1] == pytest.approx(row.drop_disparity_pp, rel=1e-4, abs=1e-9)
        assert overall[1] == pytest.approx(drops[row.config_id], rel=1e-4, abs=1e-9)
        assert side[0] == row.comparison
        assert gap[1] == pytest.approx(means[row.config_id], rel=1e-4)
        mine = tables["trials"].to_pandas().query(f"config_id == '{row.config_id}'").accuracy
        assert accuracy[1] == pytest.approx(mine.mean(), rel=1e-4)


def test_charts_of_one_configuration_are_its_rows(visit: Visit, tables: dict[str, pa.Table]) -> None:
    contrasts = only(frame_of(tables, "contrasts"), runtime="torch", grouping="ethnicity", method="qat", weight_bits=4)
    contrasts = only(contrasts[contrasts.kind != "data"], act_observer="percentile", comparison="control")
    config_id = str(contrasts.config_id.unique().item())
    visit.choose(configuration=config_id)
    found, drops = visit.read(), contrasts.set_index("group")
    for name, _, drop in found["groups"]["rows"][1:]:
        assert drop[1] == pytest.approx(drops.drop_pp[name[0]], rel=1e-4, abs=1e-9)
    for name, *rates in found["flips"]["rows"][1:]:
        row = drops.loc[name[0]]
        wanted = [row.n, row.flip_rate, row.bad_flip_rate, row.good_flip_rate, row.churn_rate]
        assert [value for _, value in rates] == pytest.approx(wanted, rel=1e-4, abs=1e-9)
    pairs = only(frame_of(tables, "paired_metrics"), runtime="torch", grouping="overall", config_id=config_id)
    wanted = {row.seed: row.drop_pp for row in only(pairs, comparison="control").itertuples()}
    seeds = [row for row in found["seeds"]["rows"][1:] if row[0][0] == "QAT 4, percentile"]
    mine = {int(seed[0]): whole[1] for _, seed, _, whole in seeds}
    assert mine == pytest.approx(wanted, rel=1e-4, abs=1e-9)


def test_runtimes_are_the_twins_and_the_times(visit: Visit, tables: dict[str, pa.Table]) -> None:
    contrasts = only(frame_of(tables, "contrasts"), runtime="onnxruntime", comparison="twin", grouping="overall")
    by_name = {"FP32" if row.method == "fp32" else name_of(row): row for row in contrasts.itertuples()}
    rows = visit.read()["runtimes"]["rows"]
    assert len(rows) == 1 + len(by_name)
    for name, runtime, drop, _, _, flips, p50, p95, size, _ in rows[1:]:
        row = by_name[name[0]]
        assert runtime[0] == "onnxruntime"
        assert [drop[1], flips[1]] == pytest.approx([row.drop_pp, row.flip_rate], rel=1e-4, abs=1e-9)
        assert [p50[1], p95[1], size[1]] == pytest.approx([0.1, 0.2, 34])


@pytest.mark.parametrize("seed", ["all", "1"])
def test_means_are_of_the_seeds_that_the_filter_leaves(visit: Visit, tables: dict[str, pa.Table], seed: str) -> None:
    visit.choose(seed=seed)
    found = visit.read()
    config_id = visit.page.input_value("#filter-configuration")

    def average(name: str, keys: list[str], value: str, **equals: str) -> Any:
        rows = only(frame_of(tables, name), grouping="ethnicity", **equals)
        return rows[rows.seed == int(seed) if seed != "all" else rows.seed >= 0].groupby(keys)[value].mean()

    trials = only(tables["trials"].to_pandas(), config_id=config_id)
    side = "control" if trials.method.iloc[0] == "qat" else "reference"
    shifts = average("shifts", ["group", "class"], "shift_pp", config_id=config_id, runtime="torch", comparison=side)
    assert [text for text, _ in found["shifts"]["rows"][0][1:]] == ["as male, pp", "as female, pp"]
    assert len(found["shifts"]["rows"]) == 1 + 5
    for name, male, female in found["shifts"]["rows"][1:]:
        wanted = [shifts[name[0], "male"], shifts[name[0], "female"]]
        assert [male[1], female[1]] == pytest.approx(wanted, rel=1e-4, abs=1e-9)
    layers = average("sensitivity", ["layer", "group"], "drop_pp", config_id=config_id)
    groups = [text.rpartition(" (n=")[0] for text, _ in found["sensitivity"]["rows"][0][1:]]
    assert len(found["sensitivity"]["rows"]) > 2
    for name, *drops in found["sensitivity"]["rows"][1:]:
        wanted = [layers.get((name[0], group), np.nan) for group in groups]
        assert [np.nan if one[1] is None else one[1] for one in drops] == pytest.approx(wanted, rel=1e-4, nan_ok=True)
    facts = average("mechanism", ["group", "statistic"], "value", method={"control": "fp32_ft"}.get(side, "fp32"))
    names = {
        "training images": "n_train",
        "margin of the float model": "margin",
        "accuracy of the float model": "accuracy",
    }
    heads = [text for text, _ in found["mechanism"]["rows"][0][2:]]
    assert set(names) <= set(heads)
    for name, _, *values in found["mechanism"]["rows"][1:]:
        for head, (_, value) in zip(heads, values, strict=True):
            if head in names:
                assert value == pytest.approx(facts[name[0], names[head]], rel=1e-4)
    rho = "computed of the drops over all seeds alone"
    assert (rho in found["mechanism"]["says"]) == (seed != "all")


# Filters


def test_every_filter_changes_the_charts_and_the_address_keeps_it(visit: Visit) -> None:
    usual = visit.read()
    qat = next(one for one in visit.page.locator("#filter-configuration option").all() if "QAT 8" in one.inner_text())
    changes = {
        "dataset": "digits",
        "grouping": "ethnicity*gender",
        "comparison": "control",
        "runtime": "onnxruntime",
        "seed": "2",
        "metric": "loss_nats",
        "configuration": qat.get_attribute("value") or "",
    }
    of_configuration = {"groups", "intersections", "flips", "shifts", "calibration", "mechanism", "sensitivity"}
    for name, value in changes.items():
        before = visit.page.input_value(f"#filter-{name}")
        visit.choose(**{name: value})
        found = visit.read()
        label = visit.page.locator(f"label:has(#filter-{name}) span").inner_text()
        for key in found:
            if name == "configuration" and key not in of_configuration:
                continue
            is_changed = (found[key]["says"], found[key]["rows"]) != (usual[key]["says"], usual[key]["rows"])
            is_named = bool(re.search(rf"Without effect on this chart: [^.]*{label}", found[key]["note"]))
            is_same = (name, key) == ("grouping", "intersections")  # there is one, and it stood there before
            assert (is_changed or is_same) != is_named, (name, key)
        visit.choose(**{name: before})
        if name == "dataset":
            visit.choose(grouping="ethnicity")  # the digits have none, so the filter went to another one
        assert visit.read() == usual, name

    of_faces = {name: value for name, value in changes.items() if name != "dataset"}  # which the digits have not
    for chosen in ({"dataset": changes["dataset"]}, of_faces):
        visit.choose(**chosen)
        found = visit.read()
        address = visit.page.evaluate("location.hash").removeprefix("#")
        visit.go_to(FACES)
        assert visit.read() == usual
        visit.go_to(address)
        assert visit.read() == found
        assert {name: visit.page.input_value(f"#filter-{name}") for name in chosen} == chosen
        visit.go_to(FACES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "QAT"),
        pytest.param("bits", "8", marks=pytest.mark.slow),
        pytest.param("observer", "minmax", marks=pytest.mark.slow),
    ],
)
def test_lists_narrow_every_chart_of_configurations_and_the_trials(visit: Visit, name: str, value: str) -> None:
    before = len(visit.page.locator(".trials tbody tr").all())
    usual = visit.read()
    visit.page.locator(f"fieldset[name={name}] input[value='{value}']").focus()
    visit.page.keyboard.press("Space")
    visit.wait()
    found = visit.read()
    for key in ("drops", "chance", "tradeoff", "seeds"):
        names = {row[0][0] for row in found[key]["rows"][1:]}
        assert names < {row[0][0] for row in usual[key]["rows"][1:]}, key
        assert all(value in one for one in names if not one.startswith("FP32")), key
    assert 1 < len(visit.page.locator(".trials tbody tr").all()) < before
    losses = [row for row in visit.page.locator(".losses tbody tr").all() if row.is_visible()]
    assert len(losses) == {"method": 4, "bits": 4, "observer": 8}[name]  # PTQ, PTQ on FP32-FT; QAT against two
    visit.page.get_by_role("button", name="Reset").click()
    visit.wait()
    assert visit.page.locator("fieldset input:checked").count() == 0


def test_filters_work_by_keyboard_alone(visit: Visit) -> None:
    visit.page.focus("#filter-seed")
    visit.page.keyboard.press("ArrowDown")
    visit.wait()
    assert "seed=0" in visit.page.evaluate("location.hash")
    missing = {"filter-dataset", "filter-metric", "filter-focus", "Table of this chart", "CSV", "SVG", "PNG"}
    visit.page.evaluate("document.activeElement.blur()")
    for _ in range(400):
        visit.page.keyboard.press("Tab")
        missing.discard(visit.page.evaluate(ACTIVE))
        if not missing:
            break
    assert not missing


def test_a_highlighted_group_stands_out_in_charts_and_tables(visit: Visit) -> None:
    group = GROUP_NAMES[1]
    visit.choose(focus=group)
    colors = """() => [...document.querySelectorAll("#slopes .trace")].map(trace =>
        [trace.__data__[0].trace.meta?.groups ?? null, trace.__data__[0].trace.line?.width ?? null])"""
    widths = {width for name, width in visit.page.evaluate(colors) if name == group}
    assert widths == {3}
    visit.read()
    visit.page.hover(f'figure#flips .twin [data-group="{group}"]')
    dim = """group => [...document.querySelectorAll("#accuracy .trace")].filter(trace =>
        trace.__data__[0].trace.meta?.groups !== group).every(trace => trace.classList.contains("dim"))"""
    assert visit.page.evaluate(dim, group)
    assert visit.page.locator(".twin .lit").count() > 3
    visit.page.mouse.move(0, 0)
    assert visit.page.locator(".trace.dim").count() == 0


def test_a_verdict_on_all_images_highlights_no_group(
    browser: "Browser", tables: dict[str, pa.Table], file: Path
) -> None:
    verdicts = tables["verdicts"]
    place = verdicts.schema.get_field_index("group")
    names = pa.array(["all images"] * len(verdicts), pa.string())
    path = file.with_name("all_images.html")
    path.write_text(render_report({**tables, "verdicts": verdicts.set_column(place, "group", names)}), encoding="utf-8")
    visit = Visit(browser, path, filters=FACES)
    found = visit.read()
    assert "all images" not in found["seeds"]["rows"][0][2][0]
    assert found["seeds"]["says"].endswith(", the largest.")
    assert "Band: " not in found["slopes"]["note"]
    visit.page.close()


def test_a_group_that_is_clicked_stays_and_back_undoes_it(visit: Visit) -> None:
    visit.read()
    visit.page.locator(f'figure#flips .twin [data-group="{GROUP_NAMES[1]}"]').click()
    visit.wait()
    assert visit.page.input_value("#filter-focus") == GROUP_NAMES[1]
    visit.choose(seed="1")
    visit.page.go_back()
    visit.wait()
    assert visit.page.input_value("#filter-seed") == "all"
    visit.page.go_back()
    visit.wait()
    assert visit.page.input_value("#filter-focus") == ""


def test_arrows_move_a_keyboard_over_the_groups_of_a_table(visit: Visit) -> None:
    visit.read()
    heads = visit.page.locator("figure#groups .twin th[data-group]")
    heads.first.focus()
    for place in (1, 2, 1):
        visit.page.keyboard.press("ArrowDown" if place != 1 or visit.page.evaluate(PLACE) == 0 else "ArrowUp")
        group = heads.nth(place).get_attribute("data-group")
        assert visit.page.locator("figure#flips .twin .lit").first.get_attribute("data-group") == group


def test_what_the_address_asks_for_in_vain_is_told(browser: "Browser", file: Path) -> None:
    visit = Visit(browser, file, filters=f"{FACES}&bits=99&nonsense=1")
    said = visit.page.locator("#charts .status").inner_text()
    assert "This page does not know bits=99, nonsense=1, which its address asked for." in said
    assert visit.page.evaluate("location.hash") == f"#{FACES.removesuffix('&grouping=ethnicity')}"
    visit.page.close()


def test_a_loss_is_orange_and_first_whatever_the_metric(visit: Visit) -> None:
    for metric in ("accuracy", "loss_nats", "f1"):
        visit.choose(metric=metric)
        drawn = visit.page.evaluate("document.getElementById('drops').querySelector('.plot').data[0].z.flat()")
        assert np.nansum([value or 0 for value in drawn]) > 0, "damage was planted: most change for the worse"
        found = visit.read()
        assert "Orange: it is worse" in found["drops"]["note"]
        changes = [row[2][1] for row in found["groups"]["rows"][1:]]
        assert changes == sorted(changes, reverse=True)
    assert found["accuracy"]["title"] == "F1 as the bits fall"


def test_lines_start_at_what_they_are_compared_with(visit: Visit) -> None:
    starts = """() => document.getElementById("slopes").querySelector(".plot").data
        .filter(({ mode }) => mode === "lines+markers").map(({ text, y }) => [text[0], y[0]])"""
    told = {text.rpartition("<br>")[2].split(":")[0]: y for text, y in visit.page.evaluate(starts)}
    assert told == {"FP32": 0, "FP32-FT": 0}
    visit.choose(comparison="control")
    assert {text.rpartition("<br>")[2].split(":")[0] for text, _ in visit.page.evaluate(starts)} == {"FP32-FT"}
    assert visit.read()["slopes"]["rows"][0][2][0].startswith("QAT 8")


# Files, printing, phones, eyes


def test_downloads_hold_the_table_and_the_picture(visit: Visit) -> None:
    rows = visit.read()["groups"]["rows"]
    contents = {}
    for name in ("csv", "svg", "png"):
        with visit.page.expect_download() as download:
            visit.page.click(f"figure#groups [data-file={name}]")
        assert download.value.suggested_filename == f"groups.{name}"
        contents[name] = Path(download.value.path()).read_bytes()
    assert contents["svg"].startswith(b"<svg")
    assert contents["png"].startswith(b"\x89PNG")
    assert contents["csv"].startswith(codecs.BOM_UTF8), "a spreadsheet reads other letters without it"
    found = list(csv.reader(io.StringIO(contents["csv"].decode("utf-8-sig"))))
    assert len(found) == len(rows)
    assert found[0] == ["Group", "n", "drop, pp", "drop, pp: low", "drop, pp: high", "Shown"]
    assert "'=O'Neil" in {row[0] for row in found}, "a name that begins like a formula is text in a spreadsheet"
    for row, line in zip(found[1:], rows[1:], strict=True):
        assert float(row[2]) == pytest.approx(line[2][1], rel=1e-5)
        assert float(row[3]) < float(row[2]) < float(row[4])
        assert "by ethnicity; in torch; means over all seeds" in row[5]


def test_table_of_trials_sorts_by_keyboard_with_missing_values_last(visit: Visit) -> None:
    read = "rows => rows.map(row => row.cells[4].dataset.value ?? null).map(v => v === null ? null : Number(v))"
    for direction, in_order in (("ascending", sorted), ("descending", lambda v: sorted(v, reverse=True))):
        head = visit.page.locator(".trials thead th", has_text="Accuracy")
        head.locator("button").focus()
        visit.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == direction
        values = visit.page.locator(".trials tbody tr").evaluate_all(read)
        assert values[-1] is None
        assert values[:-1] == list(in_order(values[:-1]))
        assert len(set(values)) > 10
    assert visit.page.locator(".trials thead [aria-sort=none]").count() == 10


def test_policy_of_the_page_stops_foreign_scripts(browser: "Browser", file: Path, tmp_path: Path) -> None:
    harmed = tmp_path / "harmed.html"
    attack = "<script>window.stolen = 1</script><img src='data:,' onerror='window.stolen = 2'>"
    harmed.write_text(file.read_text(encoding="utf-8").replace("</body>", f"{attack}</body>"), encoding="utf-8")
    visit = Visit(browser, harmed)
    assert visit.page.evaluate("window.stolen") is None
    assert sum("Content Security Policy" in line for line in visit.trouble) == 2
    visit.page.close()


def test_phone_shows_all_without_scrolling_sideways(browser: "Browser", file: Path) -> None:
    visit = Visit(browser, file, width=380, scheme="dark", filters=FACES)
    assert visit.trouble == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 380
    assert not visit.page.locator(".matrix thead").first.is_visible()
    assert visit.page.locator("figure .main-svg").count() > N_CHARTS
    visit.page.close()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "dark"),
        pytest.param(1280, "light", marks=pytest.mark.slow),
        pytest.param(380, "light", marks=pytest.mark.slow),
    ],
)
def test_axe_finds_nothing_serious(browser: "Browser", tmp_path: Path, width: int, scheme: str) -> None:
    small = {**SETTINGS, "bits": (8,), "observers": ("minmax",), "datasets": ("faces",)}
    path = tmp_path / "small.html"
    path.write_text(render_report(make_tables(**small)), encoding="utf-8")
    visit = Visit(browser, path, width=width, scheme=scheme, filters=FACES)
    visit.page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    visit.page.wait_for_timeout(200)
    assert find_violations(visit.page) == []
    visit.page.close()


def test_charts_follow_the_color_scheme(visit: Visit) -> None:
    from playwright.sync_api import expect

    chart, body = visit.page.locator(".plot .main-svg").first, visit.page.locator("body")
    schemes: tuple[tuple[Literal["light", "dark"], str], ...] = (
        ("light", "rgb(255, 255, 255)"),
        ("dark", "rgb(21, 25, 29)"),
    )
    n_before = len(visit.trouble)
    for scheme, color in schemes:
        visit.page.emulate_media(color_scheme=scheme)
        expect(body).to_have_css("background-color", color)
        expect(chart).to_have_css("background-color", color)
    visit.page.emulate_media(color_scheme="light")
    assert visit.trouble[n_before:] == []


def test_printing_opens_every_table_on_white_and_closes_it_again(browser: "Browser", file: Path) -> None:
    visit = Visit(browser, file, scheme="dark", filters=FACES)
    opened = visit.page.locator("details[open]").count()
    visit.page.evaluate(
        """addEventListener("beforeprint", () => { window.seen =
        [document.querySelectorAll("details:not([open])").length, document.querySelectorAll("figure .twin").length,
        document.querySelector(".plot .main-svg").style.backgroundColor] })"""
    )
    assert visit.page.pdf().startswith(b"%PDF")
    assert visit.page.evaluate("window.seen") == [0, N_CHARTS, "rgb(255, 255, 255)"]
    assert visit.page.locator("details[open]").count() == opened
    assert visit.trouble == []
    visit.page.close()


def test_without_scripts_the_answers_are_still_there(browser: "Browser", file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#losers .matrix td").first.is_visible()
    assert "need JavaScript" in page.locator("#charts noscript").inner_text()
    context.close()


ODD: dict[str, dict[str, Any]] = {
    "one group, one seed": {"seeds": (0,), "sizes": (300,), "names": ("only",), "datasets": ("faces",)},
    "no reference": {"seeds": (0,), "datasets": ("faces",), "fails_reference": True, "n_missing": 2},
    "45 groups": {"sizes": (60,) * 45, "names": tuple(f"{i} {'x' * 50}" for i in range(45)), "datasets": ("faces",)},
    "all right": {"accuracy": 1.0, "seeds": (0,), "datasets": ("digits",)},
}


@pytest.mark.slow  # `test_report.py` renders them always
@pytest.mark.parametrize("name", ODD)
def test_odd_input_is_drawn_or_says_why_not(browser: "Browser", tmp_path: Path, name: str) -> None:
    path = tmp_path / "odd.html"
    path.write_text(render_report(dict(make_tables(bits=(4,), observers=("minmax",), **ODD[name]))), encoding="utf-8")
    visit = Visit(browser, path)
    assert visit.trouble == []
    found = visit.read()
    assert name == "no reference" or len(found) == N_CHARTS
    for key, chart in found.items():
        assert chart["drawn"] != chart["says"].startswith("Nothing to draw: "), key
    if name == "no reference":
        assert "no trial has finished" in visit.page.locator("#charts .status").inner_text()
    visit.page.close()
