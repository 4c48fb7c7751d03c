"""The page says what the tables say, and nothing else: numbers, names, safety, odd inputs. No browser is needed."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs
from synthetic_tables import GROUP_NAMES, LONG_NAME, make_tables, rows_from_tables, tables_from_rows

from results import write_report
from results.page import trial_table
from results.page.accuracy_figures import LABEL_STEP, push_apart
from results.page.facts import Spread, read_facts
from results.page.figures import DARK, INK, PU_OR
from results.page.markup import describe_drop, dump_json, format_pp
from results.page.report import render_report
from results.page.summary import list_sections

ROOT = Path(__file__).resolve().parent.parent
VOID = {"meta", "br", "link", "img", "input"}
METHOD_NAMES = {"fp32": "FP32", "fp32_ft": "FP32-FT", "ptq": "PTQ", "qat": "QAT"}
CAPTIONS = {
    ("digits", "label"): "digits · digit · small_cnn, by class",
    ("faces", "ethnicity"): "faces · gender · small_cnn, by ethnicity",
    ("faces", "label"): "faces · gender · small_cnn, by class",
}
Tables = dict[str, pa.Table]


class Element:
    """An element of the page: tag, attributes, children."""

    def __init__(self, tag: str, attributes: dict[str, str]):
        self.tag, self.attributes, self.children = tag, attributes, list[Element | str]()

    def find(self, tag: str, kind: str = "") -> list["Element"]:
        return [e for e in self if e.tag == tag and (not kind or kind in e.attributes.get("class", "").split())]

    def __iter__(self) -> Iterator["Element"]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child

    @property
    def text(self) -> str:
        inner = (child if isinstance(child, str) else child.text for child in self.children)
        return "" if self.tag in ("script", "style") else "".join(inner)

    @property
    def raw(self) -> str:
        return "".join(child for child in self.children if isinstance(child, str))

    @property
    def number(self) -> float:
        return float(self.attributes["data-value"])


class Page(HTMLParser):
    """The parsed page. Fails on tags that are not closed in order."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.root = Element("root", {})
        self.open = [self.root]
        self.feed(html)
        self.close()
        assert self.open == [self.root], [element.tag for element in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def by_id(self, name: str) -> Element:
        return next(element for element in self.root if element.attributes.get("id") == name)

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.by_id("data").raw, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))

    def plots(self, caption: str) -> list[tuple[Element, dict[str, Any]]]:
        """Figures of a section, each with its plotly JSON."""
        section = next(e for e in self.root.find("section", "charts") if e.find("h3")[0].text == caption)
        figures = section.find("figure")
        return [(figure, self.data["figures"][figure.find("div", "plot")[0].attributes["id"]]) for figure in figures]


def cells_of(table: Element) -> list[list[Element]]:
    return [[cell for cell in row if cell.tag in ("td", "th")] for row in table.find("tbody")[0].find("tr")]


@pytest.fixture(scope="module")
def tables() -> Tables:
    return make_tables()


@pytest.fixture(scope="module")
def html(tables: Tables) -> str:
    return render_report(tables)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def frames(tables: Tables) -> tuple[Any, Any, Any]:
    """The trials that finished, and paired metrics and disparities with their trials' columns, as data frames."""
    trials = tables["trials"].to_pandas().query("status == 'ok'")
    keys = trials[["trial_id", "config_id", "dataset", "method", "weight_bits", "act_observer", "seed", "accuracy"]]
    paired = tables["paired_metrics"].to_pandas().merge(keys, on="trial_id")
    disparity = tables["disparity"].to_pandas().merge(keys, on="trial_id")
    return keys, paired, disparity


# Numbers


def describe(values: pd.Series) -> str:
    """Independent of the code under test: the words of a drop."""
    mean, low, high = (round(float(x), 1) + 0.0 for x in (values.mean(), values.min(), values.max()))
    verb = {1: f"loses {mean:.1f} pp", -1: f"gains {-mean:.1f} pp", 0: "no change, 0.0 pp"}[(mean > 0) - (mean < 0)]
    if mean and low * mean >= 0 and high * mean >= 0:
        ends = sorted((abs(low), abs(high)))
        return f"{verb} (trials: {ends[0]:.1f} to {ends[1]:.1f})"
    names = [{1: f"loses {x:.1f}", -1: f"gains {-x:.1f}", 0: "0.0"}[(x > 0) - (x < 0)] for x in (low, high)]
    return f"{verb} (trials: {names[0]} to {names[1]})"


