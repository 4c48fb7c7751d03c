"""The accessibility check itself: it names what is bad, lets good pages pass, and works under the page's own policy."""

from typing import TYPE_CHECKING

import pytest
from axe import find_violations

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
POLICY = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">"
HEAD = f"<!doctype html><html lang='en'><head>{POLICY}<title>Drops</title></head><body style='background: #fff'><main>"
GOOD = f"{HEAD}<h1>Drops</h1><label>Bits <select><option>4</option></select></label><p>loses 3.1 pp</p></main></html>"
BAD = f"""{HEAD}<h1>Drops</h1><select id='bits'><option>4</option></select><p id='pale' style='color: #ccc'>3.1 pp</p>
    {"".join(f"<button id='b{n}'></button>" for n in range(7))}</main></html>"""


def check(browser: "Browser", html: str) -> tuple[list[str], list[str]]:
    """Violations, and everything that the page complained about or asked for."""
    page, trouble = browser.new_page(), list[str]()
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url))
    page.set_content(html)
    found = find_violations(page)
    page.close()
    return found, trouble


def test_a_good_page_has_no_violation_and_is_checked_without_a_request_or_a_complaint(browser: "Browser") -> None:
    assert check(browser, GOOD) == ([], [])


def test_a_bad_page_is_told_by_rule_element_and_what_is_wrong(browser: "Browser") -> None:
    found, trouble = check(browser, BAD)
    by_rule = {text.split(" ")[0]: text for text in found}
    assert set(by_rule) == {"button-name", "color-contrast", "select-name"}
    assert by_rule["select-name"].startswith(
        "select-name (critical): Select element must have an accessible name: #bits ["
    )
    assert "#pale [Element has insufficient color contrast of 1.6" in by_rule["color-contrast"]
    assert "#b4 [" in by_rule["button-name"]
    assert by_rule["button-name"].endswith(", and 2 more")
    assert trouble == []


def test_what_is_moderate_is_left_out(browser: "Browser") -> None:
    assert check(browser, GOOD.replace("<h1>Drops</h1>", "<h4>Drops</h4>").replace("<main>", "<div>")) == ([], [])


def test_the_policy_under_which_it_is_checked_does_stop_other_scripts(browser: "Browser") -> None:
    _, trouble = check(browser, GOOD.replace("</main>", "<script>window.stolen = 1</script></main>"))
    assert sum("Content Security Policy" in line for line in trouble) == 1
