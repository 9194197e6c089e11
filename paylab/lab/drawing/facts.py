"""Reads events: which belong to one call, and what a forced write or a state says."""

from collections.abc import Iterable
from dataclasses import dataclass

from paylab.lab.checking.history import History, detail_text
from paylab.nodes.events import Event, Kind
from paylab.nodes.wire import HOUSEKEEPING

FACT_KINDS = frozenset({Kind.FORCED_WRITE, Kind.STATE})
DOWN_KINDS = frozenset({Kind.CRASHED, Kind.RESTARTED})


@dataclass(slots=True)
class Call:
    """The events of one call, as far as they happened."""

    sent: Event | None = None
    received: Event | None = None
    # What the server said: ANSWERED or REFUSED; and what the client got: RETURNED or FAILED.
    answered: Event | None = None
    ended: Event | None = None

    @property
    def failed(self) -> bool:
        """Whether the client got no answer, or an error."""
        return self.ended is not None and self.ended.kind is Kind.FAILED


def pair_calls(events: Iterable[Event]) -> dict[str, Call]:
    """Calls by their id, in the order in which they began."""
    calls: dict[str, Call] = {}
    for event in events:
        if not event.call:
            continue
        call = calls.setdefault(event.call, Call())
        match event.kind:
            case Kind.SENT:
                call.sent = event
            case Kind.RECEIVED:
                call.received = event
            case Kind.ANSWERED | Kind.REFUSED:
                call.answered = event
            case Kind.RETURNED | Kind.FAILED:
                call.ended = event
    return calls


def around_payment(history: History, payment: str) -> list[Event]:
    """A payment's events, and all crashes and restarts."""
    return history.of_payment(payment) + [event for event in history if event.kind in DOWN_KINDS]


def in_order(events: Iterable[Event]) -> tuple[list[Event], list[Event]]:
    """What happened to payments, and crashes with restarts, each in the order of time."""
    ordered = sorted(events, key=lambda event: (event.at_s, event.lamport))
    told = [event for event in ordered if event.kind not in DOWN_KINDS and event.method not in HOUSEKEEPING]
    return told, [event for event in ordered if event.kind in DOWN_KINDS]


@dataclass(frozen=True, slots=True)
class Fact:
    """What a forced write or a state says: "PREPARED p/1", or "p/1 is ABORTED INSUFFICIENT_FUNDS"."""

    word: str
    txn: str = ""
    reason: str = ""

    @classmethod
    def of(cls, event: Event) -> "Fact":
        """Take an event's text apart."""
        text = detail_text(event)
        if event.kind is Kind.STATE and " is " in text:
            txn, _, rest = text.partition(" is ")
            word, _, reason = rest.partition(" ")
            return cls(word, txn, reason)
        if text.endswith("log entries"):
            return cls("logged")
        word, _, txn = text.partition(" ")
        # Any other text says what it says, such as "queued".
        return cls(word, txn) if word.isupper() and " " not in txn else cls(text)

    @property
    def attempt(self) -> int:
        """Which attempt of its payment it is about; 0 for none."""
        number = self.txn.rpartition("/")[2]
        return int(number) if number.isdecimal() else 0


def duration(seconds: float) -> str:
    """A length of time, in about three digits."""
    for limit_s, unit_s, digits, unit in DURATIONS:
        if seconds < limit_s:
            return f"{seconds / unit_s:.{digits}f} {unit}"
    return f"{seconds / 60:.0f} min"


# Below so many seconds a length of time is written in that unit, with so many decimals.
DURATIONS = (
    (0.09995, 0.001, 1, "ms"),
    (0.9995, 0.001, 0, "ms"),
    (9.995, 1.0, 2, "s"),
    (99.95, 1.0, 1, "s"),
    (600.0, 1.0, 0, "s"),
)
