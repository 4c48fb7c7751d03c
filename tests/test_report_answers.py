"""Every number of the first screen and of the tables behind it is one of the store's tables, read by other code."""

import re
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from html_page import Element, Page, rows_of
from simulated_sweep import make_tables

from results.page.report import render_report

METHODS = {"FP32-FT": "fp32_ft", "PTQ": "ptq", "PTQ on FP32-FT": "ptq", "QAT": "qat"}
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


class Expected:
    """The tables as frames, with a configuration's settings beside its rows."""

    def __init__(self, tables: dict[str, pa.Table]):
        self.frames: dict[str, Any] = {name: table.to_pandas() for name, table in tables.items() if name != "samples"}
        columns = ["config_id", "dataset_id", "method", "base", "weight_bits", "act_observer"]
        self.configs = self.frames["trials"][columns].drop_duplicates("config_id").set_index("config_id")
        chosen = self.frames["choices"].query("criterion == 'accuracy'")
        self.chosen = set(chosen.config_id)

    def primary(self, dataset_id: str, head: str) -> str:
        """The configuration that val chose, of a row that begins "PTQ on FP32-FT 4 bits"."""
        name, _, bits = head.removesuffix(" bits").rpartition(" ") if "bits" in head else (head, "", "")
        found = self.configs[(self.configs.dataset_id == dataset_id) & (self.configs.method == METHODS[name])]
        if bits:
            found = found[found.weight_bits == int(bits)]
            base = {"PTQ": "fp32", "PTQ on FP32-FT": "fp32_ft"}.get(name)
            found = found[found.base == base] if base else found
            found = found[found.index.isin(self.chosen)]
        assert len(found) == 1, (head, found)
        return str(found.index[0])

    def one(self, table: str, **equals: str) -> Any:
        frame = self.frames[table]
        if "kind" in frame:
            frame = frame[frame.kind != "data"]
        for column, value in equals.items():
            frame = frame[frame[column] == value]
        assert len(frame) == 1, (table, equals, len(frame))
        return frame.iloc[0]

    def gap(self, key: dict[str, str], grouping: str) -> float:
        """Best minus worst accuracy of a configuration in torch, the mean over its seeds."""
        trials = self.frames["trials"].query(f"config_id == '{key['config_id']}'").trial_id
        gaps = self.frames["disparity"].query("metric == 'acc_gap_maxmin_pp' and runtime == 'torch'")
        return float(gaps[gaps.trial_id.isin(trials) & (gaps.grouping == grouping)].value.mean())


@pytest.fixture(scope="module")
def expected(tables: dict[str, pa.Table]) -> Expected:
    return Expected(tables)


def data_of(expected: Expected, caption: str) -> str:
    """The dataset_id behind a caption such as "faces, as it comes · gender · small_cnn"."""
    trials = expected.frames["trials"]
    mixture = "shares:0.6,0.2,0.1,0.05,0.03,0.02" if "shares 60, 20, 10, 5, 3, 2 % by ethnicity" in caption else "none"
    found = trials[(trials.dataset == caption.split(",")[0].split(" ")[0]) & (trials.imbalance == mixture)]
    return str(found.dataset_id.unique().item())


def grouping_of(title: str) -> str:
    return "label" if title.startswith("class") else title


def head_of(row: list[Element]) -> str:
    """The head of a row without its small print."""
    return "".join(child for child in row[0].children if isinstance(child, str)).strip()


def test_the_matrix_holds_the_verdicts_on_what_val_chose(page: Page, expected: Expected) -> None:
    matrices = page.by_id("losers").find("table", "matrix")
    assert len(matrices) == 3
    n_cells = 0
    for table in matrices:
        dataset_id = data_of(expected, table.find("caption")[0].text)
        titles = [th.text.removeprefix("by ") for th in table.find("thead")[0].find("th")][1:]
        rows = rows_of(table)
        assert [head_of(row) for row in rows] == [
            "FP32-FT",
            *(f"{name} {bits} bits" for name in ("PTQ", "PTQ on FP32-FT", "QAT") for bits in (8, 4)),
        ]
        for row in rows:
            config_id = expected.primary(dataset_id, head_of(row))
            comparison = "control" if head_of(row).startswith("QAT") else "reference"
            assert f"against its {comparison}" in row[0].words
            for title, cell in zip(titles, row[1:], strict=True):
                key = {"config_id": config_id, "runtime": "torch", "comparison": comparison}
                verdict = expected.one("verdicts", **key, grouping=grouping_of(title))
                word = cell.find("b", "word")[0]
                assert word.text.split(" ", 1)[1].removesuffix(" *") == verdict.word
                assert word.attributes["title"] == verdict.rule
                p = expected.one("contrast_disparity", **key, grouping=grouping_of(title)).perm_p
                if pd.isna(verdict.worst_group):
                    assert cell.numbers == [p]
                    continue
                drop = expected.one("contrasts", **key, grouping=grouping_of(title), group=verdict.worst_group)
                assert cell.find("span")[1].attributes["data-group"] == verdict.worst_group
                assert cell.numbers == [drop.eag_pp, p]
                n_cells += 1
    assert n_cells > 20


