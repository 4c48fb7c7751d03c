"""A chart is one row of `CHARTS` and one file that is found by its key."""

import json
import re
from pathlib import Path

import pytest
from simulated_sweep import make_tables
from typer.testing import CliRunner

from quantfair.orchestrator.commands.app import app
from quantfair.results import CHART_KEYS, draw_figure
from quantfair.results.page.charts import CHARTS, format_chart_list
from quantfair.results.page.paper_figures import VARIABLE, FigureError
from quantfair.results.page.report import FOLDER, SCRIPTS, render_report

ROOT = Path(__file__).resolve().parent.parent
# People have these in addresses and in scripts.
PROMISED = (
    *("accuracy", "slopes", "drops", "tradeoff", "chance", "seeds", "groups", "intersections", "flips", "shifts"),
    *("sensitivity", "calibration", "mechanism", "runtimes"),
)


def read_script(name: str) -> str:
    return (FOLDER / "js" / f"{name}.js").read_text(encoding="utf-8")


def test_every_chart_has_its_file_and_every_file_its_chart() -> None:
    files = {path.stem for path in (FOLDER / "js").glob("chart_*.js")}
    assert files == {f"chart_{key}" for key in CHART_KEYS}
    assert len(set(CHART_KEYS)) == len(CHARTS)


@pytest.mark.parametrize("key", CHART_KEYS)
def test_the_file_of_a_chart_defines_the_function_of_its_key(key: str) -> None:
    assert re.fullmatch("[a-z]+", key), "the key is part of addresses, file names and functions"
    defined = re.findall(r"^const (draw\w+) =", read_script(f"chart_{key}"), flags=re.MULTILINE)
    assert defined == [f"draw{key[0].upper()}{key[1:]}"]


def test_every_script_of_the_folder_is_in_the_page_once() -> None:
    files = sorted(path.stem for path in (FOLDER / "js").glob("*.js"))
    assert sorted([*SCRIPTS, "main"]) == files


def test_keys_that_people_use_stay() -> None:
    assert set(PROMISED) <= set(CHART_KEYS)


def test_no_chart_has_the_address_of_another_part_of_the_page() -> None:
    html = render_report(make_tables(seeds=(0,), bits=(8,), observers=("minmax",), datasets=("faces",)))
    ids = re.findall(r'<[^<>]* id="([^"]+)"', html.partition("<script")[0])
    assert {"charts", "losses", "trials", "methods"} <= set(ids)
    assert not set(ids) & set(CHART_KEYS)


def test_the_page_gets_every_row_with_its_function() -> None:
    lines = format_chart_list().splitlines()
    assert (lines[0], lines[-1]) == ("const CHARTS = [", "];")
    assert len(lines) == len(CHARTS) + 2
    for line, chart in zip(lines[1:-1], CHARTS, strict=True):
        row = re.fullmatch(r"  \{ key: (.*), title: (.*), draw: (\w+), ignores: (\[.*\]) \},", line)
        assert row
        key, title, draw, ignores = row.groups()
        assert (json.loads(key), json.loads(title), json.loads(ignores)) == (chart.key, chart.title, [*chart.ignores])
        assert draw.lower() == f"draw{chart.key}"


def test_what_a_chart_ignores_is_a_filter() -> None:
    labels = re.search(r"const LABELS = \{(.*?)\};", read_script("state"), flags=re.DOTALL)
    assert labels
    filters = set(re.findall(r"^  (\w+):", labels[1], flags=re.MULTILINE))
    assert {name for chart in CHARTS for name in chart.ignores} <= filters


def test_an_unknown_chart_is_refused_with_the_known_ones_before_a_browser_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "no-such-browser")
    with pytest.raises(FigureError, match=f"No chart is called 'map': there are {', '.join(CHART_KEYS)}"):
        draw_figure("<p>", "map", "svg", width_mm=85)


def test_help_and_readme_name_every_chart() -> None:
    said = CliRunner().invoke(app, ["figure", "--help"]).output
    assert f"One of {', '.join(CHART_KEYS)}." in re.sub(r"[\s│]+", " ", said)
    readme = "".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", ROOT / "results" / "README.md"])
    assert [key for key in CHART_KEYS if f"`{key}`" not in readme] == []
