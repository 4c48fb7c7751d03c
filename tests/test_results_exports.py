"""Tables for papers: the planted drops stand in them, the named group is marked, and every format is sound."""

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from imported_sweep import Pets
from markdown_it import MarkdownIt
from synthetic_tables import GROUP_SIZES, make_tables, rows_from_tables, tables_from_rows
from typer.testing import CliRunner

from quantfair.orchestrator.commands.app import app
from quantfair.results.exports.caption import choose_digits, format_caption, format_high, format_number
from quantfair.results.exports.files import FORMATS, to_long
from quantfair.results.exports.latex import escape_latex, format_latex
from quantfair.results.exports.markdown import escape_markdown, format_markdown
from quantfair.results.exports.paper_table import Drop, PaperTable, make_paper_tables

SPECIAL = r"a_b & 50% #1 $x {y} ~z ^w \v [u] <t> |s| *r* `q` @p !o"
TOLD = "It loses at least 2 points & more."
NAMES = ("Plain", SPECIAL, "~^\\", "C", "[D]", "Few")


def make_planted(*, names: tuple[str, ...] = NAMES, bits: tuple[int, ...] = (8, 4)) -> dict[str, Any]:
    """Tables of the faces, with contrasts, disparities and verdicts of every configuration but QAT 4."""
    tables = make_tables(seeds=(0, 1), bits=bits, observers=("minmax",), datasets=("faces",), fail_first_qat=False)
    rows, rng = rows_from_tables(tables), np.random.default_rng(1)
    old = [row["group"] for row in rows["groups"] if row["grouping"] == "ethnicity" and row["split"] == "test"]
    for row in rows["groups"]:
        row["group"] = dict(zip(old, names, strict=True)).get(row["group"], row["group"])
    configs = {trial["config_id"]: trial for trial in rows["trials"] if trial["method"] != "fp32"}
    for config_id, trial in configs.items():
        if (trial["method"], trial["weight_bits"]) == ("qat", 4):
            continue
        for comparison in ("reference", "control") if trial["method"] == "qat" else ("reference",):
            key = {"config_id": config_id, "runtime": "torch", "comparison": comparison}
            for grouping, groups in (("overall", ["all"]), ("ethnicity", names)):
                for group in groups:
                    drop = 30.0 if group == "Few" else float(rng.normal(3, 4))
                    ci = {"drop_ci_low_pp": drop - 1.5, "drop_ci_high_pp": drop + 2}
                    limits = {} if group == "Few" else {"lower_pp": drop - 1.25, "upper_pp": drop + 1.75}
                    row = {**key, "grouping": grouping, "group": group, "drop_pp": drop, **ci, **limits}
                    rows["contrasts"].append({**row, "seeds": [0, 1, 2], "n_seeds": 3})
            place = {**key, "grouping": "ethnicity"}
            rows["contrast_disparity"].append({**place, "drop_disparity_pp": 7.25})
            verdict = {"word": "uneven", "answer": "yes", "told": TOLD, "group": names[-2], "at_most_pp": 9.5}
            rows["verdicts"].append({**place, **verdict, "scope": "recipe", "limit_pp": 1.0})
            file = {"trial_id": "a", "scope": "file", "word": "small", "answer": "no", "told": "another sentence"}
            rows["verdicts"].append({**place, **file, "limit_pp": 1.0})
    return tables_from_rows(rows)


@pytest.fixture(scope="module")
def planted() -> dict[str, Any]:
    return make_planted()


def find(tables: dict[str, Any], *, grouping: str = "ethnicity", comparison: str = "reference") -> PaperTable:
    made = make_paper_tables(tables)
    (table,) = [t for t in made if (t.key["grouping"], t.key["comparison"]) == (grouping, comparison)]
    return table


def test_there_is_one_table_for_each_grouping_and_comparison_and_none_for_overall(planted: dict[str, Any]) -> None:
    found = [(table.key["grouping"], table.key["comparison"]) for table in make_paper_tables(planted)]
    assert sorted(found) == sorted((g, c) for g in ("ethnicity", "label") for c in ("control", "reference"))
    assert [row.configuration for row in find(planted, comparison="control").rows] == ["QAT 8", "QAT 4"]
    names = [row.configuration for row in find(planted).rows]
    assert names == ["FP32-FT", "PTQ 8", "PTQ 4", "QAT 8", "QAT 4"]


