"""A bank's rows: its tables, and how accounts, holds, transactions and postings are read and written.

Every function works inside a write transaction of its caller's.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

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
from paylab.core.ledger import Account, Hold, HoldState
from paylab.core.messages import HoldOrder, Leg, Txn, Verb
from paylab.core.money import Money
from paylab.core.participant import State, Transaction
from paylab.nodes import wire
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
# What authorisations set aside; of a closed one it says how it ended.
HOLDS = Table(
    "holds",
    TABLES,
    Column("authorisation", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("left_minor", BigInteger, nullable=False),
    Column("expires_at_s", Float, nullable=False),
    Column("state", String, nullable=False),
    Index("holds_by_account", "account"),
    Index("holds_by_expiry", "state", "expires_at_s"),
)
TRANSACTIONS = Table(
    "transactions",
    TABLES,
    Column("txn", String, primary_key=True),
    Column("state", String, nullable=False),
    # JSON: [[account, amount_minor, currency], …], each followed by verb, authorisation and expires_at_s of a
    # hold order if it has one
    Column("legs", String, nullable=False),
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

_LONG_PREPARED = Statement(
    select(TRANSACTIONS.c.txn)
    .where((TRANSACTIONS.c.state == State.PREPARED) & (TRANSACTIONS.c.since_s < bindparam("before_s")))
    .order_by(TRANSACTIONS.c.txn)
    .limit(bindparam("limit"))
)
_THESE_TRANSACTIONS = select(TRANSACTIONS).where(among(TRANSACTIONS.c.txn, "txns"))
_SELECT_TRANSACTIONS = Statement(_THESE_TRANSACTIONS)
_SELECT_PREPARED = Statement(_THESE_TRANSACTIONS.where(TRANSACTIONS.c.state == State.PREPARED))
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


_SELECT_HOLDS = Statement(
    select(HOLDS)
    .where(among(HOLDS.c.account, "names"))
    .where((HOLDS.c.state == HoldState.OPEN) | among(HOLDS.c.authorisation, "named"))
    .order_by(HOLDS.c.authorisation)
)
_SELECT_EXPIRED = Statement(
    select(HOLDS.c.account)
    .where((HOLDS.c.state == HoldState.OPEN) & (HOLDS.c.expires_at_s <= bindparam("now")))
    .where(HOLDS.c.left_minor > 0)
    .distinct()
    .order_by(HOLDS.c.account)
    .limit(bindparam("limit"))
)
_UPDATE_HOLD = (
    update(HOLDS)
    .where(HOLDS.c.authorisation == bindparam("_authorisation"))
    .values(left_minor=bindparam("_left_minor"), state=bindparam("_state"))
)


@dataclass(frozen=True, slots=True)
class StatementRow:
    """One line of an account's statement."""

    posting: int
    txn: str
    money: Money
    at_s: float


# Accounts and their holds ---------------------------------------------------------------------------


def read_accounts(connection: Connection, names: Iterable[str]) -> dict[str, Account]:
    """Those of the accounts that exist, without their holds."""
    rows = _SELECT_ACCOUNTS.rows(connection, {"names": json.dumps(list(names))})
    return {row.account: Account(**row._asdict() | {"closed": bool(row.closed)}) for row in rows}


def read_holds(connection: Connection, accounts: dict[str, Account], *, named: Iterable[str] = ()) -> None:
    """Give accounts their authorisations' holds: those that are open, and those that are named."""
    asked = {"names": json.dumps(list(accounts)), "named": json.dumps(list(named))}
    for row in _SELECT_HOLDS.rows(connection, asked):
        hold = Hold(row.authorisation, row.left_minor, row.expires_at_s, HoldState(row.state))
        account = accounts[row.account]
        accounts[row.account] = replace(account, holds=(*account.holds, hold))


def read_expired(connection: Connection, *, now: float, limit: int) -> dict[str, Account]:
    """Accounts that hold something for an authorisation which has expired, with their holds."""
    names = [row.account for row in _SELECT_EXPIRED.rows(connection, {"now": now, "limit": limit})]
    accounts = read_accounts(connection, names)
    if accounts:
        read_holds(connection, accounts)
    return accounts


