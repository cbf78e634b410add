"""The page in headless Chromium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from benchmarks import __main__ as command

from . import samples

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("chromium", "chromedriver"))), reason="needs Chromium and its driver"
)

GROUP = "mobilenet-on-a-cpu-avx2-2-cores"


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    # As root it runs only without a sandbox, and a container's /dev/shm can be too small.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The page of the samples."""
    folder = tmp_path_factory.mktemp("report")
    given = [*samples.write_results(folder), samples.write_predictions(folder)]
    assert command.main(["report", *map(str, given), "-o", str(folder / "report.html")]) == 0
    return folder / "report.html"


@pytest.fixture
def page(chromium, report) -> webdriver.Chrome:
    """The page, freshly loaded and drawn, in light."""
    for kind in ("browser", "performance"):
        chromium.get_log(kind)
    prefer(chromium, "light")
    chromium.get(report.as_uri())
    drawn = "const done = arguments[0]; ready.then(() => done(null), (error) => done(String(error.stack)));"
    assert chromium.execute_async_script(drawn) is None
    return chromium


def prefer(page: webdriver.Chrome, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def data(page: webdriver.Chrome, chart: str, name: str) -> list[dict[str, Any]]:
    """A data set of a chart, as Vega holds it."""
    return page.execute_script("return views[arguments[0]][arguments[1]].data(arguments[2])", GROUP, chart, name)


def marks(page: webdriver.Chrome, chart: str, role: str) -> list[str]:
    """What the chart's marks of a role say of themselves to a screen reader."""
    selector = f'#{GROUP}-{chart} [aria-roledescription="{role}"]'
    return [mark.get_attribute("aria-label") for mark in page.find_elements(By.CSS_SELECTOR, selector)]


def column(page: webdriver.Chrome, table: Any, title: str) -> list[str]:
    titles = [head.text.strip() for head in table.find_elements(By.CSS_SELECTOR, "thead th")]
    cells = f"tbody td:nth-child({titles.index(title) + 1})"
    return [cell.text for cell in table.find_elements(By.CSS_SELECTOR, cells)]


@pytest.fixture
def rows(page) -> Any:
    """The table of all rows of the group."""
    return page.find_element(By.CSS_SELECTOR, f"#{GROUP} table.data")


def test_no_errors_and_no_network(page):
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    requests = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert requests and {url.split(":")[0] for url in requests} <= {"file", "data"}


def test_charts_have_the_data_of_the_results(page):
    held = data(page, "speedup", "rows")
    assert len(held) == 8
    times = {(r["case"], r["batch"], r["contender"]): r.get("median_ms") for r in held}
    assert times["first", 1, "mbv1"] == pytest.approx(0.2) and times["first", 8, "slow"] == pytest.approx(4.0)
    assert times["first", 8, "quick"] is None
    means = {row["label"]: row["mean"] for row in data(page, "means", "means")}
    assert means["best peer of each case"] == pytest.approx(2**0.5, rel=1e-4)
    assert {r["commit"] for r in data(page, "history", "history")} == {"1" * 9, "2" * 9}
    assert {r["gflop_per_s"] for r in data(page, "roofline", "roofs")} >= {50.0, 200.0}


def test_charts_show_it(page):
    bars = marks(page, "speedup", "bar")
    assert len(bars) == 4 and any("contender: slow" in bar and "speed up: 4.000" in bar for bar in bars)
    assert len(marks(page, "speedup", "rule mark")) == 4
    assert any("reason: out of <memory> & luck" in text for text in marks(page, "speedup", "text mark"))
    assert len(marks(page, "latency", "point")) == 6  # first: all that ran
    assert len(marks(page, "history", "point")) == 5  # mbv1: two cases of two commits, and the one that is gone
    assert len(marks(page, "roofline", "point")) == 7


def test_menus_filter_a_chart(page):
    menu = Select(page.find_element(By.CSS_SELECTOR, f"#{GROUP}-speedup select[name=pick_batch]"))
    menu.select_by_visible_text("8")
    assert len(marks(page, "speedup", "bar")) == 1


def test_the_legend_hides_a_contender_in_every_chart(page):
    chip = page.find_element(By.CSS_SELECTOR, f'#{GROUP} [data-contender="slow"]')
    chip.click()
    for chart, role in (("speedup", "bar"), ("latency", "point"), ("means", "circle")):
        assert marks(page, chart, role) and not any("slow" in mark for mark in marks(page, chart, role))
    chip.click()
    assert len(marks(page, "speedup", "bar")) == 4


def test_tables_have_the_data_of_the_results(page, rows):
    assert column(page, rows, "case") == ["first"] * 7 + ["gone <b>"]
    assert column(page, rows, "batch") == ["1"] * 4 + ["8"] * 3 + ["1"]
    assert column(page, rows, "median ms") == ["0.200", "0.300", "0.100", "0.800", "1.00", "", "4.00", "0.00500"]
    assert column(page, rows, "/ mbv1")[:4] == ["", "1.50×", "0.50×", "4.00×"]  # noqa: RUF001
    assert column(page, rows, "noisy") == ["", "", "", "noisy", "", "", "", ""]
    predicted = page.find_element(By.CSS_SELECTOR, "#predictions table.data")
    assert column(page, predicted, "predicted µs") == ["2.00"]


def test_tables_sort_by_value(page, rows):
    head = next(h for h in rows.find_elements(By.CSS_SELECTOR, "thead th") if h.text.strip() == "median ms")
    head.find_element(By.CSS_SELECTOR, ".dt-column-title").click()
    assert column(page, rows, "median ms") == ["", "0.00500", "0.100", "0.200", "0.300", "0.800", "1.00", "4.00"]
    head.find_element(By.CSS_SELECTOR, ".dt-column-title").click()
    assert column(page, rows, "median ms")[:2] == ["4.00", "1.00"]


def test_tables_filter(page, rows):
    search = page.find_element(By.CSS_SELECTOR, f"#{GROUP} .dt-search input")
    search.send_keys("triton")
    assert column(page, rows, "contender") == ["mbv1 triton"]


def test_a_column_filters_by_its_values(page, rows):
    head = next(h for h in rows.find_elements(By.CSS_SELECTOR, "thead th") if h.text.strip() == "contender")
    head.find_element(By.CSS_SELECTOR, "button.dtcc-button").click()
    choices = page.find_elements(By.CSS_SELECTOR, f"#{GROUP} .dtcc-dropdown .dtcc-list-buttons button")
    assert sorted(choice.text for choice in choices) == ["mbv1", "mbv1 triton", "quick", "slow"]
    next(choice for choice in choices if choice.text == "quick").click()
    assert column(page, rows, "contender") == ["quick", "quick"]


def test_a_column_filters_by_a_limit(page, rows):
    head = next(h for h in rows.find_elements(By.CSS_SELECTOR, "thead th") if h.text.strip() == "/ mbv1")
    head.find_element(By.CSS_SELECTOR, "button.dtcc-button").click()
    dropdown = page.find_element(By.CSS_SELECTOR, f"#{GROUP} .dtcc-dropdown")
    Select(dropdown.find_element(By.TAG_NAME, "select")).select_by_visible_text("Greater than")
    dropdown.find_element(By.TAG_NAME, "input").send_keys("1")
    assert column(page, rows, "/ mbv1") == ["1.50×", "4.00×", "4.00×"]  # noqa: RUF001


def test_light_and_dark(page):
    def shown() -> tuple[str, str]:
        body = page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        label = page.find_element(By.CSS_SELECTOR, f"#{GROUP}-speedup .role-axis-label text")
        return body, label.value_of_css_property("fill")

    light = shown()
    page.find_element(By.ID, "theme").click()
    dark = shown()
    assert all(before != after for before, after in zip(light, dark, strict=True))
    page.find_element(By.ID, "theme").click()
    assert shown() == light
    prefer(page, "dark")
    page.execute_async_script("requestAnimationFrame(arguments[0])")
    assert shown() == dark


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen(page, width):
    """Wide tables scroll by themselves, never the page."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.execute_async_script("setTimeout(arguments[0], 300)")
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        charts = page.execute_script(
            "return [...document.querySelectorAll('.chart')].map((c) => c.scrollWidth - c.clientWidth)"
        )
        assert charts and max(charts) <= 1
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
