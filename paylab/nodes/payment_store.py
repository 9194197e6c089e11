"""The gateway's disk: payments by id and by key, and the outbox that tells others of their changes.

What many callers ask for at the same time is written in one transaction, each statement once for all.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    bindparam,
    insert,
    select,
    update,
)

from paylab.core.money import Money
from paylab.core.payment import Payment, State
from paylab.nodes.batching import Batcher
from paylab.nodes.events import Kind
from paylab.nodes.host import Host
from paylab.nodes.outbox import outbox_table, put
from paylab.nodes.statements import Statement, among

TABLES = MetaData()
PAYMENTS = Table(
    "payments",
    TABLES,
    Column("payment", String, primary_key=True),
    Column("caller", String, nullable=False),
    Column("key", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("payer", String, nullable=False),
    Column("payee", String, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", String, nullable=False),
    Column("state", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("in_a_row", Integer, nullable=False),
    Column("reason", String, nullable=False),
    Column("expires_at_s", Float, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("accepted_at_s", Float, nullable=False),
    UniqueConstraint("caller", "key"),
    Index("payments_by_state", "state"),
)
OUTBOX = outbox_table(TABLES)

_INSERT = Statement(insert(PAYMENTS))
_OPEN = Statement(select(PAYMENTS).where(PAYMENTS.c.state == State.PREPARING).order_by(PAYMENTS.c.payment))
_BY_KEY = Statement(select(PAYMENTS).where(among(PAYMENTS.c.key, "keys")))
_BY_ID = Statement(select(PAYMENTS).where(among(PAYMENTS.c.payment, "payments")))
# What an attempt changes; the rest of a payment is written once.
_UPDATE = Statement(
    update(PAYMENTS)
    .where(PAYMENTS.c.payment == bindparam("_payment"))
    .values(
        {
            name: bindparam(f"_{name}")
            for name in ("state", "attempt", "in_a_row", "reason", "expires_at_s", "epoch")
        }
    )
)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A change of one payment, to be made only if the payment is still as it was, with its outbox rows."""

    before: Payment
    after: Payment
    outbox: tuple[tuple[str, bytes], ...]


class PaymentStore:
    """Payments and outbox of a gateway, in the store "gateway"; every method returns what is durable."""

    def __init__(self, host: Host) -> None:
        """Nothing is read yet."""
        self._host = host
        self.store = host.store("gateway")
        self._claims: Batcher[Payment, Payment] = Batcher(self._claim_all, spawn=host.spawn)
        self._replacements: Batcher[Replacement, Payment] = Batcher(self._replace_all, spawn=host.spawn)

    async def create_tables(self) -> None:
        """Create what is missing."""
        await self.store.create_tables(TABLES)

    async def claim(self, wanted: Payment) -> Payment:
        """Enter a payment under its caller and key; returns it, or the one that was there first."""
        return await self._claims.submit(wanted)

    async def replace(self, before: Payment, after: Payment, outbox: Sequence[tuple[str, bytes]]) -> Payment:
        """Compare and set; returns what stands there then: `after`, or what somebody else made of it."""
        return await self._replacements.submit(Replacement(before, after, tuple(outbox)))

    async def read(self, payment: str) -> Payment | None:
        """One payment by id."""
        found = await self.store.run(lambda connection: _read(connection, [payment]))
        return found.get(payment)

    async def open_payments(self) -> list[Payment]:
        """Every payment with an open attempt."""
        rows = await self.store.run(lambda connection: _OPEN.rows(connection, {}))
        return [_payment(row) for row in rows]

    async def of_caller(self, caller: str, *, limit: int) -> list[Payment]:
        """A caller's payments, newest first."""
        query = (
            select(PAYMENTS)
            .where(PAYMENTS.c.caller == caller)
            .order_by(PAYMENTS.c.accepted_at_s.desc(), PAYMENTS.c.payment)
            .limit(limit)
        )
        rows = await self.store.rows(query)
        return [_payment(row) for row in rows]

    async def _claim_all(self, wanted: Sequence[Payment]) -> list[Payment]:
        def record(found: list[Payment]) -> None:
            self._record(mine for mine, owner in zip(wanted, found, strict=True) if mine is owner)

        return await self.store.run(lambda connection: _claim_all(connection, wanted), told=record)

    async def _replace_all(self, replacements: Sequence[Replacement]) -> list[Payment]:
        def record(present: list[Payment]) -> None:
            pairs = zip(replacements, present, strict=True)
            self._record(payment for change, payment in pairs if payment is change.after)

        return await self.store.run(lambda connection: _replace_all(connection, replacements), told=record)

    def _record(self, payments: Iterable[Payment]) -> None:
        for payment in payments:
            self.store.forced(f"{payment.state} {payment.txn}", payment.payment)
            self._host.recorder.record(
                Kind.STATE,
                payments=(payment.payment,),
                detail=f"{payment.txn} is {payment.state} {payment.reason}".rstrip(),
                facts=_facts(payment),
            )


def _claim_all(connection: Connection, wanted: Sequence[Payment]) -> list[Payment]:
    keys = [payment.key for payment in wanted]
    rows = _BY_KEY.rows(connection, {"keys": json.dumps(keys)})
    owners = {(payment.caller, payment.key): payment for payment in map(_payment, rows)}
    fresh = [
        _row(payment)
        for payment in wanted
        if owners.setdefault((payment.caller, payment.key), payment) is payment
    ]
    if fresh:
        _INSERT.run(connection, fresh)
    return [owners[payment.caller, payment.key] for payment in wanted]


def _replace_all(connection: Connection, replacements: Sequence[Replacement]) -> list[Payment]:
    present = _read(connection, [change.before.payment for change in replacements])
    changed: list[Payment] = []
    outbox: list[tuple[str, bytes]] = []
    for change in replacements:
        now = present[change.before.payment]
        if (now.state, now.attempt) == (change.before.state, change.before.attempt):
            present[now.payment] = change.after
            changed.append(change.after)
            outbox += change.outbox
    if changed:
        rows = [{f"_{name}": value for name, value in _row(payment).items()} for payment in changed]
        _UPDATE.run(connection, rows)
    put(connection, OUTBOX, outbox)
    return [present[change.before.payment] for change in replacements]


def _read(connection: Connection, payments: Iterable[str]) -> dict[str, Payment]:
    rows = _BY_ID.rows(connection, {"payments": json.dumps(list(payments))})
    return {payment.payment: payment for payment in map(_payment, rows)}


def _facts(payment: Payment) -> dict[str, Any]:
    """What a payment's row says to whoever checks histories."""
    return {
        "at": "gateway",
        "payment": payment.payment,
        "attempt": payment.attempt,
        "state": payment.state.value,
        "reason": payment.reason,
        "caller": payment.caller,
        "key": payment.key,
        "payer": payment.payer,
        "payee": payment.payee,
        "amount_minor": payment.money.amount_minor,
        "currency": payment.money.currency,
    }


def _row(payment: Payment) -> dict[str, Any]:
    row = {name: getattr(payment, name) for name in _FIELDS}
    money = payment.money
    return row | {
        "state": payment.state.value,
        "amount_minor": money.amount_minor,
        "currency": money.currency,
    }


def _payment(row: Any) -> Payment:
    fields = {name: getattr(row, name) for name in _FIELDS}
    fields["state"] = State(row.state)
    return Payment(**fields, money=Money(row.amount_minor, row.currency))


_FIELDS = [column.name for column in PAYMENTS.c if column.name not in ("amount_minor", "currency")]