@pytest.mark.parametrize(("dataset", "grouping"), CAPTIONS)
def test_summary_numbers_equal_a_recomputation(page: Page, tables: Tables, dataset: str, grouping: str) -> None:
    trials, paired, disparity = frames(tables)
    caption = CAPTIONS[dataset, grouping]
    table = next(t for t in page.root.find("table", "summary") if t.find("caption")[0].text == caption)
    rows = cells_of(table)
    quantized = [
        (method, bits, c) for method in ("ptq", "qat") for bits in (16, 8, 4) for c in ("reference", "control")
    ]
    expected = [("fp32", None, None), ("fp32_ft", None, "reference")]
    expected += [row for row in quantized if row[0] == "qat" or row[2] == "reference"]
    assert len(rows) == len(expected) == 11
    for (method, bits, comparison), row in zip(expected, rows, strict=True):
        name, shown_bits, n_trials, accuracy, against, overall, worst, gap, spread = row
        mine = trials[(trials.dataset == dataset) & (trials.method == method)]
        mine = mine[mine.weight_bits.isna() if bits is None else mine.weight_bits == bits]
        ids = set(mine.trial_id)
        assert (name.text, shown_bits.text) == (METHOD_NAMES[method], str(bits or "–"))
        assert n_trials.text.split()[0] == str(len(ids))
        assert accuracy.number == pytest.approx(mine.accuracy.mean(), abs=1e-12)
        ends = f"({100 * mine.accuracy.min():.1f} to {100 * mine.accuracy.max():.1f})"
        assert accuracy.text == f"{100 * mine.accuracy.mean():.1f} % {ends}"
        gaps = disparity[disparity.trial_id.isin(ids) & (disparity.grouping == grouping)]
        gaps_pp = gaps[gaps.metric == "acc_gap_maxmin_pp"].value
        assert gap.number == pytest.approx(gaps_pp.mean(), abs=1e-12)
        assert gap.text == f"{gaps_pp.mean():.1f} pp ({gaps_pp.min():.1f} to {gaps_pp.max():.1f})"
        assert against.text == (comparison or "–")
        if comparison is None:
            assert worst.text == "is itself the reference"
            continue
        pairs = paired[paired.trial_id.isin(ids) & (paired.comparison == comparison)]
        drops = pairs[pairs.grouping == "overall"].drop_pp
        assert overall.number == pytest.approx(drops.mean(), abs=1e-12)
        assert overall.text == describe(drops)
        drop_gaps = gaps[(gaps.metric == "drop_disparity_pp") & (gaps.comparison == comparison)].value
        assert spread.number == pytest.approx(drop_gaps.mean(), abs=1e-12)
        big = pairs[(pairs.grouping == grouping) & (pairs.n >= 50)]
        eag_pp = big.groupby("group").eag_pp.mean()
        assert float(worst.attributes["data-eag"]) == pytest.approx(eag_pp.max(), abs=1e-12)
        group = big[big.group == eag_pp.idxmax()]
        half_width = ((group.drop_ci_high_pp - group.drop_ci_low_pp) / 2).median()
        assert float(worst.attributes["data-half-width"]) == pytest.approx(half_width, abs=1e-12)
        assert worst.number == pytest.approx(group.drop_pp.mean(), abs=1e-12)
        shown = f"{eag_pp.idxmax()} {describe(group.drop_pp)} n={group.n.iloc[0]}, ± {half_width:.1f}"
        assert worst.text == shown


