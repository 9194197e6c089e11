"""TimelinePanel: a space-time diagram of any length to scroll, filter and step through, both ways.

`lab.timeline_panel()` shows a lab's history, `trace.panel()` the explorer's way to a state. The page gets a
table of events once and draws the rows that are on screen; what an event says in full it asks for.
"""

import inspect
import json
import linecache
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import traitlets

from paylab.lab.checking.history import detail_text
from paylab.lab.drawing import svg, timeline
from paylab.lab.drawing.facts import DOWN_KINDS, FACT_KINDS, Fact
from paylab.lab.panels.instants import Change, changes_of
from paylab.lab.panels.panel import StillPanel, script, sheet
from paylab.nodes.events import Event, Kind
from paylab.nodes.wire import HOUSEKEEPING

# The latest so many events of a long history: a page of about 10 MB.
EVENTS_MAX = 20_000
DETAIL_MAX, PAYMENTS_SHOWN = 4_000, 3
# The picture has the first so many: placing the labels of more takes longer than a reader waits.
STILL_EVENTS = 60
# Lines of code around the one that is shown.
CODE_AROUND = 3
# What a row is, for the page; the order is known there.
KINDS = tuple(Kind)

Changes = Sequence[Sequence[Change]]


class TimelinePanel(StillPanel):
    """A space-time diagram to walk through.

    `columns` has the events in the order of time, column by column; `cursor` is the row at which the reader
    stands, and may be set from Python as well.
    """

    _esm = script("panel.js", "timeline_panel.js")
    _css = sheet("panel.css", "timeline_panel.css")

    # As text, since ipywidgets looks for buffers in every list of lists.
    table = traitlets.Unicode().tag(sync=True)
    # The page is not told what it has said itself: it has gone on meanwhile and would be thrown back.
    cursor = traitlets.Int().tag(sync=True, echo_update=False)

    def __init__(
        self,
        events: Iterable[Event],
        *,
        nodes: Sequence[str],
        badge: str,
        handlers: Mapping[str, Any] | None = None,
        states: Callable[[Sequence[Event]], Changes] = changes_of,
        payment: str = "",
    ) -> None:
        """Show `events` at `nodes`; `states` says what each changes, `handlers` who serves at a node."""
        ordered = sorted(events, key=lambda event: (event.at_s, event.lamport))
        ordered, changes = _without_echoes(ordered, states(ordered))
        self.left_out = max(0, len(ordered) - EVENTS_MAX)
        changes = changes[self.left_out :]
        self.events = ordered[self.left_out :]
        self._handlers = handlers or {}
        self._nodes = tuple(nodes)
        self._payment = payment
        self.columns = _table(self.events, changes, nodes)
        super().__init__(
            badge=badge,
            table=json.dumps(self.columns | {"left_out": self.left_out, "payment": payment}),
            cursor=max(0, len(self.events) - 1),
        )

    # What the page asks for ---------------------------------------------------------------------

    def _detail(self, row: int) -> None:
        event = self.events[row]
        where = event.origin or self._handler(event)
        self.send({"detail": row, "text": told_in_full(event), "code": code_at(*where) if where else None})

    def _handler(self, event: Event) -> tuple[str, int] | None:
        """Where the method begins that answered, as its answer leaves from no line of its own."""
        if event.kind not in (Kind.ANSWERED, Kind.REFUSED):
            return None
        method = getattr(type(self._handlers.get(event.node)), event.method.rpartition("/")[2], None)
        if not inspect.isfunction(method):
            return None
        return method.__code__.co_filename, method.__code__.co_firstlineno

    actions = {"detail": _detail}  # noqa: RUF012 - declared as a ClassVar by StillPanel

    # When it is dead ----------------------------------------------------------------------------

    def still(self) -> svg.Figure:
        """The diagram of its first events, from the payment on that it begins with."""
        first = next((row for row, event in enumerate(self.events) if self._payment in event.payments), 0)
        diagram = timeline.timeline(
            self.events[first:], nodes=self._nodes, badge=self.badge, limit=STILL_EVENTS
        )
        return diagram.figure()

    def summary(self) -> str:
        """How much there is to see."""
        payments = {payment for event in self.events for payment in event.payments}
        return (
            f"Timeline of {len(self.events):,} events at {len(self.columns['nodes'])} nodes, about "
            f"{len(payments):,} payment{'' if len(payments) == 1 else 's'}; {self.badge}."
        )


