"""A bank's side of two-phase commit, as pure functions from rows to rows.

A participant keeps nothing between calls. Inside one write transaction it receives the rows of the
transaction and of the accounts and returns their new state; the vote or acknowledgement leaves after
that write is durable. So bank servers are stateless twins over one ledger.

    unknown ──Prepare, yes──▶ PREPARED ──commit──▶ COMMITTED      a hold is placed, then carried out
       │  └──Prepare, yes, one phase─────────────▶ COMMITTED      carried out at once
       │                        └──abort──▶ ABORTED               the hold is released
       └──Prepare, no | abort | Inquire──▶ ABORTED                a tombstone: a late Prepare gets no

An abort is sent once. A bank that missed it learns of it by asking, or from the Prepare of the payment's next
attempt, which is opened only after the abort: otherwise a payment might find its own money on hold.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from paylab.core import ledger
from paylab.core.ledger import Account, PostingLine
from paylab.core.messages import Ack, Decide, Inquire, Leg, Prepare, Txn, Vote


class State(StrEnum):
    """Where a transaction stands at a bank."""

    PREPARED = "PREPARED"
    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"


# What can move a transaction; a bank's own vote counts as part of the Prepare.
YES, YES_ALONE, NO = "Prepare, yes", "Prepare, yes, one phase", "Prepare, no"
COMMIT, ABORT, INQUIRY = "commit", "abort", "Inquire"
# From state and event to the state after it; None is a transaction that the bank does not know. Whatever is
# not here changes nothing.
TRANSITIONS: dict[tuple[State | None, str], State] = {
    (None, YES): State.PREPARED,
    (None, YES_ALONE): State.COMMITTED,
    (None, NO): State.ABORTED,
    (None, ABORT): State.ABORTED,
    (None, INQUIRY): State.ABORTED,
    (State.PREPARED, COMMIT): State.COMMITTED,
    (State.PREPARED, ABORT): State.ABORTED,
}


@dataclass(frozen=True, slots=True)
class Transaction:
    """A bank's row for one transaction."""

    txn: Txn
    state: State
    legs: tuple[Leg, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What to write, and whether the answer must wait until it is durable."""

    transaction: Transaction | None = None
    accounts: tuple[Account, ...] = ()
    lines: tuple[PostingLine, ...] = ()
    forced: bool = False


UNCHANGED = Change()
# A decision that contradicts the row is refused and reported, never acknowledged.
REFUSALS = {
    (None, True): "NEVER_PREPARED",
    (State.ABORTED, True): "ALREADY_ABORTED",
    (State.COMMITTED, False): "ALREADY_COMMITTED",
}


def vote_reason(accounts: Mapping[str, Account], legs: tuple[Leg, ...]) -> str:
    """Why the bank says no to these legs; empty when it says yes."""
    books = dict(accounts)
    for leg in legs:
        reason = ledger.refusal(books.get(leg.account), leg)
        if reason:
            return reason
        books[leg.account] = ledger.hold(books[leg.account], leg)
    return ""


def prepare(
    row: Transaction | None,
    accounts: Mapping[str, Account],
    request: Prepare,
    *,
    vote: Callable[[Mapping[str, Account], tuple[Leg, ...]], str] = vote_reason,
) -> tuple[Vote, Change]:
    """Vote by the rule `vote`. A repeated Prepare gets the same vote; a tombstone refuses a late one."""
    if row is not None:
        yes = row.state is not State.ABORTED
        return Vote(request.txn, yes=yes, reason="" if yes else row.reason or "ALREADY_ABORTED"), UNCHANGED
    reason = vote(accounts, request.legs)
    if reason:
        # In one phase nobody else decides, so a no that was forgotten could become a yes.
        return Vote(request.txn, yes=False, reason=reason), _tombstone(
            request.txn, reason, forced=request.one_phase
        )
    books = dict(accounts)
    for leg in request.legs:
        books[leg.account] = ledger.hold(books[leg.account], leg)
    if request.one_phase:
        change = _carried_out(books, request.txn, request.legs)
    else:
        row = Transaction(request.txn, State.PREPARED, request.legs)
        change = Change(row, _touched(books, request.legs), forced=True)
    return Vote(request.txn, yes=True), change


def superseded(rows: Iterable[Transaction], request: Prepare) -> list[Decide]:
    """What a Prepare says of earlier attempts that are still prepared: they are aborted."""
    txn = request.txn
    return [
        Decide(row.txn, commit=False)
        for row in rows
        if row.state is State.PREPARED and row.txn.payment == txn.payment and row.txn.attempt < txn.attempt
    ]


def decide(row: Transaction | None, accounts: Mapping[str, Account], request: Decide) -> tuple[Ack, Change]:
    """Carry the decision out once; acknowledge it as often as it comes."""
    state = row.state if row else None
    refusal = REFUSALS.get((state, request.commit), "")
    if refusal:
        return Ack(request.txn, ok=False, refusal=refusal), UNCHANGED
    done = Ack(request.txn, ok=True)
    following = TRANSITIONS.get((state, COMMIT if request.commit else ABORT))
    if following is None:
        return done, UNCHANGED
    if row is None:
        return done, _tombstone(request.txn)
    if following is State.COMMITTED:
        return done, _carried_out(accounts, row.txn, row.legs)
    books = dict(accounts)
    for leg in row.legs:
        books[leg.account] = ledger.release(books[leg.account], leg)
    return done, Change(Transaction(row.txn, State.ABORTED, row.legs), _touched(books, row.legs))


def inquire(row: Transaction | None, request: Inquire) -> tuple[Vote, Change]:
    """Say what became of a one-phase transaction; one that is not known is aborted for good."""
    if row is None:
        return Vote(request.txn, yes=False, reason="ALREADY_ABORTED"), _tombstone(request.txn, forced=True)
    yes = row.state is State.COMMITTED
    return Vote(request.txn, yes=yes, reason="" if yes else row.reason or "ALREADY_ABORTED"), UNCHANGED


def _tombstone(txn: Txn, reason: str = "ALREADY_ABORTED", *, forced: bool = False) -> Change:
    return Change(Transaction(txn, State.ABORTED, reason=reason), forced=forced)


def _carried_out(accounts: Mapping[str, Account], txn: Txn, legs: tuple[Leg, ...]) -> Change:
    books = dict(accounts)
    for leg in legs:
        books[leg.account] = ledger.settle(books[leg.account], leg)
    lines = ledger.posting([leg for leg in legs if leg.moves], against=ledger.CLEARING)
    return Change(Transaction(txn, State.COMMITTED, legs), _touched(books, legs), lines, forced=True)


def _touched(books: Mapping[str, Account], legs: tuple[Leg, ...]) -> tuple[Account, ...]:
    return tuple(books[name] for name in dict.fromkeys(leg.account for leg in legs))
