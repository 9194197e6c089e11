"""What each node holds at every instant of a history, as changes: a table that can be played both ways.

A change says that a line of a card now has another text, or is gone. A card is a node, or a bank's ledger,
which its servers share. Whoever applies the changes of the first n events sees the state after the n-th.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from paylab.core.money import Money
from paylab.lab.checking.event_facts import Facts, facts_of
from paylab.nodes.events import Event, Kind
from paylab.pb import bank_pb2

# card, line, text; None takes the line away.
Change = tuple[str, str, str | None]

# A log shows its end.
TAIL = 3
# Payments that came to rest leave the gateway's card when so many newer ones are there.
PAYMENTS_KEPT = 6
SHORT = 6


def changes_of(events: Iterable[Event]) -> list[list[Change]]:
    """The changes that each event makes, in the order of the events."""
    instants = _Instants()
    return [list(instants.of(event)) for event in events]


def short(txn: str) -> str:
    """The beginning of a payment's id, with the attempt."""
    payment, slash, attempt = txn.rpartition("/")
    return f"{payment[:SHORT]}{slash}{attempt}" if slash else txn[:SHORT]


class _Instants:
    """Reads events; keeps what is needed to say what changes."""

    def __init__(self) -> None:
        self._currency: dict[tuple[str, str], str] = {}
        self._log: deque[str] = deque(maxlen=TAIL)
        self._votes: defaultdict[str, list[str]] = defaultdict(list)
        self._closed: set[str] = set()
        self._decided: deque[str] = deque(maxlen=TAIL)
        self._payments: dict[str, None] = {}
        self._counts: defaultdict[str, int] = defaultdict(int)

    def of(self, event: Event) -> Iterator[Change]:
        """The changes that an event makes."""
        if event.kind is Kind.CRASHED:
            yield event.node, "is", "DOWN"
        elif event.kind is Kind.RESTARTED:
            yield event.node, "is", None
        elif event.kind is Kind.RETURNED and event.node == "coordinator":
            yield from self._votes_came(event.detail)
        facts = facts_of(event)
        read = self.READ.get(facts["at"]) if facts is not None else None
        if read is not None and facts is not None:
            yield from read(self, facts)

    def _votes_came(self, response: Any) -> Iterator[Change]:
        if not isinstance(response, bank_pb2.PrepareResponse):
            return
        for vote in response.votes:
            txn = f"{vote.txn.payment}/{vote.txn.attempt}"
            if txn in self._closed:
                continue  # a vote that came too late to count
            self._votes[txn].append("yes" if vote.yes else f"no ({vote.reason})")
            yield "coordinator", f"votes {short(txn)}", ", ".join(self._votes[txn])

    def _opened(self, facts: Facts) -> Iterator[Change]:
        for account, amount_minor, currency in facts["accounts"]:
            self._currency[facts["bank"], account] = currency
            if len(facts["accounts"]) <= PAYMENTS_KEPT:
                yield facts["bank"], account, str(Money(amount_minor, currency))

    def _bank(self, facts: Facts) -> Iterator[Change]:
        bank, txn = facts["bank"], facts["txn"]
        for account, posted_minor, held_minor in facts.get("after", ()):
            if account.startswith("@"):
                continue
            currency = self._currency.get((bank, account)) or _currency(facts)
            held = f", {Money(held_minor, currency)} held" if held_minor else ""
            yield bank, account, f"{Money(posted_minor, currency)}{held}"
        yield bank, f"prepared {short(txn)}", _legs(facts) if facts["state"] == "PREPARED" else None

    def _decision(self, facts: Facts) -> Iterator[Change]:
        self._log.append(f"COMMIT {short(facts['txn'])}")
        yield "coordinator", "log", " · ".join(self._log)

    def _coordinator(self, facts: Facts) -> Iterator[Change]:
        txn, outcome = facts["txn"], facts["outcome"]
        if outcome != "UNDECIDED":
            self._votes.pop(txn, None)
            self._closed.add(txn)
            yield "coordinator", f"votes {short(txn)}", None
            self._decided.append(f"{short(txn)} {outcome}")
            yield "coordinator", "decided", " · ".join(self._decided)

    def _gateway(self, facts: Facts) -> Iterator[Change]:
        payment = facts["payment"]
        self._payments.pop(payment, None)
        self._payments[payment] = None
        if len(self._payments) > PAYMENTS_KEPT:
            oldest = next(iter(self._payments))
            del self._payments[oldest]
            yield "gateway", short(oldest), None
        attempt = f" (attempt {facts['attempt']})" if facts["attempt"] > 1 else ""
        yield "gateway", short(payment), f"{facts['state']} {facts['reason']}".rstrip() + attempt

    def _logger(self, facts: Facts) -> Iterator[Change]:
        self._counts["logger"] += len(facts["events"])
        yield "logger", "entries", str(self._counts["logger"])

    def _queue(self, facts: Facts) -> Iterator[Change]:
        self._counts["queue"] += len(facts["queued"])
        yield "queue", "taken in", str(self._counts["queue"])

    READ: Mapping[str, Callable[["_Instants", Facts], Iterator[Change]]] = {
        "opened": _opened,
        "bank": _bank,
        "decision": _decision,
        "coordinator": _coordinator,
        "gateway": _gateway,
        "logger": _logger,
        "queue": _queue,
    }


def _currency(facts: Facts) -> str:
    lines: Sequence[Sequence[Any]] = facts.get("legs") or facts.get("lines") or ()
    return str(lines[0][2]) if lines else "EUR"


def _legs(facts: Facts) -> str:
    parts = []
    for account, amount_minor, currency in facts.get("legs", ()):
        parts.append(f"{account} {'+' if amount_minor > 0 else ''}{Money(amount_minor, currency)}")
    return ", ".join(parts)
