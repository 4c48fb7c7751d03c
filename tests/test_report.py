"""The page as a file: safe, whole, equal for equal tables, and a page under any input. No browser is needed."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from html_page import Page
from plotly.offline import get_plotlyjs
from simulated_sweep import ERROR, GROUP_NAMES, make_tables

from quantfair.results import write_report
from quantfair.results.page import page_data
from quantfair.results.page.formatting import dump_json, format_drop, format_interval, format_pp
from quantfair.results.page.report import render_report
from quantfair.results.schema import TABLES

ROOT = Path(__file__).resolve().parent.parent
Tables = dict[str, pa.Table]
SMALL: dict[str, Any] = {"seeds": (0,), "bits": (8, 4), "observers": ("minmax",), "datasets": ("faces",)}


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(make_tables())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def without(table: pa.Table, **equals: str) -> pa.Table:
    """The table without the rows where all of these hold."""
    for column, value in equals.items():
        table = table.filter(pc.field(column) != value)
    return table


# Names and safety


def test_names_from_data_are_text_everywhere(page: Page, html: str) -> None:
    for raw in ('<b>"Ann', "<b>&quot;Ann", "<script>alert", "</script><script>", "<features.3>", "simulated <sweep>"):
        assert raw not in html
    named = {e.attributes["data-group"] for e in page.root if "data-group" in e.attributes}
    assert named & set(GROUP_NAMES)
    assert set(GROUP_NAMES) <= set(page.data["tables"]["groups"]["group"]["values"])
    assert len(page.root.find("script")) == 3


def test_json_holds_no_nan() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        dump_json(float("nan"))


def test_page_asks_for_nothing_from_outside(page: Page) -> None:
    for element in page.root:
        assert element.tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in element.attributes
        assert element.attributes.get("href", "#").startswith("#")
        assert not [name for name in element.attributes if name.startswith("on")]
    style = page.root.find("style")[0].raw
    assert "@import" not in style
    assert "url(" not in style


def test_only_scripts_with_the_hash_of_the_policy_may_run(page: Page) -> None:
    metas = [m.attributes for m in page.root.find("meta")]
    policy = next(m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    scripts = [page.unpack("plotly"), *(s.raw for s in page.root.find("script") if "type" not in s.attributes)]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(hashes) == 2
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert "unsafe" not in policy.split("style-src")[0]


def test_plotly_is_embedded_once_and_whole(page: Page, html: str) -> None:
    assert page.unpack("plotly") == get_plotlyjs()
    assert len(html.encode()) < 3_000_000


def test_every_link_leads_to_a_place_and_ids_are_unique(page: Page) -> None:
    ids = [element.attributes["id"] for element in page.root if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert {link.attributes["href"][1:] for link in page.root.find("a")} <= set(ids)


def test_page_calls_nothing_fair(page: Page) -> None:
    said = page.root.text.replace("not fairness", "").replace("Quantfair", "")
    assert not re.search(r"\b(un)?(fair|fairness|biased|unbiased|safe)\b", said, re.IGNORECASE)


# The same tables, the same bytes


@pytest.mark.parametrize("seed", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_bytes_depend_on_the_tables_alone(seed: str) -> None:
    code = "import sys; sys.path.insert(0, 'tests/support'); from simulated_sweep import make_tables; import hashlib;"
    code += "from quantfair.results.page.report import render_report;"
    code += f"print(hashlib.sha256(render_report(make_tables(**{SMALL})).encode()).hexdigest())"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == hashlib.sha256(render_report(make_tables(**SMALL)).encode()).hexdigest()


def test_write_report_hands_the_page_to_the_store() -> None:
    class Shelf:
        pages: list[str] = []  # noqa: RUF012

        def write_report(self, html: str) -> str:
            self.pages.append(html)
            return "shelf/report.html"

    shelf = Shelf()
    assert write_report(shelf, make_tables(**SMALL)) == "shelf/report.html"
    assert shelf.pages == [render_report(make_tables(**SMALL))]


# Odd input


def no_reference(tables: Tables) -> Tables:
    compared = ("paired_metrics", "contrasts", "contrast_disparity", "verdicts", "shifts", "correlations")
    return {**tables, **{name: TABLES[name].empty_table() for name in compared}}


def no_metrics(tables: Tables) -> Tables:
    metrics = tables["group_metrics"]
    place = metrics.schema.get_field_index("value")
    return {**tables, "group_metrics": metrics.set_column(place, "value", pa.nulls(len(metrics), pa.float64()))}


ODD: dict[str, tuple[dict[str, Any], Callable[[Tables], Tables], str]] = {
    "one seed": (SMALL, dict, "has 1 seed: a trend needs three"),
    "one group": ({**SMALL, "sizes": (300,), "names": ("only",), "n_failed": 0}, dict, "only n = 300"),
    "no reference": (SMALL, no_reference, "has no trial with another to compare with"),
    "failed references": ({**SMALL, "fails_reference": True}, dict, "0 of 8 trials finished"),
    "failed and missing": ({**SMALL, "n_missing": 2}, dict, "1 trial failed, 2 missing"),
    "null metrics": (SMALL, no_metrics, "7 of 8 trials finished"),
    "nothing right": ({**SMALL, "accuracy": 0.0}, dict, "no verdict"),
    "all right": ({**SMALL, "accuracy": 1.0}, dict, "100.0 %"),
    "45 groups": ({**SMALL, "sizes": (60,) * 45, "names": tuple(map(str, range(45)))}, dict, "45 groups"),
    "no trial": (SMALL, lambda tables: {"provenance": tables["provenance"]}, "no trial has groups to compare"),
    "no table": (SMALL, lambda tables: {}, "0 of 0 trials finished"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_input_gives_a_page_that_says_what_is_missing(name: str) -> None:
    settings, change, said = ODD[name]
    page = Page(render_report(change(dict(make_tables(**settings)))))
    assert said in page.root.words
    assert page.data["tables"].keys() >= {"configs", "trials", "groups", "values", "pairs", "contrasts"}


def test_provenance_has_the_sweep_file(page: Page) -> None:
    text = page.by_id("provenance").find("pre")[0].text
    assert json.loads(text) == {"name": "simulated <sweep>", "seeds": [0, 1, 2]}


def test_failed_trials_stand_with_their_reasons(page: Page) -> None:
    said = page.by_id("failures").words
    assert "2 failed trials" in said
    assert said.count(ERROR) == 2
    assert page.by_id("reach").find("a", "alert")[0].text == "2 trials failed"


def test_what_is_too_much_for_a_page_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_data, "MOST_ROWS", 50)
    page = Page(render_report(make_tables(**SMALL)))
    assert page.data["tables"]["pairs"]["n"] == []
    assert "Not on this page: pairs, " in page.by_id("failures").words
    assert "rows are too many for a page" in page.by_id("failures").words


def test_numbers_keep_five_digits_and_are_as_short_as_they_can_be() -> None:
    values = [0.123456789, -98765.4321, 3.0, 0.0, 1e-300, 2.00004999e-9, float("nan"), 0.1 + 0.2]
    packed = page_data.pack(pa.array(values, from_pandas=True))
    assert packed == [0.12346, -98765.0, 3.0, 0.0, 0.0, 2e-9, None, 0.3]
    assert [float(f"{value:.5g}") for value in values[:3]] == packed[:3]


# Words


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.14159, "3.1"), (-0.4, "−0.4"), (-0.001, "0.0"), (0.04, "0.04"), (0.0, "0.0"), (None, "–"), (45.0, "45.0")],
)
def test_points_are_signed_and_small_ones_have_two_digits(value: float | None, text: str) -> None:
    assert format_pp(value) == text


def test_a_gain_turns_its_interval_too() -> None:
    assert format_drop(3.1, 1.2, 5.0) == "loses 3.1 pp [1.2,\u00a05.0]"
    assert format_drop(-3.1, -5.0, 1.2) == "gains 3.1 pp [−1.2,\u00a05.0]"
    assert format_drop(0.0, -0.2, 0.2) == "no change, 0.0 pp [−0.2,\u00a00.2]"


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (1.19, 4.96, "[1.1,\u00a05.0]"),
        (-0.31, 0.31, "[−0.4,\u00a00.4]"),
        (1.1, 2.2, "[1.1,\u00a02.2]"),  # neither is exact in binary
        (-0.041, 0.041, "[−0.05,\u00a00.05]"),
        (0.001, 0.001, "[0.0,\u00a00.01]"),
        (0.0, 0.0, "[0.0,\u00a00.0]"),
    ],
)
def test_limits_are_rounded_away_from_each_other(low: float, high: float, text: str) -> None:
    assert format_interval(low, high) == f" {text}"
