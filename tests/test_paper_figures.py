"""Figures for papers: the page's own chart, as a file of the width that was asked for."""

import re
import struct
from pathlib import Path

import pyarrow.compute as pc
import pytest
from simulated_sweep import make_store, make_tables
from typer.testing import CliRunner

from quantfair.orchestrator.commands.app import app
from quantfair.results import draw_figure, update_report
from quantfair.results.page.paper_figures import VARIABLE, FigureError
from quantfair.results.page.report import render_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, browser: object) -> str:
    """A small store; `browser` says where there is none to draw with."""
    folder = tmp_path_factory.mktemp("figures") / "store"
    make_store(folder, seeds=(0,), bits=(8, 4), observers=("minmax",), datasets=("faces",))
    return str(folder)


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["figure", *words])
    return result.exit_code, result.output


def test_a_figure_is_a_file_of_the_width_asked_for(store: str, tmp_path: Path) -> None:
    svg, png = tmp_path / "drops.svg", tmp_path / "drops.png"
    assert run(store, "groups", "--output", str(svg), "--width-mm", "170") == (0, f"{svg}\n")
    assert run(store, "groups", "--output", str(png), "--width-mm", "170")[0] == 0
    px = round(170 / 25.4 * 96)
    assert re.match(rf'<svg class="main-svg"[^>]* width="{px}"', svg.read_text())
    assert "Few*female" not in svg.read_text()  # of another grouping than the usual one
    width, _ = struct.unpack(">II", png.read_bytes()[16:24])
    assert width == pytest.approx(170 / 25.4 * 300, abs=3)


def test_filters_of_the_address_choose_what_is_drawn(store: str, tmp_path: Path) -> None:
    place = tmp_path / "figure.svg"
    run(store, "groups", "--output", str(place), "--filters", "#grouping=ethnicity*gender")
    assert "Few*female" in place.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nope",), "No chart is called 'nope': there are accuracy, slopes, drops"),
        pytest.param(
            ("runtimes",),
            'nothing to draw: this sweep measured torch alone; runtimes = ["torch", "onnxruntime"]',
            marks=pytest.mark.slow,  # it draws a page, and so does the last one; `test_report_browser.py` has the same
        ),
        (("drops", "--output", "drops.pdf"), "`--output` must end in .svg or .png, got drops.pdf"),
        (("drops", "--output", "no/such/drops.svg"), "`--output` is in a folder that does not exist: /"),
        pytest.param(
            ("drops", "--filters", "bits=99&nonsense=1"),
            "--filters: the dashboard does not know bits=99, nonsense=1.",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_drawn_says_why(store: str, words: tuple[str, ...], said: str) -> None:
    code, output = run(store, *words)
    assert code == 2
    assert said in " ".join(output.split())


def test_a_page_without_a_finished_trial_has_no_chart(browser: object) -> None:
    tables = dict(make_tables(seeds=(0,), datasets=("faces",), fails_reference=True, n_missing=2))
    with pytest.raises(FigureError, match="The page has no chart 'drops': no trial has finished, so there are none"):
        draw_figure(render_report(tables), "drops", "svg", width_mm=85)


def test_a_page_of_another_version_says_which_charts_it_has(browser: object) -> None:
    page = """<html data-drawn="all"><script>window.quantfair = { keys: ["losses", "gains"], unknown: [] };</script>"""
    with pytest.raises(FigureError, match="The page has no chart 'drops': the page has losses, gains"):
        draw_figure(page, "drops", "svg", width_mm=85)


def test_a_program_that_is_no_browser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/bin/true")
    with pytest.raises(FigureError, match=r"The browser /bin/true did not draw it: "):
        draw_figure("<p>", "drops", "svg", width_mm=85)


@pytest.mark.slow
def test_a_figure_is_of_the_store_as_it_is_with_the_metrics_it_was_built_with(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", seeds=(0,), bits=(8,), observers=("minmax",), datasets=("faces",))
    update_report(store, metrics=["user_metrics:is_right"])
    built = Path(store.location, "tables", "built.json").stat().st_mtime_ns
    place = tmp_path / "figure.svg"
    words = (store.location, "groups", "--output", str(place), "--filters", "metric=is_right")
    assert run(*words) == (0, f"{place}\n")
    assert Path(store.location, "tables", "built.json").stat().st_mtime_ns == built
    row = next(row for row in store.read_trials().to_pylist() if row["method"] == "ptq")
    store.remove_trial(row["trial_id"])
    assert run(*words)[0] == 0
    assert row["trial_id"] not in store.read_table("trials").filter(pc.field("status") == "ok")["trial_id"].to_pylist()
    assert "is_right" in store.read_table("own_metrics")["metric"].to_pylist()


def test_without_a_browser_the_remedy_is_told(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "no-such-browser")
    with pytest.raises(FigureError, match=f"{VARIABLE} names no-such-browser, which is no program. Install one"):
        draw_figure("<p>", "drops", "svg", width_mm=85)