def write_accounts(
    connection: Connection, accounts: Iterable[Account], *, known: Mapping[str, Account]
) -> None:
    """Write balances, and the holds that are not as they are known."""
    changed = list(accounts)
    if not changed:
        return
    balances = [
        {"_account": each.account, "_posted_minor": each.posted_minor, "_held_minor": each.held_minor}
        for each in changed
    ]
    _UPDATE_ACCOUNT.run(connection, balances)
    before = {hold.authorisation: hold for account in known.values() for hold in account.holds}
    rows = [
        asdict(hold) | {"account": account.account, "state": hold.state.value}
        for account in changed
        for hold in account.holds
        if hold != before.get(hold.authorisation)
    ]
    fresh = [row for row in rows if row["authorisation"] not in before]
    old = [{f"_{k}": v for k, v in row.items()} for row in rows if row["authorisation"] in before]
    if fresh:
        connection.execute(insert(HOLDS), fresh)
    if old:
        connection.execute(_UPDATE_HOLD, old)


def insert_accounts(connection: Connection, accounts: Iterable[Account]) -> None:
    """Enter new accounts."""
    columns = [column.name for column in ACCOUNTS.c]
    rows = [{name: getattr(account, name) for name in columns} for account in accounts]
    connection.execute(insert(ACCOUNTS), rows)


# Transactions and postings --------------------------------------------------------------------------


def read_transactions(connection: Connection, txns: Iterable[Txn]) -> dict[Txn, Transaction]:
    """The rows of those transactions that are known."""
    rows = _SELECT_TRANSACTIONS.rows(connection, {"txns": json.dumps([str(txn) for txn in txns])})
    return {wire.txn_from_text(row.txn): _transaction(row) for row in rows}


def read_earlier_prepared(connection: Connection, txn: Txn) -> dict[Txn, Transaction]:
    """The rows of the payment's earlier attempts that are prepared."""
    names = [str(Txn(txn.payment, attempt)) for attempt in range(1, txn.attempt)]
    rows = _SELECT_PREPARED.rows(connection, {"txns": json.dumps(names)})
    return {wire.txn_from_text(row.txn): _transaction(row) for row in rows}


def read_long_prepared(connection: Connection, *, before_s: float, limit: int) -> list[Txn]:
    """Transactions that have been prepared since before then."""
    rows = _LONG_PREPARED.rows(connection, {"before_s": before_s, "limit": limit})
    return [wire.txn_from_text(row.txn) for row in rows]


def write_transactions(
    connection: Connection, changed: Iterable[Transaction], *, known: Collection[Txn], now: float
) -> None:
    """Write rows; `known` are those that exist."""
    rows = [(each.txn in known, _transaction_row(each, now=now)) for each in changed]
    fresh = [row for exists, row in rows if not exists]
    old = [{f"_{k}": v for k, v in row.items()} for exists, row in rows if exists]
    if fresh:
        _INSERT_TRANSACTION.run(connection, fresh)
    if old:
        _UPDATE_TRANSACTION.run(connection, old)


def _transaction(row: Any) -> Transaction:
    legs = tuple(
        Leg("", account, Money(amount, currency), HoldOrder(Verb(order[0]), *order[1:]) if order else None)
        for account, amount, currency, *order in json.loads(row.legs)
    )
    return Transaction(wire.txn_from_text(row.txn), State(row.state), legs, row.reason)


def _transaction_row(row: Transaction, *, now: float) -> dict[str, Any]:
    legs = [
        [
            *(leg.account, leg.money.amount_minor, leg.money.currency),
            *((leg.hold.verb, leg.hold.authorisation, leg.hold.expires_at_s) if leg.hold else ()),
        ]
        for leg in row.legs
    ]
    return {
        "txn": str(row.txn),
        "state": row.state.value,
        "legs": json.dumps(legs),
        "reason": row.reason,
        "since_s": now,
    }


def write_postings(
    connection: Connection, lines: Iterable[tuple[str, ledger.PostingLine]], *, now: float
) -> None:
    """Add lines, each of a transaction."""
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
