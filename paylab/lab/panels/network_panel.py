"""NetworkPanel: the running network, its payments in slow motion, and the hand that breaks it."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import traitlets

from paylab.core.authorization import Role
from paylab.core.health import Health
from paylab.lab import faults
from paylab.lab.checking import checks
from paylab.lab.drawing import graphs, svg
from paylab.lab.network import OPERATOR
from paylab.lab.panels.journeys import Journeys
from paylab.lab.panels.live_network import LiveNetwork
from paylab.lab.panels.panel import Panel, script, sheet
from paylab.nodes.events import Event
from paylab.nodes.load_balancer import LoadBalancer
from paylab.nodes.wire import HOUSEKEEPING

if TYPE_CHECKING:
    from paylab.lab.lab import Lab

NODE_HEIGHT, ROW_GAP = 42.0, 60.0
# Room that is kept for the number of calls beside an edge.
CALLS_WIDEST = 88_888
# The ledgers are read when nothing has happened for so long; the panel looks so often whether that is so.
REST_S, LOOK_S = 1.0, 0.3
FOUND_SHOWN = 5
SLOW_FACTOR = 20.0
DRAIN_TIMEOUT_S = 30.0
# Who calls whom in the architecture, by role; other edges are drawn once somebody has used them.
ALWAYS = (
    ("gateway", "coordinator"),
    ("gateway", "logger"),
    ("gateway", "queue"),
    ("queue", "gateway"),
    ("coordinator", "bank-lb"),
)
SERVED_BY = {"auth-lb": Role.AUTH, "bank-lb": Role.BANK}


class NetworkPanel(Panel):
    """The network of a lab, live: `lab.panel()`.

    Traits, all written by the lab's loop: `plan` says where nodes and edges are drawn, `nodes` how each node
    is, `edges` how many calls went over each and what is wrong with it, `totals` the payments by state,
    `rows` the latest payments, `verdict` whether every invariant holds.
    """

    _esm = script("panel.js", "stage.js", "network_panel.js")
    _css = sheet("panel.css", "network_panel.css")

    # What the page's worker runs.
    stage = traitlets.Unicode(script("panel.js", "stage.js")).tag(sync=True)

    plan = traitlets.Dict().tag(sync=True)
    nodes = traitlets.Dict().tag(sync=True)
    edges = traitlets.Dict().tag(sync=True)
    totals = traitlets.Dict().tag(sync=True)
    rows: Any = traitlets.List().tag(sync=True)
    verdict = traitlets.Dict().tag(sync=True)

    def __init__(self, lab: "Lab") -> None:
        """Show a lab."""
        self.live = LiveNetwork()
        self._journeys = Journeys()
        self._report: checks.Report | None = None
        self._moved_at = time.monotonic()
        self._unread = False
        self._reading = False
        self._named: dict[str, str] = {}
        # How many pairs had called each other when that was last laid out.
        self._planned = -1
        super().__init__(lab)
        lab.at_check(self._checked)

    # What happens -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take in what memory has, and all that was counted."""
        history = self.lab.history
        self.live.begin(history, history.calls)
        for payment, known in self.lab.history_checks.picture.payments.items():
            if payment not in self.live.payments:
                self.live.payments[payment] = known.state
                self.live.states[known.state] += 1

    def take(self, events: Sequence[Event]) -> None:
        """Take in a batch."""
        self.live.take(events)
        self._journeys.take(events)
        if any(event.method not in HOUSEKEEPING and event.detail != "quiet" for event in events):
            self._moved_at = time.monotonic()
            self._unread = True

    def tell(self) -> None:
        """Write the traits, and send the journeys that are ready."""
        now_s = self.lab.world.now()
        self._plan()
        rates = self.live.rates(now_s)
        self.nodes = self._nodes(rates)
        self.edges = self._edges(rates)
        live = self.live
        self.totals = {
            "payments": live.total,
            "committed": live.states["COMMITTED"],
            "declined": live.states["DECLINED"],
            "queued": live.states["QUEUED"],
            "other": live.states["CANCELLED"] + live.states["DEAD_LETTER"],
            "under_way": live.under_way,
            "per_s": live.ended_per_s(now_s),
        }
        self.rows = [line.to_json() for line in reversed(live.latest.values())]
        self.verdict = self._verdict()
        journeys = self._journeys.tell(now_s)
        if journeys:
            self.send({"journeys": journeys})
        if rates or self._unread or self._journeys.busy:
            self.wake(max(LOOK_S, self.every_s))
        if self._unread and not self._reading and time.monotonic() - self._moved_at >= REST_S:
            self._unread, self._reading = False, True
            self.start_thread(self._read_ledgers)

    # How it looks -------------------------------------------------------------------------------

    def graph(self) -> graphs.NetworkGraph:
        """The nodes, their clients and the edges that are drawn, whether used or not."""
        graph = graphs.network_graph(self.lab)
        if OPERATOR.node in graph:
            graph.remove_node(OPERATOR.node)
        clients = [name for name, about in graph.nodes(data=True) if about["role"] is Role.CLIENT]
        links = [*ALWAYS, *((name, entry) for name in clients for entry in ("auth-lb", "gateway"))]
        for balancer, role in SERVED_BY.items():
            links += [(balancer, name) for name, about in graph.nodes(data=True) if about["role"] is role]
        for source, target in links:
            if source in graph and target in graph and not graph.has_edge(source, target):
                graph.add_edge(source, target, calls=0)
        return graph

    def _plan(self) -> None:
        """Lay out anew when a node or an edge has come."""
        if self._planned == len(self.live.calls):
            return
        self._planned = len(self.live.calls)
        ends = {name for edge in self.live.calls for name in edge}
        drawn = {tuple(edge[:2]) for edge in self.plan.get("edges", ())}
        if (
            self.plan
            and ends <= set(self._named)
            and {self._shown(edge) for edge in self.live.calls} <= drawn
        ):
            return
        graph = self.graph()
        crowd = next((name for name in graph if name.endswith(" clients")), "")
        self._named = {name: name if name in graph else crowd for name in {*graph, *ends}}
        for _, _, about in graph.edges(data=True):
            about["calls"] = CALLS_WIDEST
        layout = graph.layout(node_height=NODE_HEIGHT, row_gap=ROW_GAP)
        self.plan = {
            "width": svg.WIDTH,
            "height": layout.height,
            "nodes": {name: _node(graph, name, box) for name, box in layout.nodes.items()},
            "edges": [
                [
                    edge.source,
                    edge.target,
                    edge.path,
                    [round(x, 1) for x in edge.count.centre] if edge.count else None,
                ]
                for edge in layout.edges
            ],
        }

    def _shown(self, edge: tuple[str, str]) -> tuple[str, str]:
        return self._named.get(edge[0], edge[0]), self._named.get(edge[1], edge[1])

    def _nodes(self, rates: "dict[tuple[str, str], int]") -> dict[str, Any]:
        """By name: state, calls that it works on, calls that it got in the last second, and in all."""
        per_s: dict[str, int] = {}
        for (_, target), count in rates.items():
            per_s[target] = per_s.get(target, 0) + count
        troubles, listed = self.lab.world.troubles(), self._listed()
        found: dict[str, Any] = {}
        for name, running in self.lab.network.nodes.items():
            if not running.up:
                state = "down"
            elif name in troubles.paused:
                state = "paused"
            else:
                state = listed.get(name, "up")
            busy = len(self.live.working.get(name, ()))
            slow = troubles.slowness.get(name, 1.0)
            found[name] = [state, busy, per_s.get(name, 0), self.live.received[name], slow]
        return found

    def _listed(self) -> dict[str, str]:
        """Servers that their balancer does not pick, and why; read where the balancer keeps it."""
        said: dict[str, str] = {}
        for running in self.lab.network.nodes.values():
            if running.up and isinstance(running.node, LoadBalancer):
                pool = running.node.pool
                now_s = pool.host.now()
                for server, endpoint in pool.endpoints.items():
                    if pool.health[server] is Health.NOT_SERVING:
                        said[server] = "draining"
                    elif pool.detector(endpoint.group).ejected(server, now=now_s):
                        said[server] = "ejected"
        return said

    def _edges(self, rates: "dict[tuple[str, str], int]") -> dict[str, Any]:
        """By "from to": calls in all, calls in the last second, and what is wrong with the link."""
        troubles = self.lab.world.troubles()
        found: dict[str, Any] = {f"{s} {t}": [0, 0, {}] for s, t, _, _ in self.plan["edges"]}
        for edge, calls in self.live.calls.items():
            entry = found.get(" ".join(self._shown(edge)))
            if entry is not None:
                entry[0] += calls
                entry[1] += rates.get(edge, 0)
        for kind, links in (
            ("cut", dict.fromkeys(troubles.cuts, 1.0)),
            ("lose", troubles.losses),
            ("delay", troubles.delays),
        ):
            for link, how_much in links.items():
                entry = found.get(" ".join(self._shown(link)))
                if entry is not None:
                    entry[2][kind] = how_much
        if troubles.loss_everywhere:
            for entry in found.values():
                entry[2].setdefault("lose", troubles.loss_everywhere)
        return found

    # Whether all is well ------------------------------------------------------------------------

    def _verdict(self) -> dict[str, Any]:
        """What the folds over the history and the last reading of the ledgers have found."""
        judged = self.lab.history_checks
        found = [
            f"{fold.name}: {text}" for fold in judged.folds for _, text in list(fold.findings)[:FOUND_SHOWN]
        ]
        report = self._report
        if report is not None:
            found += [
                line for line in report.violations if not any(line.startswith(known) for known in found)
            ]
        return {
            "ok": not found,
            "found": found[:FOUND_SHOWN],
            "invariants": len(judged.folds) if report is None else len(checks.CHECKS),
            "facts": judged.picture.facts,
            "ledgers": "not read yet" if report is None else "stale" if self._unread else "read",
        }

    def _checked(self, report: checks.Report) -> None:
        """Somebody has asked for a report; the page shows what it says."""
        self._report = report
        if not self.ended:
            self.wake()

    def _read_ledgers(self) -> None:
        try:
            self.lab.check()
        finally:
            self._reading = False

    # What the page asks for ---------------------------------------------------------------------

    def _crash(self, node: str) -> str:
        self.lab.crash(node)
        return f"{node} crashed: what it had only in memory is gone."

    def _restart(self, node: str) -> str:
        self.lab.restart(node)
        return f"{node} is up again, from what its disk holds."

    def _drain(self, node: str) -> str:
        self.say(f"{node} finishes what it has …")
        self.lab.drain(node, timeout_s=DRAIN_TIMEOUT_S)
        return f"{node} is drained: it gets no more calls until it serves again."

    def _serve(self, node: str) -> str:
        self.lab.serve(node)
        return f"{node} takes calls again."

    def _break(self, kind: str, **arguments: Any) -> str:
        """Make one fault of the world happen, or end."""
        fault = FAULTS[kind](**arguments)
        self.lab.world.call(faults.apply(self.lab.network, fault))
        return SAID[kind].format(**arguments)

    def _check(self) -> str:
        report = self.lab.check()
        return "Every invariant holds." if report.ok else f"{len(report.violations)} violations found."

    def _timeline(self, payment: str) -> None:
        self.send({"timeline": payment, "html": self.lab.timeline(payment)._repr_html_()})

    actions = {  # noqa: RUF012 - declared as a ClassVar by Panel
        "crash": _crash,
        "restart": _restart,
        "drain": _drain,
        "serve": _serve,
        "break": _break,
        "check": _check,
        "timeline": _timeline,
    }

    # When it is dead ----------------------------------------------------------------------------

    def still(self) -> svg.Figure:
        """The network's graph with its counts."""
        return graphs.network_graph(self.lab).figure()

    def summary(self) -> str:
        """The final figures."""
        live = self.live
        states = ", ".join(
            f"{count} {state.lower()}" for state, count in sorted(live.states.items()) if count
        )
        down = ", ".join(name for name, about in self.nodes.items() if about[0] != "up")
        verdict = "every invariant holds" if self.verdict.get("ok") else "an invariant is broken"
        what = (
            f"Network of {len(self.nodes)} nodes after {live.total} payment{'' if live.total == 1 else 's'}"
        )
        return (
            f"{what}{f' ({states})' if states else ''}; {f'not up: {down}; ' if down else ''}"
            f"{verdict}; {self.badge}."
        )