def test_every_planted_drop_stands_in_its_cell(planted: dict[str, Any]) -> None:
    frame = to_long(find(planted))
    assert len(frame) == 5 * len(NAMES)
    contrasts: Any = planted["contrasts"].to_pandas()
    for _, cell in frame.dropna(subset=["drop_pp"]).iterrows():
        mine: Any = contrasts[(contrasts["config_id"] == cell["config_id"]) & (contrasts["comparison"] == "reference")]
        (drop,) = mine.loc[mine["group"] == cell["group"], "drop_pp"]
        (overall,) = mine.loc[mine["grouping"] == "overall", "drop_pp"]
        assert (cell["drop_pp"], cell["overall_drop_pp"]) == (drop, overall)
        low = drop - {"Few": 1.5}.get(str(cell["group"]), 1.25)
        assert (cell["drop_low_pp"], cell["n_seeds"]) == (low, 3)
        verdict = [cell[f"verdict_{name}"] for name in ("scope", "word", "answer", "told", "group")]
        assert verdict == ["recipe", "uneven", "yes", TOLD, NAMES[-2]]
        assert (cell["drop_disparity_pp"], cell["verdict_at_most_pp"], cell["verdict_limit_pp"]) == (7.25, 9.5, 1.0)
    assert frame["n"].tolist() == 5 * list(GROUP_SIZES)


def test_the_group_that_the_verdict_names_is_marked(planted: dict[str, Any]) -> None:
    frame: Any = to_long(find(planted)).dropna(subset=["drop_pp"])
    for _, row in frame.groupby("config_id"):
        assert row.loc[row["is_named"], "group"].tolist() == [NAMES[-2]]


@pytest.mark.parametrize("changes", [{"answer": "cannot tell"}, {"group": "all images"}, {"group": None}])
def test_no_group_is_marked_where_the_verdict_accuses_none(planted: dict[str, Any], changes: dict[str, Any]) -> None:
    rows = rows_from_tables(planted)
    for row in rows["verdicts"]:
        row |= changes
    table = find(tables_from_rows(rows))
    assert set(to_long(table)["is_named"]) == {False}
    assert "**" not in format_markdown(table)
    assert "textbf" not in format_latex(table)


def test_the_mixture_of_the_training_data_is_in_the_caption_and_the_file_name(planted: dict[str, Any]) -> None:
    rows = rows_from_tables(planted)
    for row in rows["trials"]:
        row["imbalance"] = "longtail:20"
    table = find(tables_from_rows(rows))
    assert "task gender, training data longtail:20, small_cnn" in format_caption(table)
    assert table.slug == "faces-gender-longtail-20-small-cnn-ethnicity-reference"
    assert set(to_long(table)["imbalance"]) == {"longtail:20"}


def test_what_the_tables_do_not_have_is_said(planted: dict[str, Any]) -> None:
    table = find(planted)
    assert table.rows[-1].drops == (Drop(),) * len(NAMES)
    said = "No numbers for QAT 4: the tables have no drops of this configuration."
    assert said in format_latex(table)
    assert said in format_markdown(table)
    frame: Any = to_long(table)
    assert frame.loc[frame["drop_pp"].isna(), "reason"].unique().tolist() == [
        "the tables have no drops of this configuration"
    ]
    empty = {**planted, "contrasts": planted["contrasts"].slice(0, 0)}
    assert "No numbers for FP32-FT; PTQ 8; PTQ 4; QAT 8; QAT 4: " in format_markdown(find(empty))


def test_a_group_without_images_has_no_column_and_is_named(planted: dict[str, Any]) -> None:
    rows = rows_from_tables(planted)
    for row in rows["groups"]:
        row["n"] = 0 if row["group"] == "C" else row["n"]
    table = find(tables_from_rows(rows))
    assert [group.name for group in table.groups] == [name for name in NAMES if name != "C"]
    assert "Without test images, and left out: C." in format_caption(table)


