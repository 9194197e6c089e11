"""The network as a graph that draws itself: who there is, and who really called whom how often."""

import math
from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import networkx as nx

from paylab.core.authorization import Role
from paylab.lab.drawing import svg
from paylab.lab.drawing.graph_layout import (
    NAME_WIDTH_MAX,
    NODE_HEIGHT,
    NODE_TEXT,
    ROW_GAP,
    Edge,
    Layout,
    arrange,
)
from paylab.lab.network import OPERATOR
from paylab.nodes.load_balancer import LoadBalancer
from paylab.nodes.server_pool import ServerPool

if TYPE_CHECKING:
    from paylab.lab.lab import Lab

    _DiGraph = nx.DiGraph[str]
else:
    _DiGraph = nx.DiGraph

# A server that takes so many times as long as the others is drawn as slow.
SLOW_TIMES = 2.0
# More clients than this are drawn as one node.
CLIENTS_MAX = 4
# The layers of the architecture, from top to bottom; a balancer stands above those that it serves.
LAYER_OF_ROLE = {
    Role.CLIENT: 0,
    Role.OPERATOR: 0,
    Role.GATEWAY: 1,
    Role.AUTH: 2,
    Role.COORDINATOR: 2,
    Role.QUEUE: 2,
    Role.LOGGER: 2,
    Role.BANK: 4,
}
AUTH_BALANCER_LAYER, BANK_BALANCER_LAYER = 1, 3
# From left to right within a layer.
ROLES_IN_ORDER = (
    Role.OPERATOR,
    Role.CLIENT,
    Role.BALANCER,
    Role.AUTH,
    Role.GATEWAY,
    Role.COORDINATOR,
    Role.QUEUE,
    Role.LOGGER,
    Role.BANK,
)
COLOUR_OF_ROLE = {
    Role.AUTH: "purple",
    Role.BALANCER: "balancer",
    Role.GATEWAY: "blue",
    Role.COORDINATOR: "vermilion",
    Role.BANK: "green",
    Role.LOGGER: "blue",
    Role.QUEUE: "blue",
}
# Drawn with lines in a square of 16 units.
ICONS = {
    Role.CLIENT: "M8 8.2a3 3 0 1 0 0-6a3 3 0 0 0 0 6M2.5 14.5c0-6 11-6 11 0",
    Role.OPERATOR: "M8 5.2a2.8 2.8 0 1 0 0 5.6a2.8 2.8 0 0 0 0-5.6M8 1.5v2M8 12.5v2M1.5 8h2M12.5 8h2"
    "M3.4 3.4l1.5 1.5M11.1 11.1l1.5 1.5M12.6 3.4l-1.5 1.5M4.9 11.1l-1.5 1.5",
    Role.AUTH: "M5 14h6.5a1 1 0 0 0 1-1V8.5a1 1 0 0 0-1-1h-7a1 1 0 0 0-1 1V13a1 1 0 0 0 1 1z"
    "M5.5 7.5V5a2.5 2.5 0 0 1 5 0v2.5",
    Role.BALANCER: "M1.5 8h4M5.5 8l6-5M5.5 8h8M5.5 8l6 5M9 2.5h3v2.5M11.5 6l2 2l-2 2M9 13.5h3V11",
    Role.GATEWAY: "M3 14.5V6a5 5 0 0 1 10 0v8.5M1 14.5h14M8 14.5v-13M8 8h5",
    Role.COORDINATOR: "M8 1.5l6.5 6.5l-6.5 6.5l-6.5-6.5zM5.3 8.2l2 2l3.5-4",
    Role.BANK: "M1.5 6L8 2l6.5 4zM3.5 6v7M8 6v7M12.5 6v7M1.5 14h13",
    Role.LOGGER: "M3.5 1.5h9v13h-9zM5.5 5h5M5.5 8h5M5.5 11h3",
    Role.QUEUE: "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13M8 4.5V8l2.5 2",
}
STYLE = """
{id} .node rect{{fill:{paper};stroke-width:1.6}}
{id} .node path{{fill:none;stroke-width:1.4;stroke-linecap:round;stroke-linejoin:round}}
{id} .node text{{font-size:12px;stroke:none}}
{id} .blue>*{{stroke:{blue}}} {id} .green>*{{stroke:{green}}} {id} .vermilion>*{{stroke:{vermilion}}}
{id} .purple>*{{stroke:{purple}}} {id} .balancer>*{{stroke:{muted}}} {id} .client>*{{stroke:{faint}}}
{id} .client path{{stroke:{muted}}}
{id} .down rect{{fill:{shade};stroke:{muted};stroke-dasharray:4 3}}
{id} .down path.icon{{stroke:{muted}}} {id} .down text{{fill:{muted}}}
{id} .down path.cross{{stroke-width:2.2;stroke:{vermilion}}}
{id} .edge path{{fill:none;stroke:{muted};stroke-opacity:.65}}
{id} .edge path.hit{{stroke:transparent;stroke-width:9}}
{id} .edge:hover path.line{{stroke:{blue};stroke-opacity:1}}
{id} .slow path.line{{stroke:{vermilion};stroke-opacity:.9}}
{id} .head{{fill:{muted}}}
{id} text.count{{font-variant-numeric:tabular-nums}}
"""


