"""A page and the name of one of its charts -> an SVG or PNG file at the width of a column, as the page draws it.

The page's own scripts draw the figure, in a browser without a window: what stands in the paper is what the page shows
under the same filters. That takes Chromium or Chrome, and the package playwright (extra `figures`) to drive it.
"""

import base64
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from quantfair.results.page.charts import CHART_KEYS
from quantfair.results.store.files import StoreError

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VARIABLE: Final = "QUANTFAIR_BROWSER"
PX_PER_MM: Final = 96 / 25.4
DOTS_PER_INCH: Final = 300  # of PNG files
TIMEOUT_MS: Final = 120_000


class FigureError(StoreError):
    """A figure cannot be drawn; the message says what to do."""


def draw_figure(html: str, key: str, suffix: str, *, width_mm: float, filters: str = "") -> bytes:
    """Return the chart `key` of a page as the bytes of a file.

    `suffix` is svg or png; `filters` is what stands behind # in the page's address once its filters are set.

    Raises:
        FigureError: there is no browser, no such chart, or nothing to draw under these filters.
    """
    if key not in CHART_KEYS:
        raise FigureError(f"No chart is called '{key}': there are {', '.join(CHART_KEYS)}.")
    with tempfile.TemporaryDirectory(prefix="quantfair-figure-") as folder:
        page = Path(folder, "report.html")
        page.write_text(html, encoding="utf-8")
        options = {"width": round(width_mm * PX_PER_MM), "scale": DOTS_PER_INCH / 96}
        with ThreadPoolExecutor(
            1
        ) as pool:  # of its own: a notebook's thread has an event loop that would be in the way
            drawn = pool.submit(_draw, f"{page.as_uri()}#{filters.removeprefix('#')}", key, suffix, options)
            address = drawn.result()
    head, _, body = address.partition(",")
    return base64.b64decode(body) if head.endswith(";base64") else unquote_to_bytes(body)


def find_browser() -> str:
    """Return where Chromium or Chrome is. Raises FigureError."""
    named = os.environ.get(VARIABLE)
    found = next((path for name in ([named] if named else BROWSERS) if (path := shutil.which(name))), None)
    if found is None:
        where = f"{VARIABLE} names {named}, which is no program" if named else f"none of {', '.join(BROWSERS)} is there"
        raise FigureError(f"Figures are drawn by Chromium or Chrome: {where}. Install one, or name it in {VARIABLE}.")
    return found


def _draw(address: str, key: str, suffix: str, options: dict[str, Any]) -> str:
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise FigureError("Figures need the package playwright: pip install playwright.") from error
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.goto(address)
            page.wait_for_selector("html[data-drawn=all]", state="attached", timeout=TIMEOUT_MS)
            keys, unknown = page.evaluate("[window.quantfair?.keys ?? [], window.quantfair?.unknown ?? []]")
            if key not in keys:
                charts = f"the page has {', '.join(keys)}" if keys else "no trial has finished, so there are none"
                raise FigureError(f"The page has no chart '{key}': {charts}.")
            if unknown:
                raise FigureError(f"--filters: the dashboard does not know {', '.join(unknown)}.")
            draw = "([key, format, options]) => quantfair.image(key, format, options)"
            return page.evaluate(draw, [key, suffix, options])
    except Error as error:
        said = error.message.splitlines()[0].removeprefix("Page.evaluate: Error: ")
        raise FigureError(f"The browser {find_browser()} did not draw it: {said}.") from error
