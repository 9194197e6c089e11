"""Panels as a reader uses them: JupyterLab in a browser, a real network, mouse and keyboard."""

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from playwright.sync_api import Locator, Page, expect

from paylab.lab.panels.panel import script

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / os.environ.get("PAYLAB_SCREENSHOTS", "build/screenshots")
# Other jobs load the machine.
PATIENCE_MS = 40_000

NETWORK = [
    """
import json, threading, time, paylab
from paylab.nodes.wire import HOUSEKEEPING
lab = paylab.Lab(banks=["alpine", "boreal"])
alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
bob = lab.client("bob", bank="boreal")
lab.panel()
""",
    """
for n in range(8):
    alice.pay(bob, "1.00 EUR", key=f"cup-{n}")
bob.pay(alice, "500.00 EUR")
lab.settle()
edges, last = {}, {}
for event in lab.history:
    if event.kind == "sent" and event.method not in HOUSEKEEPING and "lab" not in (event.node, event.peer):
        edges[f"{event.node} {event.peer}"] = edges.get(f"{event.node} {event.peer}", 0) + 1
    if event.facts and event.facts["at"] == "gateway":
        last[event.facts["payment"]] = event.facts["state"]
print(json.dumps({"edges": edges, "states": last}))
""",
    """
def keep_paying():
    while not stop.wait(0.2):
        alice.submit_pay(bob, "0.01 EUR")
stop = threading.Event()
threading.Thread(target=keep_paying, daemon=True).start()
print("asleep")
try:
    time.sleep(300)
finally:
    stop.set()
""",
    """
report = lab.check()
print(json.dumps({"ok": report.ok, "up": {node: lab.is_up(node) for node in lab.nodes}}))
""",
    """
changed = lab.world.write("bank-boreal", "UPDATE accounts SET posted_minor = 7 WHERE account = 'bob'")
print("tampered", changed, lab.check().ok)
""",
]

# Without a cell, for which JupyterLab might scroll the panel out of sight: then nothing travels on it.
PAY = """() => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  kernel.requestExecute({code: "for _ in range(4): alice.pay(bob, '0.50 EUR')"});
}"""
# Some payments are in the middle of their way.
TRAVELLING = "stage.journeys.some(one => performance.now() - one.began > one.length / 3)"

TIMELINE = [
    """
import paylab
lab = paylab.Lab(world="simulated", seed=7)
alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
bob = lab.client("bob", bank="boreal")
receipt = alice.pay(bob, "12.50 EUR")
lab.settle()
panel = lab.timeline_panel(receipt)
panel
""",
    "print(panel.cursor, panel.events[panel.cursor].node)",
]
# Steps much faster than the kernel hears of them; returns where the page was thrown back meanwhile.
WALK = """async () => {
  const panel = document.querySelector('.paylab-timeline'), back = [];
  for (let step = 0; step < 300; step += 1) {
    panel.paylab.go(step % panel.paylab.rows.shown.length);
    const row = panel.dataset.row;
    await new Promise(done => setTimeout(done, 5));
    if (panel.dataset.row !== row) back.push([row, panel.dataset.row]);
  }
  return back;
}"""
LONG_TIMELINE = [
    """
import paylab
lab = paylab.Lab(world="simulated", seed=7)
alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
bob = lab.client("bob", bank="boreal")
while len(lab.history) < 3_000:
    alice.pay(bob, "0.01 EUR")
panel = lab.timeline_panel()
panel
""",
    "print(panel.cursor, panel.events[panel.cursor].node, panel.columns['at_ms'][panel.cursor])",
]

Run = Callable[[int], Locator]
Open = Callable[..., list[str]]
Theme = Callable[[str], None]


def told(output: Locator) -> dict[str, Any]:
    """What a cell printed as JSON."""
    expect(output).to_contain_text("}", timeout=PATIENCE_MS)
    found: dict[str, Any] = json.loads(output.inner_text())
    return found


def be(panel: Locator, node: str, state: str) -> None:
    """Wait until a node's state on the page is that."""
    expect(panel.locator(f"[data-node='{node}']")).to_have_attribute("data-state", state, timeout=PATIENCE_MS)


