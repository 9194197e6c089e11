"""`lab.traffic()`: what its edges say is what the history has, and what it says of the network comes true."""

from collections import Counter
from collections.abc import Iterator

import networkx as nx
import pytest

from paylab import Lab
from paylab.core.authorization import Role
from paylab.errors import LabError, PaylabError
from paylab.lab import faults
from paylab.lab.drawing.traffic import TrafficGraph
from paylab.nodes.passwords import PasswordCost
from paylab.nodes.wire import HOUSEKEEPING


@pytest.fixture(params=[2, 1])
def busy(cheap: PasswordCost, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Two banks, each with so many servers, after twelve payments from one to the other."""
    with Lab(
        name="traffic", bank_servers=request.param, password_cost=cheap, world="simulated", seed=3
    ) as lab:
        alice = lab.client("alice", bank="alpine", balance="1000.00 EUR")
        bob = lab.client("bob", bank="boreal")
        for _ in range(12):
            alice.pay(bob, "1.00 EUR")
        lab.settle()
        yield lab


def test_edges_have_what_the_history_has(busy: Lab) -> None:
    """Calls, methods, rates and latencies of every edge, and what each node sent and received."""
    graph = busy.traffic()
    sent = [e for e in busy.history if e.kind == "sent" and e.method not in HOUSEKEEPING]
    assert {(a, b): about["calls"] for a, b, about in graph.edges(data=True)} == dict(busy.history.calls)
    assert graph.size(weight="calls") == len(sent)
    commits = graph.edges["gateway", "coordinator"]
    assert commits["methods"]["Commit"] == 12
    assert commits["failed"] == commits["failure_rate"] == 0
    assert commits["rate_per_s"] == pytest.approx(commits["calls"] / graph.graph["seconds"])
    ids = {e.call: e.at_s for e in sent if (e.node, e.peer) == ("gateway", "coordinator")}
    took_ms = sorted(
        1000 * (e.at_s - ids[e.call]) for e in busy.history if e.kind == "returned" and e.call in ids
    )
    assert took_ms[0] <= commits["p50_ms"] <= commits["p95_ms"] <= took_ms[-1]
    assert commits["open"] == len(ids) - len(took_ms)
    by_node = Counter(e.node for e in sent)
    assert {name: about["sent"] for name, about in graph.nodes(data=True) if about["sent"]} == by_node
    assert graph.nodes["alice"]["role"] is Role.CLIENT
    assert "<svg" in graph._repr_html_()


def test_it_looks_at_the_last_while_only(busy: Lab) -> None:
    """What was longer ago is left out, and a quiet second has no edges."""
    busy.advance("5 s")
    assert busy.traffic("1 s").number_of_edges() == 0
    busy.client("alice").pay("boreal/bob", "1.00 EUR")
    last = busy.traffic("1 s")
    assert last.edges["gateway", "coordinator"]["methods"]["Commit"] == 1
    assert busy.traffic().edges["gateway", "coordinator"]["methods"]["Commit"] == 13
    assert 0 < last.graph["seconds"] <= 1.0


def test_failures_and_latencies_show_who_is_ill(busy: Lab) -> None:
    """Calls to a slow server take longer, and calls that are lost fail."""
    busy.advance("10 s")  # those before it was slow
    busy.inject([faults.at(0, faults.slow("boreal-1", 30))]).result()
    for _ in range(6):
        busy.client("alice").pay("boreal/bob", "1.00 EUR")
    graph = busy.traffic("10 s")
    slowest = max(graph["bank-lb"], key=lambda server: graph.edges["bank-lb", server]["p50_ms"])
    assert slowest == "boreal-1"
    busy.partition("gateway", "coordinator")
    with pytest.raises(PaylabError):
        busy.client("alice").pay("boreal/bob", "1.00 EUR", key="lost", deadline_s=2)
    busy.advance("12 s")
    lost = busy.traffic("14 s").edges["gateway", "coordinator"]
    assert lost["failed"] > 0
    assert 0 < lost["failure_rate"] <= 1
    busy.heal()
    assert busy.settle(timeout_s=60)


def test_whose_loss_stops_payments_is_known_before_it_is_tried(busy: Lab) -> None:
    """`needed` names exactly the nodes without which no payment commits; each node is crashed to see."""
    graph = busy.traffic(paying=True)
    needed = graph.needed("alice", "boreal")
    assert needed[:3] == ["gateway", "coordinator", "bank-lb"]
    assert needed[3:] == ([] if "boreal-2" in busy.nodes else ["boreal-1"])
    cut = nx.minimum_node_cut(graph.to_banks(), "alice", "boreal")
    assert len(cut) == 1
    assert set(cut) <= set(needed)
    wanted = {*needed, *graph.needed("alice", "alpine")}
    stopped = set()
    for node in busy.nodes:
        busy.crash(node)
        try:
            receipt = busy.client("alice").pay("boreal/bob", "1.00 EUR", key=f"without {node}", deadline_s=5)
            if receipt.state != "COMMITTED":
                stopped.add(node)
        except PaylabError:
            stopped.add(node)
        busy.restart(node)
        busy.advance("5 s")  # until it is registered and the queue has tried again
        assert busy.settle(timeout_s=60)
    assert stopped == wanted
    assert busy.check().ok


def test_twins_do_for_each_other_in_pairs_only() -> None:
    """Where each bank has two servers, only losing both cuts it off; on a graph that nobody boots."""
    graph = TrafficGraph()
    for server in ("alpine-1", "alpine-2"):
        graph.add_node(server, bank="alpine")
        graph.add_edge("bank-lb", server, calls=1)
        graph.add_edge("lb-2", server, calls=1)
    for balancer in ("bank-lb", "lb-2"):
        graph.add_edge("coordinator", balancer, calls=1)
    graph.add_edge("alice", "coordinator", calls=1)
    graph.add_edge("mallory", "logger", calls=1)
    assert graph.needed("alice", "alpine") == ["coordinator"]
    assert nx.minimum_node_cut(graph.to_banks(), "coordinator", "alpine") in (
        {"bank-lb", "lb-2"},
        {"alpine-1", "alpine-2"},
    )
    with pytest.raises(LabError, match="no calls have gone"):
        graph.needed("mallory", "alpine")
