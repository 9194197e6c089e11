"""What panels cost and how quick they are: `make measure`. Prints figures and judges none of them.

A machine that does other things besides gives other figures, so nothing here is gated by absolute time.
"""

import contextlib
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil  # type: ignore[import-untyped] # its types are a package of their own
import pytest
from playwright.sync_api import Locator, Page, expect

RATE_PER_S = int(os.environ.get("PAYLAB_RATE", "200"))
LOAD_S = int(os.environ.get("PAYLAB_LOAD_S", "60"))
PAIRS = int(os.environ.get("PAYLAB_PAIRS", "5"))
PAIR_S = int(os.environ.get("PAYLAB_PAIR_S", "12"))
UNDER_WAY = 32
CLICKS = int(os.environ.get("PAYLAB_CLICKS", "2"))
PATIENCE_MS = 120_000

Run = Callable[[int], Locator]
Open = Callable[..., list[str]]

LAB = """
import grpc, json, statistics, threading, time, paylab
from grpc_health.v1 import health_pb2, health_pb2_grpc
lab = paylab.Lab(banks=["alpine", "boreal"])
alice = lab.client("alice", bank="alpine", balance="100000.00 EUR")
bob = lab.client("bob", bank="boreal")
alice.pay(bob, "0.01 EUR")
crashed, refused = [], []
real_crash = lab.crash
def crash(node):
    real_crash(node)
    crashed.append(time.time())
lab.crash = crash
def ask(node):
    # From a thread, with a channel of its own, as a balancer would, until an RPC is refused.
    papers = lab.world.credentials(lab.network.nodes["bank-lb"].identity)
    papers = grpc.ssl_channel_credentials(papers.ca_pem, papers.key_pem, papers.certificate_pem)
    name = [("grpc.ssl_target_name_override", node)]
    channel = grpc.secure_channel(lab.world.address(node), papers, name)
    check = health_pb2_grpc.HealthStub(channel).Check
    try:
        while True:
            check(health_pb2.HealthCheckRequest(), timeout=10)
            time.sleep(0.005)
    except grpc.RpcError as error:
        refused.extend([time.time(), error.code().name])
def flow(rate, seconds):
    began, futures, took = time.monotonic(), [], []
    for n in range(int(rate * seconds)):
        time.sleep(max(0.0, began + n / rate - time.monotonic()))
        sent = time.monotonic()
        future = alice.submit_pay(bob, "0.01 EUR")
        future.add_done_callback(lambda _, sent=sent: took.append(time.monotonic() - sent))
        futures.append(future)
    tell(began, futures, took)
def saturate(under_way, seconds):
    began, futures, took, room = time.monotonic(), [], [], threading.Semaphore(under_way)
    def over(sent):
        took.append(time.monotonic() - sent)
        room.release()
    while time.monotonic() < began + seconds:
        room.acquire()
        futures.append(alice.submit_pay(bob, "0.01 EUR"))
        futures[-1].add_done_callback(lambda _, sent=time.monotonic(): over(sent))
    tell(began, futures, took)
def tell(began, futures, took):
    receipts = [future.result() for future in futures if future.exception() is None]
    ok = sum(receipt.state == "COMMITTED" for receipt in receipts)
    ended_per_s, p50_ms = ok / (time.monotonic() - began), 1000 * statistics.median(took)
    told = {"ended_per_s": round(ended_per_s, 1), "p50_ms": round(p50_ms, 1)}
    print(json.dumps(told | {"unanswered": len(futures) - len(receipts)}))
"""
ASK = "threading.Thread(target=ask, args=('alpine-1',), daemon=True).start()"
SHOW = "lab.panel()"


def printed(output: Locator) -> dict[str, float]:
    expect(output).to_contain_text("}", timeout=PATIENCE_MS + 1000 * LOAD_S)
    found: dict[str, float] = json.loads(output.inner_text().strip().splitlines()[-1])
    return found


def heap_mb(page: Page) -> float:
    """What JavaScript holds after a forced collection: the page and its workers."""
    devtools = page.context.new_cdp_session(page)
    workers: list[str] = []
    told: list[dict[str, Any]] = []
    devtools.on("Target.attachedToTarget", lambda event: workers.append(event["sessionId"]))
    devtools.on("Target.receivedMessageFromTarget", lambda event: told.append(json.loads(event["message"])))
    attach = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": False}
    devtools.send("Target.setAutoAttach", attach)
    devtools.send("HeapProfiler.collectGarbage")
    used = devtools.send("Runtime.getHeapUsage")["usedSize"]
    for worker in workers:
        for number, method in enumerate(("HeapProfiler.collectGarbage", "Runtime.getHeapUsage")):
            message = json.dumps({"id": number, "method": method})
            devtools.send("Target.sendMessageToTarget", {"sessionId": worker, "message": message})
    page.wait_for_timeout(1000)
    sizes = [result["usedSize"] for message in told if "usedSize" in (result := message.get("result", {}))]
    assert len(sizes) == len(workers) > 0, told
    devtools.detach()
    return float(used + sum(sizes)) / 1e6


