"""A bank's disk: accounts, transactions and postings, and how rules are applied to whole batches."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, select, update

from paylab.core import ledger
from paylab.core.ledger import Account, Hold
from paylab.core.messages import Ack, Decide, Inquire, Leg, Prepare, Txn, Vote
from paylab.core.money import Money
from paylab.core.participant import Change, State, Transaction
from paylab.nodes import bank_rows as rows
from paylab.nodes.bank_rows import ACCOUNTS, OPENING, POSTINGS, TABLES, StatementRow
from paylab.nodes.events import Kind
from paylab.nodes.host import Host

Item = TypeVar("Item", Prepare, Decide, Inquire)
Answer = TypeVar("Answer", Vote, Ack)
Rule = Callable[["Books[Any, Any]", Item], tuple[Answer, Change]]


@dataclass(frozen=True, slots=True)
class Expired:
    """An authorisation's hold that was let go of, as it was, and the account after that."""

    hold: Hold
    account: Account


class BankStore:
    """A bank's ledger database; every method returns what is durable."""

    def __init__(self, host: Host, bank: str) -> None:
        """All servers of a bank share the store "bank-<name>"."""
        self.store = host.store(f"bank-{bank}")
        self._host = host
        self._bank = bank

    async def create_tables(self) -> None:
        """Create what is missing."""
        await self.store.create_tables(TABLES)

    async def apply(self, items: Sequence[Item], rule: "Rule[Item, Answer]", *, now: float) -> list[Answer]:
        """Apply a rule to each item in one write transaction and record what that changed."""

        def apply(connection: Connection) -> tuple[list[Answer], list[Change], list[Expired]]:
            # Without its parameters: `Books[Item, Answer](…)` costs as much as a statement.
            books: Books[Item, Answer] = Books(connection, items, now=now)
            answers, changes = books.apply(items, rule, now=now)
            return answers, changes, books.expired

        def record(done: tuple[list[Answer], list[Change], list[Expired]]) -> None:
            self._record_expired(done[2])
            self._record(done[1])

        answers, _, _ = await self.store.run(apply, told=record)
        return answers

    async def sweep(self, *, now: float, before_s: float, limit: int) -> list[Txn]:
        """Let go of what has expired; returns what has been prepared since before then, by whichever twin."""

        def sweep(connection: Connection) -> tuple[list[Expired], list[Txn]]:
            expired = _expire(connection, rows.read_expired(connection, now=now, limit=limit), now=now)
            return expired, rows.read_long_prepared(connection, before_s=before_s, limit=limit)

        _, prepared = await self.store.run(sweep, told=lambda done: self._record_expired(done[0]))
        return prepared

    async def open_accounts(self, opening: Sequence[Account], *, now: float) -> int:
        """Open what is not open yet, each balance posted against the funding account; returns how many."""

        def open_missing(connection: Connection) -> list[Account]:
            known = rows.read_accounts(connection, [account.account for account in opening])
            fresh = {account.account: account for account in opening if account.account not in known}
            if fresh:
                rows.insert_accounts(connection, fresh.values())
            legs = [Leg(self._bank, a.account, Money(a.posted_minor, a.currency)) for a in fresh.values()]
            lines = [line for leg in legs for line in ledger.posting([leg], against=ledger.FUNDING)]
            opened = [(OPENING, line) for line in lines if line.money.amount_minor]
            rows.write_postings(connection, opened, now=now)
            return list(fresh.values())

        opened = await self.store.run(open_missing, told=self._record_opened)
        return len(opened)

    def _record(self, changes: Sequence[Change]) -> None:
        for change in changes:
            row = change.transaction
            if row is None:
                continue
            if change.forced:
                self.store.forced(f"{row.state} {row.txn}", row.txn.payment)
            self._host.recorder.record(
                Kind.STATE,
                payments=(row.txn.payment,),
                detail=f"{row.txn} is {row.state} {row.reason}".rstrip(),
                facts=_facts(self._bank, row, change),
            )

    def _record_expired(self, expired: Sequence[Expired]) -> None:
        for each in expired:
            account, authorisation = each.account, each.hold.authorisation
            self._host.recorder.record(
                Kind.STATE,
                payments=(authorisation,),
                detail=f"{Money(each.hold.left_minor, account.currency)} of {authorisation} have expired",
                facts={
                    "at": "expired",
                    "bank": self._bank,
                    "authorisation": authorisation,
                    "released_minor": each.hold.left_minor,
                    "after": [[account.account, account.posted_minor, account.held_minor]],
                },
            )

    def _record_opened(self, opened: Sequence[Account]) -> None:
        if opened:
            accounts = [[account.account, account.posted_minor, account.currency] for account in opened]
            self._host.recorder.record(
                Kind.STATE,
                detail=f"opened {len(opened)} accounts",
                facts={"at": "opened", "bank": self._bank, "accounts": accounts},
            )

    async def close_account(self, name: str) -> None:
        """Let an account take part in no new payment."""
        await self.store.execute(update(ACCOUNTS).where(ACCOUNTS.c.account == name).values(closed=True))

    async def account(self, name: str) -> Account | None:
        """One account."""
        return (await self.store.run(lambda connection: rows.read_accounts(connection, [name]))).get(name)

    async def statement(self, name: str) -> list[StatementRow]:
        """An account's postings, oldest first."""
        query = select(POSTINGS).where(POSTINGS.c.account == name).order_by(POSTINGS.c.posting)
        return [
            StatementRow(row.posting, row.txn, Money(row.amount_minor, row.currency), row.at_s)
            for row in await self.store.rows(query)
        ]


