"""Space-time diagrams: every event finds its place, and no label lies on another."""

import itertools
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import paylab
from paylab.lab.checking.history import History
from paylab.lab.drawing.timeline import Timeline, timeline
from paylab.nodes.events import Event, Kind, Recorder
from paylab.nodes.load_balancer import LoadBalancer

SVG = "{http://www.w3.org/2000/svg}"
SERVICES = ("auth-lb", "bank-lb", "auth-1", "auth-2", "gateway", "coordinator", "logger", "queue")
NODES = (*SERVICES, "alpine-1", "alpine-2", "boreal-1", "boreal-2")


class Scene:
    """Events that are made by hand, a millisecond apart."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.now_s = 0.0
        self._pens: dict[str, Recorder] = {}

    def add(self, node: str, kind: Kind, detail: str = "", *, after_s: float = 0.001, **about: Any) -> None:
        self.now_s += after_s
        if node not in self._pens:
            self._pens[node] = Recorder(node, lambda: self.now_s, self.events.append)
        self._pens[node].record(kind, payments=("p",), detail=detail, **about)

    def call(self, source: str, target: str, method: str, *kinds: Kind, detail: str = "") -> None:
        number = f"{source}:{len(self.events)}"
        for kind in kinds:
            node, peer = (
                (source, target) if kind in (Kind.SENT, Kind.RETURNED, Kind.FAILED) else (target, source)
            )
            self.add(node, kind, detail, peer=peer, method=f"/paylab.v1.Test/{method}", call=number)

    def drawn(self, *, limit: int = 1_000) -> Timeline:
        return timeline(self.events, nodes=NODES, badge="simulated, seed 7", limit=limit)


WHOLE_CALL = (Kind.SENT, Kind.RECEIVED, Kind.ANSWERED, Kind.RETURNED)


@pytest.fixture(scope="module")
def lab(unwatchful: type[LoadBalancer]) -> Iterator[paylab.Lab]:
    with paylab.Lab(name="timelines", replace={"node.balancer": unwatchful}) as running:
        yield running


def picture(shown: Timeline) -> ET.Element:
    page = shown._repr_html_()
    return ET.fromstring(page[page.index("<svg") : page.rindex("</svg>") + len("</svg>")])  # noqa: S314 - ours


def is_legible(shown: Timeline) -> bool:
    """Whether labels keep apart from one another, from the headers and from the times at the left."""
    layout = shown.layout
    boxes = [label.box for label in layout.labels]
    apart = not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    headers = list(layout.headers.values())
    apart &= not any(a.overlaps(b) for a, b in itertools.combinations(headers, 2))
    inside = all(box.left >= 46 and box.right <= 640 and box.top >= layout.top for box in boxes)
    return apart and inside and all(box.bottom <= layout.bottom for box in boxes)


def crosses(svg: ET.Element) -> int:
    # One more stands in the legend.
    return sum(path.get("class") == "cross" for path in svg.iter(f"{SVG}path")) - 1


def test_a_real_payment_is_drawn_whole(lab: paylab.Lab) -> None:
    """Each delivered message is an arrow, each forced write a diamond, and the decision is marked."""
    alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
    bob = lab.client("bob", bank="boreal")
    alice.pay(bob, "1.00 EUR")
    receipt = alice.pay(bob, "1.00 EUR")
    lab.settle()
    shown = lab.timeline(receipt)
    events = lab.history.of_payment(receipt.payment)
    kinds = [event.kind for event in events]
    assert shown.shown == shown.total == len(events)
    assert len(shown.layout.arrows) == kinds.count(Kind.RECEIVED) + kinds.count(Kind.RETURNED)
    diamonds = [mark for mark in shown.layout.marks if "forced" in mark.style]
    assert len(diamonds) == kinds.count(Kind.FORCED_WRITE) == 8
    assert [mark.style for mark in shown.layout.marks if "decision" in mark.style] == ["decision forced"]
    assert is_legible(shown)
    assert crosses(picture(shown)) == 0
    columns = list(shown.layout.columns)
    assert columns[:2] == ["alice", "gateway"]
    assert columns[-1].startswith("boreal")


def test_a_crashed_server_is_grey_and_its_call_crossed(lab: paylab.Lab) -> None:
    """A call to a node that is down ends in a cross; the node is grey from its crash to its restart."""
    alice = lab.client("alice", bank="alpine", balance="100.00 EUR")
    bob = lab.client("bob", bank="boreal")
    lab.crash("alpine-1")
    try:
        for _ in range(4):
            receipt = alice.pay(bob, "1.00 EUR")
            lab.settle()  # the decision may meet the dead server after the receipt is here
            failed = [e for e in lab.history.of_payment(receipt.payment) if e.kind is Kind.FAILED]
            if failed:
                break
        shown = lab.timeline(receipt)
    finally:
        lab.restart("alpine-1")
    assert failed
    assert crosses(picture(shown)) == len(failed)
    (band,) = shown.layout.bands
    assert (band.x, band.top) == (shown.layout.columns["alpine-1"], shown.layout.top)
    assert band.bottom == shown.layout.bottom
    assert is_legible(shown)


def test_a_crash_in_the_picture_begins_its_band() -> None:
    """It lasts from crash to restart; what ended before the picture, or began after it, is not drawn."""
    scene = Scene()
    scene.add("boreal-1", Kind.CRASHED)
    scene.add("boreal-1", Kind.RESTARTED)
    scene.call("alice", "gateway", "Pay", *WHOLE_CALL)
    scene.add("gateway", Kind.CRASHED)
    scene.call("alice", "gateway", "Pay", Kind.SENT, Kind.FAILED, detail="UNAVAILABLE: gone")
    scene.add("gateway", Kind.RESTARTED)
    scene.call("alice", "gateway", "Pay", *WHOLE_CALL)
    scene.add("queue", Kind.CRASHED)
    shown = scene.drawn()
    (band,) = shown.layout.bands
    marks = {mark.style: mark.y for mark in shown.layout.marks}
    assert (band.top, band.bottom) == (marks["crashed"], marks["restarted"])
    assert set(shown.layout.columns) == {"alice", "gateway"}


@pytest.mark.parametrize(
    ("kinds", "arrows"),
    [
        ((Kind.SENT, Kind.FAILED), 1),
        ((Kind.SENT, Kind.RECEIVED, Kind.FAILED), 1),
        ((Kind.SENT, Kind.RECEIVED, Kind.ANSWERED, Kind.FAILED), 2),
        ((Kind.SENT, Kind.RECEIVED, Kind.REFUSED, Kind.FAILED), 2),
    ],
    ids=["request lost", "no answer", "answer lost", "refused"],
)
def test_every_failed_call_has_one_cross(kinds: tuple[Kind, ...], arrows: int) -> None:
    """Wherever a call fails, one cross says so."""
    scene = Scene()
    scene.call("alice", "gateway", "Pay", *WHOLE_CALL)
    scene.call("coordinator", "alpine-1", "Prepare", *kinds, detail="UNAVAILABLE: gone")
    shown = scene.drawn()
    assert crosses(picture(shown)) == 1
    assert len(shown.layout.arrows) == 2 + arrows
    assert any(label.text == "UNAVAILABLE" for label in shown.layout.labels)


def test_idle_time_is_cut_out() -> None:
    """A long pause becomes a gap that says how long it was, and heights follow the order of time."""
    scene = Scene()
    for _ in range(5):
        scene.call("alice", "gateway", "Pay", *WHOLE_CALL)
    scene.add("gateway", Kind.STATE, "p/1 is QUEUED BANK_UNREACHABLE", after_s=3_600)
    scene.call("queue", "gateway", "Redrive", *WHOLE_CALL)
    shown = scene.drawn()
    assert [text for _, text in shown.layout.gaps] == ["60 min"]
    assert shown.layout.bottom < 900
    ends = [arrow.end_y for arrow in shown.layout.arrows]
    assert ends == sorted(ends)
    assert all(arrow.end_y >= arrow.y for arrow in shown.layout.arrows)


def test_twelve_nodes_and_two_hundred_events_can_be_read() -> None:
    """Much at once only makes the picture longer."""
    scene = Scene()
    for number in range(50):
        pairs = zip(NODES, NODES[1:] + NODES[:1], strict=True)
        source, target = next(itertools.islice(pairs, number % 12, None))
        scene.call(source, target, "Prepare", *WHOLE_CALL)
        scene.add(target, Kind.FORCED_WRITE, f"PREPARED p/{number}")
    scene.call("a-client-with-quite-a-long-name", "gateway", "Pay", *WHOLE_CALL)
    # Many things at the same instant are harder still.
    events = [event._replace(at_s=round(event.at_s, 2)) for event in scene.events]
    for shown in (scene.drawn(), timeline(events, nodes=NODES, badge="real", limit=1_000)):
        assert shown.shown == 254
        assert len(shown.layout.columns) == 13
        assert is_legible(shown)
        assert shown.layout.bottom < 6_000


def test_what_is_cut_off_is_said() -> None:
    """A limit draws the first events and says how many there are."""
    scene = Scene()
    for _ in range(20):
        scene.call("alice", "gateway", "Pay", *WHOLE_CALL)
    shown = scene.drawn(limit=30)
    assert (shown.shown, shown.total) == (30, 80)
    assert "The first 30 of 80 events" in shown._repr_html_()
    assert "of 80 events" not in scene.drawn()._repr_html_()


def test_a_state_is_told_once() -> None:
    """A state that was forced is one diamond, and bears the reason."""
    scene = Scene()
    scene.add("gateway", Kind.FORCED_WRITE, "DECLINED p/1")
    scene.add("gateway", Kind.STATE, "p/1 is DECLINED ACCOUNT_CLOSED")
    scene.add("coordinator", Kind.STATE, "p/1 is ABORTED ACCOUNT_CLOSED")
    layout = scene.drawn().layout
    assert [label.text for label in layout.labels] == [
        "DECLINED ACCOUNT_CLOSED",
        "decision: ABORT ACCOUNT_CLOSED",
    ]
    assert [mark.style for mark in layout.marks] == ["forced", "decision state"]


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    """Whatever an event says, the picture stays a picture."""
    hostile = "</text><script>alert('{id}')</script>\x00\x1b"
    scene = Scene()
    scene.call("<b>", "gateway", "Pay<i>", *WHOLE_CALL, detail=hostile)
    scene.add("gateway", Kind.STATE, hostile * 20)
    scene.call("<b>", "gateway", "Pay", Kind.SENT, Kind.FAILED, detail=hostile * 20)
    shown = scene.drawn()
    page = shown._repr_html_()
    assert "<script" not in page
    assert "<i>" not in page
    assert any("<script>alert('{id}')</script>" in (t.text or "") for t in picture(shown).iter(f"{SVG}title"))
    shown.save(tmp_path / "hostile.svg")
    text = (tmp_path / "hostile.svg").read_text(encoding="utf-8")
    assert ET.fromstring(text).tag == f"{SVG}svg"  # noqa: S314 - ours
    assert "var(" not in text


def test_ids_are_unique_in_a_page() -> None:
    """Two pictures of the same events share no id, so each has its own arrow heads."""
    scene = Scene()
    scene.call("alice", "gateway", "Pay", *WHOLE_CALL)
    first, second = (
        {element.get("id") for element in picture(scene.drawn()).iter() if element.get("id")}
        for _ in range(2)
    )
    assert len(first) == 4
    assert not first & second


def test_nothing_can_be_drawn_too() -> None:
    """No events, or those of a payment that nobody knows, make an empty picture."""
    shown = timeline(History(), nodes=NODES, badge="real")
    assert repr(shown) == "<Timeline of 0 events at 0 nodes, real>"
    assert picture(shown).tag == f"{SVG}svg"
