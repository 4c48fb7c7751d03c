"""Sweeps in which a sentence or a number of the first screen would be wrong if it were made from the nearest table."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import simulated_sweep
from html_page import Page, rows_of
from screen_numbers import check_screen, count_words, head_of, titles_of
from simulated_sweep import GROUP_NAMES, Images, make_store, make_tables

from quantfair.results import build_tables
from quantfair.results.page.report import render_report

FACES: dict[str, Any] = {"datasets": ("faces",), "bits": (8, 4), "observers": ("minmax",), "n_failed": 0}
Tables = dict[str, pa.Table]


class OneLabel(Images):
    """Faces of which one group has a single label: the reference has nothing to tell there. It alone is hurt."""

    group = 4

    def __init__(self, name: str, **settings: Any):
        super().__init__(name, **settings)
        groups = self.attributes["ethnicity"][1]
        self.labels = np.where(groups == self.group, 0, self.labels)
        self.attributes["gender"] = (self.classes, self.labels)
        self.hurt_N = np.where(groups == self.group, 6.0, 0.2)


def change(tables: Tables, name: str, **columns: Iterable[Any]) -> Tables:
    """The tables with other values in columns of one."""
    table = tables[name]
    for column, values in columns.items():
        place = table.schema.get_field_index(column)
        table = table.set_column(place, column, pa.array(list(values), table.schema.field(column).type))
    return {**tables, name: table}


def test_numbers_beside_a_word_are_of_the_groups_that_it_is_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(simulated_sweep, "Images", OneLabel)
    tables = build_tables(make_store(tmp_path / "store", **FACES))
    verdicts = tables["verdicts"].to_pandas().query("grouping == 'ethnicity'")
    assert all(GROUP_NAMES[4] in names for names in verdicts.out_of_play)
    assert GROUP_NAMES[4] not in set(verdicts.group)
    limits = tables["contrasts"].to_pandas().query("grouping == 'ethnicity' and kind != 'data'")
    assert limits[limits.group == GROUP_NAMES[4]].upper_pp.isna().all()
    page = Page(render_report(tables))
    assert check_screen(page, tables) > 100
    cells = [row[1].words for row in rows_of(page.by_id("losers").find("table", "matrix")[0])]
    assert all(f"out of play: {GROUP_NAMES[4]}" in text for text in cells)
    assert not any("no group loses more" in text for text in cells)


def test_groups_too_small_to_rank_are_not_said_to_lose_nothing() -> None:
    tables = dict(make_tables(**{**FACES, "sizes": (48, 47, 46, 45, 44, 43)}))
    page = Page(render_report(tables))
    cells = [row[1].words for row in rows_of(page.by_id("losers").find("table", "matrix")[0])]
    assert all(text.startswith("– no verdict no group of 50 test images is in play") for text in cells)
    lead = page.by_id("reach").find("p", "lead")[0].words
    assert lead == "By ethnicity no loss is ruled out: no group of 50 test images is in play."


def test_bits_stand_in_falling_order_and_the_lead_is_of_the_fewest() -> None:
    tables = dict(make_tables(**FACES))
    lost = [row["method"] == "ptq" and row["weight_bits"] == 8 for row in tables["trials"].to_pylist()]
    kept = pa.array([not one for one in lost])
    page = Page(render_report({**tables, "trials": tables["trials"].filter(kept)}))
    table = page.by_id("causes").find("table", "matrix")[0]
    assert titles_of(table)[1:] == ["8 bits", "4 bits"]
    assert page.by_id("causes").find("p", "lead")[0].words.startswith("At 4 bits, of all images: PTQ against FP32 ")


def test_the_headline_is_of_no_grouping_that_contains_the_answer() -> None:
    tables = dict(make_tables(**FACES))
    rows = tables["verdicts"].to_pylist()
    clear = {"clearest_lower_pp": 3.3, "clearest_group": "male"}
    by_answer = [row["contains_answer"] and row["scope"] == "recipe" for row in rows]
    assert any(by_answer)
    columns = {
        name: [
            value if is_it else None if row["contains_answer"] is False else row[name]
            for is_it, row in zip(by_answer, rows, strict=True)
        ]
        for name, value in clear.items()
    }
    page = Page(render_report(change(tables, "verdicts", **columns)))
    said = page.by_id("losers").find("p", "lead")[0].words
    assert said.startswith("By ethnicity, no loss is certain once all "), "a class loses for certain, and is no group"
    heads = titles_of(page.by_id("losers").find("table", "matrix")[0])
    marked = [head.endswith("(contains the answer: class-wise recall)") for head in heads]
    assert marked == [False, False, True, True], heads


class AnswerFirst(Images):
    """Faces whose first groupings contain the answer."""

    def __init__(self, name: str, **settings: Any):
        super().__init__(name, **settings)
        self.groupings = ["ethnicity*gender", "gender", "ethnicity"]


def test_groupings_that_contain_the_answer_are_marked_and_come_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(simulated_sweep, "Images", AnswerFirst)
    tables = build_tables(make_store(tmp_path / "store", **{**FACES, "runtimes": ("torch", "onnxruntime")}))
    page = Page(render_report(tables))
    mark = " (contains the answer: class-wise recall)"
    titles = ["ethnicity", f"ethnicity*gender{mark}", f"class (gender){mark}"]
    assert titles_of(page.by_id("losers").find("table", "matrix")[0])[1:] == [f"by {title}" for title in titles]
    reach = rows_of(page.by_id("reach").find("table", "reach")[0])
    assert [row[-3].find("div")[0].raw.strip() for row in reach] == titles
    summaries = [details.find("summary")[0].text for details in page.by_id("losses").find("details")]
    assert [text.partition(", by ")[2] for text in summaries] == titles
    assert page.by_id("reach").find("p", "lead")[0].words.startswith("By ethnicity, ")
    assert page.by_id("causes").find("caption")[0].text.endswith(" by ethnicity")
    assert "Against torch, by ethnicity" in titles_of(page.by_id("deployed").find("table", "matrix")[0])


def test_a_data_set_of_classes_alone_is_marked_wherever_it_has_words() -> None:
    tables = dict(make_tables(**{**FACES, "datasets": ("digits",), "runtimes": ("torch", "onnxruntime")}))
    page = Page(render_report(tables))
    mark = "class (contains the answer: class-wise recall)"
    for part in ("reach", "losers", "causes", "deployed", "losses"):
        assert mark in page.by_id(part).words, part
    assert "in every class. " in page.by_id("deployed").find("p", "lead")[0].words


def test_of_two_seeds_there_is_no_recipe_but_the_words_of_the_files() -> None:
    tables = dict(make_tables(**{**FACES, "seeds": (0, 1)}))
    page = Page(render_report(tables))
    assert check_screen(page, tables) > 100
    said = page.by_id("losers").find("p", "lead")[0].words
    reason = "a recipe needs 3 models that differ; these are 2 of 2 seeds"
    assert said.startswith(f"There is no verdict by ethnicity: {reason}. ")
    files = tables["verdicts"].to_pandas().query("grouping == 'ethnicity' and scope == 'file' and runtime == 'torch'")
    trials = tables["trials"].to_pandas().set_index("trial_id")
    methods = files.trial_id.map(trials.method)
    usual = files[(methods == "ptq") | ((methods == "qat") & (files.comparison == "control"))]
    words = usual.word.where(usual.answer != "cannot tell", usual.word.replace("unchanged", "unchanged (cannot tell)"))
    told = said.partition(f"of their {len(usual)} files ")[2].partition(".")[0]
    assert count_words(told) == Counter(words)
    cells = [row[1].words for row in rows_of(page.by_id("losers").find("table", "matrix")[0])]
    assert all(text.startswith("– no verdict a recipe needs 3 models") for text in cells)
    assert not any("this file: " in text or "this recipe: " in text for text in cells)


def test_another_limit_of_the_user_is_what_the_page_asks_about(tmp_path: Any) -> None:
    store = make_store(tmp_path / "store", **{**FACES, "runtimes": ("torch", "onnxruntime")})
    page = Page(render_report(build_tables(store, limit_pp=2.5)))
    for part in ("losers", "deployed", "reading", "methods"):
        said = page.by_id(part).words
        assert "2.5 points" in said, part
        assert "than 1 point" not in said, part


def test_networks_of_one_data_set_are_told_apart() -> None:
    tables = dict(make_tables(**FACES))
    trials = tables["trials"].to_pylist()
    other = {config_id for config_id in {row["config_id"] for row in trials} if hash_of(config_id) % 2}
    models = ["nin" if row["config_id"] in other else row["model"] for row in trials]
    page = Page(render_report(change(tables, "trials", model=models)))
    leads = [lead.words for lead in page.by_id("losers").find("p", "lead")]
    assert [lead.split(":")[0] for lead in leads] == ["faces · gender · nin", "faces · gender · small_cnn"]
    captions = [table.find("caption")[0].text for table in page.by_id("causes").find("table", "matrix")]
    assert len(captions) == len(set(captions))


def hash_of(text: str) -> int:
    return sum(map(ord, text))


def test_mixtures_by_other_attributes_have_names_of_their_own() -> None:
    mixtures = ("longtail:20", "longtail:10")
    tables = dict(make_tables(**{**FACES, "mixtures": mixtures}))

    def by(config: str) -> str:
        told = json.loads(config)
        if told["dataset"]["imbalance"] == "longtail:10":
            told["dataset"] |= {"imbalance": "longtail:20", "imbalance_by": "gender"}
        return json.dumps(told)

    page = Page(render_report(change(tables, "trials", config=map(by, tables["trials"]["config"].to_pylist()))))
    rows = rows_of(page.by_id("reach").find("table")[0])
    names = [head_of(row) for row in rows if "again" not in row[0].attributes.get("class", "")]
    assert sorted(names) == ["faces, long tail 20:1 by ethnicity", "faces, long tail 20:1 by gender"]


def test_one_seed_is_not_said_to_have_an_interval_over_seeds() -> None:
    page = Page(render_report(make_tables(**{**FACES, "seeds": (0,)})))
    said = page.by_id("methods-text").words
    assert "was judged by one-sided limits of the drop" in said
    assert "Over seeds" not in said
    cells = [row[1].words for row in rows_of(page.by_id("losers").find("table", "matrix")[0])]
    assert all("this file: " in text for text in cells)
    assert not any("this recipe: " in text for text in cells)


def test_a_float_model_of_a_further_seed_is_no_seed_of_what_is_judged() -> None:
    tables = dict(make_tables(**{**FACES, "seeds": (0, 1)}))
    trials = tables["trials"].to_pylist()
    kept = pa.array([row["seed"] == 0 or row["method"] == "fp32" for row in trials])
    page = Page(render_report({**tables, "trials": tables["trials"].filter(kept)}))
    assert "models of 1 seed were evaluated" in page.by_id("methods-text").words
    assert "gender, small_cnn, 1 seed" in page.by_id("reach").find("table")[0].words


def test_of_three_seeds_the_recipe_has_the_word_and_its_files_are_counted() -> None:
    page = Page(render_report(make_tables(**{**FACES, "seeds": (0, 1, 2)})))
    assert "Over seeds, limits are" in page.by_id("methods-text").words
    cells = [row[1].words for row in rows_of(page.by_id("losers").find("table", "matrix")[0])]
    assert all("this recipe: " in text for text in cells)
    assert all("its 3 files, one by one: " in text for text in cells)


def test_a_runtime_that_failed_for_one_seed_still_shows_what_others_measured() -> None:
    tables = dict(make_tables(**{**FACES, "runtimes": ("torch", "onnxruntime")}))
    rows = tables["runtimes"].to_pylist()
    qat = {row["trial_id"] for row in tables["trials"].to_pylist() if row["method"] == "qat" and row["seed"] == 0}
    failed = [row["trial_id"] in qat and row["runtime"] == "onnxruntime" for row in rows]
    columns = {
        "status": ["failed" if one else row["status"] for one, row in zip(failed, rows, strict=True)],
        "reason": ["out of memory" if one else row["reason"] for one, row in zip(failed, rows, strict=True)],
        "batch": [None if one else row["batch"] for one, row in zip(failed, rows, strict=True)],
        "session": [None if one else row["session"] for one, row in zip(failed, rows, strict=True)],
        "p50_ms": [None if one else row["p50_ms"] for one, row in zip(failed, rows, strict=True)],
    }
    page = Page(render_report(change(tables, "runtimes", **columns)))
    deployed = page.by_id("deployed")
    times = {head_of(row): row[-2].words for row in rows_of(deployed.find("table", "matrix")[0])}
    assert times["QAT 8 bits"] == "0.10 ms"
    assert "trials, out of memory" in deployed.find("p", "reason")[0].words


def test_settings_that_val_did_not_choose_are_marked() -> None:
    tables = dict(make_tables(**{**FACES, "observers": ("minmax", "percentile")}))
    unchosen = change(tables, "choices", config_id=[None] * len(tables["choices"]))
    page = Page(render_report(unchosen))
    heads = [row[0].words for row in rows_of(page.by_id("losers").find("table", "matrix")[0])]
    assert (
        sum("(val chose none)" in head for head in heads) == 6
    )  # PTQ, PTQ on FP32-FT and QAT at 8 and 4 bits have two settings
