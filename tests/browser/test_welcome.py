"""The welcome chapter as a reader sees it: JupyterLab in a browser, every cell run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"

# What is too wide, and the boxes of the texts that a selector finds.
MEASURE = """
selector => {
  const areas = [...document.querySelectorAll('.jp-OutputArea-output')];
  const wide = areas.filter(a => a.scrollWidth > a.clientWidth + 1).map(a => a.textContent.slice(0, 60));
  const texts = [...document.querySelectorAll(selector)].map(t => {
    const box = t.getBoundingClientRect();
    return {text: t.textContent.trim(), x: box.x, y: box.y, w: box.width, h: box.height};
  });
  return {wide, texts};
}
"""
# The graph, and the panel wherever it is shown.
GRAPH = ".jp-OutputArea-output svg[aria-label^='Network of'] text"
PANEL = ".paylab-network .drawing :is(text.name, text.count)"
NODES = {"auth-lb", "auth-1", "auth-2", "gateway", "coordinator", "bank-lb", "logger", "queue"}
NODES |= {"alpine-1", "alpine-2", "boreal-1", "boreal-2"}


def overlaps(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool(
        a["x"] < b["x"] + b["w"] - 1
        and b["x"] < a["x"] + a["w"] - 1
        and a["y"] < b["y"] + b["h"] - 1
        and b["y"] < a["y"] + a["h"] - 1
    )


@pytest.mark.browser
def test_the_welcome_chapter_runs_and_its_graph_is_readable(
    page: Page, open_notebook: Callable[..., list[str]]
) -> None:
    """In graph and panel: twelve nodes, ten counted edges or more, no label over another, none too wide."""
    complaints = open_notebook("00_welcome.ipynb")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_selector("text=came true", timeout=150_000)
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    for selector in (GRAPH, PANEL):
        seen = page.evaluate(MEASURE, selector)
        assert {label["text"] for label in seen["texts"]} >= NODES
        assert sum(label["text"].isdigit() for label in seen["texts"]) >= 10
        drawn = [label for label in seen["texts"] if label["w"] > 0]
        clashes = [(a["text"], b["text"]) for i, a in enumerate(drawn) for b in drawn[:i] if overlaps(a, b)]
        assert clashes == []
        assert seen["wide"] == []
    expect(page.locator(".paylab-timeline .where")).to_contain_text("event")
    assert complaints == []
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.locator(".paylab-network").first.scroll_into_view_if_needed()
    page.screenshot(path=SCREENSHOTS / "welcome.png")