@pytest.mark.parametrize(("dataset", "grouping"), CAPTIONS)
def test_heatmaps_and_their_tables_equal_paired_metrics(
    page: Page, tables: Tables, dataset: str, grouping: str
) -> None:
    _, paired, _ = frames(tables)
    found = [
        (figure, plot)
        for figure, plot in page.plots(CAPTIONS[dataset, grouping])
        if "map" in figure.attributes["class"]
    ]
    assert len(found) == 2
    for (figure, plot), comparison in zip(found, ("reference", "control"), strict=True):
        pairs = paired[(paired.dataset == dataset) & (paired.comparison == comparison)]
        pairs = pairs[pairs.grouping.isin(["overall", grouping])]
        sizes = pairs.drop_duplicates("group").set_index("group").n
        columns = ["all", *sorted(sizes.index.drop("all"), key=lambda name: -sizes[name])]
        assert [int(text.split("n=")[1]) for text in plot["layout"]["xaxis"]["ticktext"]] == list(sizes[columns])
        heatmap = plot["data"][0]
        assert (heatmap["zmid"], heatmap["zmin"]) == (0, -heatmap["zmax"])
        twin = cells_of(figure.find("table", "twin")[0])
        names = plot["layout"]["yaxis"]["ticktext"]
        assert len(names) == len(twin) == pairs.config_id.nunique() > 8
        for name, z, text, cells in zip(names, heatmap["z"], heatmap["text"], twin, strict=True):
            if name == "FP32-FT":
                mine = pairs[pairs.method == "fp32_ft"]
            else:
                start, observer = name.split(", ")
                method, bits = start.split(" ")
                mine = pairs[(pairs.method == method.lower()) & (pairs.weight_bits == int(bits))]
                mine = mine[mine.act_observer == observer]
            means = mine.groupby("group").drop_pp.mean()
            assert cells[0].text == name
            for group, value, label, cell in zip(columns, z, text, cells[1:], strict=True):
                assert cell.number == pytest.approx(means[group], abs=1e-12)
                assert cell.text.startswith(f"{round(means[group], 1) + 0.0:.1f}".replace("-", "−"))
                if group == "all" or sizes[group] >= 50:
                    assert value == pytest.approx(means[group], abs=1e-6)
                    assert label == format_pp(means[group])
                else:
                    assert value is None
                    assert label == ""


@pytest.mark.parametrize(("dataset", "grouping"), CAPTIONS)
def test_lines_and_their_tables_equal_group_metrics(page: Page, tables: Tables, dataset: str, grouping: str) -> None:
    trials, _, _ = frames(tables)
    metrics = tables["group_metrics"].to_pandas().query("metric == 'accuracy' and runtime == 'torch'")
    metrics = metrics[metrics["class"].isna()].merge(trials, on="trial_id")
    metrics = metrics[(metrics.dataset == dataset) & (metrics.grouping == grouping)]
    found = [
        (figure, plot)
        for figure, plot in page.plots(CAPTIONS[dataset, grouping])
        if "line" in figure.attributes["class"]
    ]
    ranges = set()
    for (figure, plot), method in zip(found, ("ptq", "qat"), strict=True):
        starts = [("fp32", None)] if method == "ptq" else [("fp32", None), ("fp32_ft", None)]
        places = starts + [(method, bits) for bits in (16, 8, 4)]
        ranges.add(tuple(plot["layout"]["yaxis"]["range"]))
        ticks = [text.replace("<br>bits", "").replace("<br>", "") for text in plot["layout"]["xaxis"]["ticktext"]]
        assert ticks == [METHOD_NAMES[place[0]] if place[1] is None else str(place[1]) for place in places]
        twin = cells_of(figure.find("table", "twin")[0])
        assert len(twin) == len(plot["data"]) == metrics.group.nunique()
        for line, cells in zip(plot["data"], twin, strict=True):
            group, _, size = cells[0].text.rpartition(" (n=")
            assert (metrics[metrics.group == group].n == int(size[:-1])).all()
            for (which, bits), y, up, down, cell in zip(
                places, line["y"], line["error_y"]["array"], line["error_y"]["arrayminus"], cells[1:], strict=True
            ):
                same_bits = metrics.weight_bits.isna() if bits is None else metrics.weight_bits == bits
                values = metrics[(metrics.method == which) & same_bits & (metrics.group == group)].value
                assert y == cell.number == pytest.approx(values.mean(), abs=1e-12)
                assert (y - down, y + up) == pytest.approx((values.min(), values.max()), abs=1e-5)
                ends = f"({100 * values.min():.1f} to {100 * values.max():.1f})"
                assert cell.text == f"{100 * values.mean():.1f} % {ends}"
    assert len(ranges) == 1, "panels of one section share their range"


