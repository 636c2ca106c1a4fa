"""The site in a real browser: it sorts, filters, leads somewhere, asks no host for anything and fits a phone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.site.site import write
from tests.told import whole

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,900",
    "--force-prefers-reduced-motion",
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver: apt install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    return write(whole(folder / "results"), folder / "site").parent


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def _open(browser: Any, page: Path) -> None:
    """The page, by whatever it was last: sorted and filtered anew."""
    browser.get(page.as_uri())


def _column(browser: Any, table: str, column: int) -> list[str]:
    """The texts of a column of the visible rows of the first such table, from the top."""
    program = """
        const table = document.querySelector(arguments[0]);
        const units = table.dataset.unit === "body" ? [...table.tBodies] : [...table.tBodies[0].rows];
        const cells = units.filter((unit) => !unit.hidden && unit.getClientRects().length)
            .map((unit) => (unit.rows ? unit.rows[0] : unit).cells[arguments[1]]);
        return cells.map((cell) => cell.dataset.v || cell.textContent.trim());
    """
    found: list[str] = browser.execute_script(program, table, column)
    return found


def _head(browser: Any, table: str, column: int) -> Any:
    return browser.find_elements("css selector", f"{table} thead th")[column]


FIGURES = "table.figures[data-unit=body]"
MEDIAN = 2


def test_a_click_sorts_by_value_and_a_third_restores_the_order(browser: Any, site: Path) -> None:
    _open(browser, site / "operator-rms_norm.html")
    before = _column(browser, FIGURES, MEDIAN)
    ordered = sorted(before, key=float)
    assert before != ordered, "expected rows that stand by case, not by time"
    head = _head(browser, FIGURES, MEDIAN)
    button = head.find_element("css selector", "button")
    assert head.get_attribute("aria-sort") is None
    for direction, expected in (("ascending", ordered), ("descending", ordered[::-1]), (None, before)):
        button.click()
        assert head.get_attribute("aria-sort") == direction
        assert _column(browser, FIGURES, MEDIAN) == expected


def test_a_key_sorts_and_only_one_column_is_sorted_by(browser: Any, site: Path) -> None:
    _open(browser, site / "operator-rms_norm.html")
    _head(browser, FIGURES, MEDIAN).find_element("css selector", "button").send_keys("\ue007")
    _head(browser, FIGURES, 0).find_element("css selector", "button").send_keys(" ")
    names = _column(browser, FIGURES, 0)
    assert names == sorted(names)
    assert len({*names}) > 1
    table = browser.find_element("css selector", FIGURES)
    assert len(table.find_elements("css selector", "th[aria-sort]")) == 1


def test_what_has_no_value_stays_last_whichever_way(browser: Any, site: Path) -> None:
    _open(browser, site / "index.html")
    table = "table[data-name=verdicts]"
    button = _head(browser, table, 2).find_element("css selector", "button")
    for _ in range(2):
        button.click()
        assert _column(browser, table, 2)[-1] == "-"


def test_the_details_of_a_row_move_with_it(browser: Any, site: Path) -> None:
    _open(browser, site / "operator-rms_norm.html")
    program = """return [...document.querySelectorAll(arguments[0] + " tbody")]
        .filter((body) => body.textContent.includes("foreign load")).map((body) => body.rows[0].cells[0].textContent)"""
    before = browser.execute_script(program, FIGURES)
    _head(browser, FIGURES, MEDIAN).find_element("css selector", "button").click()
    assert browser.execute_script(program, FIGURES) == before == ["eager"]


def test_a_filter_hides_what_lacks_one_of_its_words_and_says_how_much_is_left(browser: Any, site: Path) -> None:
    _open(browser, site / "operator-rms_norm.html")
    whole_table = _column(browser, FIGURES, 0)
    box = browser.find_element("css selector", ".filter input")
    box.send_keys("TRITON 2048")
    assert _column(browser, FIGURES, 0) == ["triton"]
    assert browser.find_element("css selector", ".filter output").text == f"1 of {len(whole_table)}"
    box.clear()
    box.send_keys("no such row")
    assert _column(browser, FIGURES, 0) == []
    box.clear()
    box.send_keys(" ")
    assert _column(browser, FIGURES, 0) == whole_table


def test_every_link_leads_somewhere(browser: Any, site: Path) -> None:
    for page in sorted(site.glob("*.html")):
        _open(browser, page)
        links = browser.execute_script("return [...document.links].map((link) => link.href)")
        assert links
        for link in links:
            address, _, anchor = link.partition("#")
            file = Path(address.removeprefix("file://"))
            assert file.is_relative_to(site), link
            assert file.is_file(), link
            assert not anchor or f'id="{anchor}"' in file.read_text(encoding="utf-8"), link


def test_a_click_leads_from_the_overview_to_an_operator(browser: Any, site: Path) -> None:
    _open(browser, site / "index.html")
    browser.find_element("css selector", "table.overview a").click()
    assert "operator-rms_norm.html#mode-fwd" in browser.current_url
    assert browser.find_element("css selector", "h1").text == "rms_norm"


def test_no_page_complains_or_asks_anybody(browser: Any, site: Path) -> None:
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    for page in sorted(site.glob("*.html")):
        _open(browser, page)
        assert [entry["message"] for entry in browser.get_log("browser")] == []
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        assert asked == [page.as_uri()]


def test_the_policy_forbids_what_is_not_ours(browser: Any, site: Path) -> None:
    """A script or a style that somebody smuggled in would not run: the page names its own by their hashes."""
    _open(browser, site / "index.html")
    browser.execute_script("""
        const script = document.createElement("script");
        script.textContent = "document.title = 'smuggled'";
        document.body.append(script);
        const style = document.createElement("style");
        style.textContent = "h1 { color: rgb(1, 2, 3) }";
        document.head.append(style);
    """)
    assert browser.title != "smuggled"
    colour = browser.execute_script("return getComputedStyle(document.querySelector('h1')).color")
    assert colour != "rgb(1, 2, 3)"
    refused = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "Content Security Policy" in refused


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(browser: Any, site: Path, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        for page in sorted(site.glob("*.html")):
            _open(browser, page)
            browser.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true })")
            assert browser.execute_script("return document.documentElement.scrollWidth") == 360, page.name
            dark = (
                browser.execute_script("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
            )
            assert dark is (scheme == "dark")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_without_scripts_all_stands_there(browser: Any, site: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        _open(browser, site / "operator-rms_norm.html")
        assert browser.find_elements("css selector", "button, input") == []
        rows = browser.find_elements("css selector", f"{FIGURES} th[scope=row]")
        assert len(rows) == 40
        assert all(row.is_displayed() for row in rows)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