def picture(
    page: Page, panel: Locator, name: str, use_theme: Theme, *, move: Callable[[], object] = lambda: None
) -> None:
    """A screenshot in either theme, of what `move` sets in motion."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for tone in ("dark", "light"):
        use_theme(tone)
        panel.scroll_into_view_if_needed()
        move()
        page.wait_for_timeout(600)  # until the new theme's colours are drawn
        panel.screenshot(path=SCREENSHOTS / f"{name}-{tone}.png")


def compare_figures(panel: Locator, seen: dict[str, Any]) -> None:
    """What the page says is what a look through the history gave: payments by state, calls by edge."""
    states = list(seen["states"].values())
    for name, count in (
        ("committed", states.count("COMMITTED")),
        ("declined", states.count("DECLINED")),
        ("payments", len(states)),
    ):
        expect(panel.locator(f"[data-figure='{name}']")).to_have_text(str(count), timeout=PATIENCE_MS)
    for edge, calls in seen["edges"].items():
        said = f"link from {edge.replace(' ', ' to ')}, {calls} calls"
        expect(panel.locator(f"[data-edge='{edge}']")).to_have_attribute("aria-label", said)
    expect(panel.locator(".banner")).to_have_attribute("data-ok", "true")


def open_a_timeline(panel: Locator) -> None:
    """A click on a payment's row shows its diagram."""
    row = panel.locator(".row").first
    payment = row.get_attribute("data-payment")
    row.click()
    expect(panel.locator(".drawer svg")).to_be_visible(timeout=PATIENCE_MS)
    expect(panel.locator(".drawer")).to_have_attribute("data-payment", payment or "")
    panel.get_by_role("button", name="Close").click()


def click(panel: Locator, node: str, what: str) -> None:
    """Open a node's menu and choose."""
    panel.locator(f"[data-node='{node}']").click()
    panel.get_by_role("menuitem", name=what).click()


def break_while_busy(page: Page, panel: Locator, run_cell: Run) -> None:
    """The first click in this page does not wait for a cell that sleeps while the panel streams."""
    busy = run_cell(2)
    expect(busy).to_contain_text("asleep", timeout=PATIENCE_MS)
    expect(panel.locator("[data-figure='payments']")).not_to_have_text("9", timeout=PATIENCE_MS)
    click(panel, "alpine-1", "Crash")
    be(panel, "alpine-1", "down")
    click(panel, "alpine-1", "Restart")
    be(panel, "alpine-1", "up")
    expect(page.locator(".jp-Notebook .jp-Cell").nth(2).locator(".jp-InputPrompt")).to_have_text("[*]:")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:interrupt-kernel') }")
    expect(busy).to_contain_text("KeyboardInterrupt", timeout=PATIENCE_MS)


