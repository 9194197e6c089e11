"""The widgets of chapters 01 and 06, pressed by mouse in a real browser."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
Open = Callable[..., list[str]]
STDERR = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']"


def run_all(page: Page) -> None:
    """Run every cell, and wait for the last."""
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_selector("text=came true", timeout=180_000)
    # What is there for pages without a kernel is hidden in this one.
    assert page.locator("[data-paylab]").count() > 0
    expect(page.locator("[data-paylab]:visible")).to_have_count(0)


@pytest.mark.browser
def test_each_trouble_shows_its_outcome(page: Page, open_notebook: Open) -> None:
    """The phone hears the same of a lost request and a lost answer, and the box tells them apart."""
    page.set_viewport_size({"width": 1280, "height": 1000})
    complaints = open_notebook("01_nodes_and_rpc.ipynb")
    run_all(page)
    assert page.locator(STDERR).count() == 0
    outcomes = {
        "request lost": r"DEADLINE_EXCEEDED: Deadline Exceeded'\)\s+in the box: 0 cents",
        "answer lost": r"DEADLINE_EXCEEDED: Deadline Exceeded'\)\s+in the box: 5 cents",
        "full server": r"no coin fits in any more'\)\s+in the box: 0 cents",
    }
    for trouble, outcome in outcomes.items():
        page.get_by_role("button", name=trouble).click()
        page.locator(".jp-OutputArea pre:visible", has_text=re.compile(outcome)).wait_for(timeout=60_000)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"calls-{trouble.replace(' ', '-')}.png")
    assert complaints == []


@pytest.mark.browser
def test_an_outage_is_painted(page: Page, open_notebook: Open) -> None:
    """A pressed slot is an outage: another picture comes."""
    page.set_viewport_size({"width": 1280, "height": 1000})
    complaints = open_notebook("06_retries_and_the_offline_queue.ipynb")
    run_all(page)
    assert page.locator(STDERR).count() == 0
    slot = page.get_by_role("button", name="160", exact=True)
    picture = page.locator(".jp-Cell", has=slot).locator("img:visible")
    picture.wait_for(timeout=60_000)
    before = picture.get_attribute("src")
    slot.click()
    page.wait_for_function(
        "([picture, before]) => picture.isConnected === false || picture.src !== before",
        arg=[picture.element_handle(), before],
        timeout=60_000,
    )
    picture.wait_for(timeout=60_000)
    assert picture.get_attribute("src") != before
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    picture.scroll_into_view_if_needed()
    page.screenshot(path=SCREENSHOTS / "outage-painter.png")
    assert complaints == []
