"""The page in a real browser: it draws everything, asks for nothing, and works by keyboard, on a phone, in the dark.

Needs Chromium and the package playwright (in the extra `dev`). Without them these tests are skipped, unless the
variable QUANTFAIR_REQUIRE names "browser".
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import pytest
from synthetic_tables import make_tables

from results.page.report import render_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def give_up(reason: str) -> NoReturn:
    if "browser" in os.environ.get("QUANTFAIR_REQUIRE", ""):
        pytest.fail(f"QUANTFAIR_REQUIRE asks for a browser, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        give_up("the package playwright is not installed")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        give_up(f"none of {', '.join(NAMES)} is on the PATH")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(make_tables()), encoding="utf-8")
    return path


class Visit:
    """An open page, with everything that it complained about or asked for."""

    def __init__(self, browser: "Browser", file: Path, *, width: int = 1280, scheme: str = "light"):
        self.trouble: list[str] = []
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": 800}, color_scheme="dark" if scheme == "dark" else "light"
        )
        self.page.on("console", lambda message: self.trouble.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", lambda request: self.trouble.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-drawn=all]", timeout=60_000)
        self.trouble.remove(file.as_uri())


def test_every_figure_is_drawn_without_a_request_or_a_complaint(browser: "Browser", file: Path) -> None:
    visit = Visit(browser, file)
    assert visit.trouble == []
    drawn = visit.page.locator(".plot .main-svg").evaluate_all("all => new Set(all.map(e => e.closest('.plot'))).size")
    assert drawn == visit.page.locator("figure").count() == 12
    assert visit.page.locator(".plot .scatterlayer .trace").count() == 2 * (10 + 6 + 2)
    assert visit.page.evaluate("window.stolen") is None
    visit.page.close()


def test_policy_of_the_page_stops_foreign_scripts(browser: "Browser", file: Path, tmp_path: Path) -> None:
    harmed = tmp_path / "harmed.html"
    attack = "<script>window.stolen = 1</script><img src='data:,' onerror='window.stolen = 2'>"
    harmed.write_text(file.read_text(encoding="utf-8").replace("</body>", f"{attack}</body>"), encoding="utf-8")
    visit = Visit(browser, harmed)
    assert visit.page.evaluate("window.stolen") is None
    assert sum("Content Security Policy" in line for line in visit.trouble) == 2
    visit.page.close()


def test_phone_shows_all_without_scrolling_sideways(browser: "Browser", file: Path) -> None:
    visit = Visit(browser, file, width=380, scheme="dark")
    assert visit.trouble == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 380
    assert not visit.page.locator(".summary thead").first.is_visible()
    visit.page.close()


def test_charts_follow_the_color_scheme(browser: "Browser", file: Path) -> None:
    from playwright.sync_api import expect

    visit = Visit(browser, file)
    chart, body = visit.page.locator(".plot .main-svg").first, visit.page.locator("body")
    schemes: tuple[tuple[Literal["light", "dark"], str], ...] = (
        ("light", "rgb(255, 255, 255)"),
        ("dark", "rgb(21, 25, 29)"),
    )
    for scheme, color in schemes:
        visit.page.emulate_media(color_scheme=scheme)
        expect(body).to_have_css("background-color", color)
        expect(chart).to_have_css("background-color", color)
    assert visit.trouble == []
    visit.page.close()


def test_table_of_trials_sorts_by_keyboard_with_missing_values_last(browser: "Browser", file: Path) -> None:
    visit = Visit(browser, file)
    head = visit.page.locator(".trials thead th", has_text="Accuracy")
    read = "rows => rows.map(row => row.cells[9].dataset.value ?? null).map(v => v === null ? null : Number(v))"
    for direction, in_order in (("ascending", sorted), ("descending", lambda v: sorted(v, reverse=True))):
        head.locator("button").focus()
        visit.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == direction
        values = visit.page.locator(".trials tbody tr").evaluate_all(read)
        assert values[-1] is None
        assert values[:-1] == list(in_order(values[:-1]))
        assert len(set(values)) > 30
    assert visit.page.locator(".trials thead [aria-sort=none]").count() == 14
    visit.page.close()


def test_a_group_is_focused_by_keyboard_in_all_lines_of_its_section(browser: "Browser", file: Path) -> None:
    visit = Visit(browser, file)
    section = visit.page.locator(".charts").first
    chip = section.locator(".chips button", has_text="3")
    index = int(chip.get_attribute("data-index") or -1)
    focused = """plots => plots.map(plot =>
        [...plot.querySelectorAll(".scatterlayer .trace")].findIndex(trace => trace.classList.contains("focus")))"""
    before = section.locator(".line .plot").evaluate_all(focused)
    assert index not in before
    chip.focus()
    visit.page.keyboard.press("Space")
    assert chip.get_attribute("aria-pressed") == "true"
    assert section.locator(".line .plot").evaluate_all(focused) == [index, index]
    visit.page.keyboard.press("Space")
    assert section.locator(".line .plot").evaluate_all(focused) == before
    visit.page.close()


def test_printing_opens_every_table_on_white_and_closes_it_again(browser: "Browser", file: Path) -> None:
    visit = Visit(browser, file, scheme="dark")
    visit.page.evaluate(
        """addEventListener("beforeprint", () => { window.seen = [document.querySelectorAll("details[open]").length,
        document.querySelector(".plot .main-svg").style.backgroundColor] })"""
    )
    assert visit.page.pdf().startswith(b"%PDF")
    assert visit.page.evaluate("window.seen") == [12, "rgb(255, 255, 255)"]
    assert visit.page.locator("details[open]").count() == 0
    assert visit.trouble == []
    visit.page.close()


def test_without_scripts_every_number_is_still_in_a_table(browser: "Browser", file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(".plot").first.inner_text() == "The chart needs JavaScript; its numbers are in the table below."
    page.locator("details summary").first.click()
    assert page.locator(".twin td").first.is_visible()
    context.close()
