"""Workload panel and ledger table in JupyterLab: by mouse and keyboard, while a cell runs, and closed."""

import json
import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / os.environ.get("PAYLAB_SCREENSHOTS", "build/screenshots")
TOKEN = "reader"
CELLS = [
    """import paylab
from paylab.lab.panels import workload_panel
from paylab.nodes.passwords import PasswordCost
workload_panel.GONE_S = 0.5
workload_panel.SILENT_S = 8.0
lab = paylab.Lab(password_cost=PasswordCost(time_cost=1, memory_kib=8, parallelism=1))
alice = lab.client("alice", balance="100.00 EUR")
panel = lab.workload_panel(rate=10, duration_s=300)
panel""",
    "table = lab.ledger_table()\ntable",
    """import time
began = panel.totals["ended"]
time.sleep(1)
print("meanwhile", panel.load.sending, panel.totals["ended"] > began)""",
    "panel",
]
# Runs code in the notebook's kernel and returns what it prints.
ASK = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({code, store_history: false});
  let out = '';
  future.onIOPub = (message) => {
    if (message.header.msg_type === 'stream') out += message.content.text;
    if (message.header.msg_type === 'error') out += message.content.evalue;
  };
  await future.done;
  return out.trim();
}"""
PATIENCE_MS = 30_000


def put_notebook(address: str, name: str) -> None:
    cells = [
        {"cell_type": "code", "id": f"cell-{n}", "metadata": {}, "outputs": [], "source": source}
        | {"execution_count": None}
        for n, source in enumerate(CELLS)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{address}/api/contents/{name}?token={TOKEN}",
        data=json.dumps({"type": "notebook", "format": "json", "content": content}).encode(),
        method="PUT",
    )
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - our own server


def open_page(browser: Browser, address: str, name: str) -> tuple[Page, list[str]]:
    """A page with the notebook, and what its console complains of."""
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto(f"{address}/lab/workspaces/load/tree/{name}?token={TOKEN}")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_selector("text=/\\| (Idle|Busy)/", timeout=60_000)
    return page, complaints


def run_cell(page: Page, number: int) -> None:
    """Run one cell; the page does not wait for it."""
    page.evaluate(
        """(n) => {
          window.jupyterapp.shell.currentWidget.content.activeCellIndex = n;
          window.jupyterapp.commands.execute('notebook:run-cell');
        }""",
        number,
    )


def ask(page: Page, code: str) -> str:
    return str(page.evaluate(ASK, code))


def until(page: Page, code: str, wanted: str) -> None:
    """Ask until the answer is this: clicks and questions go different ways into the kernel."""
    said = ""
    for _ in range(PATIENCE_MS // 50):
        said = ask(page, code)
        if said == wanted:
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{code} said {said}, not {wanted}")


def number(page: Page, what: str) -> int:
    """A count as the workload panel shows it."""
    text = page.locator(f'.paylab-workload [data-count="{what}"]').text_content() or "0"
    return int(text.replace(",", ""))


@pytest.fixture(scope="module")
def notebook(browser: Browser, jupyter: str) -> Iterator[tuple[Page, list[str]]]:
    put_notebook(jupyter, "load.ipynb")
    page, complaints = open_page(browser, jupyter, "load.ipynb")
    run_cell(page, 0)
    page.wait_for_selector(".paylab-workload", timeout=60_000)
    run_cell(page, 1)
    page.wait_for_selector(".paylab-ledgers", timeout=60_000)
    yield page, complaints
    page.context.close()


def drag(page: Page, name: str, share: float) -> None:
    """Take a slider where its thumb is and pull it to a share of its width."""
    slider = page.locator(f'.paylab-workload input[name="{name}"]')
    slider.scroll_into_view_if_needed()
    box: Any = slider.bounding_box()
    now = float(slider.input_value()) / float(slider.get_attribute("max") or 1)
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 8 + now * (box["width"] - 16), middle)
    page.mouse.down()
    page.mouse.move(box["x"] + share * box["width"], middle, steps=6)
    page.mouse.up()


def shoot(page: Page, panel: str, name: str) -> None:
    """A picture of a panel, light and dark."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for theme in ("Light", "Dark"):
        page.evaluate(
            "(theme) => { window.jupyterapp.commands.execute('apputils:change-theme', {theme}) }",
            f"JupyterLab {theme}",
        )
        light = str(theme == "Light").lower()
        page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")
        page.wait_for_timeout(600)  # JupyterLab covers the page while it changes its colours
        page.wait_for_selector("#jupyterlab-splash", state="detached")
        page.locator(panel).screenshot(path=SCREENSHOTS / f"{name}-{theme.lower()}.png")


