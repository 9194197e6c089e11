"""A bank's disk: accounts, transactions and postings, and how rules are applied to whole batches."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    insert,
    select,
    update,
)

from paylab.core import ledger
from paylab.core.ledger import Account
from paylab.core.messages import Ack, Decide, Inquire, Leg, Prepare, Txn, Vote
from paylab.core.money import Money
from paylab.core.participant import Change, State, Transaction
from paylab.nodes import wire
from paylab.nodes.events import Kind
from paylab.nodes.host import Host
from paylab.nodes.statements import Statement, among

TABLES = MetaData()
ACCOUNTS = Table(
    "accounts",
    TABLES,
    Column("account", String, primary_key=True),
    Column("currency", String, nullable=False),
    Column("posted_minor", BigInteger, nullable=False),
    Column("held_minor", BigInteger, nullable=False),
    Column("owner", String, nullable=False),
    Column("closed", Boolean, nullable=False),
)
TRANSACTIONS = Table(
    "transactions",
    TABLES,
    Column("txn", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("legs", String, nullable=False),  # JSON: [[account, amount_minor, currency], …]
    Column("reason", String, nullable=False),
    Column("since_s", Float, nullable=False),
    Index("transactions_by_state", "state"),
)
POSTINGS = Table(
    "postings",
    TABLES,
    Column("posting", Integer, primary_key=True, autoincrement=True),
    Column("txn", String, nullable=False),
    Column("account", String, nullable=False, index=True),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", String, nullable=False),
    Column("at_s", Float, nullable=False),
)
OPENING = "opening"
Item = TypeVar("Item", Prepare, Decide, Inquire)
Answer = TypeVar("Answer", Vote, Ack)
Rule = Callable[["Books[Any, Any]", Item], tuple[Answer, Change]]


@dataclass(frozen=True, slots=True)
class StatementRow:
    """One line of an account's statement."""

    posting: int
    txn: str
    money: Money
    at_s: float


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

        def apply(connection: Connection) -> tuple[list[Answer], list[Change]]:
            return Books[Item, Answer](connection, items).apply(items, rule, now=now)

        answers, _ = await self.store.run(apply, told=lambda done: self._record(done[1]))
        return answers

    async def prepared(self, *, before_s: float, limit: int) -> list[Txn]:
        """Transactions, of whichever twin, that have been prepared since before then."""
        asked = {"before_s": before_s, "limit": limit}
        rows = await self.store.run(lambda connection: _LONG_PREPARED.rows(connection, asked))
        return [wire.txn_from_text(row.txn) for row in rows]

    async def open_accounts(self, opening: Sequence[Account], *, now: float) -> int:
        """Open what is not open yet, each balance posted against the funding account; returns how many."""

        def open_missing(connection: Connection) -> list[Account]:
            known = _accounts(connection, [account.account for account in opening])
            fresh = {account.account: account for account in opening if account.account not in known}
            if fresh:
                connection.execute(insert(ACCOUNTS), [_account_row(account) for account in fresh.values()])
            legs = [Leg(self._bank, a.account, Money(a.posted_minor, a.currency)) for a in fresh.values()]
            lines = [line for leg in legs for line in ledger.posting([leg], against=ledger.FUNDING)]
            _post(connection, [(OPENING, line) for line in lines if line.money.amount_minor], now=now)
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
        return (await self.store.run(lambda connection: _accounts(connection, [name]))).get(name)

    async def statement(self, name: str) -> list[StatementRow]:
        """An account's postings, oldest first."""
        query = select(POSTINGS).where(POSTINGS.c.account == name).order_by(POSTINGS.c.posting)
        return [
            StatementRow(row.posting, row.txn, Money(row.amount_minor, row.currency), row.at_s)
            for row in await self.store.rows(query)
        ]