def test_the_caption_says_what_a_reader_must_know(planted: dict[str, Any]) -> None:
    said = format_caption(find(planted))
    for part in (
        "faces by ethnicity",
        "task gender, small_cnn, runtime torch",
        "against the reference",
        "seeds (0, 1, 2)",
    ):
        assert part in said
    for part in (
        "the upper one at 95 % for each group",
        f"{sum(GROUP_SIZES)} test images",
        "whether any loses more than 1 point on such images",
        "Too small to be judged, with an interval of 95 %: Few.",
    ):
        assert part in said
    assert "Uneven: One group loses more than 1 point, and more than 1 point beyond all others." in said
    assert "against the control (fine-tuned without quantizers)" in format_caption(find(planted, comparison="control"))


def test_numbers_have_as_many_digits_as_their_intervals_are_worth(planted: dict[str, Any]) -> None:
    table = find(planted)
    assert choose_digits(table) == 1
    narrow = table.rows[0]._replace(overall=Drop(0.01, -0.1, 0.2))
    assert choose_digits(table._replace(rows=(narrow,))) == 2
    assert [format_number(value, 1) for value in (-0.04, -0.06, 12.34, None)] == ["0.0", "-0.1", "12.3", "–"]


def test_what_is_lost_at_most_is_rounded_up(planted: dict[str, Any]) -> None:
    assert [format_high(value, 1) for value in (9.41, 1.1, -0.04, None)] == ["9.5", "1.1", "0.0", "–"]
    rows = rows_from_tables(planted)
    for row in rows["verdicts"]:
        row["at_most_pp"] = 4.321
    table = find(tables_from_rows(rows))
    assert read_rendered(format_markdown(table))[2][-3:] == ["4.4", "yes", "uneven"]
    assert " & 4.4 & yes & uneven " in format_latex(table)


def test_groups_that_contain_the_answer_are_called_so(planted: dict[str, Any]) -> None:
    said = "The groups contain the answer: their accuracies are recalls of classes."
    assert said not in format_caption(find(planted))
    rows = rows_from_tables(planted)
    for row in rows["verdicts"]:
        row["contains_answer"] = True
    assert said in format_caption(find(tables_from_rows(rows)))


def read_rendered(text: str) -> list[list[str]]:
    """The texts of the cells of the first table, as a reader sees them."""
    rows: list[list[str]] = []
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows and len(rows[0]) > len(rows[-1]) - 1 and token.level >= 4:
            rows[-1].append("".join(child.content for child in token.children or [] if child.type == "text"))
    return rows


def test_markdown_renders_as_a_table_whose_cells_say_what_was_meant(planted: dict[str, Any]) -> None:
    table = find(planted)
    text = format_markdown(table)
    rows = read_rendered(text)
    assert len(rows) == 1 + len(table.rows)
    assert {len(row) for row in rows} == {3 + len(NAMES) + 4}
    assert rows[0][3 : 3 + len(NAMES)] == [f"{g.name} (n = {g.n})" for g in table.groups]
    drop = table.rows[1].drops[0]
    assert drop.low_pp is not None
    assert drop.high_pp is not None
    value, low, high = re.findall(r"-?[\d.]+", rows[2][3])
    assert value == f"{drop.drop_pp:.1f}"
    assert drop.low_pp - 0.1 < float(low) <= drop.low_pp, "rounded down"
    assert drop.high_pp <= float(high) < drop.high_pp + 0.1, "rounded up"
    assert rows[2][3] == f"{value} [{low}, {high}]"
    assert rows[2][0] == "PTQ 8"
    bold = [line.count("**") for line in text.splitlines() if line.startswith("| ")]
    assert bold == [0, 0, 2, 2, 2, 2, 0]  # the head, the rule, and a named group in every row with drops


def test_markdown_and_latex_escape_what_they_would_read(planted: dict[str, Any]) -> None:
    html = MarkdownIt("gfm-like", {"linkify": False}).render(escape_markdown(SPECIAL))
    assert html.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">") == f"<p>{SPECIAL}</p>\n"
    assert escape_latex("_&%#${}") == r"\_\&\%\#\$\{\}"
    assert escape_latex("~^\\") == r"\textasciitilde{}\textasciicircum{}\textbackslash{}"
    assert escape_latex("[a]\nb") == "{[}a{]} b"