def test_reach_holds_sizes_accuracy_and_what_could_go_unseen(page: Page, expected: Expected) -> None:
    trials, groups = expected.frames["trials"], expected.frames["groups"].query("split == 'test'")
    dataset_id = ""
    rows = rows_of(page.by_id("reach").find("table", "reach")[0])
    assert len(rows) == 1 + 2 * 3
    for row in rows:
        if "again" not in row[0].attributes.get("class", ""):
            dataset_id = data_of(expected, head_of(row))
            fp32 = trials[(trials.dataset_id == dataset_id) & (trials.method == "fp32")]
            assert row[1].numbers == pytest.approx([fp32.accuracy.mean(), fp32.n_test.max()])
            assert "3 seeds" in row[0].words
        grouping = grouping_of(row[-3].words.split(" ")[0])
        mine = groups[(groups.dataset_id == dataset_id) & (groups.grouping == grouping)]
        assert row[-2].numbers == [mine.n[mine.n > 0].min()]
        verdicts = expected.frames["verdicts"].merge(expected.configs, left_on="config_id", right_index=True)
        verdicts = verdicts[(verdicts.dataset_id == dataset_id) & (verdicts.grouping == grouping)]
        verdicts = verdicts[verdicts.config_id.isin(expected.chosen) & (verdicts.runtime == "torch")]
        verdicts = verdicts[(verdicts.method == "qat") == (verdicts.comparison == "control")]
        assert row[-1].numbers[0] == verdicts.mde_pp.min()
        assert row[-1].numbers[-1] == verdicts.mde_pp.max()


def test_causes_hold_overall_drops_and_disparities(page: Page, expected: Expected) -> None:
    kinds = {
        "PTQ against FP32": ("PTQ", "reference"),
        "QAT against FP32": ("QAT", "reference"),
        "QAT against its control": ("QAT", "control"),
    }
    n_cells = 0
    for table in page.by_id("causes").find("table", "matrix"):
        dataset_id = data_of(expected, table.find("caption")[0].text.replace(":", " "))
        grouping = grouping_of(table.find("caption")[0].text.rpartition(" by ")[2])
        bits = [th.text for th in table.find("thead")[0].find("th")][1:]
        for row in rows_of(table):
            if head_of(row) not in kinds:
                continue
            name, comparison = kinds[head_of(row)]
            for one, cell in zip(bits, row[1:], strict=True):
                key = {"config_id": expected.primary(dataset_id, f"{name} {one}"), "comparison": comparison}
                key["runtime"] = "torch"
                drop = expected.one("contrasts", **key, grouping="overall")
                spread = expected.one("contrast_disparity", **key, grouping=grouping)
                assert cell.numbers == pytest.approx(
                    [drop.drop_pp, spread.drop_disparity_pp, expected.gap(key, grouping)]
                )
                n_cells += 1
    assert n_cells == 3 * 3 * 2


def test_like_for_like_and_mixtures_are_contrasts(page: Page, expected: Expected) -> None:
    contrasts = expected.frames["contrasts"].query("grouping == 'overall'")
    rows = [row for table in page.by_id("causes").find("table", "matrix") for row in rows_of(table)]
    like = [row for row in rows if head_of(row) == "QAT against PTQ of its control"]
    known = set(contrasts[contrasts.kind == "qat_vs_ptq"].drop_pp)
    found = [cell.numbers[0] for row in like for cell in row[1:]]
    assert len(found) == 3 * 2
    assert set(found) <= known
    mixtures = rows_of(page.by_id("fairer").find("table", "matrix")[0])
    data = contrasts[contrasts.kind == "data"]
    assert {row[2].numbers[0] for row in mixtures} <= set(data.drop_pp)
    assert {row[0].words for row in mixtures} == {
        "faces, shares 60, 20, 10, 5, 3, 2 % by ethnicity against faces, as it comes"
    }


def test_deployed_rows_hold_the_twin_the_flips_and_the_time(page: Page, expected: Expected) -> None:
    tables = page.by_id("deployed").find("table", "matrix")
    assert len(tables) == 3
    for table in tables:
        dataset_id = data_of(expected, table.find("caption")[0].text.replace(":", " "))
        for row in rows_of(table):
            if head_of(row) == "FP32":
                continue
            config_id = expected.primary(dataset_id, head_of(row))
            key = {"config_id": config_id, "comparison": "twin", "runtime": "onnxruntime"}
            drop = expected.one("contrasts", **key, grouping="overall")
            assert row[2].numbers == [drop.drop_pp]
            assert row[3].numbers == [drop.flip_rate]
            assert row[4].words == "0.10 ms"


