"""What must be true at the end of a campaign's run, when every fault is over and the network is quiet.

The first half asks the stores, as `paylab.lab.checking.checks` does; the second compares what the clients
were told.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from paylab.errors import PaylabError
from paylab.lab.campaigns.orders import OPENING_MINOR, Order
from paylab.lab.checking.folds import AT_REST, TERMINAL
from paylab.lab.real_world import World
from paylab.nodes.client import Receipt
from paylab.pb import transaction_logger_pb2


@dataclass(frozen=True, slots=True)
class Told:
    """What a client was told: a receipt or an error; `replayed` when it asked after everything was quiet."""

    order: Order
    receipt: Receipt | None = None
    error: PaylabError | None = None
    replayed: bool = False

    @property
    def state(self) -> str:
        """The receipt's state, or why there is none."""
        if self.receipt is not None:
            return self.receipt.state
        return self.error.reason if self.error is not None else "NOTHING"


def waiting(world: World, banks: Sequence[str]) -> dict[str, int]:
    """What is not settled yet, by name; everything 0 when the network is quiet."""
    counted = {
        f"in doubt at {bank}": ("SELECT count(*) FROM transactions WHERE state = 'PREPARED'", f"bank-{bank}")
        for bank in banks
    } | {
        "attempts open": ("SELECT count(*) FROM payments WHERE state = 'PREPARING'", "gateway"),
        "payments queued": ("SELECT count(*) FROM payments WHERE state = 'QUEUED'", "gateway"),
        "outbox rows": ("SELECT count(*) FROM outbox", "gateway"),
        "queue entries": ("SELECT count(*) FROM entries WHERE place != 'DEAD'", "queue"),
        "commit records": ("SELECT count(*) FROM commits", "coordinator"),
    }
    return {
        name: int(rows[0][0]) if (rows := world.rows(store, query)) else 0
        for name, (query, store) in counted.items()
    }


def quiet_violations(world: World, banks: Sequence[str]) -> list[str]:
    """After heal and quiet time nothing is in doubt, open, unsent or queued, and every end is logged once."""
    left = [f"comes to rest: {count} {name}" for name, count in waiting(world, banks).items() if count]
    return left + [f"every end is logged once: {line}" for line in _log_violations(world)]


def _log_violations(world: World) -> Iterator[str]:
    events = [
        transaction_logger_pb2.LogEvent.FromString(row[0])
        for row in world.rows("logger", 'SELECT event FROM entries ORDER BY "index"')
    ]
    logged = Counter((event.payment, event.state) for event in events if event.state in TERMINAL)
    for payment, state in world.rows("gateway", "SELECT payment, state FROM payments ORDER BY payment"):
        if state in TERMINAL and logged[payment, state] != 1:
            yield f"{payment} is {state} {logged[payment, state]} times in the log"


def told_violations(told: Sequence[Told], balances: Mapping[str, int]) -> list[str]:
    """What clients were told is one story for each key, stays true, and adds up to the balances."""
    by_key: defaultdict[str, list[Told]] = defaultdict(list)
    for one in told:
        by_key[one.order.key].append(one)
    found = [line for key, answers in by_key.items() for line in _of_key(key, answers)]
    return found + [f"receipts add up: {line}" for line in _sums(by_key, balances)]


def _of_key(key: str, answers: Sequence[Told]) -> Iterator[str]:
    receipts = [one for one in answers if one.receipt is not None]
    unknown = [one for one in answers if one.replayed and one.receipt is None and one.state != "KEY_REUSED"]
    for one in unknown:
        yield f"every client gets an answer: key {key!r} got {one.state} after everything was healed"
    bound = {(r.receipt.payer, r.receipt.payee, r.receipt.money.amount_minor) for r in receipts if r.receipt}
    for one in answers:
        refused = one.state == "KEY_REUSED"
        if one.error is not None and one.error.definite and not refused:
            yield f"sound requests are accepted: key {key!r} got {one.error}"
        if (one.receipt is not None or refused) and bound and (one.order.request in bound) is refused:
            yield f"a key is bound to its request: key {key!r} asked for {one.order.money} got {one.state}"
    if len(payments := dict.fromkeys(r.receipt.payment for r in receipts if r.receipt)) > 1:
        yield f"one payment for a key: key {key!r} was told of payments {', '.join(payments)}"
    ends = dict.fromkeys(
        (r.receipt.payment, r.receipt.state, r.receipt.reason, r.receipt.attempts)
        for r in receipts
        if r.receipt and r.receipt.state in TERMINAL
    )
    if len(ends) > 1:
        yield f"replays answer the same: key {key!r} was told {' and '.join(map(_end, ends))}"
    for one in answers:
        if one.replayed and one.receipt is not None and one.receipt.state not in AT_REST:
            yield f"every payment ends: {one.receipt.payment} is {one.receipt.state} for ever"


def _end(end: tuple[str, str, str, int]) -> str:
    payment, state, reason, attempts = end
    return f"{state} {reason}".rstrip() + f" ({payment}, attempt {attempts})"


def _sums(by_key: Mapping[str, Sequence[Told]], balances: Mapping[str, int]) -> Iterator[str]:
    expected = Counter(OPENING_MINOR)
    for answers in by_key.values():
        last = next((one.receipt for one in reversed(answers) if one.replayed and one.receipt), None)
        if last is not None and last.state == "COMMITTED":
            expected[last.payer] -= last.money.amount_minor
            expected[last.payee] += last.money.amount_minor
    for account, minor in sorted(expected.items()):
        if balances.get(account, 0) != minor:
            yield f"{account} has {balances.get(account, 0)}, by the receipts it has {minor}"