def break_by_keyboard(page: Page, panel: Locator) -> None:
    """Arrows walk from node to node, Enter opens the menu, arrows choose, Enter does."""
    panel.locator("[data-node='boreal-1']").focus()
    page.keyboard.press("ArrowRight")
    expect(panel.locator("[data-node='boreal-2']")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    be(panel, "boreal-2", "paused")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    be(panel, "boreal-2", "down")
    link = panel.locator("[data-edge='gateway logger']")
    link.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(link).to_have_attribute("class", re.compile(r"\bcut\b"), timeout=PATIENCE_MS)


@pytest.mark.browser
def test_a_network_is_watched_and_broken(
    page: Page, open_cells: Open, run_cell: Run, use_theme: Theme, on_stage: Callable[..., Any]
) -> None:
    """Figures are those of the history; nodes die by mouse and by keyboard, also while a cell is busy."""
    complaints = open_cells("network.ipynb", NETWORK)
    run_cell(0)
    panel = page.locator(".paylab-network")
    expect(panel.locator("[data-node='gateway']")).to_be_visible(timeout=PATIENCE_MS)
    compare_figures(panel, told(run_cell(1)))
    # The still picture is there for readers without a kernel, and hidden while the panel lives.
    still = page.locator("[data-paylab] img")
    expect(still).to_have_attribute("alt", re.compile(r"after 9 payments \(8 committed, 1 declined\)"))
    expect(still).to_be_hidden()
    break_while_busy(page, panel, run_cell)

    def travel() -> None:
        # Only a sample of payments travels, so another one may have to be made.
        for patience_ms in (PATIENCE_MS / 4, PATIENCE_MS / 4, PATIENCE_MS):
            page.evaluate(PAY)
            with suppress(TimeoutError):
                on_stage(TRAVELLING, patience_ms / 1000)
                return
        pytest.fail("no payment travels")

    picture(page, panel, "network", use_theme, move=travel)
    open_a_timeline(panel)
    click(panel, "alpine-1", "Crash")
    be(panel, "alpine-1", "down")
    break_by_keyboard(page, panel)
    picture(page, panel, "network-broken", use_theme)
    panel.get_by_role("button", name="Heal the network").click()
    expect(panel.locator(".edge.cut")).to_have_count(0, timeout=PATIENCE_MS)
    after = told(run_cell(3))
    assert after["ok"]
    assert {node for node, up in after["up"].items() if not up} == {"alpine-1", "boreal-2"}
    # A violation turns the banner red.
    expect(run_cell(4)).to_contain_text("tampered 1 False", timeout=PATIENCE_MS)
    expect(panel.locator(".banner")).to_have_attribute("data-ok", "false", timeout=PATIENCE_MS)
    expect(panel.locator(".found")).to_contain_text("boreal/bob says 7")
    # Once nothing moves nothing is drawn.
    on_stage("!stage.pace.asked")
    before = on_stage("stage.pace.drawn")
    page.wait_for_timeout(500)
    assert on_stage("stage.pace.drawn") == before
    assert complaints == []


NO_CANVAS_TO_LEND = "delete HTMLCanvasElement.prototype.transferControlToOffscreen"
NO_WORKER = "window.Worker = class { constructor() { throw new Error('forbidden') } }"
DEAD_WORKER = """
const Worker = window.Worker;
window.Worker = class extends Worker { constructor() { super("data:text/javascript,throw 'no'") } };
"""


@pytest.mark.browser
@pytest.mark.parametrize("lack", [NO_CANVAS_TO_LEND, NO_WORKER, DEAD_WORKER])
def test_payments_travel_without_a_worker(lack: str, page: Page, open_cells: Open, run_cell: Run) -> None:
    """Where no worker can play the stage the page does it."""
    page.add_init_script(lack)
    open_cells("alone.ipynb", NETWORK)
    run_cell(0)
    expect(page.locator("[data-node='gateway']")).to_be_visible(timeout=PATIENCE_MS)
    page.evaluate(PAY)
    page.wait_for_function(
        """() => {
          const { stage } = document.querySelector('.paylab-network').paylab.player;
          const canvas = document.querySelector('.paylab-network canvas');
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          return stage.journeys.length && data.some(value => value);
        }""",
        timeout=PATIENCE_MS,
    )


# A pace under the beats of a screen, none of which comes on time; returns what lies between its frames in ms.
FRAMES = """async ([source, hertz]) => {
  const address = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
  const { Pace } = await import(address);
  const times = [], pace = new Pace(now => { times.push(now) });
  pace.wake = () => {};
  for (let beat = 0; beat < 20 * hertz; beat += 1) pace.beat(1000 * beat / hertz + 2 * Math.sin(beat));
  return times.slice(1).map((time, at) => time - times[at]);
}"""


@pytest.mark.browser
@pytest.mark.parametrize("hertz", [60, 75, 120, 144])
def test_frames_come_evenly(hertz: int, page: Page) -> None:
    """Thirty a second, and hardly one of them late, however often a screen is drawn."""
    took_ms = sorted(page.evaluate(FRAMES, [script("panel.js"), hertz]))
    assert 30 <= 1000 / (sum(took_ms) / len(took_ms)) < 36
    assert took_ms[int(0.95 * len(took_ms))] < 45


@pytest.mark.browser
def test_a_timeline_is_walked(page: Page, open_cells: Open, run_cell: Run, use_theme: Theme) -> None:
    """Arrow keys step both ways and the cards follow; Python knows the row; an arrow shows its code."""
    complaints = open_cells("timeline.ipynb", TIMELINE)
    run_cell(0)
    panel = page.locator(".paylab-timeline")
    view = panel.locator(".view")
    expect(view).to_be_visible(timeout=PATIENCE_MS)
    view.focus()
    page.keyboard.press("Home")
    expect(panel.locator(".where")).to_contain_text("event 1 of")
    alpine = panel.locator("[data-card='alpine']")
    expect(alpine).to_contain_text("100.00 EUR")
    steps = 0
    while "held" not in alpine.inner_text():
        row = panel.get_attribute("data-row") or ""
        page.keyboard.press("ArrowDown")
        expect(panel).not_to_have_attribute("data-row", row)
        steps += 1
        assert steps < 60
    expect(alpine).to_contain_text("100.00 EUR, 12.50 EUR held")
    page.keyboard.press("ArrowUp")
    expect(alpine).not_to_contain_text("held")
    page.keyboard.press("ArrowDown")
    expect(alpine).to_contain_text("held")
    row = panel.get_attribute("data-row") or ""
    picture(page, panel, "timeline", use_theme)
    # The page tells Python where it stands a moment later.
    page.wait_for_timeout(500)
    expect(run_cell(1)).to_contain_text(f"{row} alpine-", timeout=PATIENCE_MS)
    expect(panel).to_have_attribute("data-row", row)
    assert page.evaluate(WALK) == []
    # The request that the coordinator sent, and the code that sent it.
    page.evaluate(
        """() => {
          const {rows, go} = document.querySelector(".paylab-timeline").paylab;
          const arrow = rows.arrows.find(one => rows.table.texts[rows.table.label[one.row]] === "Prepare");
          go(arrow.from);
        }"""
    )
    view.focus()
    page.keyboard.press("Enter")
    expect(panel.locator(".place")).to_contain_text("paylab/nodes/coordinator.py:", timeout=PATIENCE_MS)
    expect(panel.locator(".message")).to_contain_text("items=")
    # Playing goes on by itself, and stops at the end.
    view.focus()
    page.keyboard.press("Home")
    panel.get_by_label("Speed").select_option("20")
    panel.get_by_role("button", name="Play (space)").click()
    expect(panel.locator(".where")).to_have_text(re.compile(r"event (\d+) of \1$"), timeout=PATIENCE_MS)
    assert complaints == []


@pytest.mark.browser
def test_the_last_event_of_a_long_timeline(page: Page, open_cells: Open, run_cell: Run) -> None:
    """End goes to it, Python knows it, and under the pointer it says what it is."""
    complaints = open_cells("long-timeline.ipynb", LONG_TIMELINE)
    run_cell(0)
    panel = page.locator(".paylab-timeline")
    hover_last(page)
    page.wait_for_timeout(500)
    output = run_cell(1)
    expect(output).to_contain_text(f"{panel.get_attribute('data-row')} ", timeout=PATIENCE_MS)
    _, node, at_ms = output.inner_text().split()
    hover_last(page)
    expect(panel.locator(".tip")).to_contain_text(f"{float(at_ms):.1f} ms {node} ")
    assert complaints == []


def hover_last(page: Page) -> None:
    """Go to a timeline's last event and point at it, until its text is there."""
    panel = page.locator(".paylab-timeline")
    view = panel.locator(".view")
    view.focus(timeout=PATIENCE_MS)
    page.keyboard.press("Home")
    page.keyboard.press("End")
    expect(panel.locator(".where")).to_have_text(re.compile(r"event ([\d,]+) of \1$"))
    view.scroll_into_view_if_needed()
    box: Any = view.bounding_box()
    x, y = page.evaluate(
        """() => {
          const {rows, point} = document.querySelector('.paylab-timeline').paylab;
          return point(rows.shown.length - 1);
        }"""
    )
    page.mouse.move(box["x"] + x, box["y"] + y)
    expect(panel.locator(".tip")).to_be_visible(timeout=PATIENCE_MS)


@pytest.mark.browser
def test_a_page_without_a_kernel_shows_pictures(page: Page, tmp_path: Path) -> None:
    """Executed, converted to HTML and opened offline: each panel's picture, with the final payment count."""
    v4: Any = nbformat.v4
    cells = [
        "import paylab\nlab = paylab.Lab(world='simulated', seed=7)\nlab.panel()",
        "alice, bob = lab.client('alice', balance='9.00 EUR'), lab.client('bob', bank='boreal')",
        "receipts = [alice.pay(bob, '2.00 EUR') for _ in range(5)]",
        "lab.timeline_panel(receipts[0])",
        "lab.close()",
    ]
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    exporter: Any = HTMLExporter  # it has no types
    body, _ = exporter().from_notebook_node(notebook)
    (tmp_path / "page.html").write_text(body, encoding="utf-8")
    page.context.set_offline(True)
    page.goto((tmp_path / "page.html").as_uri(), wait_until="domcontentloaded")
    images = page.locator("[data-paylab] img")
    expect(images).to_have_count(2)
    expect(images.nth(0)).to_have_attribute(
        "alt", re.compile(r"after 5 payments \(4 committed, 1 declined\)")
    )
    expect(images.nth(1)).to_have_attribute("alt", re.compile(r"events at \d+ nodes, about 5 payments"))
    for number in range(2):
        box = images.nth(number).bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 200