def test_loss_tables_hold_every_comparison_in_numbers(page: Page, expected: Expected) -> None:
    n_rows = 0
    for details in page.by_id("losses").find("details"):
        title, table = details.find("summary")[0].text, details.find("table", "losses")[0]
        dataset_id, grouping = data_of(expected, title), grouping_of(title.rpartition(", by ")[2])
        for row in rows_of(table):
            comparison = row[1].words
            key = {"config_id": expected.primary(dataset_id, head_of(row)), "comparison": comparison}
            key["runtime"] = "torch"
            verdict = expected.one("verdicts", **key, grouping=grouping)
            assert verdict.word in row[2].words
            assert row[3].numbers == [expected.one("contrasts", **key, grouping="overall").drop_pp]
            spread = expected.one("contrast_disparity", **key, grouping=grouping)
            assert row[6].numbers == [spread.drop_disparity_pp]
            assert row[7].numbers == pytest.approx([expected.gap(key, grouping)])
            if pd.notna(verdict.worst_group):
                worst = expected.one("contrasts", **key, grouping=grouping, group=verdict.worst_group)
                assert row[4].numbers == [worst.drop_pp]
                assert row[5].numbers == [worst.eag_pp]
            n_rows += 1
    assert n_rows == (1 + 2 * 3) * (3 + 6)


def test_what_could_ship_is_harmless_and_has_the_fewest_bits(page: Page, expected: Expected) -> None:
    verdicts = expected.frames["verdicts"].merge(expected.configs, left_on="config_id", right_index=True)
    verdicts = verdicts[verdicts.config_id.isin(expected.chosen) & (verdicts.runtime == "torch")]
    verdicts = verdicts[verdicts.comparison == "reference"]
    sections = page.by_id("losers")
    for table, said in zip(sections.find("table", "matrix"), sections.find("p", "ship"), strict=True):
        mine = verdicts[verdicts.dataset_id == data_of(expected, table.find("caption")[0].text)]
        titles = [th.text.removeprefix("by ") for th in table.find("thead")[0].find("th")][1:]
        for title, named in zip(titles, said.find("b"), strict=True):
            harmless = mine[(mine.grouping == grouping_of(title)) & (mine.word == "harmless")]
            if named.text == "none":
                assert harmless.empty
            else:
                assert int(named.text.split(",")[0].rpartition(" ")[2]) == harmless.weight_bits.min()


def test_methods_say_what_was_done(page: Page) -> None:
    said = page.by_id("methods-text").words
    assert (
        "On faces, as it comes (task: gender; network: small_cnn) models of 3 seeds were evaluated on 1,036 test"
        in said
    )
    assert "Quantized were: PTQ at 8, 4 bits" in said
    assert "the same fine-tuning with all quantizers bypassed" in said


def test_sentences_count_verdicts_and_quote_the_tables(page: Page, expected: Expected) -> None:
    verdicts = expected.frames["verdicts"].merge(expected.configs, left_on="config_id", right_index=True)
    verdicts = verdicts[verdicts.config_id.isin(expected.chosen) | (verdicts.method == "fp32_ft")]
    verdicts = verdicts[(verdicts.method == "qat") == (verdicts.comparison == "control")].query("runtime == 'torch'")
    said = [lead.text for lead in page.by_id("losers").find("p", "lead")]
    assert len(said) == 3
    for text, table in zip(said, page.by_id("losers").find("table", "matrix"), strict=True):
        mine = verdicts[verdicts.dataset_id == data_of(expected, table.find("caption")[0].text)]
        titles = [th.text.removeprefix("by ") for th in table.find("thead")[0].find("th")][1:]
        counts = mine[mine.grouping == grouping_of(titles[0])].word.value_counts()
        assert all(f"{number} {word}" in text for word, number in counts.items())
        for title in titles[1:]:
            rows = mine[mine.grouping == grouping_of(title)]
            number = int((rows.word == "uneven").sum())
            assert f"by {title} {number} of {len(rows)}" in text or "Uneven" not in text
    for text, table in zip(
        [lead.words for lead in page.by_id("causes").find("p", "lead")],
        page.by_id("causes").find("table", "matrix"),
        strict=True,
    ):
        fewest = rows_of(table)[0][-1]
        assert "At 4 bits: PTQ against FP32 " in text
        assert fewest.find("span")[0].words in text
    for text in [lead.words for lead in page.by_id("deployed").find("p", "lead")]:
        assert re.search(
            r"onnxruntime: \d+ of \d+ configurations harmless against torch\. Most answers change for ", text
        )
