"""The welcome chapter as a reader sees it: JupyterLab in a browser, every cell run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"

# Label boxes of the last network graph in the page, its outputs' widths, and the counts at its edges.
MEASURE = """
() => {
  const areas = [...document.querySelectorAll('.jp-OutputArea-output')];
  const wide = areas.filter(a => a.scrollWidth > a.clientWidth + 1).map(a => a.textContent.slice(0, 60));
  const graphs = [...document.querySelectorAll('.jp-OutputArea-output svg')]
    .filter(svg => svg.textContent.includes('auth-lb'));
  const texts = [...graphs[graphs.length - 1].querySelectorAll('text')].map(t => {
    const box = t.getBoundingClientRect();
    return {text: t.textContent.trim(), x: box.x, y: box.y, w: box.width, h: box.height};
  });
  return {wide, texts};
}
"""


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
    """Twelve labelled nodes, at least ten counted edges, no label over another, nothing too wide."""
    complaints = open_notebook("00_welcome.ipynb")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_selector("text=came true", timeout=150_000)
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    seen = page.evaluate(MEASURE)
    labels = {label["text"] for label in seen["texts"]}
    nodes = {"auth-lb", "auth-1", "auth-2", "gateway", "coordinator", "bank-lb", "logger", "queue"}
    nodes |= {"alpine-1", "alpine-2", "boreal-1", "boreal-2"}
    assert nodes <= labels
    assert sum(label["text"].isdigit() for label in seen["texts"]) >= 10
    drawn = [label for label in seen["texts"] if label["w"] > 0]
    clashes = [(a["text"], b["text"]) for i, a in enumerate(drawn) for b in drawn[:i] if overlaps(a, b)]
    assert clashes == []
    assert seen["wide"] == []
    assert complaints == []
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.locator(".jp-OutputArea-output svg").first.scroll_into_view_if_needed()
    page.screenshot(path=SCREENSHOTS / "welcome.png")