def _without_echoes(events: Sequence[Event], changes: Changes) -> tuple[list[Event], list[list[Change]]]:
    """Leave out states that only repeat a forced write; what they change happens with the write."""
    kept: list[Event] = []
    kept_changes: list[list[Change]] = []
    written: dict[tuple[str, str, str], int] = {}
    for event, change in zip(events, changes, strict=True):
        if event.kind in FACT_KINDS:
            fact = Fact.of(event)
            about = event.node, fact.txn, "COMMITTED" if fact.word == "COMMIT" else fact.word
            if event.kind is Kind.STATE and about in written:
                kept_changes[written[about]] += change
                continue
            if event.kind is Kind.FORCED_WRITE:
                written[about] = len(kept)
        kept.append(event)
        kept_changes.append(list(change))
    return kept, kept_changes


def _table(events: Sequence[Event], changes: Changes, nodes: Sequence[str]) -> dict[str, Any]:
    """The events as columns, names and texts as places in lists: a tenth of what they are written out."""
    names = {name for event in events for name in (event.node, event.peer) if name}
    ordered = sorted(names, key=lambda name: timeline.column_rank(name, nodes))
    texts, calls, payments = _Places(), _Places(), _Places()
    place = {name: number for number, name in enumerate(ordered)}
    start_s = events[0].at_s if events else 0.0
    return {
        "nodes": ordered,
        "at_ms": [round(1000 * (event.at_s - start_s), 3) for event in events],
        "node": [place[event.node] for event in events],
        "peer": [place[event.peer] if event.peer else -1 for event in events],
        "kind": [KINDS.index(event.kind) for event in events],
        "call": [calls.of(event.call) if event.call else -1 for event in events],
        "label": [texts.of(_label(event)) for event in events],
        "housekeeping": [row for row, event in enumerate(events) if event.method in HOUSEKEEPING],
        "about": [[payments.of(payment) for payment in event.payments] for event in events],
        "texts": texts.known,
        "payments": payments.known,
        "changes": {str(row): list(change) for row, change in enumerate(changes) if change},
    }


class _Places:
    """Texts, each once."""

    def __init__(self) -> None:
        self.known: list[str] = []
        self._places: dict[str, int] = {}

    def of(self, text: str) -> int:
        place = self._places.get(text)
        if place is None:
            place = self._places[text] = len(self.known)
            self.known.append(text)
        return place


def _label(event: Event) -> str:
    """What stands beside an event, in a word or two."""
    if event.kind in FACT_KINDS:
        fact = Fact.of(event)
        return f"{fact.word} {fact.reason}".rstrip()
    if event.kind in DOWN_KINDS:
        return event.kind.value
    if event.kind in (Kind.SENT, Kind.RECEIVED):
        return event.method.rpartition("/")[2]
    if event.kind in (Kind.ANSWERED, Kind.RETURNED):
        return timeline.gist(event.detail)
    return detail_text(event).partition(":")[0]


def told_in_full(event: Event) -> str:
    """An event in some lines: what happened where, when, and what the message says; secrets redacted."""
    lines = [f"{event.node}: {event.kind.value}"]
    if event.peer:
        lines[0] += (
            f" {event.method.rpartition('/')[2]}, {'to' if event.kind is Kind.SENT else 'with'} {event.peer}"
        )
    lines.append(f"Lamport clock {event.lamport}, event {event.seq} of this node")
    if event.payments:
        more = len(event.payments) - PAYMENTS_SHOWN
        lines.append(
            f"payment {', '.join(event.payments[:PAYMENTS_SHOWN])}{f' and {more} more' if more > 0 else ''}"
        )
    detail = detail_text(event)
    if detail:
        lines.append(detail if len(detail) <= DETAIL_MAX else detail[:DETAIL_MAX] + "…")
    return "\n".join(lines)


def code_at(file: str, line: int) -> dict[str, Any]:
    """Lines of code around a place: what the page shows of "who sent this"."""
    parts = Path(file).parts
    shown = "/".join(parts[parts.index("paylab") :]) if "paylab" in parts else Path(file).name
    first = max(1, line - CODE_AROUND)
    found = [linecache.getline(file, number).rstrip("\n") for number in range(first, line + CODE_AROUND + 1)]
    return {"place": f"{shown}:{line}", "first": first, "line": line, "lines": found}