class NetworkGraph(_DiGraph):
    """A `networkx.DiGraph` of one lab that draws itself in a notebook.

    A node has `role` (a `Role`), `layer` (its row, 0 on top), `up`, and `bank` (empty for what is no bank
    server); an edge has `calls`, which leaves out what only keeps the network alive, and where a balancer
    knows it `latency_s`. Its width grows with its calls; it is red when the server is slow beside the others.
    """

    def __repr__(self) -> str:
        """Say how large it is."""
        return f"<NetworkGraph of {len(self)} nodes and {self.number_of_edges()} edges, {self.badge}>"

    @property
    def badge(self) -> str:
        """Where it comes from: "real", or "simulated, seed 7"."""
        return str(self.graph.get("badge", "real"))

    def layout(self, *, node_height: float = NODE_HEIGHT, row_gap: float = ROW_GAP) -> Layout:
        """Where everything is drawn, in units of a drawing that is 640 wide."""
        of_layer: dict[int, list[str]] = {}
        for name, about in self.nodes(data=True):
            of_layer.setdefault(int(about.get("layer", 0)), []).append(name)
        for names in of_layer.values():
            names.sort(key=lambda name: ROLES_IN_ORDER.index(self._role(name)))
        middle = [name for name in self if self._role(name) in (Role.COORDINATOR, Role.QUEUE, Role.LOGGER)]
        below = {name: middle for name in self if self._role(name) is Role.GATEWAY}
        for name in self:
            if self._role(name) is Role.BALANCER:
                served = Role.AUTH if self.nodes[name].get("layer") == AUTH_BALANCER_LAYER else Role.BANK
                below[name] = [other for other in self if self._role(other) is served]
        calls = {
            (source, target): int(data.get("calls", 0)) for source, target, data in self.edges(data=True)
        }
        layers = [of_layer[layer] for layer in sorted(of_layer)]
        return arrange(
            layers,
            calls,
            below=below,
            reserved=[svg.badge_box(self.badge)],
            node_height=node_height,
            row_gap=row_gap,
        )

    def save(self, path: str | Path) -> None:
        """Write the drawing to an .svg file."""
        self.figure().save(path)

    def _repr_html_(self) -> str:
        """The drawing, for a notebook."""
        return self.figure().html()

    def _role(self, name: str) -> Role:
        return Role(self.nodes[name].get("role", Role.CLIENT))

    def figure(self) -> svg.Figure:
        """The drawing."""
        layout = self.layout()
        head = svg.element("path", d="M0 0L8 3.5L0 7z", class_="head")
        marker = svg.element(
            "marker",
            head,
            id="{id}-head",
            markerWidth=8.0,
            markerHeight=7.0,
            refX=7.5,
            refY=3.5,
            orient="auto",
            markerUnits="userSpaceOnUse",
        )
        parts = [svg.element("defs", marker)]
        parts += [
            _edge(edge, self._latency_s(edge.source, edge.target), slow_s=self._slow_s(edge.source))
            for edge in layout.edges
        ]
        parts += [self._drawn(name, box) for name, box in layout.nodes.items()]
        parts += [
            svg.label(f"{edge.calls:,}", *edge.count.centre, class_="count", text_anchor="middle")
            for edge in layout.edges
            if edge.count
        ]
        parts.append(svg.badge(self.badge))
        about = f"Network of {len(self)} nodes with the number of calls between them"
        return svg.Figure("".join(parts), style=STYLE, height=layout.height, about=about, shown_px=860)

    def _latency_s(self, source: str, target: str) -> float:
        return float(self.edges[source, target].get("latency_s", 0.0))

    def _slow_s(self, source: str) -> float:
        """The latency above which a server is drawn as slow: twice what its balancer usually sees."""
        known = [latency_s for target in self[source] if (latency_s := self._latency_s(source, target))]
        return SLOW_TIMES * median(known) if known else math.inf

    def _drawn(self, name: str, box: svg.Box) -> str:
        about, role = self.nodes[name], self._role(name)
        up = bool(about.get("up", True))
        calls_in = sum(data.get("calls", 0) for _, _, data in self.in_edges(name, data=True))
        calls_out = sum(data.get("calls", 0) for _, _, data in self.out_edges(name, data=True))
        what = f"{name}: {TEXT_OF_ROLE.get(role, role)}{'' if up else ', down'}"
        parts = [
            svg.rounded(box, rx=7.0),
            svg.element(
                "path",
                d=ICONS[role],
                class_="icon",
                transform=f"translate({box.left + 8:.1f} {box.top + 8:.1f})",
            ),
            svg.label(svg.fitted(name, NODE_TEXT, NAME_WIDTH_MAX), box.left + 29, box.centre[1] + 0.5),
        ]
        if not up:
            parts.append(svg.cross(box.right - 1, box.top + 1, reach=5.0))
        colour = COLOUR_OF_ROLE.get(role, "client")
        title = f"{what}\n{calls_in:,} calls received, {calls_out:,} sent"
        return svg.element("g", *parts, title=title, class_=f"node {colour}{'' if up else ' down'}")


