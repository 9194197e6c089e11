"""Panels without a page: what they write follows from the history, and what a page asks for happens."""

import base64
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import paylab
from paylab.lab.checking.event_facts import facts_of
from paylab.lab.exploring.explorer import explore
from paylab.lab.panels import panel as panel_module
from paylab.lab.panels.instants import Change
from paylab.lab.panels.network_panel import NetworkPanel
from paylab.lab.panels.panel import Panel
from paylab.lab.panels.still import still
from paylab.lab.panels.timeline_panel import TimelinePanel
from paylab.lab.planted_bugs import planted
from paylab.nodes.events import Event, Kind
from paylab.nodes.wire import HOUSEKEEPING

Eventually = Callable[..., None]
PAYMENTS = 12


class Rig:
    """A lab with two customers and its panel."""

    def __init__(self, world: str, name: str, cheap: Any, **more: Any) -> None:
        self.lab = paylab.Lab(world=world, name=name, password_cost=cheap, **more)
        self.alice = self.lab.client("alice", bank="alpine", balance="100.00 EUR")
        self.bob = self.lab.client("bob", bank="boreal")
        self.panel: NetworkPanel = self.lab.panel()
        self.sent: list[dict[str, Any]] = []
        self.panel.send = lambda content, buffers=None: self.sent.append(content)  # noqa: ARG005

    def ask(self, **content: Any) -> None:
        """What a click does."""
        self.panel._handle_custom_msg(content, [])

    def state(self, node: str) -> str:
        return str(self.panel.nodes[node][0])


@pytest.fixture
def rig(world: str, cheap: Any) -> Iterator[Rig]:
    made = Rig(world, f"panel-{world}", cheap)
    yield made
    made.lab.close()


def of_payments(lab: paylab.Lab) -> list[Event]:
    """Events of calls that no operator made and that keep nothing alive."""
    return [
        event
        for event in lab.history
        if event.call and event.method not in HOUSEKEEPING and "lab" not in (event.node, event.peer)
    ]


def test_every_figure_is_one_of_the_history(rig: Rig, eventually: Eventually) -> None:
    """Calls by edge and node, payments by state and their times are what a look through the history gives."""
    for n in range(PAYMENTS):
        rig.alice.pay(rig.bob, "1.00 EUR", key=f"{n}")
    declined = rig.bob.pay(rig.alice, "99.00 EUR")
    rig.lab.settle()
    eventually(lambda: rig.panel.totals["payments"] == PAYMENTS + 1)
    events = of_payments(rig.lab)
    eventually(lambda: sum(calls for calls, _, _ in rig.panel.edges.values()) == len(sent(events)))
    received = Counter(event.node for event in events if event.kind is Kind.RECEIVED)
    eventually(lambda: sum(about[3] for about in rig.panel.nodes.values()) == received.total())
    assert {edge: about[0] for edge, about in rig.panel.edges.items() if about[0]} == sent_by_edge(events)
    assert {node: about[3] for node, about in rig.panel.nodes.items() if about[3]} == received
    assert all(about[1] == 0 for about in rig.panel.nodes.values())
    last: dict[str, str] = {}
    for event in rig.lab.history:
        facts = facts_of(event)
        if facts is not None and facts["at"] == "gateway":
            last[facts["payment"]] = facts["state"]
    assert (rig.panel.totals["committed"], rig.panel.totals["declined"]) == (PAYMENTS, 1)
    assert Counter(last.values()) == {"COMMITTED": PAYMENTS, "DECLINED": 1}
    row = next(row for row in rig.panel.rows if row[0] == declined.payment)
    asked = next(e for e in events if e.kind is Kind.SENT and e.node == "bob" and e.method.endswith("/Pay"))
    told = next(e for e in events if e.kind is Kind.RETURNED and e.call == asked.call)
    assert row[1:7] == ["boreal/bob", "alpine/alice", "99.00 EUR", "DECLINED", "INSUFFICIENT_FUNDS", row[6]]
    assert row[6] == pytest.approx(1000 * (told.at_s - asked.at_s), abs=0.1)