# How long frames took, of which the worker asks for as many as it can.
WATCH = """
new Promise(done => {
  const { pace } = stage;
  const before = pace.drawn, began = performance.now(), took = [];
  let last = began;
  const real = pace.draw;
  pace.draw = now => { took.push(now - last); last = now; return real(now); };
  setTimeout(() => {
    pace.draw = real;
    took.sort((a, b) => a - b);
    const fps = 1000 * (pace.drawn - before) / (performance.now() - began);
    done({fps, p95: took[Math.floor(0.95 * took.length)]});
  }, 1000 * %s);
})
"""


class Cost:
    """Processor time by part since it was made, in percent of one core."""

    def __init__(self) -> None:
        self.before, self.began = self.seconds(), time.monotonic()

    @staticmethod
    def seconds() -> Counter[str]:
        used: Counter[str] = Counter()
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                line = " ".join(process.cmdline())
                times = process.cpu_times()
                used[next((name for name, sign in PARTS.items() if sign in line), "")] += (
                    times.user + times.system
                )
        return used

    def __str__(self) -> str:
        span_s = time.monotonic() - self.began
        used = self.seconds() - self.before
        return ", ".join(f"{name} {100 * used[name] / span_s:.0f} %" for name in PARTS)


PARTS = {
    "kernel": "ipykernel_launcher",
    "server": "jupyterlab",
    "renderer": "--type=renderer",
    "compositor": "--type=gpu-process",
    "network": "--type=utility",
}


@pytest.mark.parametrize(
    ("what", "load"),
    [
        (f"open loop, {RATE_PER_S} payments/s", f"flow({RATE_PER_S}, {PAIR_S})"),
        (f"closed loop, {UNDER_WAY} under way", f"saturate({UNDER_WAY}, {PAIR_S})"),
    ],
)
def test_cost(what: str, load: str, page: Page, open_cells: Open, run_cell: Run) -> None:
    """What payments notice of the panel, in pairs of loads without and with it; who uses the processors."""
    open_cells("cost.ipynb", [LAB, load, SHOW, "lab._panel.close(); lab._panel = None"])
    run_cell(0)
    printed(run_cell(1))
    rates, medians = [], []
    for pair in range(PAIRS):
        seen = []
        for shown in (False, True):
            if shown:
                run_cell(2)
                expect(page.locator("[data-node='gateway']")).to_be_visible(timeout=PATIENCE_MS)
            run_cell(1)
            if shown:  # off screen it would draw nothing
                page.locator(".paylab-network").scroll_into_view_if_needed()
            page.wait_for_timeout(2000)
            cost = Cost()
            page.wait_for_timeout(1000 * (PAIR_S - 4))
            used = str(cost)
            seen.append(printed(page.locator(".jp-Cell").nth(1)))
            print(
                f"\n{what}, pair {pair}, {'with' if shown else 'without'} panel: {seen[-1]}; {used}", end=""
            )
        run_cell(3)
        rates.append(seen[1]["ended_per_s"] / seen[0]["ended_per_s"])
        medians.append(seen[1]["p50_ms"] / seen[0]["p50_ms"])
    print(f"\nwith to without, median of {PAIRS}: {statistics.median(rates):.3f} of the payments/s, ", end="")
    print(f"{statistics.median(medians):.2f} of the p50")


def test_frames_and_heap(page: Page, open_cells: Open, run_cell: Run, on_stage: Callable[..., Any]) -> None:
    """Frames a second, the longest of them, and the heap after a sixth of the load and at its end."""
    open_cells("frames.ipynb", [LAB, SHOW, f"flow({RATE_PER_S}, {LOAD_S + 5})"])
    run_cell(0)
    run_cell(1)
    expect(page.locator("[data-node='gateway']")).to_be_visible(timeout=PATIENCE_MS)
    output = run_cell(2)
    on_stage("stage.journeys.length > 1")
    began, early_s = time.monotonic(), LOAD_S / 6
    page.wait_for_timeout(1000 * early_s)
    early_mb = heap_mb(page)
    cost = Cost()
    seen = on_stage(WATCH % min(60.0, LOAD_S - early_s - 2))
    print(f"\n{RATE_PER_S} payments/s: {seen['fps']:.1f} frames/s, p95 {seen['p95']:.0f} ms; {cost}")
    page.wait_for_timeout(max(0.0, 1000 * (began + LOAD_S - time.monotonic())))
    late_mb = heap_mb(page)
    print(
        f"heap of the page {early_mb:.2f} MB after {early_s:.0f} s, {late_mb:.2f} MB after {LOAD_S} s: ",
        end="",
    )
    print(f"{late_mb - early_mb:+.2f} MB; {printed(output)}")


