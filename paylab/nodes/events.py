"""What nodes record about themselves: every RPC, forced write and change of state, with a Lamport clock."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, NamedTuple

# The inbound call that the running code works for, so that an outbound call can name its parent.
CURRENT_CALL: ContextVar[str] = ContextVar("paylab_current_call", default="")


class Kind(StrEnum):
    """What happened."""

    SENT = "sent"
    RECEIVED = "received"
    ANSWERED = "answered"  # the server has answered
    RETURNED = "returned"  # the client has the answer
    FAILED = "failed"  # the client got an error instead
    REFUSED = "refused"  # the server answered with an error
    FORCED_WRITE = "forced write"
    STATE = "state"
    CRASHED = "crashed"
    RESTARTED = "restarted"

    # An enumeration's own is Python code, and every event is looked up by its kind.
    __hash__ = str.__hash__


class Event(NamedTuple):
    """One thing that happened at one node; a tuple, because nothing else is made so often."""

    node: str
    # Position among this node's events.
    seq: int
    lamport: int
    at_s: float
    kind: Kind
    # The payments it is about; a batch is about many.
    payments: tuple[str, ...] = ()
    # The other node of an RPC, the method, and the ids that tie the events of one call together.
    peer: str = ""
    method: str = ""
    call: str = ""
    parent: str = ""
    # What it says: the message of an RPC, which is rendered only when somebody looks, or a text.
    # Messages carry passwords and tokens, so only those who redact show it.
    detail: Any = ""
    # The same for machines, as JSON types; `paylab/lab/checking/event_facts.py` has the table. What an RPC
    # says stands in its message.
    facts: Mapping[str, Any] | None = None
    # File and line of the code that made it happen, where the world knows; no part of what happened.
    origin: tuple[str, int] | None = None

    def __repr__(self) -> str:
        """Everything but the detail and whose code it was."""
        hidden = ("detail", "origin")
        shown = (f"{name}={value!r}" for name, value in self._asdict().items() if name not in hidden)
        return f"Event({', '.join(shown)})"


class Recorder:
    """A node's pen: numbers its events, keeps its Lamport clock and hands events to the sink."""

    def __init__(
        self,
        node: str,
        now: Callable[[], float],
        sink: Callable[[Event], None],
        *,
        origin: Callable[[], tuple[str, int] | None] = lambda: None,
    ) -> None:
        """Start at zero; `origin` finds out whose code records."""
        self.node = node
        self.lamport = 0
        self.in_flight = 0
        self._now = now
        self._sink = sink
        self._origin = origin
        self.seq = 0
        self.calls = 0
        # Who goes on with this node's numbers since its restart.
        self.heir: Recorder | None = None

    def new_call(self) -> str:
        """An id for an outbound call, unique among all nodes."""
        self.calls += 1
        return f"{self.node}:{self.calls}"

    def continue_from(self, before: "Recorder") -> None:
        """Number on from where the node was before its restart.

        A write that was under way when the node died may become durable only now: it is told in our numbers.
        """
        self.lamport, self.seq, self.calls = before.lamport, before.seq, before.calls
        before.heir = self

    def observe(self, lamport: int) -> None:
        """Learn of another node's clock."""
        self.lamport = max(self.lamport, lamport)

    def record(
        self,
        kind: Kind,
        *,
        payments: tuple[str, ...] = (),
        peer: str = "",
        method: str = "",
        call: str = "",
        parent: str = "",
        detail: Any = "",
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Record one event at this node, now."""
        if self.heir is not None:
            self.heir.record(
                kind,
                payments=payments,
                peer=peer,
                method=method,
                call=call,
                parent=parent,
                detail=detail,
                facts=facts,
            )
            return
        self.seq += 1
        self.lamport += 1
        self._sink(
            Event(
                self.node,
                self.seq,
                self.lamport,
                self._now(),
                kind,
                payments,
                peer,
                method,
                call,
                parent,
                detail,
                facts,
                self._origin(),
            )
        )