def sent(events: list[Event]) -> list[Event]:
    return [event for event in events if event.kind is Kind.SENT]


def sent_by_edge(events: list[Event]) -> dict[str, int]:
    return dict(Counter(f"{event.node} {event.peer}" for event in sent(events)))


def test_everything_is_drawn_before_anybody_calls(cheap: Any) -> None:
    """The nodes and the links of the architecture are there at once, and clients come with their calls."""
    with paylab.Lab(world="simulated", name="untouched", password_cost=cheap) as lab:
        panel = lab.panel()
        assert panel.plan["nodes"].keys() == set(lab.nodes)
        assert {"gateway coordinator", "bank-lb boreal-2"} <= panel.edges.keys()
        assert lab.panel() is panel


def test_a_panel_that_comes_late_knows_what_was(rig: Rig, eventually: Eventually) -> None:
    """A second panel, opened when all is over, shows the same figures as the one that was there."""
    for n in range(3):
        rig.alice.pay(rig.bob, "1.00 EUR", key=f"{n}")
    rig.lab.settle()
    eventually(lambda: rig.panel.totals.get("committed") == 3 and not rig.panel._pending)
    late = NetworkPanel(rig.lab)
    assert {name: n for name, n in late.totals.items() if name != "per_s"} == {
        name: n for name, n in rig.panel.totals.items() if name != "per_s"
    }
    assert {e: a[0] for e, a in late.edges.items()} == {e: a[0] for e, a in rig.panel.edges.items()}
    late.close()


def test_what_is_played_was_said(rig: Rig, eventually: Eventually) -> None:
    """A journey's messages are calls of the history with the times at which they left and arrived."""
    receipt = rig.alice.pay(rig.bob, "1.00 EUR")
    rig.lab.settle()
    eventually(lambda: any("journeys" in message for message in rig.sent))
    told = [j for message in rig.sent for j in message.get("journeys", ()) if j["payment"] == receipt.payment]
    journey = told[-1]
    assert journey["state"] == "COMMITTED"
    events = rig.lab.history.of_payment(receipt.payment)
    start_s = min(event.at_s for event in events)
    ms = {(event.call, event.kind): 1000 * (event.at_s - start_s) for event in events}
    travelled = [
        (event.node, event.peer, ms[event.call, Kind.SENT], ms[event.call, Kind.RECEIVED])
        for event in sent(events)
        if (event.call, Kind.RECEIVED) in ms
    ]
    shown = [(a, b, t0, t1) for a, b, kind, t0, t1 in journey["hops"] if kind == "request"]
    for a, b, left_ms, arrived_ms in shown:
        assert any(
            (a, b) == ends and max(abs(left_ms - t0), abs(arrived_ms - t1)) < 0.002
            for *two, t0, t1 in travelled
            for ends in [tuple(two)]
        )
    assert {"alice gateway", "gateway coordinator", "coordinator bank-lb"} <= {
        f"{a} {b}" for a, b, *_ in shown
    }
    assert ["coordinator", "decision", "COMMIT"] in [
        [node, style, word] for node, style, _, word in journey["marks"]
    ]


def test_nodes_are_broken_from_the_page(rig: Rig, eventually: Eventually) -> None:
    """Crash, restart, pause, resume, slow, drain and serve: the lab and the panel agree after each."""
    for content, node, state in (
        ({"do": "crash"}, "alpine-1", "down"),
        ({"do": "restart"}, "alpine-1", "up"),
        ({"do": "break", "kind": "pause"}, "coordinator", "paused"),
        ({"do": "break", "kind": "resume"}, "coordinator", "up"),
        ({"do": "drain"}, "boreal-1", "draining"),
        ({"do": "serve"}, "boreal-1", "up"),
    ):
        rig.ask(node=node, **content)
        eventually(lambda node=node, state=state: rig.state(node) == state, f"{content} of {node}")
        assert rig.lab.is_up(node) is (state != "down")
    rig.ask(do="break", kind="slow", node="queue", factor=20)
    eventually(lambda: rig.panel.nodes["queue"][4] == 20)
    rig.ask(do="break", kind="slow", node="queue", factor=1)
    eventually(lambda: rig.panel.nodes["queue"][4] == 1)
    rig.ask(do="crash", node="nobody")
    eventually(lambda: "no node 'nobody'" in rig.panel.notice)


