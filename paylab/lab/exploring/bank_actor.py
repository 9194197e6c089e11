"""A bank of the model: the participant's rules over rows, of which a crash may lose what was not forced."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from paylab.core.decisions import Decisions
from paylab.core.ledger import Account
from paylab.core.messages import Ack, Decide, Inquire, Prepare, Txn, Vote
from paylab.core.participant import Change, State, Transaction
from paylab.lab.exploring.model import (
    COORDINATOR,
    Ask,
    Broken,
    Exchange,
    Message,
    Note,
    Result,
    Timer,
    Told,
)
from paylab.nodes.events import Kind


@dataclass(frozen=True, slots=True)
class Books:
    """A bank's rows, in the order of their names."""

    accounts: tuple[Account, ...]
    rows: tuple[Transaction, ...] = ()

    def row(self, txn: Txn) -> Transaction | None:
        """The row of one transaction."""
        return next((row for row in self.rows if row.txn == txn), None)


@dataclass(frozen=True, slots=True)
class BankState:
    """What every server of the bank sees, and what a crash leaves of it when that is less."""

    books: Books
    durable: Books | None = None


class BankActor:
    """One bank: all its servers at once, as they share its ledger."""

    def __init__(self, name: str, rules: Decisions) -> None:
        """Use `rules` where the network has slots."""
        self.name = name
        self._rules = rules

    def receive(self, state: BankState, message: Message) -> list[Result]:
        """Apply a message: first what it does, then where the bank may die meanwhile."""
        body = message.body
        if isinstance(body, Told):
            return self._decided_by(state, body)
        after: BankState | Broken = state
        acts: tuple[Note, ...] = ()
        if isinstance(body, Prepare):
            for earlier in self._rules.bank_superseded(state.books.rows, body):
                assert isinstance(after, BankState)
                _, change = self._apply(after.books, earlier)
                after, acts = _written(after, change), (*acts, *_notes(change))
        assert isinstance(after, BankState)
        answer, change = self._apply(after.books, body)
        after = _written(after, change)
        acts = (*acts, *_notes(change), *_refusal(answer))
        before = [Result(left, (), "before it writes") for left in self.crashed(state) or [state]]
        silent = [Result(left, acts, "before it answers") for left in self.crashed(after) or [after]]
        return [Result(after, (*acts, Message(self.name, COORDINATOR, answer))), *before, *silent]

    def unanswered(self, state: BankState, message: Message) -> Result:
        """Nobody answers what it asked about."""
        txn = message.body.txn
        assert txn is not None
        return self._resolve(state, txn, self._rules.bank_in_doubt(None))

    def questions(self, state: BankState) -> Iterator[tuple[Message, Exchange]]:
        """What the bank asks the coordinator about, and what it waits for before it does."""
        for row in state.books.rows:
            if row.state is State.PREPARED:
                waits_for = Exchange((Prepare, Vote, Decide, Told), row.txn)
                yield Message(self.name, COORDINATOR, Ask(row.txn)), waits_for

    def timers(self, _: BankState) -> Iterator[Timer]:
        """None but questions."""
        return iter(())

    def crashed(self, state: BankState | Broken) -> list[BankState | Broken]:
        """What a crash may leave: all, or all but what was not forced. Nothing when that is the same."""
        if isinstance(state, Broken) or state.durable is None:
            return []
        return [BankState(state.durable), BankState(state.books)]

    def safe(self, state: Any) -> Any:
        """The state when nothing crashes any more, so that what is durable makes no difference."""
        return state if isinstance(state, Broken) else BankState(state.books)

    def _apply(self, books: Books, body: object) -> tuple[Vote | Ack, Change]:
        accounts = {account.account: account for account in books.accounts}
        match body:
            case Prepare(txn):
                vote: tuple[Vote, Change] = self._rules.bank_prepare(
                    books.row(txn), accounts, body, vote=self._rules.bank_vote
                )
                return vote
            case Inquire(txn):
                word: tuple[Vote, Change] = self._rules.bank_inquire(books.row(txn), body)
                return word
            case Decide(txn):
                ack: tuple[Ack, Change] = self._rules.bank_decide(books.row(txn), accounts, body)
                return ack
            case _:
                raise TypeError(f"no bank is told {body}")

    def _decided_by(self, state: BankState, told: Told) -> list[Result]:
        result = self._resolve(state, told.txn, self._rules.bank_in_doubt(told.outcome))
        if result.state == state:
            return [result]
        return [
            result,
            *(Result(left, (), "before it writes") for left in self.crashed(state) or [state]),
        ]

    def _resolve(self, state: BankState, txn: Txn, commit: bool | None) -> Result:  # noqa: FBT001 - a slot's answer
        if commit is None:
            return Result(state)
        answer, change = self._apply(state.books, Decide(txn, commit=commit))
        return Result(_written(state, change), (*_notes(change), *_refusal(answer)))


def _written(state: BankState, change: Change) -> BankState | Broken:
    """The rows after a change. What is forced makes durable whatever was written before it."""
    sums: dict[str, int] = {}
    for line in change.lines:
        sums[line.money.currency] = sums.get(line.money.currency, 0) + line.money.amount_minor
    if any(sums.values()):
        return Broken(f"a posting sums to {sums}, not to zero")
    accounts = {account.account: account for account in (*state.books.accounts, *change.accounts)}
    rows = {row.txn: row for row in state.books.rows}
    if change.transaction is not None:
        rows[change.transaction.txn] = _plain(change.transaction)
    books = Books(
        tuple(accounts[name] for name in sorted(accounts)),
        tuple(rows[txn] for txn in sorted(rows, key=str)),
    )
    durable = state.durable or state.books
    return BankState(books, None if change.forced or books == durable else durable)


def _plain(row: Transaction) -> Transaction:
    """The row without what no rule looks at: an aborted one answers the same whatever its legs were."""
    if row.state is not State.ABORTED:
        return row
    return Transaction(row.txn, row.state, reason=row.reason or "ALREADY_ABORTED")


def _notes(change: Change) -> tuple[Note, ...]:
    row = change.transaction
    if row is None:
        return ()
    if change.forced:
        return (Note(Kind.FORCED_WRITE, f"{row.state} {row.txn}"),)
    return (Note(Kind.STATE, f"{row.txn} is {row.state} {row.reason}".rstrip()),)


def _refusal(answer: Vote | Ack) -> tuple[Note, ...]:
    refusal = answer.refusal if isinstance(answer, Ack) else ""
    return (Note(Kind.STATE, f"refused a decision: {refusal}"),) if refusal else ()
