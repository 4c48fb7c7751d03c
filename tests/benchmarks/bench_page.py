"""The dashboard of about 1,000 trials of 63 groups, and of 5,000 trials: seconds to write it, its size, seconds to use.

`usable_s` is from the start of the page's script until filters answer and what is on the screen is drawn, `drawn_s`
until the last chart is, both in Chromium without a window; null where there is none. Tables are made first, for
minutes.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from simulated_sweep import make_tables

from quantfair.results.page.paper_figures import FigureError, find_browser
from quantfair.results.page.report import render_report

OBSERVERS = tuple(f"observer {number}" for number in range(11))
AXES: dict[str, Any] = {"bits": (16, 8, 6, 5, 4), "observers": OBSERVERS, "schemes": ("symmetric", "asymmetric")}
SIZES: dict[str, dict[str, Any]] = {
    "996 trials, 63 groups": {"sizes": (100,) * 20, "names": tuple(f"group {number}" for number in range(20))},
    "4980 trials, 15 groups": {"seeds": tuple(range(15)), "sizes": (150, 80, 60, 40), "names": tuple("abcd")},
}
ROUNDS = 3


def measure_page(settings: dict[str, Any]) -> dict[str, Any]:
    """Return seconds and megabytes of one page, the best of ROUNDS."""
    tables = dict(make_tables(datasets=("faces",), **AXES, **settings))
    seconds, html = [], ""
    for _ in range(ROUNDS):
        began = time.perf_counter()
        html = render_report(tables)
        seconds.append(time.perf_counter() - began)
    return {"write_s": round(min(seconds), 2), "mb": round(len(html.encode()) / 1e6, 2), **measure_browser(html)}


def measure_browser(html: str) -> dict[str, float | None]:
    """Return the seconds until the page can be used, and until all of it is drawn."""
    try:
        browser_path = find_browser()
    except FigureError:
        return {"usable_s": None, "drawn_s": None}
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        place = Path(folder, "report.html")
        place.write_text(html, encoding="utf-8")
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page, began = browser.new_page(), time.perf_counter()
        page.goto(place.as_uri())
        page.wait_for_selector("html[data-drawn=all]", state="attached", timeout=120_000)
        drawn = time.perf_counter() - began
        usable = page.evaluate("quantfair.startedIn") / 1000
        browser.close()
    return {"usable_s": round(usable, 2), "drawn_s": round(drawn, 2)}


if __name__ == "__main__":
    print(json.dumps({name: measure_page(settings) for name, settings in SIZES.items()}, indent=2))
