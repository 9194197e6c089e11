"""The history of a lab: every event of every node, in the order in which they happened."""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from google.protobuf.message import Message

from paylab.nodes.events import Event, Kind
from paylab.nodes.wire import HOUSEKEEPING, SECRET_FIELDS

# About 25 MB; a payment of two banks makes about 60 events.
TAIL_EVENTS = 50_000
# Of a batch, so many items are shown and the rest is counted.
ITEMS_SHOWN = 3


class History:
    """Keeps a bounded tail in memory, counts everything, and streams the whole to a file on request."""

    def __init__(self) -> None:
        """Empty."""
        self.events: deque[Event] = deque(maxlen=TAIL_EVENTS)
        # Calls by (from, to), housekeeping left out.
        self.calls: Counter[tuple[str, str]] = Counter()
        self.total = 0
        self._listeners: list[Callable[[Event], None]] = []
        self._file: TextIO | None = None

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
        self.total += 1
        self.events.append(event)
        if event.kind is Kind.SENT and event.method not in HOUSEKEEPING:
            self.calls[event.node, event.peer] += 1
        for listener in self._listeners:
            listener(event)
        if self._file is not None:
            self._file.write(json.dumps(as_dict(event), sort_keys=True) + "\n")

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event to come, on the lab's loop."""
        self._listeners.append(listener)

    def stream_to(self, path: str | Path) -> None:
        """Write every event to come to a JSONL file."""
        self._file = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 - closed by close()

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
        if self._file is not None:
            self._file.close()
            self._file = None


def as_dict(event: Event) -> dict[str, Any]:
    """An event as JSON types, secrets redacted."""
    return {
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


def detail_text(event: Event) -> str:
    """What an event says, on one line, secrets redacted."""
    detail = event.detail
    if isinstance(detail, Message):
        return _text(detail)
    if isinstance(detail, bytes):
        return f"{len(detail)} bytes"
    return str(detail) if detail is not None else ""


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
    return str(value)
