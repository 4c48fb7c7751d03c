"""Every number of the first screen and of the tables behind it is one of the store's tables, read by other code."""

import re
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
import screen_numbers
from html_page import Page, rows_of
from screen_numbers import Expected, Key, count_words, head_of, titles_of
from simulated_sweep import make_tables

from quantfair.results.page.report import render_report

SETTINGS: dict[str, Any] = {
    "datasets": ("digits", "faces"),
    "mixtures": (None, "shares:0.6,0.2,0.1,0.05,0.03,0.02"),
    "runtimes": ("torch", "onnxruntime"),
    "bits": (8, 4),
}


@pytest.fixture(scope="module")
def tables() -> dict[str, pa.Table]:
    return dict(make_tables(**SETTINGS))


@pytest.fixture(scope="module")
def page(tables: dict[str, pa.Table]) -> Page:
    return Page(render_report(tables))


@pytest.fixture(scope="module")
def expected(tables: dict[str, pa.Table]) -> Expected:
    return Expected(tables)


@pytest.mark.parametrize(
    ("part", "n_least"),
    [("reach", 27), ("matrix", 190), ("causes", 60), ("mixtures", 20), ("deployed", 100), ("losses", 200)],
)
def test_numbers_are_those_of_the_tables(page: Page, expected: Expected, part: str, n_least: int) -> None:
    assert getattr(screen_numbers, f"check_{part}")(page, expected) >= n_least


def test_every_method_and_bits_has_its_row(page: Page) -> None:
    for table in page.by_id("losers").find("table", "matrix"):
        assert [head_of(row) for row in rows_of(table)] == [
            f"{name} {bits} bits" for name in ("PTQ", "PTQ on FP32-FT", "QAT") for bits in (8, 4)
        ], "the fine-tuned float model has no quantizer"
    for table in page.by_id("deployed").find("table", "matrix"):
        assert [head_of(row) for row in rows_of(table)][:2] == ["FP32", "FP32-FT"]


def test_what_could_ship_is_the_last_no_from_the_most_bits_down(page: Page, expected: Expected) -> None:
    sections, n_named = page.by_id("losers"), 0
    for table, said in zip(sections.find("table", "matrix"), sections.find("div", "ship"), strict=True):
        data = expected.data_of(table.find("caption")[0].text)
        quantized = [c for c in expected.catalog.configs if c.data == data and c.variant in ("PTQ", "QAT")]
        primary = [c for c in quantized if c == expected.primary(data, f"{c.variant} {c.bits}")]
        falling = sorted(primary, key=lambda config: (-int(config.bits), ("PTQ", "QAT").index(config.variant)))
        places = [(runtime, g.name) for runtime in ("torch", "onnxruntime") for g in data.groupings]
        for (runtime, grouping), named in zip(places, said.find("b"), strict=True):
            answers = [expected.verdict(Key(c.config_id, "reference", runtime, grouping)).answer for c in falling]
            n_first = next((place for place, answer in enumerate(answers) if answer != "no"), len(answers))
            assert named.text == (falling[n_first - 1].name if n_first else "none")
            n_named += n_first > 0
    assert n_named > 0


def test_methods_say_what_was_done(page: Page) -> None:
    said = page.by_id("methods-text").words
    assert (
        "On faces, as it comes (task: gender; network: small_cnn) models of 3 seeds were evaluated on 1,036 test"
        in said
    )
    assert "Quantized were: PTQ at 8, 4 bits" in said
    assert "the same fine-tuning with all quantizers bypassed" in said


def test_sentences_count_verdicts_and_quote_the_tables(page: Page, expected: Expected) -> None:
    losers, n_clear = page.by_id("losers"), 0
    for lead, table in zip(losers.find("p", "lead"), losers.find("table", "matrix"), strict=True):
        data = expected.data_of(table.find("caption")[0].text)
        rows, judged = rows_of(table), []
        for place, grouping in enumerate(data.groupings, 1):
            shown = Counter(row[place].find("b", "word")[0].text.split(" ", 1)[1] for row in rows)
            told = lead.text.partition(f"By {grouping.title}, of {len(rows)} quantized rows ")[2]
            assert count_words(re.split(r"[.;]", told)[0]) == shown
            for row in rows:
                config = expected.primary(data, head_of(row))
                side = screen_numbers.usual_side(expected, config)
                judged.append(expected.verdict(Key(config.config_id, side, "torch", grouping.name)))
        about = [row for row in judged if not row.contains_answer] or judged
        clear = [row for row in about if row.clearest_lower_pp > 0]
        assert f" all {about[0].n_cells_of_plan:,} cells of the plan are counted." in lead.text
        assert ("no loss is certain" in lead.text) == (not clear)
        if clear:
            largest = max(row.clearest_lower_pp for row in clear)
            told = re.search(r"at least ([\d.]+) pp, even if all", lead.text)
            assert told
            assert largest - 0.1 < float(told[1]) <= largest
            n_clear += 1
    assert n_clear > 0
    causes = page.by_id("causes")
    for lead, table in zip(causes.find("p", "lead"), causes.find("table", "matrix"), strict=True):
        assert titles_of(table)[1:] == ["8 bits", "4 bits"]
        assert "At 4 bits, of all images: PTQ against FP32 " in lead.words
        assert rows_of(table)[0][-1].find("span")[0].words in lead.words
    told = r"In onnxruntime, of 14 configurations \d+ (is|are) shown to lose at most 1 point against torch in every "
    for lead in page.by_id("deployed").find("p", "lead"):
        assert re.search(told + r"(class|group by ethnicity)\. ", lead.words)