def test_table_of_trials_holds_every_trial_failed_ones_first(page: Page, tables: Tables) -> None:
    rows = cells_of(page.root.find("table", "trials")[0])
    trials = tables["trials"].to_pandas()
    assert {row[0].attributes["title"] for row in rows} == set(trials.trial_id)
    assert [row[1].text for row in rows] == ["failed"] + ["ok"] * (len(trials) - 1)
    pairs = tables["paired_metrics"].to_pandas().query("grouping == 'overall' and comparison == 'reference'")
    pairs = pairs.set_index("trial_id")
    groups = (
        tables["paired_metrics"].to_pandas().query("grouping != 'overall' and comparison == 'reference' and n >= 50")
    )
    for row, trial in zip(
        rows, trials.set_index("trial_id").loc[[r[0].attributes["title"] for r in rows]].iloc, strict=True
    ):
        assert row[4].text == ("FP32" if pd.isna(trial.weight_bits) else str(int(trial.weight_bits)))
        if trial.status == "failed":
            assert row[9].text == row[10].text == row[13].text == "–"
            continue
        assert row[9].number == trial.accuracy
        assert row[9].text == f"{100 * trial.accuracy:.2f} %"
        if trial.method == "fp32":
            assert row[10].text == row[11].text == "–"
            continue
        pair = pairs.loc[str(trial.name)]
        assert row[10].number == pair.drop_pp
        ends = (round(float(end), 2) + 0.0 for end in (pair.drop_ci_low_pp, pair.drop_ci_high_pp))
        assert row[11].text == " to ".join(f"{end:.2f}" for end in ends).replace("-", "−")
        kind = "label" if trial.dataset == "digits" else "ethnicity"
        mine = groups[(groups.trial_id == trial.name) & (groups.grouping == kind)].set_index("group")
        if mine.eag_pp.max() < 1e-6:
            assert row[12].text == row[13].text == "–"
            continue
        assert mine.eag_pp[row[12].attributes["title"]] == mine.eag_pp.max()
        assert row[13].number == mine.drop_pp[row[12].attributes["title"]]


def test_head_counts_trials_and_names_the_smallest_groups(page: Page) -> None:
    counts = {div.find("dt")[0].text: div.find("dd")[0].text for div in page.root.find("dl", "counts")[0].find("div")}
    assert counts == {"trials planned": "120", "finished": "119", "failed": "1", "missing": "0"}
    assert "6 groups by ethnicity, the smallest Few with 36" in page.root.find("ul", "data")[0].text
    assert "the table disparity says how large one is by chance alone" in page.root.find("aside")[0].text


# Names and safety


def test_names_from_data_are_text_everywhere(page: Page, html: str) -> None:
    own = html.replace(get_plotlyjs(), "")
    for raw in ('<b>"Ann', "<b>&quot;Ann", "<script>alert", "</script><script>", "<features.3>", "<sweep>"):
        assert raw not in own
    chips = [button.text for button in page.root.find("button")]
    assert set(GROUP_NAMES) <= set(chips)
    assert LONG_NAME in chips
    hovers = "".join(
        line["hovertemplate"] for _, plot in page.plots(CAPTIONS["faces", "ethnicity"]) for line in plot["data"]
    )
    assert '&lt;b&gt;"Ann &amp; Bob"&lt;/b&gt;' in hovers
    assert len(page.root.find("script")) == 3


def test_json_can_neither_end_its_script_block_nor_hold_nan() -> None:
    text = dump_json({"a": "</script><!-- <script>"})
    assert "</" not in text
    assert "<!--" not in text
    assert json.loads(text) == {"a": "</script><!-- <script>"}
    with pytest.raises(ValueError, match="Out of range float"):
        dump_json(float("nan"))


def test_page_asks_for_nothing_from_outside(page: Page) -> None:
    for element in page.root:
        assert element.tag not in ("link", "img", "iframe", "object", "embed", "form", "base")
        assert "src" not in element.attributes
        assert element.attributes.get("href", "#").startswith("#")
        assert not [name for name in element.attributes if name.startswith("on")]
    style = page.root.find("style")[0].raw
    assert "@import" not in style
    assert "url(" not in style


