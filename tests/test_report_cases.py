"""Sweeps in which a sentence or a number of the first screen would be wrong if it were made from the nearest table."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import simulated_sweep
from html_page import Page, rows_of
from screen_numbers import check_screen, head_of, titles_of
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
    spreads = tables["contrast_disparity"].to_pandas().query("grouping == 'ethnicity'")
    assert spreads.drop_disparity_pp.max() > 5 * verdicts.drop_disparity_pp.max()
    page = Page(render_report(tables))
    assert check_screen(page, tables) > 100
    cells = [row[1].words for row in rows_of(page.by_id("losers").find("table", "matrix")[0])]
    assert all(f"out of play: {GROUP_NAMES[4]}" in text for text in cells)
    assert not any("no group loses more" in text for text in cells)


def test_groups_too_small_to_rank_are_not_said_to_lose_nothing() -> None:
    tables = dict(make_tables(**{**FACES, "sizes": (48, 47, 46, 45, 44, 43)}))
    page = Page(render_report(tables))
    cells = [row[1].words for row in rows_of(page.by_id("losers").find("table", "matrix")[0])]
    assert all(text.endswith(("no group of 50 test images is in play", "for every group")) for text in cells)
    assert any(text.startswith("▼ degraded no group") for text in cells)
    lead = page.by_id("reach").find("p", "lead")[0].words
    assert lead == "By ethnicity no detectable drop is known: no group of 50 test images is in play."


def test_bits_stand_in_falling_order_and_the_lead_is_of_the_fewest() -> None:
    tables = dict(make_tables(**FACES))
    lost = [row["method"] == "ptq" and row["weight_bits"] == 8 for row in tables["trials"].to_pylist()]
    kept = pa.array([not one for one in lost])
    page = Page(render_report({**tables, "trials": tables["trials"].filter(kept)}))
    table = page.by_id("causes").find("table", "matrix")[0]
    assert titles_of(table)[1:] == ["8 bits", "4 bits"]
    assert page.by_id("causes").find("p", "lead")[0].words.startswith("At 4 bits, of all images: PTQ against FP32 ")


def test_a_group_that_gains_less_than_all_is_said_to_do_worse() -> None:
    tables = dict(make_tables(**FACES))
    rows = tables["contrasts"].to_pylist()

    def moved(row: dict[str, Any], column: str) -> float | None:
        is_it = row["group"] == GROUP_NAMES[0] and row["method" if "method" in row else "kind"] == "qat_vs_control"
        values = {"drop_pp": -2.0, "eag_pp": 6.0, "eag_ci_low_pp": 4.0, "eag_ci_high_pp": 8.0}
        quiet = {"eag_ci_low_pp": -1.0}
        return values[column] if is_it else quiet.get(column, row[column]) if row[column] is not None else None

    columns = {c: [moved(row, c) for row in rows] for c in ("drop_pp", "eag_pp", "eag_ci_low_pp", "eag_ci_high_pp")}
    page = Page(render_report(change(tables, "contrasts", **columns)))
    said = page.by_id("losers").find("p", "lead")[0].words
    assert said.startswith(f"Clearest: {GROUP_NAMES[0]} at QAT")
    assert "6.0 pp [4.0, 8.0] worse than all images: it gains 2.0 pp." in said


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
    assert "the wider of a bootstrap over images and Tango's score interval" in said
    assert "crossed" not in said


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
