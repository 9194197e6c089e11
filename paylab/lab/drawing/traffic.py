"""The network as it is used: a graph whose edges say how many calls there were, how fast, and what failed.

traffic = lab.traffic(last="10 s")
max(traffic.edges, key=lambda edge: traffic.edges[edge]["p95_ms"])     # the slowest link
networkx.betweenness_centrality(traffic)                               # who is in the middle
lab.traffic(paying=True).needed("alice", "alpine")                     # whose loss stops payments
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from statistics import median
from typing import TYPE_CHECKING

import networkx as nx

from paylab.errors import LabError
from paylab.lab.drawing.graphs import NetworkGraph, network_graph
from paylab.lab.workload import percentile
from paylab.nodes.events import Event, Kind
from paylab.nodes.wire import HOUSEKEEPING

if TYPE_CHECKING:
    from paylab.lab.lab import Lab

# The calls that bring a payment from its payer to the ledgers of both banks.
PAYING = frozenset({"Pay", "Commit", "Prepare", "Decide"})


class TrafficGraph(NetworkGraph):
    """A `networkx.DiGraph` of who called whom, with what became of it; it draws itself, too.

    Nodes are those of `lab.graph()` (`role`, `layer`, `up`, `bank`), each client by its own name, and have
    `sent` and `received`, the numbers of calls. An edge has

    - `calls`, and `methods`, how many calls each method had;
    - `rate_per_s`, over the time that was looked at, which is the graph's `seconds`;
    - `failed`, and `failure_rate`, their share: errors, lost messages, deadlines that passed;
    - `open`, calls without an end yet;
    - `latency_s`, the median, `p50_ms`, `p95_ms` of the calls that were answered, NaN without any.
    """

    def to_banks(self) -> "nx.DiGraph[str]":
        """A copy in which each bank is a node behind its servers, for questions about ways to a bank."""
        copy: nx.DiGraph[str] = nx.DiGraph(self)
        for name, about in self.nodes(data=True):
            if about.get("bank"):
                copy.add_edge(name, about["bank"])
        return copy

    def needed(self, source: str, bank: str) -> list[str]:
        """Nodes on every way from a client to a bank, in order: the loss of any one cuts the two apart.

        In the terms of graph theory, the dominators of the bank. Raises LabError when no call went that way.
        """
        ways = self.to_banks()
        if source not in ways or bank not in ways or not nx.has_path(ways, source, bank):
            raise LabError("BAD_ARGUMENT", f"no calls have gone from {source!r} to {bank!r}: send some first")
        above = nx.immediate_dominators(ways, source)
        found, node = list[str](), above[bank]
        while node != source:
            found.insert(0, node)
            node = above[node]
        return found


def traffic_graph(lab: "Lab", *, last_s: float, paying: bool) -> TrafficGraph:
    """The traffic of the last so many seconds, as far as the history's memory reaches back."""
    now_s, events = lab.world.now(), list(lab.history.events)
    since_s = max(now_s - last_s, events[0].at_s if events else now_s)
    calls = _calls((event for event in events if event.at_s >= since_s), only=PAYING if paying else ())
    graph = TrafficGraph(badge=lab.badge, seconds=now_s - since_s)
    graph.add_nodes_from(network_graph(lab, clients_max=len(lab.history.calls)).nodes(data=True))
    for (source, target), those in calls.items():
        _add(graph, source, target, those)
    for name in graph:
        graph.nodes[name]["sent"] = sum(about["calls"] for _, _, about in graph.out_edges(name, data=True))
        graph.nodes[name]["received"] = sum(about["calls"] for _, _, about in graph.in_edges(name, data=True))
    return graph


class _Call:
    """One call as its caller saw it: sent, and perhaps ended."""

    __slots__ = ("ended", "method", "sent_at_s", "took_s")

    def __init__(self, sent: Event) -> None:
        self.method = sent.method.rpartition("/")[2]
        self.sent_at_s = sent.at_s
        self.took_s = 0.0
        self.ended: Kind | None = None


def _calls(events: Iterable[Event], *, only: Collection[str]) -> dict[tuple[str, str], list[_Call]]:
    """By caller and called: every call but those that only keep the network alive, or only some methods'."""
    found: defaultdict[tuple[str, str], list[_Call]] = defaultdict(list)
    by_id: dict[str, _Call] = {}
    for event in events:
        if event.kind is Kind.SENT and event.method not in HOUSEKEEPING:
            call = _Call(event)
            if not only or call.method in only:
                found[event.node, event.peer].append(call)
                by_id[event.call] = call
        elif event.kind in (Kind.RETURNED, Kind.FAILED) and event.call in by_id:
            call = by_id.pop(event.call)
            call.ended, call.took_s = event.kind, event.at_s - call.sent_at_s
    return found


def _add(graph: TrafficGraph, source: str, target: str, calls: Collection[_Call]) -> None:
    answered_ms = sorted(1000 * call.took_s for call in calls if call.ended is Kind.RETURNED)
    failed = sum(call.ended is Kind.FAILED for call in calls)
    p50_ms, p95_ms = (percentile(answered_ms, p) if answered_ms else float("nan") for p in (50, 95))
    graph.add_edge(
        source,
        target,
        calls=len(calls),
        methods=dict(Counter(call.method for call in calls)),
        rate_per_s=len(calls) / graph.graph["seconds"] if graph.graph["seconds"] else 0.0,
        failed=failed,
        failure_rate=failed / len(calls),
        open=sum(call.ended is None for call in calls),
        latency_s=median(answered_ms) / 1000 if answered_ms else 0.0,
        p50_ms=p50_ms,
        p95_ms=p95_ms,
    )
