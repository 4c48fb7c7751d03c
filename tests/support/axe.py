"""axe-core on an open page: what keeps people from using it with a keyboard, a screen reader or weak eyes.

`Page.evaluate` runs the script in the page although its policy allows only scripts of known hashes, where
`add_script_tag` is stopped by that policy; so what is checked is the page as people get it, without `bypass_csp`
(Playwright 1.65, Chromium; the tests check it). What axe cannot decide, such as the contrast of text on a picture, is
not in its violations.
Source of the rules: axe-core, by Deque, which the package axe-playwright-python brings.
"""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from playwright.sync_api import Page

GRAVE: Final = ("serious", "critical")
_N_SHOWN: Final = 5  # elements of one rule


def find_violations(page: "Page") -> list[str]:
    """Return the serious and critical violations on a page, a text for each rule; [] where there is none.

    A text is `rule (impact): what to do: selector [what is wrong], ...`, with the first five elements. axe sees what is
    in the page now: call it once for each state, color scheme and width. It leaves `window.axe` behind.
    """
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(page).response["violations"]
    return [_describe(violation) for violation in violations if violation["impact"] in GRAVE]


def _describe(violation: dict[str, Any]) -> str:
    nodes = violation["nodes"]
    rest = f", and {len(nodes) - _N_SHOWN} more" if len(nodes) > _N_SHOWN else ""
    told = ", ".join(_locate(node) for node in nodes[:_N_SHOWN])
    return f"{violation['id']} ({violation['impact']}): {violation['help']}: {told}{rest}"


def _locate(node: dict[str, Any]) -> str:
    """Return the selector of an element, and what is wrong with it."""
    checks = [check["message"] for kind in ("any", "all", "none") for check in node[kind]]
    return f"{' '.join(map(str, node['target']))} [{checks[0]}]"
