"""Space-time diagrams: what was said between nodes, written and decided, from top to bottom."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from paylab.lab.checking.history import detail_text
from paylab.lab.drawing import svg
from paylab.lab.drawing import timeline_layout as lay
from paylab.lab.drawing.facts import FACT_KINDS, Call, Fact, duration, in_order, pair_calls
from paylab.lab.drawing.timeline_drawing import draw
from paylab.lab.drawing.timeline_layout import Arrow, Mark
from paylab.nodes.events import Event, Kind
from paylab.pb import bank_pb2, coordinator_pb2, payment_gateway_pb2

# More events than this are cut off unless a caller asks for them.
LIMIT = 250
TITLE_MAX = 400
# From left to right, as a payment travels: clients come before these, banks after them.
COLUMN_ORDER = ("auth-lb", "auth", "gateway", "queue", "logger", "coordinator", "bank-lb")
LABEL_WIDTH_MAX = 260.0
DECISIONS = {"COMMIT": "COMMIT", "ABORTED": "ABORT"}
BAD_STATES = frozenset({"DECLINED", "QUEUED", "ABORTED", "DEAD_LETTER"})


class Timeline:
    """A space-time diagram that shows itself in a notebook."""

    def __init__(self, layout: lay.Layout, *, badge: str, shown: int, total: int) -> None:
        """Draw `shown` of `total` events."""
        self.layout = layout
        self.badge = badge
        self.shown = shown
        self.total = total

    def __repr__(self) -> str:
        """Say how large it is."""
        return f"<Timeline of {self.shown} events at {len(self.layout.columns)} nodes, {self.badge}>"

    def save(self, path: str | Path) -> None:
        """Write the drawing to an .svg file."""
        self.figure().save(path)

    def _repr_html_(self) -> str:
        return self.figure().html()

    def figure(self) -> svg.Figure:
        """The drawing."""
        cut = self.shown < self.total
        note = f"The first {self.shown} of {self.total} events; limit={self.total} shows all." if cut else ""
        return draw(self.layout, badge=self.badge, note=note)


def timeline(events: Iterable[Event], *, nodes: Sequence[str], badge: str, limit: int = LIMIT) -> Timeline:
    """The diagram of `events` at `nodes` and their clients; those that keep the network alive are left out.

    Crashes and restarts among the events make the grey bands. Only the first `limit` events are drawn.
    """
    told, downs = in_order(events)
    layout = _Builder(told[:limit], told, downs, nodes).build()
    return Timeline(layout, badge=badge, shown=min(limit, len(told)), total=len(told))


class _Builder:
    """Turns events into arrows, marks and bands."""

    def __init__(
        self, shown: Sequence[Event], told: Sequence[Event], downs: Sequence[Event], nodes: Sequence[str]
    ) -> None:
        self._calls = pair_calls(told)
        start_s, end_s = (shown[0].at_s, shown[-1].at_s) if shown else (0.0, 0.0)
        # Nodes that are down when the picture begins, and what happens while it lasts.
        self._down: dict[str, Event] = {}
        for event in downs:
            if event.at_s < start_s:
                if event.kind is Kind.CRASHED:
                    self._down[event.node] = event
                else:
                    self._down.pop(event.node, None)
        during = [event for event in downs if start_s <= event.at_s <= end_s] if shown else []
        events = sorted([*shown, *during], key=lambda event: (event.at_s, event.lamport))
        names = {name for event in events for name in (event.node, event.peer) if name} | set(self._down)
        self._events = events
        self._placer = lay.Placer(sorted(names, key=lambda name: column_rank(name, nodes)), events, top=24)
        self._layout = self._placer.layout
        # Where each event of a call stands.
        self._at: dict[tuple[str, Kind], tuple[float, float]] = {}
        # What was forced is not told again as a state, but the state gives the reason.
        facts = [(event, Fact.of(event)) for event in shown if event.kind in FACT_KINDS]
        self._reasons = {(e.node, f.txn, f.word): f.reason for e, f in facts if f.reason}
        self._written = {
            (e.node, f.txn, "COMMITTED" if f.word == "COMMIT" else f.word)
            for e, f in facts
            if e.kind is Kind.FORCED_WRITE
        }
        self._band_tops = dict.fromkeys(self._down, self._layout.top)

    def build(self) -> lay.Layout:
        """Place every event."""
        for event in self._events:
            if event.kind is Kind.STATE and self._is_known(event):
                continue
            self._placer.advance(event)
            if event.call:
                self._place_message(event, self._calls[event.call])
                self._at[event.call, event.kind] = self._layout.columns[event.node], self._placer.y
            else:
                self._place_fact(event)
            self._placer.tick(event)
        layout = self._placer.finish()
        for node in self._down:
            self._band(node, layout.bottom, f"{node} is down")
        return layout

    def _place_message(self, event: Event, call: Call) -> None:
        match event.kind:
            case Kind.SENT if call.failed and call.received is None:
                self._arrow(event, None, _request_text(call), "request")
            case Kind.RECEIVED if (event.call, Kind.SENT) in self._at:
                self._arrow(call.sent, event, _request_text(call, self._parent(call)), "request")
            case Kind.ANSWERED if call.failed:
                self._arrow(event, None, "answer lost", "reply")
            case Kind.RETURNED if (event.call, Kind.ANSWERED) in self._at:
                self._arrow(call.answered, event, _reply_text(call), "reply")
            case Kind.FAILED if (event.call, Kind.REFUSED) in self._at:
                self._arrow(call.answered, event, _status(event), "error")
            case Kind.FAILED:
                crossed = call.received is None or call.answered is not None
                self._mark(event, "failed" if crossed else "unanswered", _status(event), "bad")
            case _:
                x, towards = self._layout.columns[event.node], self._layout.columns.get(event.peer, 0.0)
                self._placer.settle(lambda y: lay.nothing(x, y, towards=towards))

    def _place_fact(self, event: Event) -> None:
        match event.kind:
            case Kind.FORCED_WRITE | Kind.STATE:
                fact = Fact.of(event)
                reason = fact.reason or self._reasons.get((event.node, fact.txn, fact.word), "")
                style = "forced" if event.kind is Kind.FORCED_WRITE else "state"
                if event.node == "coordinator" and fact.word in DECISIONS:
                    text = f"decision: {DECISIONS[fact.word]} {reason}{_number(fact)}"
                    self._mark(event, f"decision {style}", text, "bad")
                else:
                    number = _number(fact) if fact.word == "PREPARING" else ""
                    self._mark(event, style, f"{fact.word} {reason}{number}", _tone(fact))
            case Kind.CRASHED:
                self._mark(event, "crashed", "crashed", "bad")
                self._down[event.node] = event
                self._band_tops[event.node] = self._placer.y
            case Kind.RESTARTED:
                self._mark(event, "restarted", "restarted", "good")
                if self._down.pop(event.node, None) is not None:
                    self._band(event.node, self._placer.y, f"{event.node} was down")
            case _:
                pass

    def _parent(self, call: Call) -> Call | None:
        """The call that a balancer forwards by this one."""
        return self._calls.get(call.sent.parent) if call.sent else None

    def _arrow(self, start: Event | None, end: Event | None, text: str, style: str) -> None:
        """From one event of a call to the next; without an end it is lost on its way."""
        assert start is not None
        x = self._layout.columns[start.node]
        end_x = self._layout.columns[start.peer]
        call = self._calls[start.call]
        title = _title(start, end, call)
        tone = "bad" if end is None or style == "error" else "quiet" if style == "reply" else ""

        def arrow(y: float) -> Arrow:
            if end is None:
                end_at = x + (end_x - x) * lay.LOST_AT, y + lay.LOST_FALL
                return Arrow(x, y, *end_at, style, title, lost=True)
            begin_y = self._at[start.call, start.kind][1]
            return Arrow(x, begin_y, end_x, y, style, title, lost=style == "error")

        self._placer.settle(lambda y: lay.along(text, arrow(y), tone), arrow)

    def _mark(self, event: Event, style: str, text: str, tone: str) -> None:
        x = self._layout.columns[event.node]
        text = svg.fitted(text.strip(), lay.TEXT, LABEL_WIDTH_MAX)
        self._placer.settle(lambda y: lay.beside(text, x, y, tone))
        title = f"{event.node}: {event.kind.value} {detail_text(event)}".rstrip()
        self._layout.marks.append(Mark(x, self._placer.y, style, title))

    def _is_known(self, event: Event) -> bool:
        """Whether a forced write or an earlier event at this node has said the same."""
        fact = Fact.of(event)
        return (event.node, fact.txn, fact.word) in self._written

    def _band(self, node: str, bottom: float, title: str) -> None:
        self._layout.bands.append(lay.Band(self._layout.columns[node], self._band_tops[node], bottom, title))


def column_rank(name: str, nodes: Sequence[str]) -> tuple[int, int, str]:
    """By what columns are sorted: clients, then the nodes as a payment travels, then banks."""
    if name not in nodes:
        return 0, 0, name
    for rank, start in enumerate(COLUMN_ORDER, start=1):
        if name == start or (start in ("auth", "gateway") and name.startswith(f"{start}-")):
            return rank, 0, name
    return len(COLUMN_ORDER) + 1, list(nodes).index(name), name


# Words ----------------------------------------------------------------------------------------------


def _number(fact: Fact) -> str:
    """Which attempt, after the first."""
    return f" (attempt {fact.attempt})" if fact.attempt > 1 else ""


def _tone(fact: Fact) -> str:
    return "good" if fact.word == "COMMITTED" else "bad" if fact.word in BAD_STATES else "strong"


def _title(start: Event, end: Event | None, call: Call) -> str:
    request = start.kind is Kind.SENT
    # A balancer sees bytes only; whichever end knows the message tells.
    ends = (call.sent, call.received) if request else (call.ended, call.answered)
    known = next((e for e in ends if e is not None and isinstance(e.detail, Message)), start)
    method = start.method.rpartition("/")[2]
    what = method if request else f"answer to {method}"
    lasted = duration(end.at_s - start.at_s) if end else "lost on its way"
    text = f"{start.node} → {start.peer}: {what}, {lasted}\n{detail_text(known)}"
    return text if len(text) <= TITLE_MAX else text[:TITLE_MAX] + "…"


def _request_text(call: Call, parent: Call | None = None) -> str:
    assert call.sent is not None
    what = call.sent.method.rpartition("/")[2]
    if call.received is None:
        return f"{what} lost"
    if parent is not None and parent.sent is not None and parent.sent.method == call.sent.method:
        what = ""  # the same message, one hop on
    return f"{what} {duration(call.received.at_s - call.sent.at_s)}".lstrip()


def _reply_text(call: Call) -> str:
    assert call.answered is not None
    assert call.ended is not None
    lasted = duration(call.ended.at_s - call.answered.at_s)
    return f"{gist(call.answered.detail)} {lasted}".lstrip()


def gist(message: Any) -> str:  # noqa: PLR0911 - a case a message
    """What an answer says, in a word; of bytes nothing, as a balancer passes on what was said before."""
    match message:
        case bank_pb2.PrepareResponse() | bank_pb2.InquireResponse():
            votes = {"yes" if vote.yes else f"no: {vote.reason}" for vote in message.votes}
            return votes.pop() if len(votes) == 1 else f"{len(message.votes)} votes"
        case bank_pb2.DecideResponse():
            if not message.acks:
                return ""  # an abort is not acknowledged
            return "ack" if all(ack.ok for ack in message.acks) else "refused"
        case coordinator_pb2.CommitResponse():
            outcomes = {_outcome(answer.outcome) for answer in message.answers}
            return outcomes.pop() if len(outcomes) == 1 else f"{len(message.answers)} outcomes"
        case coordinator_pb2.GetDecisionResponse():
            decisions = set(map(_outcome, message.outcomes))
            return decisions.pop() if len(decisions) == 1 else f"{len(message.outcomes)} decisions"
        case payment_gateway_pb2.Receipt():
            return payment_gateway_pb2.PaymentState.Name(message.state)
        case _:
            return ""


def _outcome(number: "coordinator_pb2.Outcome.ValueType") -> str:
    return coordinator_pb2.Outcome.Name(number).removeprefix("OUTCOME_")


def _status(event: Event) -> str:
    return detail_text(event).partition(":")[0]