class Books(Generic[Item, Answer]):
    """The rows that a batch is about, read once, changed by the rules, written once."""

    def __init__(self, connection: Connection, items: Sequence[Item], *, now: float) -> None:
        self._connection: Connection = connection
        self.rows = rows.read_transactions(connection, [item.txn for item in items])
        asked: list[Leg] = []
        for item in items:
            mine = getattr(item, "legs", ())  # a decision's legs are in its row
            if mine and item.txn.attempt > 1:
                self.rows |= rows.read_earlier_prepared(connection, item.txn)
            asked += mine
        self._known_rows = frozenset(self.rows)
        legs = [*asked, *(leg for row in self.rows.values() for leg in row.legs)]
        self.accounts = rows.read_accounts(connection, dict.fromkeys(leg.account for leg in legs))
        named = dict.fromkeys(leg.hold.authorisation for leg in legs if leg.hold)
        self.expired: list[Expired] = []
        if named or (asked and any(account.held_minor for account in self.accounts.values())):
            rows.read_holds(connection, self.accounts, named=named)
            # Before the rules look at an account, what has expired there is let go of.
            self.expired = _expire(connection, self.accounts, now=now)
        self._known_accounts = dict(self.accounts)
        self._changes: list[Change] = []

    def apply(
        self, items: Sequence[Item], rule: "Rule[Item, Answer]", *, now: float
    ) -> tuple[list[Answer], list[Change]]:
        """Apply the rule to each item in turn, each seeing what the ones before it changed."""
        answers: list[Answer] = []
        for item in items:
            answer, change = rule(self, item)
            answers.append(answer)
            self.take(change)
        self._write(self._changes, now=now)
        return answers, self._changes

    def take(self, change: Change) -> None:
        """Make a change, for the rules that follow to see; it is written with the rest."""
        self._changes.append(change)
        if change.transaction is not None:
            self.rows[change.transaction.txn] = change.transaction
        self.accounts.update({account.account: account for account in change.accounts})

    def _write(self, changes: Iterable[Change], *, now: float) -> None:
        touched = dict.fromkeys(change.transaction.txn for change in changes if change.transaction)
        rows.write_transactions(
            self._connection, [self.rows[txn] for txn in touched], known=self._known_rows, now=now
        )
        names = dict.fromkeys(account.account for change in changes for account in change.accounts)
        rows.write_accounts(
            self._connection, [self.accounts[name] for name in names], known=self._known_accounts
        )
        lines = [
            (str(change.transaction.txn), line)
            for change in changes
            if change.transaction
            for line in change.lines
        ]
        rows.write_postings(self._connection, lines, now=now)


def _expire(connection: Connection, accounts: dict[str, Account], *, now: float) -> list[Expired]:
    """Let go of what has expired, and put the accounts after that in their places."""
    known, expired = dict(accounts), list[Expired]()
    for name, account in known.items():
        for hold, after in ledger.expirations(account, now=now):
            accounts[name] = after
            expired.append(Expired(hold, after))
    rows.write_accounts(connection, [accounts[each.account.account] for each in expired], known=known)
    return expired


def _facts(bank: str, row: Transaction, change: Change) -> dict[str, Any]:
    """What a change says to whoever checks histories: legs, posting lines, and the balances after it."""
    facts: dict[str, Any] = {"at": "bank", "bank": bank, "txn": str(row.txn), "state": row.state.value}
    if row.reason:
        facts["reason"] = row.reason
    if row.state is State.PREPARED:
        facts["legs"] = [[leg.account, leg.money.amount_minor, leg.money.currency] for leg in row.legs]
    if change.lines:
        facts["lines"] = [
            [line.account, line.money.amount_minor, line.money.currency] for line in change.lines
        ]
    if change.accounts:
        facts["after"] = [[a.account, a.posted_minor, a.held_minor] for a in change.accounts]
    return facts