def test_links_are_broken_from_the_page(rig: Rig, eventually: Eventually) -> None:
    """Partition, loss and delay stand on the link until it alone is mended, or all are healed."""
    edge = {"a": "gateway", "b": "coordinator"}
    rig.ask(do="break", kind="partition", **edge)
    eventually(lambda: rig.panel.edges["gateway coordinator"][2] == {"cut": 1.0})
    rig.ask(do="break", kind="lose", a="gateway", b="logger", rate=0.3)
    rig.ask(do="break", kind="delay", a="gateway", b="logger", seconds=1)
    eventually(lambda: rig.panel.edges["gateway logger"][2] == {"lose": 0.3, "delay": 1})
    rig.ask(do="break", kind="mend", **edge)
    eventually(lambda: rig.panel.edges["gateway coordinator"][2] == {})
    assert rig.panel.edges["gateway logger"][2] == {"lose": 0.3, "delay": 1}
    rig.ask(do="break", kind="heal")
    eventually(lambda: all(not about[2] for about in rig.panel.edges.values()))
    assert rig.alice.pay(rig.bob, "1.00 EUR").state == "COMMITTED"


def test_the_banner_turns_red_for_a_tampered_ledger(world: str, cheap: Any, eventually: Eventually) -> None:
    """Somebody changes a balance on disk: the page says what `lab.check()` says."""
    rig = Rig(world, f"tampered-{world}", cheap)
    rig.alice.pay(rig.bob, "1.00 EUR")
    rig.lab.settle()
    eventually(lambda: rig.panel.verdict["ledgers"] == "read")
    assert rig.panel.verdict["ok"]
    rig.lab.world.write("bank-boreal", "UPDATE accounts SET posted_minor = 999 WHERE account = 'bob'")
    rig.ask(do="check")
    eventually(lambda: not rig.panel.verdict["ok"])
    report = rig.lab.check()
    assert not report.ok
    assert set(rig.panel.verdict["found"]) == set(report.violations[: len(rig.panel.verdict["found"])])
    with pytest.raises(paylab.PaylabError, match="boreal/bob"):
        rig.lab.close()
    assert "an invariant is broken" in rig.panel.summary()


def test_the_banner_turns_red_while_it_happens(cheap: Any, eventually: Eventually) -> None:
    """A network that decides before it writes is found out by the folds, with no look into any ledger."""
    rig = Rig("simulated", "wrong-order", cheap, replace=planted("decision-before-force"))
    rig.panel._unread = False
    rig.alice.pay(rig.bob, "1.00 EUR")
    eventually(lambda: not rig.panel.verdict["ok"])
    assert any(
        line.startswith("decisions are forced first") or "force" in line
        for line in rig.panel.verdict["found"]
    )
    with pytest.raises(paylab.PaylabError):
        rig.lab.close()


def still_of(panel: Panel) -> tuple[str, ET.Element]:
    """The alternative text and the picture."""
    page = panel._still_html()
    found = re.search(r'alt="([^"]*)".*base64,([^"]*)"', page)
    assert found is not None
    return found[1], ET.fromstring(base64.b64decode(found[2]))  # noqa: S314 - ours


def test_the_picture_names_the_final_count(world: str, cheap: Any) -> None:
    """When the lab closes, the picture that stays shows the network and says how many payments there were."""
    rig = Rig(world, f"still-{world}", cheap)
    rig.alice.pay(rig.bob, "1.00 EUR")
    rig.alice.pay(rig.bob, "500.00 EUR")
    rig.lab.close()
    said, picture = still_of(rig.panel)
    assert "after 2 payments (1 committed, 1 declined)" in said
    assert "every invariant holds" in said
    assert float(picture.attrib["viewBox"].split()[3]) > 300
    assert rig.panel.ended
    rig.ask(do="crash", node="gateway")
    assert rig.panel.notice == ""


