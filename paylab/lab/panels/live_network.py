"""What a history says of the network at this moment: calls, rates, who is busy, and what became of payments.

A fold over events, fed in batches. What only keeps the network alive, and what the lab does as its operator,
is left out. Times are those of the events, so a rate means the same in virtual time.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from paylab.core.money import Money
from paylab.lab.checking.folds import AT_REST
from paylab.lab.network import OPERATOR
from paylab.nodes.events import Event, Kind
from paylab.nodes.wire import HOUSEKEEPING
from paylab.pb import payment_gateway_pb2

Edge = tuple[str, str]

# A rate counts what happened in this time.
RATE_WINDOW_S = 1.0
# The list shows the latest payments; the page has as many rows.
PAYMENTS_SHOWN = 18
PAY = "/paylab.v1.PaymentGateway/Pay"


@dataclass(slots=True)
class PaymentLine:
    """One payment as the gateway's row has it, and how long its payer waited for the last answer."""

    payment: str
    payer: str
    payee: str
    amount: str
    state: str
    reason: str = ""
    attempt: int = 1
    took_ms: float | None = None

    def to_json(self) -> list[Any]:
        """For the page, in a fixed order."""
        took = None if self.took_ms is None else round(self.took_ms, 1)
        return [
            self.payment,
            self.payer,
            self.payee,
            self.amount,
            self.state,
            self.reason,
            took,
            self.attempt,
        ]


class LiveNetwork:
    """Figures of a network, from its events."""

    def __init__(self) -> None:
        """Nothing has happened."""
        self.calls: Counter[Edge] = Counter()
        # Calls that each node was asked, and the ids of those that it works on.
        self.received: Counter[str] = Counter()
        self.working: dict[str, set[str]] = {}
        self.down: set[str] = set()
        self.states: Counter[str] = Counter()
        self.payments: dict[str, str] = {}
        self.latest: dict[str, PaymentLine] = {}
        # Payments that ended within the last second, and calls by edge: by the time of the batch.
        self._ended: deque[tuple[float, int]] = deque()
        self._sent: deque[tuple[float, Counter[Edge]]] = deque()
        self._asked_at: dict[str, float] = {}
        self.events = 0

    def begin(self, events: Iterable[Event], calls: Mapping[Edge, int]) -> None:
        """Take in a history of which memory may have lost the beginning, and all its calls."""
        self.take(events)
        self.calls = Counter({edge: n for edge, n in calls.items() if OPERATOR.node not in edge})
        self._sent.clear()
        self._ended.clear()

    def take(self, events: Iterable[Event]) -> None:
        """Take in a batch."""
        sent: Counter[Edge] = Counter()
        ended, at_s = 0, 0.0
        for event in events:
            at_s = max(at_s, event.at_s)
            if event.call:
                if event.method not in HOUSEKEEPING and OPERATOR.node not in (event.node, event.peer):
                    self._message(event, sent)
            elif event.kind is Kind.CRASHED:
                self.down.add(event.node)
                self.working.pop(event.node, None)
            elif event.kind is Kind.RESTARTED:
                self.down.discard(event.node)
            elif event.facts is not None and event.facts["at"] == "gateway":
                ended += self._row(event.facts)
        if sent:
            self.calls.update(sent)
            self._sent.append((at_s, sent))
        if ended:
            self._ended.append((at_s, ended))

    def _message(self, event: Event, sent: Counter[Edge]) -> None:
        self.events += 1
        match event.kind:
            case Kind.SENT:
                sent[event.node, event.peer] += 1
                if event.method == PAY:
                    self._asked_at[event.call] = event.at_s
            case Kind.RECEIVED:
                self.received[event.node] += 1
                if event.node not in self.down:
                    self.working.setdefault(event.node, set()).add(event.call)
            case Kind.ANSWERED | Kind.REFUSED:
                self.working.get(event.node, set()).discard(event.call)
            case Kind.RETURNED | Kind.FAILED if event.method == PAY:
                asked_at_s = self._asked_at.pop(event.call, None)
                if isinstance(event.detail, payment_gateway_pb2.Receipt) and asked_at_s is not None:
                    line = self.latest.get(event.detail.payment)
                    if line is not None:
                        line.took_ms = 1000 * (event.at_s - asked_at_s)
            case _:
                pass

    def _row(self, facts: Mapping[str, Any]) -> int:
        """Take a payment's row in; 1 if that is its end."""
        payment, state = str(facts["payment"]), str(facts["state"])
        before = self.payments.get(payment)
        self.payments[payment] = state
        if before is not None:
            self.states[before] -= 1
        self.states[state] += 1
        line = self.latest.get(payment)
        if line is None:
            amount = str(Money(facts["amount_minor"], facts["currency"]))
            line = PaymentLine(payment, str(facts["payer"]), str(facts["payee"]), amount, state)
            self.latest[payment] = line
            if len(self.latest) > PAYMENTS_SHOWN:
                del self.latest[next(iter(self.latest))]
        line.state, line.reason, line.attempt = state, str(facts["reason"]), int(facts["attempt"])
        return int(state in AT_REST and before != state)

    # Figures ------------------------------------------------------------------------------------

    def rates(self, now_s: float) -> Counter[Edge]:
        """Calls within the last second, by edge."""
        while self._sent and self._sent[0][0] <= now_s - RATE_WINDOW_S:
            self._sent.popleft()
        total: Counter[Edge] = Counter()
        for _, sent in self._sent:
            total.update(sent)
        return total

    def ended_per_s(self, now_s: float) -> int:
        """Payments that came to their end within the last second."""
        while self._ended and self._ended[0][0] <= now_s - RATE_WINDOW_S:
            self._ended.popleft()
        return sum(ended for _, ended in self._ended)

    @property
    def under_way(self) -> int:
        """Payments that have no answer yet."""
        return self.total - sum(self.states[state] for state in (*AT_REST, "QUEUED"))

    @property
    def total(self) -> int:
        """All payments."""
        return len(self.payments)
