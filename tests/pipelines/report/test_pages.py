"""The pages of `report` and `inspect` in headless Chromium, opened from disk as their readers do."""

import json
import shutil
from itertools import pairwise

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import ray_job
from pipelines.config.commands import EvaluateConfig, RelabelConfig
from pipelines.inference import evaluate
from pipelines.relabeling import relabel

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs Chromium: apt-get install chromium chromium-driver",
)
FLAGS = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
SECTIONS = {
    "run": [
        "What was run", "Curves", "Cycles", "Scores: data-test", "Confusion: data-test",
        "Best and worst images: data-test", "Exported model",
    ],
    "data": [
        "Rows", "Classes", "Where classes lie", "Remarks and rejected samples", "Random rows", "Unusual labels",
    ],
    "better": ["What was made", "What changed", "Quality of the labels before", "Suspects"],
    "sweep": [
        "What was run", "Trials", "Weights against score", "Cycles", "Curves of the best trial", "Scores",
        "Exported model",
    ],
}  # fmt: skip
LOW_CONTRAST = """
const parse = (color) => { const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const over = ([r, g, b, a], below) => [r, g, b].map((value, i) => value * a + below[i] * (1 - a));
const back = (node) =>
  node ? over(parse(getComputedStyle(node).backgroundColor), back(node.parentElement)) : [255, 255, 255];
const luminance = (color) => color.map((value) => value / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement, style = getComputedStyle(node);
  if (!walker.currentNode.data.trim() || ["SCRIPT", "TITLE"].includes(node.tagName.toUpperCase())) continue;
  const behind = back(node), text = over(parse(node.closest("svg") ? style.fill : style.color), behind);
  const [low, high] = [luminance(text), luminance(behind)].sort((a, b) => a - b);
  const ratio = (high + 0.05) / (low + 0.05);
  if (ratio < 4.5) found.push([walker.currentNode.data, ratio]);
}
return [found, getComputedStyle(document.body).backgroundColor];
"""


@pytest.fixture(scope="module")
def pages(faces, regulated, swept, tmp_path_factory):
    """Pages of a data set, a run with cycles and scores, a relabelled data set with suspects, and a sweep, by name."""
    folder = tmp_path_factory.mktemp("report")
    run, better = folder / "run", folder / "better"
    shutil.copytree(regulated[0].out, run)  # scores are written into a run
    evaluate.run(EvaluateConfig(model=str(run), data=str(faces), out=f"{run}/evaluation/data-test", num_overlays=1))
    relabel.run(RelabelConfig(model=str(run), data=str(faces), out=str(better), policy="confident", suspects=3))
    assert ray_job.main(["inspect", "--data", str(faces), "--out", str(folder / "data.html")]) == 0
    made = {"run": run, "better": better, "sweep": swept[0].out}
    for name, uri in made.items():
        assert ray_job.main(["report", "--run", str(uri), "--out", str(folder / f"{name}.html")]) == 0
    return {name: folder / f"{name}.html" for name in SECTIONS}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS.split(), "disable-component-update", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        yield driver


@pytest.fixture(params=SECTIONS)
def opened(request, pages, browser):
    """The browser with one of the pages, freshly loaded."""
    browser.get(pages[request.param].as_uri())
    return browser


def test_a_page_opens_without_errors_asks_for_nothing_and_is_small(opened, pages):
    name = opened.current_url.rpartition("/")[2].removesuffix(".html")
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert pages[name].as_uri() in asked and not [url for url in asked if url.startswith(("http", "ws"))]
    assert opened.get_log("browser") == []
    assert pages[name].stat().st_size < 5_000_000


def test_every_section_is_there_and_headings_are_in_order(opened):
    name = opened.current_url.rpartition("/")[2].removesuffix(".html")
    headings = opened.find_elements(By.CSS_SELECTOR, "h1, h2, h3, h4, h5, h6")
    sections = [heading.text for heading in headings if heading.tag_name == "h2"]
    levels = [int(heading.tag_name[1]) for heading in headings]
    assert [section.partition(",")[0] for section in sections] == SECTIONS[name]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), "none is skipped"


def test_tables_sort_up_and_down_by_mouse_and_by_keyboard(opened):
    tables = opened.find_elements(By.CSS_SELECTOR, "table.sortable")
    assert tables
    for table in tables:
        heads = table.find_elements(By.CSS_SELECTOR, "thead th")
        for number, head in enumerate(heads):
            button = head.find_element(By.TAG_NAME, "button")
            opened.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", button)
            seen = set()
            for press in (button.click, lambda button=button: button.send_keys(Keys.ENTER)):
                press()
                order = head.get_attribute("aria-sort")
                seen.add(order)
                assert [other.get_attribute("aria-sort") for other in heads if other != head] == ["none"] * (
                    len(heads) - 1
                )
                values = column(opened, table, number)
                assert values == sorted(values, reverse=order == "descending"), head.text
            assert seen == {"ascending", "descending"}


def column(browser, table, number):
    """The visible values of a column from top to bottom, as numbers where all are."""
    script = "return [...arguments[0].tBodies[0].rows].map((row) => row.cells[arguments[1]].innerText.trim())"
    texts = browser.execute_script(script, table, number)
    try:
        return [float("-inf") if text == "–" else float(text.removesuffix("%").replace(",", "")) for text in texts]
    except ValueError:
        return [text.casefold() for text in texts]


@pytest.mark.parametrize("items", [".gallery figure", "tbody tr"])
def test_the_filter_hides_rows_and_pictures(pages, browser, items):
    browser.get(pages["better"].as_uri())
    block = next(
        block for block in reversed(browser.find_elements(By.CSS_SELECTOR, ".block:has(.filter)"))
        if block.find_elements(By.CSS_SELECTOR, items)
    )  # fmt: skip
    found = block.find_elements(By.CSS_SELECTOR, items)
    field, count = (block.find_element(By.TAG_NAME, name) for name in ("input", "output"))
    wanted = found[1].text.split()[0].rstrip(",")
    field.send_keys(wanted.upper())
    assert [item for item in found if item.is_displayed()] == [found[1]]
    assert count.text == f"1 of {len(found)}"
    field.send_keys(Keys.BACKSPACE * len(wanted))
    assert all(item.is_displayed() for item in found) and count.text == ""


def test_a_phone_scrolls_no_page_sideways(opened):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_pictures_charts_and_controls_have_names(opened):
    pictures = opened.find_elements(By.TAG_NAME, "img")
    charts = opened.find_elements(By.CSS_SELECTOR, "svg[role=img]")
    controls = opened.find_elements(By.CSS_SELECTOR, "input, button, a, [role=region]")
    assert controls and (pictures or charts)
    assert all(picture.get_attribute("alt") for picture in pictures)
    assert all(chart.get_attribute("aria-label") for chart in charts)
    assert all(control.accessible_name for control in controls)
    names = [field.accessible_name for field in opened.find_elements(By.TAG_NAME, "input")]
    assert len(set(names)) == len(names), "two fields that sound the same"


def test_text_stands_out_in_dark_and_light(opened):
    backs = set()
    for scheme in ("dark", "light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        found, back = opened.execute_script(LOW_CONTRAST)
        assert found == [], scheme
        backs.add(back)
    assert len(backs) == 2