def test_only_scripts_with_the_hash_of_the_policy_may_run(page: Page) -> None:
    metas = [
        m.attributes for m in page.root.find("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    policy = metas[0]["content"]
    assert policy.startswith("default-src 'none'; ")
    scripts = [script.raw for script in page.root.find("script") if "type" not in script.attributes]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert "unsafe" not in policy.split("style-src")[0]


def test_plotly_is_embedded_once(html: str) -> None:
    assert html.count("* plotly.js v") == 1
    assert len(html.encode()) < 6_000_000


def test_every_link_leads_to_a_place_and_ids_are_unique(page: Page) -> None:
    ids = [element.attributes["id"] for element in page.root if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert {link.attributes["href"][1:] for link in page.root.find("a")} <= set(ids)
    for figure in page.root.find("figure"):
        assert set(figure.attributes["aria-labelledby"].split()) <= set(ids)


def test_every_figure_has_a_table_and_a_sentence(page: Page) -> None:
    figures = page.root.find("figure")
    assert len(figures) == len(page.data["figures"]) == 12
    for figure in figures:
        assert len(figure.find("details")[0].find("table", "twin")) == 1
        assert figure.find("figcaption")[0].find("p")[0].text.endswith(".")


def test_page_passes_no_verdict(page: Page) -> None:
    assert not re.search(r"\b(un)?(fair|biased|safe)\b", page.root.text, re.IGNORECASE)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_bytes_depend_on_the_tables_alone(html: str, seed: str) -> None:
    code = "import sys; sys.path.insert(0, 'tests'); from synthetic_tables import make_tables; import hashlib;"
    code += "from results.page.report import render_report;"
    code += "print(hashlib.sha256(render_report(make_tables()).encode()).hexdigest())"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == hashlib.sha256(html.encode()).hexdigest()


def test_write_report_hands_the_page_to_the_store(tables: Tables, html: str) -> None:
    class Shelf:
        pages: list[str] = []  # noqa: RUF012

        def write_report(self, html: str) -> str:
            self.pages.append(html)
            return "shelf/report.html"

    shelf = Shelf()
    assert write_report(shelf, tables) == "shelf/report.html"
    assert shelf.pages == [html]


# Figures


def test_plotly_accepts_every_figure(page: Page) -> None:
    for plot in page.data["figures"].values():
        go.Figure(plot)


def test_every_color_has_a_dark_twin(page: Page) -> None:
    colors = set(re.findall(r'"(#[0-9a-f]{6})(?:[0-9a-f]{2})?"', json.dumps(page.data["figures"])))
    assert set(PU_OR) <= colors <= set(DARK)


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_in_heatmap_cells_has_contrast_on_every_color_in_light_and_dark() -> None:
    for ink, colors in ((INK, PU_OR), (DARK[INK], [DARK[color] for color in PU_OR])):
        for color in colors:
            dark, light = sorted((luminance(ink), luminance(color)))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, color)


@given(st.lists(st.floats(0, 300), max_size=16).map(sorted))
def test_direct_labels_never_overlap_nor_leave_the_chart(pixels: list[float]) -> None:
    places = push_apart(pixels, 0, 300)
    assert len(places) == len(pixels)
    for before, after in pairwise(places):
        assert after - before >= LABEL_STEP - 1e-6
    if places:
        assert places[0] >= -1e-6
        assert places[-1] <= 300 + 1e-6


def test_more_than_eight_groups_are_grey_with_the_worst_in_focus(page: Page, tables: Tables) -> None:
    figure, plot = page.plots(CAPTIONS["digits", "label"])[0]
    assert len({line["line"]["color"] for line in plot["data"]}) == 1
    _, paired, _ = frames(tables)
    pairs = paired[(paired.dataset == "digits") & (paired.method == "ptq") & (paired.weight_bits == 4)]
    worst = pairs[pairs.grouping == "label"].groupby("group").eag_pp.mean().idxmax()
    assert plot["data"][int(figure.find("div", "plot")[0].attributes["data-focus"])]["name"] == worst
    _, few = page.plots(CAPTIONS["faces", "ethnicity"])[0]
    assert len({line["line"]["color"] for line in few["data"]}) == 6


# Words


@pytest.mark.parametrize(
    ("spread", "words"),
    [
        (Spread(3, 3.14, 1.2, 5.04), "loses 3.1 pp (trials: 1.2 to 5.0)"),
        (Spread(3, -3.14, -5.04, -1.2), "gains 3.1 pp (trials: 1.2 to 5.0)"),
        (Spread(3, 1.0, -0.5, 2.0), "loses 1.0 pp (trials: gains 0.5 to loses 2.0)"),
        (Spread(3, -0.5, -2.0, 1.0), "gains 0.5 pp (trials: gains 2.0 to loses 1.0)"),
        (Spread(3, 0.01, -0.04, 0.3), "no change, 0.0 pp (trials: 0.0 to loses 0.3)"),
        (Spread(3, -1.0, -2.0, 0.0), "gains 1.0 pp (trials: 0.0 to 2.0)"),
        (Spread(1, 3.14, 3.14, 3.14), "loses 3.1 pp"),
        (None, "–"),
    ],
)
def test_drops_are_told_in_words(spread: Spread | None, words: str) -> None:
    assert describe_drop(spread) == words


def test_percentage_points_have_a_true_minus_and_no_negative_zero() -> None:
    assert [format_pp(value) for value in (-1.25, -0.04, 0.0, 2.0, None)] == ["−1.2", "0.0", "0.0", "2.0", "–"]


# Odd inputs: a change to the rows, and what the page then says

Rows = dict[str, list[dict[str, Any]]]


def clear(*names: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        for name in names:
            rows[name].clear()

    return change


def set_column(table: str, **values: Any) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        for row in rows[table]:
            row.update({key: value for key, value in values.items() if row.get(key) is not None or key == "error"})

    return change


def keep(table: str, test: Callable[[dict[str, Any]], bool]) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[table] = [row for row in rows[table] if test(row)]

    return change


def miss_trials(rows: Rows) -> None:
    rows["trials"] = [row for row in rows["trials"] if row["method"] != "qat"]
    rows["provenance"] = [row for row in rows["provenance"] if not row["key"].startswith("n_")]
    rows["provenance"] += [{"key": "n_planned", "value": "60"}, {"key": "n_missing", "value": "27"}]


def lose_controls(rows: Rows) -> None:
    rows["paired_metrics"] = [row for row in rows["paired_metrics"] if row["comparison"] != "control"]
    for row in rows["trials"]:
        row["control_reason"] = "its steps <differ>"


def all_in_one_group(rows: Rows) -> None:
    for name in ("groups", "group_metrics", "paired_metrics"):
        rows[name] = [row for row in rows[name] if row["grouping"] == "overall" or row["group"] == "3"]


def level_all_drops(rows: Rows) -> None:
    for row in rows["paired_metrics"]:
        row.update(drop_pp=0.5, eag_pp=0.0)


def null_some_metrics(rows: Rows) -> None:
    for row in rows["paired_metrics"]:
        if row["group"] == "3":
            row.update(drop_pp=None, drop_ci_low_pp=None, drop_ci_high_pp=None, eag_pp=None, reason="no <images>")
    for row in rows["group_metrics"]:
        row["value"] = None if row["group"] == "3" else row["value"]


ODD: dict[str, tuple[Callable[[Rows], None], str]] = {
    "nothing at all": (clear("trials", "groups", "group_metrics", "provenance"), "No trial has finished yet."),
    "every trial failed": (set_column("trials", status="failed", error="<broken>"), "There is nothing to draw"),
    "no partner": (clear("paired_metrics"), "no reference to compare with"),
    "no control": (lose_controls, "its steps <differ>"),
    "no disparity": (clear("disparity"), "Drop disparity"),
    "no group metrics": (clear("group_metrics"), "the tables hold no accuracy by group"),
    "no groups": (clear("groups"), "There is nothing to draw"),
    "one group": (all_in_one_group, "only one group: nothing to compare"),
    "small groups": (set_column("groups", n=20), "no group has 50 test images"),
    "even drops": (level_all_drops, "none: no class loses more than all images together"),
    "null metrics": (null_some_metrics, "no <images>"),
    "one seed": (keep("trials", lambda row: row["seed"] == 0), "3 (3 configurations, 1 seed)"),
    "only fp32": (keep("trials", lambda row: row["method"] == "fp32"), "No trial here has a partner to compare with."),
    "trials missing": (miss_trials, "27"),
    "all right": (set_column("group_metrics", value=1.0), "100.0 % (100.0 to 100.0)"),
    "all wrong": (set_column("group_metrics", value=0.0), "0.0 % (0.0 to 0.0)"),
    "no accuracy": (set_column("trials", accuracy=None, total_s=None, n_test=None), "an unknown number of test images"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_tables_give_a_page_that_says_what_is_missing(case: str) -> None:
    change, words = ODD[case]
    rows = rows_from_tables(make_tables(datasets=("digits",)))
    change(rows)
    page = Page(render_report(tables_from_rows(rows)))
    assert words in page.root.text
    assert not re.search(r"\b(nan|None|inf)\b", page.root.text.replace("loss became nan", ""))
    for figure in page.data["figures"].values():
        go.Figure(figure)
    for element in page.root:
        assert element.attributes.get("data-value") not in ("nan", "None", "inf")


def test_tables_that_are_absent_are_read_as_empty() -> None:
    assert "No trial has finished yet." in Page(render_report({})).root.text


def test_two_subsets_of_one_data_set_are_told_apart() -> None:
    rows = rows_from_tables(make_tables(datasets=("digits",), seeds=(0,), bits=(8,), observers=("ema",)))
    for name in ("trials", "groups"):
        rows[name] += [{**row, "dataset_id": "feed" * 4} for row in rows[name]]
    page = Page(render_report(tables_from_rows(rows)))
    captions = [table.find("caption")[0].text for table in page.root.find("table", "summary")]
    assert len(set(captions)) == 2
    assert any("digits (feedfe)" in caption for caption in captions)


def test_a_thousand_trials_make_a_page_of_less_than_ten_megabytes() -> None:
    tables = make_tables(
        datasets=("digits",), bits=(16, 8, 6, 5, 4), schemes=("symmetric", "asymmetric"),
        granularities=("per_channel", "per_tensor"), weight_observers=("minmax", "ema", "percentile"),
    )  # fmt: skip
    assert tables["trials"].num_rows == 1086
    html = render_report(tables)
    assert len(html.encode()) < 10_000_000
    assert len(cells_of(Page(html).root.find("table", "trials")[0])) == 1086


def test_of_too_many_trials_the_table_shows_the_failed_and_those_that_lose_most(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_table, "MAX_TRIALS", 20)
    root = Page(render_report(tables)).root
    rows = cells_of(root.find("table", "trials")[0])
    trials, paired, _ = frames(tables)
    drops = paired.query("grouping == 'overall' and comparison == 'reference'").set_index("trial_id").drop_pp
    shown = {row[0].attributes["title"] for row in rows}
    assert [row[1].text for row in rows] == ["failed"] + ["ok"] * 19
    assert drops.nlargest(19).min() >= drops[[id_ for id_ in drops.index if id_ not in shown]].max()
    assert min(drops[id_] for id_ in shown & set(drops.index)) == drops.nlargest(19).min()
    assert f"20 of {len(trials) + 1} trials: those that failed, then those that lose most" in root.text


def test_float_models_that_differ_are_not_pooled() -> None:
    tables = dict(make_tables())
    rows = tables["trials"].to_pylist()
    width = {trial["trial_id"]: ("8" if index % 2 else "16") for index, trial in enumerate(rows)}
    for row in rows:
        config = json.loads(row["config"])
        config["model"]["width"] = width[row["trial_id"]]
        row["config"] = json.dumps(config)
    tables["trials"] = pa.Table.from_pylist(rows, schema=tables["trials"].schema)
    sections = list_sections(read_facts(tables))
    assert {section.model.rpartition("width ")[2] for section in sections} == {"8", "16"}
    for section in sections:
        assert {width[trial["trial_id"]] for trial in section.trials} == {section.model.rpartition("width ")[2]}


def test_the_head_says_which_trials_ran_on_another_device_than_what_they_are_compared_with() -> None:
    rows = rows_from_tables(make_tables(datasets=("digits",), fail_first_qat=False))
    for row in rows["trials"]:
        row["device"] = "cuda" if row["method"] in ("fp32", "ptq") else "cpu"
    notes = [aside.text for aside in Page(render_report(tables_from_rows(rows))).root.find("aside")]
    n = {method: sum(row["method"] == method for row in rows["trials"]) for method in METHOD_NAMES}
    assert len(notes) == 2
    assert f"{n['fp32_ft']} fp32_ft trials on cpu with the reference on cuda: a part of what they differ by" in notes[1]
    assert f"{n['qat']} qat trials on cpu with the reference on cuda" in notes[1]
    assert "ptq" not in notes[1]
    assert "control" not in notes[1]
    for row in rows["trials"]:
        row["device"] = "cuda"
    assert "Devices differ" not in render_report(tables_from_rows(rows))