@pytest.mark.parametrize("n_groups", [1, 3, 4, 6, 7, 8, 20])
def test_latex_is_balanced_and_every_tabular_has_full_rows_that_fit_a_page(n_groups: int) -> None:
    names = tuple(f"g_{index}" for index in range(n_groups))
    table = find(make_planted())
    first = table.rows[1]
    row = first._replace(drops=first.drops[:1] * n_groups)
    groups = tuple(table.groups[0]._replace(name=name) for name in names)
    text = format_latex(table._replace(groups=groups, rows=(row,)))
    plain = re.sub(r"\\[\\{}&]", "", text)
    assert plain.count("{") == plain.count("}")
    tabulars = re.findall(r"\\begin\{tabular\}\{(l+r*)\}\n\\toprule\n(.*?)\\bottomrule", text, re.DOTALL)
    shown = []
    for columns, body in tabulars:
        lines = [line for line in body.splitlines() if line != r"\midrule"]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}
        assert len(columns) <= 9
        shown += lines[0].removesuffix(r" \\").split(" & ")[1:]
    assert shown == ["Seeds", "All images", *map(escape_latex, names), "Disparity", "At most", "Answer", "Verdict"]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_with_booktabs_alone(planted: dict[str, Any], tmp_path: Path) -> None:
    body = "\n".join(format_latex(table) for table in make_paper_tables(planted))
    source = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n" + body + "\\end{document}\n"
    (tmp_path / "paper.tex").write_text(source, encoding="utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, errors="replace")
    assert run.returncode == 0, run.stdout[-2000:]
    assert (tmp_path / "paper.pdf").exists()


def test_csv_and_parquet_hold_the_same_tidy_frame(planted: dict[str, Any]) -> None:
    table = find(planted)
    csv = pd.read_csv(io.BytesIO(FORMATS["csv"][1](table)))
    parquet: Any = pd.read_parquet(io.BytesIO(FORMATS["parquet"][1](table)))
    assert csv.columns.tolist() == parquet.columns.tolist()
    pd.testing.assert_frame_equal(csv, parquet[csv.columns], check_dtype=False)
    assert not parquet.duplicated(["config_id", "group"]).any()


def test_file_names_are_plain_and_unique(planted: dict[str, Any]) -> None:
    rows = rows_from_tables(planted)
    for row in rows["groups"]:
        row["grouping"] = {"label": "ethnicity*gender", "ethnicity": "ethnicity by gender"}.get(
            row["grouping"], "overall"
        )
    slugs = [table.slug for table in make_paper_tables(tables_from_rows(rows))]
    assert len(set(slugs)) == len(slugs) == 4
    assert "faces-gender-small-cnn-ethnicity-by-gender-reference-2" in slugs
    assert all(re.fullmatch(r"[a-z0-9-]+", slug) for slug in slugs)


def test_the_command_writes_every_format_where_it_says(tmp_path: Path) -> None:
    store = Pets(tmp_path / "store").store.location
    words = ["report", store, *(word for name in FORMATS for word in ("--format", name))]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0
    places = [line.removeprefix("table: ") for line in said.stdout.splitlines() if line.startswith("table: ")]
    assert {Path(place).suffix for place in places} == {".csv", ".parquet", ".tex", ".md"}
    assert all(Path(place).parent == Path(store, "exports") and Path(place).stat().st_size for place in places)
    elsewhere = [*words[:4], "--output", str(tmp_path / "paper"), "--json"]
    exports = json.loads(CliRunner().invoke(app, elsewhere).stdout)["exports"]
    assert exports
    assert {Path(place).parent for place in exports} == {tmp_path / "paper"}
    assert "exports" not in json.loads(CliRunner().invoke(app, ["report", store, "--json"]).stdout)


def test_an_output_without_a_format_is_refused(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["report", str(tmp_path), "--output", "paper"])
    assert said.exit_code == 2
    assert "add `--format latex`, say" in said.stderr