def test_many_events_make_few_messages(world: str, cheap: Any, eventually: Eventually) -> None:
    """Whatever happens within a short time is one message."""
    rig = Rig(world, f"batch-{world}", cheap)
    beats: list[int] = []
    take = rig.panel.take

    def counted(events: Sequence[Event]) -> None:
        beats.append(len(events))
        take(events)

    rig.panel.take = counted  # type: ignore[method-assign]
    futures = [rig.alice.submit_pay(rig.bob, "0.01 EUR", key=f"{n}") for n in range(60)]
    assert all(future.result().state == "COMMITTED" for future in futures)
    rig.lab.settle()
    eventually(lambda: rig.panel.totals["committed"] == 60)
    assert sum(beats) > 600
    assert sum(beats) > 10 * len([n for n in beats if n])
    rig.lab.close()


def test_a_busy_network_is_told_less_often(
    cheap: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its page gets a message in the longest time until it is quieter."""
    rig = Rig("real", "busy", cheap)
    monkeypatch.setattr(panel_module, "BUSY_PER_S", 0)
    rig.alice.pay(rig.bob, "0.01 EUR")
    eventually(lambda: rig.panel.every_s == panel_module.BUSY_S)
    monkeypatch.setattr(panel_module, "BUSY_PER_S", 1_000_000)
    rig.alice.pay(rig.bob, "0.01 EUR")
    eventually(lambda: rig.panel.every_s == panel_module.BATCH_S)
    rig.lab.close()


def test_a_picture_knows_what_has_just_happened(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page has not been told yet is in the picture at the end of the cell all the same."""
    monkeypatch.setattr(panel_module, "SOON_S", 600.0)
    rig.panel.every_s = 600.0
    rig.alice.pay(rig.bob, "1.00 EUR")
    told = rig.panel.live.total
    rig.alice.pay(rig.bob, "1.00 EUR")
    rig.panel.refresh_if_stale()
    assert told < 2
    assert "after 2 payments (2 committed)" in rig.panel.summary()


def test_a_module_is_whole() -> None:
    """What the browser and its worker get imports nothing, as a widget's module has no neighbours."""
    worker = NetworkPanel.class_traits()["stage"].default_value
    assert not re.search(r"^\s*import\b|export default", worker, re.MULTILINE)
    for module in (NetworkPanel._esm, TimelinePanel._esm):
        assert not re.search(r"^\s*import\b", module, re.MULTILINE)
        assert module.count("export default") == 1


def test_a_control_leaves_what_it_shows() -> None:
    """What it prints and what it returns is in the picture, escaped where it is text."""

    def control(name: str) -> Shown:
        print(f"<{name}>")  # noqa: T201 - a control prints
        return Shown(name)

    html = still(control, "two")._still_html()
    assert re.fullmatch(r'<div data-paylab="\w+"><pre>&lt;two&gt;\n</pre><pre>Shown two</pre></div>', html)


class Shown:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Shown {self.name}"


# The timeline -------------------------------------------------------------------------------------------


def state_after(panel: TimelinePanel, row: int) -> dict[str, dict[str, str]]:
    """What the page's cards show at a row: every change up to there."""
    state: dict[str, dict[str, str]] = {}
    changes: dict[str, list[Change]] = panel.columns["changes"]
    for at, made in sorted((int(key), value) for key, value in changes.items()):
        for card, line, text in made if at <= row else ():
            lines = state.setdefault(card, {})
            if text is None:
                lines.pop(line, None)
            else:
                lines[line] = text
    return state


@pytest.fixture(scope="module")
def story() -> Iterator[tuple[paylab.Lab, TimelinePanel, str]]:
    with paylab.Lab(world="simulated", seed=7, name="story") as lab:
        alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
        bob = lab.client("bob", bank="boreal")
        receipt = alice.pay(bob, "12.50 EUR")
        lab.crash("alpine-1")
        lab.settle()
        yield lab, lab.timeline_panel(receipt), receipt.payment


def row_of(panel: TimelinePanel, wanted: Callable[[Event], bool]) -> int:
    return next(row for row, event in enumerate(panel.events) if wanted(event))


def test_the_state_at_an_instant(story: tuple[paylab.Lab, TimelinePanel, str]) -> None:
    """Held after the prepare, posted after the decision; before that the log is empty."""
    lab, panel, payment = story
    prepared = row_of(panel, lambda e: e.detail == f"PREPARED {payment}/1" and e.node.startswith("alpine"))
    decided = row_of(panel, lambda e: e.node == "coordinator" and e.detail == f"COMMIT {payment}/1")
    before, held = state_after(panel, prepared - 1), state_after(panel, prepared)
    assert before["alpine"]["alice"] == "100.00 EUR"
    assert held["alpine"]["alice"] == "100.00 EUR, 12.50 EUR held"
    assert held["alpine"][f"prepared {payment[:6]}/1"] == "alice -12.50 EUR"
    assert state_after(panel, decided - 1)["coordinator"][f"votes {payment[:6]}/1"] == "yes, yes"
    assert "log" not in state_after(panel, decided - 1)["coordinator"]
    assert state_after(panel, decided)["coordinator"]["log"] == f"COMMIT {payment[:6]}/1"
    end = state_after(panel, len(panel.events))
    assert {f"{bank}/{name}": end[bank][name] for bank, name in (("alpine", "alice"), ("boreal", "bob"))} == {
        name: str(money) for name, money in lab.balances().items()
    }
    assert end["alpine-1"] == {"is": "DOWN"}


def test_an_event_says_all_and_names_its_code(story: tuple[paylab.Lab, TimelinePanel, str]) -> None:
    """A request names the line that sent it, an answer the method that gave it; passwords stay secret."""
    _, panel, _ = story
    told: list[dict[str, Any]] = []
    panel.send = lambda content, buffers=None: told.append(content)  # noqa: ARG005
    asked = row_of(panel, lambda e: e.kind is Kind.SENT and e.node == "coordinator" and "Prepare" in e.method)
    answered = row_of(
        panel, lambda e: e.kind is Kind.ANSWERED and e.node.startswith("alpine") and "Prepare" in e.method
    )
    secret = row_of(panel, lambda e: e.kind is Kind.SENT and "Login" in e.method)
    for row in (asked, answered, secret):
        panel._detail(row)
    assert told[0]["code"]["place"].startswith("paylab/nodes/coordinator.py:")
    assert "await" in told[0]["code"]["lines"][3]
    assert "items=" in told[0]["text"]
    assert told[1]["code"]["place"].startswith("paylab/nodes/bank_server.py:")
    assert "async def Prepare" in told[1]["code"]["lines"][3]
    assert "password=***" in told[2]["text"]


def test_real_events_have_no_code(cheap: Any) -> None:
    """In the real world nobody looks who sends: the message is shown, and that is all."""
    with paylab.Lab(name="no-code", password_cost=cheap) as lab:
        lab.client("alice", bank="alpine", balance="1.00 EUR")
        assert all(event.origin is None for event in lab.history)


def test_a_long_history_keeps_its_end(story: tuple[paylab.Lab, TimelinePanel, str]) -> None:
    """Beyond the limit the oldest events go, and the state that they made is where the rest begins."""
    lab, whole, _ = story
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paylab.lab.panels.timeline_panel.EVENTS_MAX", 40)
        short = lab.timeline_panel()
    assert len(short.events) == 40
    assert short.left_out == len(whole.events) - 40
    assert short.events[-1] == whole.events[-1]
    assert state_after(short, 40) == state_after(whole, len(whole.events))


def test_a_trace_steps_both_ways() -> None:
    """At the last event of each step of an explored trace every node holds what the step says."""
    trace = explore(crashes=1, losses=0, duplicates=0, replace=planted("forgotten-decisions")).trace
    assert trace is not None
    panel = trace.panel()
    for step in trace.steps[1:]:
        rows = [row for row, event in enumerate(panel.events) if event.at_s < (step.number + 0.9) / 1000]
        state = state_after(panel, rows[-1])
        assert {name: state[name][""] for name in step.holds} == step.holds