TEXT_OF_ROLE = {
    Role.AUTH: "authentication server",
    Role.BALANCER: "load balancer",
    Role.GATEWAY: "payment gateway",
    Role.BANK: "bank server",
    Role.LOGGER: "transaction logger",
    Role.QUEUE: "offline queue",
    Role.OPERATOR: "the lab itself, which opens accounts and registers users",
}


def network_graph(lab: "Lab", *, clients_max: int = CLIENTS_MAX) -> NetworkGraph:
    """The lab's nodes and clients, and the calls so far between them; very many clients as one node."""
    graph = NetworkGraph(badge=lab.badge)
    calls = dict(lab.history.calls)
    known = {*lab.nodes, OPERATOR.node}
    clients = sorted({name for pair in calls for name in pair if name not in known})
    shown = {name: name for name in clients}
    if len(clients) > clients_max:
        shown = dict.fromkeys(clients, f"{len(clients):,} clients")
    if any(OPERATOR.node in pair for pair in calls):
        _add(graph, OPERATOR.node, OPERATOR.role)
    for name in dict.fromkeys(shown.values()):
        _add(graph, name, Role.CLIENT)
    for name, running in lab.network.nodes.items():
        _add(graph, name, running.identity.role, up=running.up)
    totals: Counter[tuple[str, str]] = Counter()
    for (source, target), count in calls.items():
        totals[shown.get(source, source), shown.get(target, target)] += count
    for (source, target), count in totals.items():
        graph.add_edge(source, target, calls=count)
    for name, running in lab.network.nodes.items():
        if isinstance(running.node, LoadBalancer):
            _add_latencies(graph, name, running.node.pool)
    return graph


def _add_latencies(graph: NetworkGraph, balancer: str, pool: ServerPool) -> None:
    for server, endpoint in pool.endpoints.items():
        if graph.has_edge(balancer, server):
            graph.edges[balancer, server]["latency_s"] = endpoint.latency_s


def _add(graph: NetworkGraph, name: str, role: Role, *, up: bool = True) -> None:
    if role is Role.BALANCER:
        layer = AUTH_BALANCER_LAYER if name.startswith("auth") else BANK_BALANCER_LAYER
    else:
        layer = LAYER_OF_ROLE[role]
    bank = name.rpartition("-")[0] if role is Role.BANK else ""
    graph.add_node(name, role=role, layer=layer, up=up, bank=bank)


def _edge(edge: Edge, latency_s: float, *, slow_s: float) -> str:
    width = 1.0 + 0.9 * math.log10(max(1, edge.calls))
    title = f"{edge.source} → {edge.target}: {edge.calls:,} call{'' if edge.calls == 1 else 's'}"
    if latency_s:
        title += f", answered in about {1000 * latency_s:.1f} ms"
    return svg.element(
        "g",
        svg.element("path", d=edge.path, class_="hit"),
        svg.element(
            "path", d=edge.path, class_="line", stroke_width=min(width, 5.0), marker_end="url(#{id}-head)"
        ),
        title=title,
        class_="edge slow" if latency_s > slow_s else "edge",
    )