@pytest.mark.browser
def test_a_load_by_mouse_and_keyboard(notebook: tuple[Page, list[str]]) -> None:
    """Drag, start, watch, run another cell meanwhile, crash, restart, stop; page and Python agree."""
    page, complaints = notebook
    drag(page, "rate", 0.1)
    shown = page.locator('.paylab-workload input[name="rate"]').input_value()
    assert 20 <= float(shown) <= 40
    page.focus('.paylab-workload input[name="rate"]')
    page.keyboard.press("ArrowRight")
    until(page, "print(panel.rate)", str(float(shown) + 1))
    page.click(".paylab-workload button.start")
    page.wait_for_function(
        "() => Number(document.querySelector('.paylab-workload [data-count=COMMITTED]')?.textContent) > 20",
        timeout=PATIENCE_MS,
    )
    run_cell(page, 2)
    expect(page.locator(".jp-Cell").nth(2)).to_contain_text("meanwhile True True", timeout=PATIENCE_MS)
    page.select_option('.paylab-workload select[aria-label="Node"]', "boreal-1")
    page.get_by_role("button", name="crash", exact=True).click()
    expect(page.locator(".paylab-workload .events")).to_contain_text("boreal-1 out", timeout=PATIENCE_MS)
    assert ask(page, "print(lab.is_up('boreal-1'))") == "False"
    page.get_by_role("button", name="restart", exact=True).press("Enter")
    expect(page.locator(".paylab-workload .events")).to_contain_text("boreal-1 in", timeout=PATIENCE_MS)
    before = number(page, "ended")
    page.wait_for_function(
        "(n) => Number(document.querySelector('.paylab-workload [data-count=ended]').textContent) > n",
        arg=before,
        timeout=PATIENCE_MS,
    )
    shoot(page, ".paylab-workload", "workload")
    page.focus(".paylab-workload button.stop")
    page.keyboard.press("Space")
    expect(page.locator(".paylab-workload .state")).to_contain_text("Done", timeout=PATIENCE_MS)
    ended = number(page, "ended")
    assert ask(page, "print(len(panel.result.paid), panel.totals['ended'])") == f"{ended} {ended}"
    states = "[p.state for p in lab.history_checks.picture.payments.values()]"
    answered = ask(page, "print(panel.result.answers['COMMITTED'])")
    assert answered == str(number(page, "COMMITTED"))
    settled = ask(page, "print(panel.result.states['COMMITTED'])")  # on a busy machine some are queued first
    until(page, f"lab.settle(); print({states}.count('COMMITTED'))", settled)
    assert ask(page, "print(lab.check().ok)") == "True"
    assert complaints == []


@pytest.mark.browser
def test_the_ledger_table_is_live_and_can_be_searched(notebook: tuple[Page, list[str]]) -> None:
    """A payment changes its row; typing finds accounts; mouse and keys choose one; the sums are Python's."""
    page, complaints = notebook
    table = page.locator(".paylab-ledgers")
    table.scroll_into_view_if_needed()
    ask(page, "alice.pay('boreal/load-1', '12.50 EUR')")
    alice = table.locator('tr[data-account="alpine/alice"]')
    expect(alice.locator("td").nth(1)).to_have_text("87.50 EUR", timeout=PATIENCE_MS)
    expect(table.locator(".postings tr").first).to_contain_text("12.50 EUR", timeout=PATIENCE_MS)
    expect(table.locator("footer")).to_contain_text("clearing sums to zero", timeout=PATIENCE_MS)
    sums = json.loads(ask(page, "import json; print(json.dumps([row[1] for row in table.sums]))"))
    cells = [
        text.replace(",", "") for text in table.locator(".sums tbody td:nth-child(2)").all_text_contents()
    ]
    assert cells == sums
    table.get_by_label("Search").fill("boreal/load-")
    expect(table.locator(".count")).to_have_text(re.compile(r"^9 of \d+ accounts$"), timeout=PATIENCE_MS)
    table.get_by_role("button", name="posted").click()
    expect(table.locator("th").nth(1)).to_have_attribute("aria-sort", "descending", timeout=PATIENCE_MS)
    first = table.locator(".accounts tbody tr").first
    first.click()
    expect(first).to_have_attribute("aria-selected", "true", timeout=PATIENCE_MS)
    first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    second = table.locator(".accounts tbody tr").nth(1)
    expect(second).to_have_attribute("aria-selected", "true", timeout=PATIENCE_MS)
    chosen = second.get_attribute("data-account")
    until(page, "print(table.account, table.search, table.order)", f"{chosen} boreal/load- -posted")
    shoot(page, ".paylab-ledgers", "ledgers")
    assert complaints == []


@pytest.mark.browser
def test_closing_the_notebook_stops_the_load(
    notebook: tuple[Page, list[str]], browser: Browser, jupyter: str
) -> None:
    """The load stops when its tab in JupyterLab is closed, and when the whole page is."""
    page, _ = notebook
    running = "import concurrent.futures as f; print(len(f.wait([panel.load.future], 20).not_done))"
    for way in ("tab", "page"):
        ask(page, "panel.start()")
        until(page, "print(panel.phase)", "sending")
        if way == "tab":
            page.evaluate("() => window.jupyterapp.shell.currentWidget.dispose()")
            page.evaluate(
                "() => { window.jupyterapp.commands.execute('docmanager:open', {path: 'load.ipynb'}) }"
            )
            page.wait_for_selector("text=/\\| (Idle|Busy)/", timeout=60_000)
        else:
            page.close()
            page, _ = open_page(browser, jupyter, "load.ipynb")
        assert ask(page, running) == "0"
        run_cell(page, 3)
        page.wait_for_selector(".paylab-workload", timeout=60_000)
    page.context.close()
