"""The gateway's disk: payments by id and by key, and the outbox that tells others of their changes.

What many callers ask for at the same time is written in one transaction, each statement once for all.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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

from paylab.core.money import Money
from paylab.core.payment import Operation, Payment, State
from paylab.errors import PaylabError
from paylab.nodes.batching import Batcher
from paylab.nodes.events import Kind
from paylab.nodes.host import Host
from paylab.nodes.outbox import filled_topics, outbox_table, put
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
    Column("operation", String, nullable=False),
    Column("about", String, nullable=False),
    Column("authorised_until_s", Float, nullable=False),
    Column("waits_for_funds", Boolean, nullable=False),
    Column("key_until_s", Float, nullable=False),
    # Whether the key still stands for this payment.
    Column("key_kept", Boolean, nullable=False),
    Index("payments_by_state", "state"),
    Index("payments_by_caller", "caller", "accepted_at_s"),
)
KEY_KEPT = PAYMENTS.c.key_kept.is_(True)
FOLLOWS = PAYMENTS.c.about != ""
# Keys that are forgotten leave the index, so that it is as long as the retention and not as all payments.
Index("payments_by_key", PAYMENTS.c.key, PAYMENTS.c.caller, unique=True, sqlite_where=KEY_KEPT)
Index("payments_by_about", PAYMENTS.c.about, sqlite_where=FOLLOWS)
OUTBOX = outbox_table(TABLES)

_INSERT = Statement(insert(PAYMENTS))
_OPEN = Statement(select(PAYMENTS).where(PAYMENTS.c.state == State.PREPARING).order_by(PAYMENTS.c.payment))
_BY_KEY = Statement(select(PAYMENTS).where(KEY_KEPT & among(PAYMENTS.c.key, "keys")))
_FOLLOWING = (
    select(PAYMENTS)
    .where(FOLLOWS & PAYMENTS.c.about.in_(bindparam("payments", expanding=True)))
    .order_by(PAYMENTS.c.payment)
)
_BY_ID = Statement(select(PAYMENTS).where(among(PAYMENTS.c.payment, "payments")))
# What an attempt changes; the rest of a payment is written once.
_UPDATE = Statement(
    update(PAYMENTS)
    .where(PAYMENTS.c.payment == bindparam("_payment"))
    .values(
        {
            name: bindparam(f"_{name}")
            for name in ("state", "attempt", "in_a_row", "reason", "expires_at_s", "epoch", "key_until_s")
        }
    )
)


_ENDED_KEYS = select(PAYMENTS.c.payment, PAYMENTS.c.caller, PAYMENTS.c.key).where(
    KEY_KEPT & (PAYMENTS.c.key_until_s > 0) & (PAYMENTS.c.key_until_s <= bindparam("now"))
)
_FORGET_KEY = update(PAYMENTS).where(PAYMENTS.c.payment == bindparam("_payment")).values(key_kept=False)

# What claims a payment that follows another, and whether it is allowed to.
Follow = Callable[[Payment, Payment, Iterable[Payment]], Payment]


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
        self._claims: Batcher[Payment, Payment | PaylabError] = Batcher(self._claim_all, spawn=host.spawn)
        self._replacements: Batcher[Replacement, Payment] = Batcher(self._replace_all, spawn=host.spawn)

    async def create_tables(self) -> None:
        """Create what is missing."""
        await self.store.create_tables(TABLES)

    async def claim(self, wanted: Payment) -> tuple[Payment, bool]:
        """Enter a payment under its caller and key; returns it, or the one that was there first, and which.

        Raises WrongState when it follows a payment that does not allow it; nothing is entered then.
        """
        claimed = await self._claims.submit(wanted)
        if isinstance(claimed, PaylabError):
            raise claimed
        return claimed, claimed.payment == wanted.payment

    async def replace(self, before: Payment, after: Payment, outbox: Sequence[tuple[str, bytes]]) -> Payment:
        """Compare and set; returns what stands there then: `after`, or what somebody else made of it."""
        return await self._replacements.submit(Replacement(before, after, tuple(outbox)))

    async def read(self, payment: str) -> Payment | None:
        """One payment by id."""
        found = await self.store.run(lambda connection: _read(connection, [payment]))
        return found.get(payment)

    async def left_open(self) -> tuple[list[Payment], list[str]]:
        """Every payment with an open attempt, and the topics of outbox rows that are not sent yet."""
        rows, topics = await self.store.run(
            lambda connection: (_OPEN.rows(connection, {}), filled_topics(connection, OUTBOX))
        )
        return [_payment(row) for row in rows], topics

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

    async def forget_keys(self, *, now: float) -> int:
        """Drop the keys of payments that ended so long ago that they may be used again; returns how many."""

        def forget(connection: Connection) -> Sequence[Any]:
            ended = connection.execute(_ENDED_KEYS, {"now": now}).all()
            if ended:
                connection.execute(_FORGET_KEY, [{"_payment": row.payment} for row in ended])
            return ended

        def record(ended: Sequence[Any]) -> None:
            if ended:
                facts = {"at": "forgotten", "keys": [[row.caller, row.key] for row in ended]}
                self._host.recorder.record(Kind.STATE, detail=f"forgot {len(ended)} keys", facts=facts)

        forgotten = await self.store.run(forget, told=record)
        return len(forgotten)

    async def _claim_all(self, wanted: Sequence[Payment]) -> list[Payment | PaylabError]:
        follow = self._host.decisions.gateway_follow
        ids = {payment.payment for payment in wanted}

        def record(claimed: list[Payment | PaylabError]) -> None:
            entered = {each.payment: each for each in claimed if isinstance(each, Payment)}
            self._record(payment for name, payment in entered.items() if name in ids)

        return await self.store.run(lambda connection: _claim_all(connection, wanted, follow), told=record)

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


def _claim_all(
    connection: Connection, wanted: Sequence[Payment], follow: Follow
) -> list[Payment | PaylabError]:
    rows = _BY_KEY.rows(connection, {"keys": json.dumps([payment.key for payment in wanted])})
    owners = {(payment.caller, payment.key): payment for payment in map(_payment, rows)}
    families = _Families(connection, [payment.about for payment in wanted if payment.about])
    claimed: list[Payment | PaylabError] = []
    fresh = []
    for payment in wanted:
        owner = owners.get((payment.caller, payment.key))
        if owner is None:
            try:
                owner = families.enter(payment, follow) if payment.about else payment
            except PaylabError as refusal:
                claimed.append(refusal)
                continue
            owners[owner.caller, owner.key] = owner
            fresh.append(_row(owner))
        claimed.append(owner)
    if fresh:
        _INSERT.run(connection, fresh)
    return claimed


class _Families:
    """Payments that are followed, and those that follow them; one is entered after the other."""

    def __init__(self, connection: Connection, abouts: Sequence[str]) -> None:
        self._abouts = _read(connection, abouts) if abouts else {}
        self._followers: defaultdict[str, list[Payment]] = defaultdict(list)
        if abouts:
            for follower in map(_payment, connection.execute(_FOLLOWING, {"payments": abouts})):
                self._followers[follower.about].append(follower)

    def enter(self, wanted: Payment, follow: Follow) -> Payment:
        """The payment as it may be entered. Raises WrongState."""
        followers = self._followers[wanted.about]
        entered = follow(wanted, self._abouts[wanted.about], followers)
        followers.append(entered)
        return entered


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


_RARE = ("about", "authorised_until_s")


def _facts(payment: Payment) -> dict[str, Any]:
    """What a payment's row says to whoever checks histories."""
    more = {name: value for name in _RARE if (value := getattr(payment, name))}
    return more | {
        "at": "gateway",
        "operation": payment.operation.value,
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
    return row | {
        "amount_minor": payment.money.amount_minor,
        "currency": payment.money.currency,
        "state": payment.state.value,
        "operation": payment.operation.value,
        "key_kept": True,
    }


def _payment(row: Any) -> Payment:
    fields = {name: getattr(row, name) for name in _FIELDS}
    fields["state"], fields["operation"] = State(row.state), Operation(row.operation)
    fields["waits_for_funds"] = bool(row.waits_for_funds)
    return Payment(**fields, money=Money(row.amount_minor, row.currency))


_FIELDS = [
    column.name for column in PAYMENTS.c if column.name not in ("amount_minor", "currency", "key_kept")
]
