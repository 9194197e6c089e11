"""WorkloadPanel: sends payments at a rate that a slider sets, and shows what the network makes of them."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets

from paylab.core.balancing import POLICIES
from paylab.errors import LabError
from paylab.lab.drawing import charts, svg
from paylab.lab.load import WINDOW_S, Load, servers_out
from paylab.lab.load_mix import Mix
from paylab.lab.load_result import LoadFigures, LoadResult
from paylab.lab.panels.panel import Panel, script, sheet
from paylab.lab.processes.node_process import NodeProcess
from paylab.nodes.events import Event, Kind

if TYPE_CHECKING:
    from paylab.lab.lab import Lab

BALANCER = "bank-lb"
TELL_S = 0.25
# More points than this are thinned out: a chart is about as many pixels wide.
POINTS_MAX = 240
# A page that said that it is gone may be back within this time. One that says nothing for so long is gone,
# too; where a busy cell keeps the kernel from hearing, it takes longer to be sure.
GONE_S = 5.0
SILENT_S = 15.0
SILENT_WITHOUT_SUBSHELLS_S = 300.0
ACTIONS = ("crash", "restart", "pause", "resume", "drain", "serve")
# A row of `points`: seconds, payments a second that became due, ended well and failed; three latencies in ms;
# payments under way, waiting and queued; errors in percent.
POINT = ("at_s", "due", "ended", "failed", "p50", "p95", "p99", "under_way", "waiting", "queued", "errors")


class WorkloadPanel(Panel):
    """Load on a lab, by hand: `lab.workload_panel()`.

    What the page sets and Python may: `rate`, `duration_s`, `concurrency`, the mix of payments. `start()` and
    `stop()`; `load` is the one that runs, `result` the latest that has ended, with `to_frame()` and
    `figure()`. What the lab's loop writes: `phase`, `progress`, `totals`, `points`, `marks`, `nodes`.
    """

    _esm = script("panel.js", "workload_panel.js")
    _css = sheet("panel.css", "workload_panel.css")

    rate = traitlets.Float(30.0, min=1.0, max=500.0).tag(sync=True)
    duration_s = traitlets.Float(20.0, min=1.0, max=3_600.0).tag(sync=True)
    concurrency = traitlets.Int(200, min=1, max=500).tag(sync=True)
    inside_bank = traitlets.Float(0.25, min=0.0, max=1.0).tag(sync=True)
    without_funds = traitlets.Float(0.0, min=0.0, max=1.0).tag(sync=True)
    largest = traitlets.Unicode("20.00 EUR").tag(sync=True)
    arrivals = traitlets.Unicode("poisson").tag(sync=True)

    # "ready", "sending", "ending" while the last payments are waited for, "done".
    phase = traitlets.Unicode("ready").tag(sync=True)
    progress = traitlets.Float(0.0).tag(sync=True)
    totals = traitlets.Dict().tag(sync=True)
    points: Any = traitlets.List().tag(sync=True)
    marks: Any = traitlets.List().tag(sync=True)
    nodes = traitlets.Dict().tag(sync=True)
    policy = traitlets.Unicode().tag(sync=True)
    policies: Any = traitlets.List(list(POLICIES)).tag(sync=True)
    loss = traitlets.Float(0.0).tag(sync=True)

    def __init__(self, lab: "Lab", **settings: Any) -> None:
        """Nothing is sent yet; `settings` are the traits that a reader can set."""
        self.load: Load | None = None
        self.result: LoadResult | None = None
        self._starting = threading.Lock()
        # When each page that shows the panel last said so.
        self._pages: dict[str, float] = {}
        # A page says nothing while there is no load.
        self._followed_at = 0.0
        super().__init__(lab, **settings)
        hears = hasattr(self.comm, "_reply_subshell_for")
        self._silent_s = SILENT_S if hears else SILENT_WITHOUT_SUBSHELLS_S
        if self.comm is not None:
            self.comm.on_close(lambda _: self.stop())

    # What a reader does -------------------------------------------------------------------------

    def start(self) -> Load:
        """Start a load with what is set, and return it at once. Raises LabError while one runs."""
        with self._starting:
            if self.load is not None and not self.load.done:
                raise LabError("ALREADY_RUNNING", "payments are being sent: stop them first")
            self.follow(
                load := self.lab.load(
                    self.rate,
                    self.duration_s,
                    concurrency=self.concurrency,
                    arrivals=self.arrivals,
                    **self._mix(),
                )
            )
        return load

    def follow(self, load: Load) -> None:
        """Show a load, wherever it was started; `lab.load` calls this."""
        if load is not self.load:
            self.load, self._followed_at = load, time.monotonic()
            self.start_thread(lambda: self._await_end(load))
            self.wake(0.0)

    def stop(self) -> None:
        """Send no more; what is under way still ends."""
        if self.load is not None:
            self.load.stop()

    def act(self, node: str, action: str) -> str:
        """Break or mend a node: one of `ACTIONS`. Raises LabError."""
        if action not in ACTIONS:
            raise LabError("BAD_ARGUMENT", f"{action!r} is none of {', '.join(ACTIONS)}")
        self._note(f"{action} {node}")
        getattr(self.lab, action)(node)
        return f"{node}: {action} done."

    def lose(self, rate: float) -> None:
        """Lose this share of all messages; 0 ends it."""
        self._note(f"lose {100 * rate:g} %")
        self.lab.lose(float(rate))

    def pick_by(self, policy: str) -> None:
        """Let the bank's balancer pick by another policy. Raises LabError."""
        self._note(policy)
        self.lab.set_policy(BALANCER, policy)

    def page(self, page: str, *, here: bool) -> None:
        """Hear from a page that it shows the panel, or that it is about to close."""
        if here:
            self._pages[page] = time.monotonic()
            return
        self._pages.pop(page, None)
        time.sleep(GONE_S)  # it may be on its way back: this thread is the action's own
        if not self._pages:
            self.stop()

    actions: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "start": lambda self: self.start() and None,
        "stop": stop,
        "act": act,
        "lose": lose,
        "policy": pick_by,
        "page": page,
    }

    def close(self) -> None:
        """Stop the load and take the widget away."""
        self.stop()
        super().close()

    @traitlets.observe("rate", "inside_bank", "without_funds", "largest")
    def _set(self, _: Any) -> None:
        """Let a load that runs go on with what is set now."""
        if self.load is not None and self.load.sending:
            self.load.rate = self.rate
            self.load.mix = Mix(**self._mix())

    def _mix(self) -> dict[str, Any]:
        return {
            "inside_bank": self.inside_bank,
            "without_funds": self.without_funds,
            "amounts": ("0.01 EUR", self.largest),
        }

    def _note(self, what: str) -> None:
        if self.load is not None and self.load.sending:
            self.load.note(what)

    def _await_end(self, load: Load) -> None:
        """Wait for the end, and show it; in a simulated world time moves because of this."""
        try:
            self.result = load.result()
        except BaseException as error:  # noqa: BLE001 - nobody else would hear of it
            self.say(f"The load ended early: {str(error) or type(error).__name__}")
        else:
            self.say(
                f"{len(self.result.paid):,} payments ended. In a cell, the panel's result.to_frame() has a "
                "row for each, and result.figure() draws them."
            )
        self.wake(0.0)
        self.refresh()

    # What is shown ------------------------------------------------------------------------------

    def _heard(self, event: Event) -> None:
        if event.kind in (Kind.CRASHED, Kind.RESTARTED):
            self.wake()

    def tell(self) -> None:
        """Write the traits, on the lab's loop."""
        network, load = self.lab.network, self.load
        out, troubles = servers_out(network, self.lab.world.now()), self.lab.world.troubles()
        self.nodes = {
            name: "down"
            if not running.up
            else "paused"
            if name in troubles.paused
            else "out"
            if name in out
            else "up"
            for name, running in network.nodes.items()
        }
        self.loss = troubles.loss_everywhere
        host = network.nodes[BALANCER].host
        if not isinstance(host, NodeProcess):
            factory = host.decisions.balancer_policy
            names = [name for name, made in POLICIES.items() if made is factory]
            self.policy = names[0] if names else getattr(factory, "__name__", "your own")
        if load is None:
            return
        self.phase = "sending" if load.sending else "done" if load.done else "ending"
        if load.ticks:
            last = load.ticks[-1]
            self.totals = _totals(last)
            self.progress = min(1.0, last.at_s / load.duration_s) if load.sending else 1.0
            self.points = _points(load.ticks)
        self.marks = [[round(at_s, 2), what] for at_s, what in load.marks]
        if not load.done:
            heard_at = max([self._followed_at, *self._pages.values()])
            if self._pages and time.monotonic() - heard_at > self._silent_s:
                load.stop()
            self.wake(TELL_S)

    def still(self) -> svg.Figure:
        """The charts as a picture."""
        return charts.load_charts(self.points, self.marks, title=self.summary(), badge=self.badge)

    def summary(self) -> str:
        """What has been sent and what became of it."""
        if not self.totals:
            return f"Load on {len(self.nodes)} nodes: nothing was sent yet."
        answers = ", ".join(f"{count:,} {answer}" for answer, count in self.totals["answers"].items())
        return f"{self.totals['ended']:,} payments ended: {answers or 'none'}."


