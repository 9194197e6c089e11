"""Chapters as pages without a kernel: executed, converted by plain nbconvert, opened offline.

PAYLAB_CHAPTERS="00 01 …" says which; the tests take three, the measurement takes all.
"""

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from playwright.sync_api import Locator, Page

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CHAPTERS = os.environ.get("PAYLAB_CHAPTERS", "00 01 04").split()
WIDGET = "application/vnd.jupyter.widget-view+json"
# Less than a line of text is nothing.
HIGH_PX = 10
COUNT = "print('payments of this lab:', len(lab.history_checks.picture.payments))"


def executed(chapter: Path) -> Any:
    """The chapter with its outputs; one more cell says how many payments there were when the lab closes."""
    reader: Any = nbformat  # it has no types
    notebook = reader.read(chapter, as_version=4)
    if any("lab.panel()" in cell.source for cell in notebook.cells):
        closing = max(n for n, cell in enumerate(notebook.cells) if "lab.close()" in cell.source)
        notebook.cells.insert(closing, reader.v4.new_code_cell(COUNT))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    return notebook


def shows(cell: Locator) -> bool:
    """Whether there is something to see below a cell."""
    outputs = cell.locator(".jp-OutputArea-output").all()
    boxes = [output.bounding_box() for output in outputs]
    return any(box is not None and min(box["width"], box["height"]) > HIGH_PX for box in boxes)


@pytest.mark.browser
@pytest.mark.parametrize("number", CHAPTERS)
def test_a_chapter_without_a_kernel(number: str, page: Page, tmp_path: Path) -> None:
    """Each panel's picture is there and names the final count of payments; no control leaves a gap."""
    (chapter,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    notebook = executed(chapter)
    exporter: Any = HTMLExporter  # it has no types
    body, _ = exporter().from_notebook_node(notebook)
    (tmp_path / "page.html").write_text(body, encoding="utf-8")
    page.context.set_offline(True)
    page.goto((tmp_path / "page.html").as_uri(), wait_until="domcontentloaded")
    cells = page.locator(".jp-Notebook-cell, main > .jp-Cell")
    assert cells.count() == len(notebook.cells)
    for n, cell in enumerate(notebook.cells):
        if any(WIDGET in output.get("data", {}) for output in cell.get("outputs", ())):
            assert shows(cells.nth(n)), cell.source
    printed = re.search(r"payments of this lab: (\d+)", body)
    images = page.locator("[data-paylab] img[alt^='Network of']").all()
    assert bool(images) == (printed is not None)
    for image in images:
        box = image.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 200
        assert printed is not None
        assert f"after {printed[1]} payments" in (image.get_attribute("alt") or "")
