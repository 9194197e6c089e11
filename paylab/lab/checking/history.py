"""The history of a lab: every event of every node, in the order in which they happened."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from google.protobuf.message import Message

from paylab.lab.checking.event_facts import facts_of
from paylab.lab.checking.history_file import HistoryReader, HistoryWriter
from paylab.nodes.events import Event, Kind
from paylab.nodes.wire import HOUSEKEEPING, SECRET_FIELDS

# About 25 MB; a payment of two banks makes about 60 events.
TAIL_EVENTS = 50_000
# Of a batch, so many items are shown and the rest is counted.
ITEMS_SHOWN = 3


class History:
    """Keeps a bounded tail in memory, counts everything, and streams the whole to a file on request."""

    def __init__(self, *, tail: int | None = TAIL_EVENTS, **about: Any) -> None:
        """Empty. `about` says where it comes from: world, seed, banks, whether books were there before."""
        self.about = about
        self.events: deque[Event] = deque(maxlen=tail)
        # Calls by (from, to), housekeeping left out.
        self.calls: Counter[tuple[str, str]] = Counter()
        self.total = 0
        self._listeners: list[Callable[[Event], None]] = []
        self._counting = threading.Lock()
        self._writer: HistoryWriter | None = None
        # How many events the file has, counted as `total` counts.
        self._written = 0

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The whole of a saved history. Raises LabError BAD_HISTORY that names the line."""
        reader = HistoryReader(path)
        history = cls(tail=None, **reader.header)
        for event in reader:
            history.add(event)
        return history

    def __len__(self) -> int:
        """How many events happened, those that memory forgot included."""
        return self.total

    def __iter__(self) -> Iterator[Event]:
        """The events that memory keeps."""
        return iter(list(self.events))

    def __repr__(self) -> str:
        """Short."""
        return f"<History of {self.total} events>"

    def add(self, event: Event) -> None:
        """Take one event in; the nodes call this."""
        with self._counting:
            self.total += 1
            self.events.append(event)
        if event.kind is Kind.SENT and event.method not in HOUSEKEEPING:
            self.calls[event.node, event.peer] += 1
        for listener in self._listeners:
            listener(event)
        if self._writer is not None and not self._writer.closed:
            self._write(self._writer)

    def keep(self, tail: int) -> None:
        """Keep no more than so many events in memory from now on."""
        with self._counting:
            self.events = deque(self.events, maxlen=tail)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event to come, on the lab's loop."""
        self._listeners = [*self._listeners, listener]

    def unlisten(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` no more; one that does not listen is no error. From any thread."""
        self._listeners = [other for other in self._listeners if other != listener]

    def stream_to(self, path: str | Path | None) -> HistoryWriter:
        """Write to a JSON lines file what memory keeps and every event to come, until `close`.

        The writer's `close()` returns the SHA-256 of the file; without a `path` there is only that.
        """
        self.close()
        with self._counting:
            kept, total = list(self.events), self.total
        writer = HistoryWriter(path, self.about | {"missing": total - len(kept)})
        for event in kept:
            writer.write(as_dict(event))
        # What has happened meanwhile is written with the next event.
        self._written, self._writer = total, writer
        return writer

    def _write(self, writer: HistoryWriter) -> None:
        outstanding, self._written = self.total - self._written, self.total
        latest = [self.events[-1]] if outstanding == 1 else list(self.events)[-outstanding:]
        for event in latest:
            writer.write(as_dict(event))

    def to_shiviz(self, path: str | Path) -> None:
        """Write what memory keeps for ShiViz, with vector clocks: paste it into https://bestchai.bitbucket.io/shiviz."""
        from paylab.lab.checking import history_exports  # noqa: PLC0415 - it reads histories

        Path(path).write_text(history_exports.shiviz(self), encoding="utf-8")

    def to_list_append(self, path: str | Path) -> None:
        """Write the accounts' operations as JSON lines for a list-append checker such as Elle."""
        from paylab.lab.checking import history_exports  # noqa: PLC0415 - it reads histories

        Path(path).write_text("".join(history_exports.list_append(self)), encoding="utf-8")

    def of_payment(self, payment: str) -> list[Event]:
        """A payment's events, and those of the calls that carried them through a balancer."""
        events = list(self.events)
        calls = {event.call for event in events if event.call and payment in event.payments}
        # A balancer reads no message: its hop is known by the call that it served or made.
        calls |= {event.parent for event in events if event.call in calls and event.parent}
        calls |= {event.call for event in events if event.parent and event.parent in calls}
        return [
            event for event in events if payment in event.payments or (event.call and event.call in calls)
        ]

    def close(self) -> None:
        """Close the file."""
        writer, self._writer = self._writer, None
        if writer is not None and not writer.closed:
            if self.total > self._written:
                self._write(writer)
            writer.close()


def is_gateway(node: str) -> bool:
    """Whether a node of that name is one of the gateways."""
    return node == "gateway" or node.startswith("gateway-")


def as_dict(event: Event) -> dict[str, Any]:
    """An event as JSON types, secrets redacted."""
    entry = {
        "node": event.node,
        "seq": event.seq,
        "lamport": event.lamport,
        "at_s": round(event.at_s, 6),
        "kind": event.kind.value,
        "payments": list(event.payments),
        "peer": event.peer,
        "method": event.method,
        "call": event.call,
        "parent": event.parent,
        "detail": detail_text(event),
    }
    facts = facts_of(event)
    return entry if facts is None else entry | {"facts": facts}


def detail_text(event: Event) -> str:
    """What an event says, on one line, secrets redacted."""
    detail = event.detail
    if isinstance(detail, Message):
        return _text(detail)
    if isinstance(detail, bytes):
        return f"{len(detail)} bytes"
    return on_one_line(str(detail)) if detail is not None else ""


def on_one_line(text: str) -> str:
    """The text with line ends and other control characters written out, so that none forges an entry."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _text(message: Message) -> str:
    parts = []
    for field, value in message.ListFields():
        if field.name in SECRET_FIELDS:
            parts.append(f"{field.name}=***")
            continue
        values = list(value) if field.is_repeated else [value]
        shown = [_value(field, item) for item in values[:ITEMS_SHOWN]]
        if len(values) > ITEMS_SHOWN:
            shown.append(f"… {len(values)} in all")
        parts.append(f"{field.name}={', '.join(shown)}")
    return " ".join(parts)


def _value(field: Any, value: Any) -> str:
    if isinstance(value, Message):
        return f"({_text(value)})"
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name)
    return on_one_line(str(value))