SAID = {
    "pause": "{node} is paused: it stands where it was, and sends, receives and writes nothing.",
    "resume": "{node} goes on where it stood.",
    "slow": "{node} takes {factor} times as long as it should.",
    "partition": "Whatever {a} and {b} send each other is lost.",
    "lose": "A share of {rate:.0%} of what {a} and {b} send each other is lost.",
    "delay": "Whatever {a} and {b} send each other takes {seconds} s longer.",
    "mend": "The link between {a} and {b} is as it should be.",
    "heal": "Every link is as it should be.",
}
FAULTS: dict[str, Callable[..., faults.Fault]] = {
    "pause": faults.pause,
    "resume": faults.resume,
    "slow": faults.slow,
    "partition": faults.partition,
    "lose": faults.lose_between,
    "delay": faults.delay,
    "mend": faults.mend,
    "heal": faults.heal,
}


def _node(graph: graphs.NetworkGraph, name: str, box: svg.Box) -> dict[str, Any]:
    about = graph.nodes[name]
    role = Role(about["role"])
    return {
        "role": role.value,
        "what": graphs.TEXT_OF_ROLE.get(role, role.value),
        "colour": graphs.COLOUR_OF_ROLE.get(role, "client"),
        "icon": graphs.ICONS[role],
        "box": [round(edge, 1) for edge in box],
        "behind": about["role"] in SERVED_BY.values(),
        "client": role is Role.CLIENT,
    }
