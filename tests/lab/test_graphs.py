"""The network graph: what it holds, and that its drawing can be read."""

import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

import paylab
from paylab.core.authorization import Role
from paylab.lab.drawing.graphs import CLIENTS_MAX, NetworkGraph
from paylab.lab.drawing.svg import WIDTH, Box
from paylab.nodes.wire import HOUSEKEEPING

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def lab() -> Iterator[paylab.Lab]:
    with paylab.Lab(name="graphs") as running:
        alice = running.client("alice", bank="alpine", balance="100.00 EUR")
        bob = running.client("bob", bank="boreal")
        for _ in range(12):
            alice.pay(bob, "1.00 EUR")
        running.settle()
        yield running


def drawn(graph: NetworkGraph) -> ET.Element:
    page = graph._repr_html_()
    return ET.fromstring(page[page.index("<svg") : page.rindex("</svg>") + len("</svg>")])  # noqa: S314 - ours


def texts(svg: ET.Element, style: str) -> list[str]:
    return ["".join(text.itertext()) for text in svg.iter(f"{SVG}text") if text.get("class") == style]


def apart(boxes: list[Box]) -> bool:
    return not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def made_of(calls: dict[tuple[str, str], int], *, banks: int = 2) -> NetworkGraph:
    """A network that nobody boots."""
    graph = NetworkGraph(badge="simulated, seed 7")
    graph.add_node("alice", role=Role.CLIENT, layer=0)
    graph.add_node("auth-lb", role=Role.BALANCER, layer=1)
    graph.add_node("gateway", role=Role.GATEWAY, layer=1)
    for name, role in (("auth-1", Role.AUTH), ("coordinator", Role.COORDINATOR), ("queue", Role.QUEUE)):
        graph.add_node(name, role=role, layer=2)
    graph.add_node("bank-lb", role=Role.BALANCER, layer=3)
    for number in range(banks * 2):
        graph.add_node(f"bank{number // 2}-{number % 2 + 1}", role=Role.BANK, layer=4)
    for (source, target), count in calls.items():
        graph.add_edge(source, target, calls=count)
    return graph


def test_its_edges_are_what_the_history_counted(lab: paylab.Lab) -> None:
    """Every edge counts its calls, and what only keeps the network alive is left out."""
    graph = lab.graph()
    assert isinstance(graph, nx.DiGraph)
    assert set(lab.nodes) <= set(graph)
    assert len(lab.nodes) == 12
    assert {(a, b): d["calls"] for a, b, d in graph.edges(data=True)} == dict(lab.history.calls)
    sent = sum(1 for e in lab.history if e.kind == "sent" and e.method not in HOUSEKEEPING)
    assert sum(lab.history.calls.values()) == sent
    assert graph.nodes["alpine-2"] == {"role": Role.BANK, "layer": 4, "up": True, "bank": "alpine"}
    assert graph.nodes["auth-lb"]["layer"] < graph.nodes["auth-1"]["layer"]
    assert graph.nodes["coordinator"]["layer"] < graph.nodes["bank-lb"]["layer"]


def test_every_count_is_shown_beside_its_edge(lab: paylab.Lab) -> None:
    """At least ten edges show their count, and each node its name."""
    graph = lab.graph()
    svg = drawn(graph)  # type: ignore[arg-type] # the annotation names its base class
    counts = texts(svg, "count")
    assert len(counts) == graph.number_of_edges() >= 10
    assert sorted(counts) == sorted(f"{data['calls']:,}" for _, _, data in graph.edges(data=True))
    titles = [title.text or "" for title in svg.iter(f"{SVG}title")]
    calls = lab.history.calls["gateway", "coordinator"]
    assert f"gateway → coordinator: {calls} calls" in titles
    names = {"".join(text.itertext()) for text in svg.iter(f"{SVG}text")}
    assert set(lab.nodes) | {"alice", "real"} <= names


@pytest.mark.parametrize("banks", [1, 2, 7, 14])
def test_nothing_overlaps(banks: int) -> None:
    """Counts, nodes and the badge keep apart, and all stay inside, also in a large network."""
    servers = [f"bank{number // 2}-{number % 2 + 1}" for number in range(banks * 2)]
    calls = {("bank-lb", server): 7 * number + 1 for number, server in enumerate(servers)}
    calls |= {
        ("alice", "auth-lb"): 1,
        ("alice", "gateway"): 123_456,
        ("alice", "bank-lb"): 3,
        ("auth-lb", "auth-1"): 1,
        ("gateway", "coordinator"): 99,
        ("gateway", "queue"): 5,
        ("queue", "gateway"): 4,
        ("coordinator", "bank-lb"): 1_000_000,
        (servers[-1], "coordinator"): 2,
        ("gateway", "auth-lb"): 2,
    }
    graph = made_of(calls, banks=banks)
    layout = graph.layout()
    counts = [edge.count for edge in layout.edges if edge.count is not None]
    assert len(counts) == len(calls)
    assert apart([*layout.nodes.values(), *counts])
    for box in [*layout.nodes.values(), *counts]:
        assert box.left >= 0
        assert box.right <= WIDTH
        assert 0 <= box.top < box.bottom <= layout.height
    for edge in layout.edges:
        others = [box for name, box in layout.nodes.items() if name not in (edge.source, edge.target)]
        assert not any(box.holds(*point) for box in others for point in edge.points)