class Books(Generic[Item, Answer]):
    """The rows that a batch is about, read once, changed by the rules, written once."""

    def __init__(self, connection: Connection, items: Sequence[Item]) -> None:
        self._connection: Connection = connection
        txns = [str(item.txn) for item in items]
        self.rows: dict[Txn, Transaction] = {
            wire.txn_from_text(row.txn): _transaction(row)
            for row in _SELECT_TRANSACTIONS.rows(connection, {"txns": json.dumps(txns)})
        }
        self._known = frozenset(self.rows)
        legs = [leg for row in self.rows.values() for leg in row.legs]
        for item in items:  # a decision's legs are in its row
            legs += getattr(item, "legs", ())
        self.accounts = _accounts(connection, dict.fromkeys(leg.account for leg in legs))

    def apply(
        self, items: Sequence[Item], rule: "Rule[Item, Answer]", *, now: float
    ) -> tuple[list[Answer], list[Change]]:
        """Apply the rule to each item in turn, each seeing what the ones before it changed."""
        answers: list[Answer] = []
        changes: list[Change] = []
        for item in items:
            answer, change = rule(self, item)
            answers.append(answer)
            changes.append(change)
            if change.transaction is not None:
                self.rows[change.transaction.txn] = change.transaction
            self.accounts.update({account.account: account for account in change.accounts})
        self._write(changes, now=now)
        return answers, changes

    def _write(self, changes: Iterable[Change], *, now: float) -> None:
        touched = dict.fromkeys(change.transaction.txn for change in changes if change.transaction)
        rows = [_transaction_row(self.rows[txn], now=now) for txn in touched]
        fresh = [row for row, txn in zip(rows, touched, strict=True) if txn not in self._known]
        changed = [row for row, txn in zip(rows, touched, strict=True) if txn in self._known]
        if fresh:
            _INSERT_TRANSACTION.run(self._connection, fresh)
        if changed:
            _UPDATE_TRANSACTION.run(
                self._connection, [{f"_{k}": v for k, v in row.items()} for row in changed]
            )
        accounts = dict.fromkeys(account.account for change in changes for account in change.accounts)
        if accounts:
            balances = [_account_row(self.accounts[name]) for name in accounts]
            _UPDATE_ACCOUNT.run(self._connection, [{f"_{k}": v for k, v in row.items()} for row in balances])
        lines = [
            (str(change.transaction.txn), line)
            for change in changes
            if change.transaction
            for line in change.lines
        ]
        _post(self._connection, lines, now=now)


_LONG_PREPARED = Statement(
    select(TRANSACTIONS.c.txn)
    .where((TRANSACTIONS.c.state == State.PREPARED) & (TRANSACTIONS.c.since_s < bindparam("before_s")))
    .order_by(TRANSACTIONS.c.txn)
    .limit(bindparam("limit"))
)
_SELECT_TRANSACTIONS = Statement(select(TRANSACTIONS).where(among(TRANSACTIONS.c.txn, "txns")))
_SELECT_ACCOUNTS = Statement(select(ACCOUNTS).where(among(ACCOUNTS.c.account, "names")))
_INSERT_TRANSACTION = Statement(insert(TRANSACTIONS))
_INSERT_POSTING = Statement(insert(POSTINGS), columns=("txn", "account", "amount_minor", "currency", "at_s"))
_UPDATE_TRANSACTION = Statement(
    update(TRANSACTIONS)
    .where(TRANSACTIONS.c.txn == bindparam("_txn"))
    .values(
        state=bindparam("_state"),
        legs=bindparam("_legs"),
        reason=bindparam("_reason"),
        since_s=bindparam("_since_s"),
    )
)
_UPDATE_ACCOUNT = Statement(
    update(ACCOUNTS)
    .where(ACCOUNTS.c.account == bindparam("_account"))
    .values(posted_minor=bindparam("_posted_minor"), held_minor=bindparam("_held_minor"))
)


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


def _accounts(connection: Connection, names: Iterable[str]) -> dict[str, Account]:
    rows = _SELECT_ACCOUNTS.rows(connection, {"names": json.dumps(list(names))})
    return {row.account: Account(**row._asdict() | {"closed": bool(row.closed)}) for row in rows}


def _account_row(account: Account) -> dict[str, Any]:
    return {column.name: getattr(account, column.name) for column in ACCOUNTS.c}


def _transaction(row: Any) -> Transaction:
    legs = tuple(
        Leg("", account, Money(amount, currency)) for account, amount, currency in json.loads(row.legs)
    )
    return Transaction(wire.txn_from_text(row.txn), State(row.state), legs, row.reason)


def _transaction_row(row: Transaction, *, now: float) -> dict[str, Any]:
    legs = [[leg.account, leg.money.amount_minor, leg.money.currency] for leg in row.legs]
    return {
        "txn": str(row.txn),
        "state": row.state.value,
        "legs": json.dumps(legs),
        "reason": row.reason,
        "since_s": now,
    }


def _post(connection: Connection, lines: Iterable[tuple[str, ledger.PostingLine]], *, now: float) -> None:
    rows = [
        {
            "txn": txn,
            "account": line.account,
            "amount_minor": line.money.amount_minor,
            "currency": line.money.currency,
            "at_s": now,
        }
        for txn, line in lines
    ]
    if rows:
        _INSERT_POSTING.run(connection, rows)
