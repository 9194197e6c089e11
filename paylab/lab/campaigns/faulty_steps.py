"""Every step of a run at which a node did what the protocol forbids, or did not do what it asks for.

What must not be said, and by whom, is `paylab.lab.judging.missteps`; what must stand in banks' books is
`replayed_books`. Here is the rest: what was done for a key, and what should have been done and never was.
"""

from collections.abc import Iterable, Iterator, Sequence

from paylab.lab.campaigns.replayed_books import ReplayedBooks
from paylab.lab.judging.missteps import Misstep, missteps
from paylab.nodes.events import Event, Kind
from paylab.pb import offline_queue_pb2, payment_gateway_pb2, transaction_logger_pb2

# The queue asks again after 30 s at most, or when the lease of a process that died is over.
QUEUE_SILENT_S = 62.0


def faulty_steps(events: Sequence[Event]) -> list[Misstep]:
    """All of them, in the order in which they happened; none in a network without bugs."""
    books = ReplayedBooks()
    for event in events:
        books.see(event)
    found = [*missteps(events), *books.found]
    for rule in (_keys, _logged_again, _queue_told_early, _queue_never_told, _queue_forgot):
        found += rule(events)
    place = {id(event): number for number, event in enumerate(events)}
    return sorted(found, key=lambda step: place[id(step.event)])


def _keys(events: Iterable[Event]) -> Iterator[Misstep]:
    """A payment is entered under the key that its client sent."""
    sent: set[str] = set()
    entered: set[str] = set()
    for event in events:
        if event.kind is Kind.SENT and isinstance(event.detail, payment_gateway_pb2.PayRequest):
            sent.add(event.detail.idempotency_key)
        facts = event.facts
        if facts is None or facts["at"] != "gateway" or facts["payment"] in entered:
            continue
        entered.add(facts["payment"])
        if facts["key"] not in sent:
            text = f"the gateway entered {facts['payment']} under another key than its client had sent"
            yield Misstep(event, text, facts["payment"])


def _logged_again(events: Iterable[Event]) -> Iterator[Misstep]:
    """The logger acknowledges what it has, and appends it no second time."""
    logged: set[str] = set()
    asked: dict[str, Sequence[str]] = {}
    for event in events:
        if event.facts is not None and event.facts["at"] == "logger":
            fresh, again = event.facts["events"], [one for one in event.facts["events"] if one in logged]
            logged.update(fresh)
        elif isinstance(event.detail, transaction_logger_pb2.AppendRequest):
            asked[event.call] = [one.event_id for one in event.detail.events]
            continue
        elif event.kind is Kind.REFUSED:
            again = [one for one in asked.get(event.call, ()) if one in logged]
        else:
            continue
        for event_id in again:
            text = f"the logger took the event {event_id} for a new one when it was sent a second time"
            yield Misstep(event, text, event_id.partition("/")[0])


def _queue_told_early(events: Iterable[Event]) -> Iterator[Misstep]:
    """What the queue is told is on the gateway's disk, in the transaction that queued the payment."""
    queued: set[str] = set()
    for event in events:
        if event.facts is not None and event.facts["at"] == "gateway" and event.facts["state"] == "QUEUED":
            queued.add(event.facts["payment"])
        elif event.kind is Kind.SENT and isinstance(event.detail, offline_queue_pb2.EnqueueRequest):
            for item in event.detail.items:
                if not item.withdrawn and item.payment not in queued:
                    text = f"the gateway told the queue of {item.payment} before QUEUED was on its disk"
                    yield Misstep(event, text, item.payment)


def _queue_never_told(events: Iterable[Event]) -> Iterator[Misstep]:
    """Sooner or later the queue takes in what is QUEUED."""
    queued: dict[str, Event] = {}
    for event in events:
        if event.facts is None:
            continue
        if event.facts["at"] == "queue":
            for payment in event.facts["queued"]:
                queued.pop(payment, None)
        elif event.facts["at"] == "gateway":
            queued.pop(event.facts["payment"], None)
            if event.facts["state"] == "QUEUED":
                queued[event.facts["payment"]] = event
    for payment, event in queued.items():
        text = f"the gateway made {payment} QUEUED, and no message of its outbox ever told the queue"
        yield Misstep(event, text, payment)


def _queue_forgot(events: Sequence[Event]) -> Iterator[Misstep]:
    """The queue asks again after a call that failed, for as long as the payment is QUEUED."""
    last: dict[str, Event] = {}
    state: dict[str, str] = {}
    for event in events:
        if event.facts is not None and event.facts["at"] == "gateway":
            state[event.facts["payment"]] = event.facts["state"]
        elif event.method.endswith("/Redrive") and event.node == "queue":
            last.update(dict.fromkeys(event.payments, event))
    for payment, event in last.items():
        silent_s = events[-1].at_s - event.at_s
        if event.kind is Kind.FAILED and state.get(payment) == "QUEUED" and silent_s > QUEUE_SILENT_S:
            text = f"the queue dropped {payment} when its call failed, and never asked again"
            yield Misstep(event, text, payment)