def test_a_crashed_node_is_crossed_out(lab: paylab.Lab) -> None:
    """A node that is down is dashed and bears a cross; after a restart it does not."""
    assert "node green down" not in lab.graph()._repr_html_()  # type: ignore[attr-defined] # as above
    lab.crash("alpine-1")
    try:
        graph = lab.graph()
        assert graph.nodes["alpine-1"]["up"] is False
        svg = drawn(graph)  # type: ignore[arg-type] # as above
        down = [g for g in svg.iter(f"{SVG}g") if "down" in (g.get("class") or "").split()]
        assert ["".join(text.itertext()) for g in down for text in g.iter(f"{SVG}text")] == ["alpine-1"]
        assert [path.get("class") for g in down for path in g.iter(f"{SVG}path")].count("cross") == 1
    finally:
        lab.restart("alpine-1")
    assert lab.graph().nodes["alpine-1"]["up"] is True


def test_many_clients_are_one_node(lab: paylab.Lab) -> None:
    """More clients than fit are drawn together, and their calls are added up."""
    for number in range(CLIENTS_MAX):
        lab.client(f"visitor-{number}").payments()
    graph = lab.graph()
    callers = {source for source, _ in lab.history.calls} - set(lab.nodes) - {"lab"}
    together = f"{len(callers)} clients"
    assert together in graph
    expected = sum(lab.history.calls[name, "gateway"] for name in callers)
    assert graph.edges[together, "gateway"]["calls"] == expected


def test_two_figures_share_no_id() -> None:
    """Every id of a figure is its own, and its styles reach no other figure."""
    graph = made_of({("alice", "gateway"): 1})
    pages = [graph._repr_html_() for _ in range(2)]
    ids = [set(re.findall(r'\bid="([^"]+)"', page)) for page in pages]
    assert all(len(found) == 2 for found in ids)
    assert not ids[0] & ids[1]
    for page in pages:
        root = re.findall(r'<svg[^>]* id="([^"]+)"', page)[0]
        rules = page[page.index("<style>") + 7 : page.index("</style>")].split("}")
        assert all(rule.strip().startswith(f"#{root} ") for rule in rules if rule.strip())
        assert f"url(#{root}-head)" in page
        assert "{id}" not in page


def test_hostile_names_are_only_text() -> None:
    """A name that looks like markup is shown as it is."""
    graph = made_of({})
    name = "<script>alert('&{id}')</script>\x00"
    graph.add_edge(name, "gateway", calls=1)
    page = graph._repr_html_()
    assert "<script" not in page
    titles = [title.text or "" for title in drawn(graph).iter(f"{SVG}title")]
    assert any(
        title.startswith("<script>alert('&{id}')</script>\N{REPLACEMENT CHARACTER}") for title in titles
    )


def test_a_saved_picture_needs_no_theme(tmp_path: Path) -> None:
    """The file is plain SVG in explicit colours, the same at every save."""
    graph = made_of({("alice", "gateway"): 1})
    graph.save(tmp_path / "network.svg")
    text = (tmp_path / "network.svg").read_text(encoding="utf-8")
    assert ET.fromstring(text).tag == f"{SVG}svg"  # noqa: S314 - ours
    assert "var(" not in text
    graph.save(tmp_path / "network.svg")
    assert (tmp_path / "network.svg").read_text(encoding="utf-8") == text
    assert "simulated, seed 7" in text


def test_it_is_a_graph_like_any_other() -> None:
    """Copies, subgraphs and plain nodes can be drawn too."""
    graph = made_of({("alice", "gateway"): 1})
    part = graph.subgraph(["alice", "gateway"]).copy()
    part.add_edge("gateway", "somewhere")
    assert drawn(part).tag == f"{SVG}svg"
    assert drawn(NetworkGraph()).tag == f"{SVG}svg"
    assert repr(graph) == "<NetworkGraph of 11 nodes and 1 edges, simulated, seed 7>"