SITUATIONS = {
    "at rest": "print('on')",
    "under load": "threading.Thread(target=flow, args=(60, 60)).start(); print('on')",
    "during sleep": "print('on'); time.sleep(60)",
    "during a Python loop": "print('on')\nuntil = time.time() + 60\nwhile time.time() < until: pass",
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_clicks(situation: str, page: Page, open_cells: Open, run_cell: Run) -> None:
    """From the click to the end of the crash and to a refused RPC, in a fresh page and kernel each time."""
    took_ms: dict[str, list[float]] = {"crash() returned": [], "an RPC was refused": []}
    answers = Counter[str]()
    for number in range(CLICKS):
        open_cells(
            f"clicks-{number}.ipynb",
            [LAB + ASK, SHOW, SITUATIONS[situation], "print(json.dumps([*crashed, *refused]))"],
        )
        run_cell(0)
        run_cell(1)
        expect(page.locator("[data-node='gateway']")).to_be_visible(timeout=PATIENCE_MS)
        expect(run_cell(2)).to_contain_text("on", timeout=PATIENCE_MS)
        page.wait_for_timeout(500)
        page.locator("[data-node='alpine-1']").click()
        clicked_ms: float = page.evaluate(
            "() => { const at = Date.now(); document.querySelector('.menu button').click(); return at; }"
        )
        expect(page.locator("[data-node='alpine-1']")).to_have_attribute(
            "data-state", "down", timeout=PATIENCE_MS
        )
        if situation.startswith("during"):
            page.evaluate("() => { window.jupyterapp.commands.execute('notebook:interrupt-kernel') }")
            expect(page.locator(".jp-Cell").nth(2)).to_contain_text("KeyboardInterrupt", timeout=PATIENCE_MS)
            # What comes too soon after an error the kernel drops.
            page.wait_for_selector("text=/\\| Idle/")
            page.wait_for_timeout(500)
        output = run_cell(3)
        expect(output).to_contain_text("]", timeout=PATIENCE_MS)
        crashed, refused, answer = json.loads(output.inner_text())
        for took, at in zip(took_ms.values(), (crashed, refused), strict=True):
            took.append(1000 * at - clicked_ms)
        answers[answer] += 1
        page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
    print(f"\nclick {situation}, answers of the crashed node {dict(answers)}")
    for what, took in took_ms.items():
        shown = ", ".join(f"{ms:.0f}" for ms in sorted(took))
        print(f"  until {what}: median {statistics.median(took):.0f} ms of {len(took)} ({shown})")


TIMELINE = """
import time, paylab
lab = paylab.Lab(world="simulated", seed=7)
alice = lab.client("alice", bank="alpine", balance="1000.00 EUR")
bob = lab.client("bob", bank="boreal")
while len(lab.history) < 12_000:
    alice.pay(bob, "0.01 EUR")
print("ready")
"""
SHOWN_AT = "began = time.time()\npanel = lab.timeline_panel()\npanel"
SCROLL = """
() => new Promise(done => {
  const panel = document.querySelector('.paylab-timeline'), view = panel.querySelector('.view');
  const took = [];
  let step = 0, last = performance.now();
  const next = now => {
    took.push(now - last);
    last = now;
    view.scrollTop = (view.scrollHeight - view.clientHeight) * step / 120;
    if (step++ < 120) requestAnimationFrame(next);
    else {
      took.sort((a, b) => a - b);
      const rows = panel.paylab.rows.shown.length, [x, y] = panel.paylab.point(rows - 1);
      const box = view.getBoundingClientRect();
      view.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + x, clientY: box.top + y}));
      done({p95: took[Math.floor(0.95 * took.length)], rows, last: panel.querySelector('.tip').textContent});
    }
  };
  requestAnimationFrame(next);
})
"""


def test_a_long_timeline(page: Page, open_cells: Open, run_cell: Run) -> None:
    """From running the cell to the first drawing, and frames while scrolling through it."""
    open_cells("long.ipynb", [TIMELINE, SHOWN_AT, "print(json.dumps({'at': began}))"])
    expect(run_cell(0)).to_contain_text("ready", timeout=PATIENCE_MS)
    page.evaluate(
        """() => {
          const seen = new MutationObserver(() => {
            if (!document.querySelector('.paylab-timeline[data-painted]')) return;
            window.paintedAt = Date.now();
            seen.disconnect();
          });
          const attributes = {attributes: true, attributeFilter: ['data-painted']};
          seen.observe(document.body, {subtree: true, childList: true, ...attributes});
          window.ranAt = Date.now();
        }"""
    )
    run_cell(1)
    page.wait_for_function("() => window.paintedAt", timeout=PATIENCE_MS)
    took_ms: Any = page.evaluate("() => window.paintedAt - window.ranAt")
    seen = page.evaluate(SCROLL)
    print(f"\n{seen['rows']:,} rows drawn {took_ms:.0f} ms after the cell was run")
    print(f"scrolling through them in 120 steps: p95 {seen['p95']:.0f} ms a frame")
    print(f"the last one says under the pointer: {seen['last']}")