def _totals(last: LoadFigures) -> dict[str, Any]:
    return {
        "at_s": round(last.at_s, 2),
        "due": last.due,
        "sent": last.sent,
        "ended": last.ended,
        "under_way": last.under_way,
        "waiting": last.waiting,
        "queued": last.queued,
        "answers": dict(last.answers),
    }


def _points(ticks: Sequence[LoadFigures]) -> list[list[float | None]]:
    """Rows as `POINT` names them; every second, fourth, … tick when there are very many, and the last."""
    stride = 2 ** max(0, math.ceil(math.log2(max(1, len(ticks)) / POINTS_MAX)))
    chosen = [*range(0, len(ticks) - 1, stride), len(ticks) - 1]
    rows: list[list[float | None]] = []
    for n in chosen:
        tick = ticks[n]
        before = next((ticks[m] for m in range(n, -1, -1) if ticks[m].at_s <= tick.at_s - WINDOW_S), None)
        since_s, due = (before.at_s, before.due) if before else (0.0, 0)
        failed = tick.per_s_by_answer.get("error", 0.0)
        rows.append(
            [
                round(tick.at_s, 2),
                round((tick.due - due) / (tick.at_s - since_s), 1) if tick.at_s > since_s else 0.0,
                round(tick.per_s - failed, 1),
                round(failed, 1),
                *(None if math.isnan(ms) else round(ms, 1) for ms in tick.latency_ms.values()),
                tick.under_way,
                tick.waiting,
                tick.queued,
                round(100 * tick.error_rate, 1),
            ]
        )
    return rows
