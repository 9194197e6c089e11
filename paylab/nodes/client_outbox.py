"""A client's own outbox: what it wants to pay is written down before it is sent, and sent until answered.

So it can pay while the gateway is away, and a crash of the client forgets nothing: it asks again under the
same keys, and whatever was done already is not done twice.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from paylab.core.backoff import full_jitter
from paylab.core.money import Money
from paylab.errors import KeyReused, Overloaded, PaylabError
from paylab.nodes.host import Host
from paylab.nodes.store import Store

TABLES = MetaData()
OUTBOX = Table(
    "outbox",
    TABLES,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("key", String, nullable=False, unique=True),
    Column("payer", String, nullable=False),
    Column("payee", String, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", String, nullable=False),
    Column("when_short", String, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("payment", String, nullable=False),
    Index("outbox_by_state", "state", "seq"),
    sqlite_autoincrement=True,
)
WAITING, REFUSED = "WAITING", "REFUSED"
# A person with a telephone, not a bank; what has been answered is kept for as many.
LENGTH_MAX = 1_000
RETRY_BASE_S = 0.5
RETRY_CAP_S = 30.0

_REQUEST = ("key", "payer", "payee", "amount_minor", "currency", "when_short")
_OLDEST = select(OUTBOX).where(OUTBOX.c.state == WAITING).order_by(OUTBOX.c.seq).limit(1)
_ANSWER = (
    update(OUTBOX)
    .where(OUTBOX.c.seq == bindparam("_seq"))
    .values({name: bindparam(f"_{name}") for name in ("state", "reason", "payment")})
)


@dataclass(frozen=True, slots=True)
class Wish:
    """A payment that a client wants: WAITING, REFUSED, or the state of the first receipt that it got."""

    key: str
    payer: str
    payee: str
    money: Money
    when_short: str = "decline"
    state: str = WAITING
    reason: str = ""
    payment: str = ""


class ClientOutbox:
    """Sends one wish after the other, in the order in which they were written down."""

    def __init__(self, host: Host, *, owner: str, pay: Callable[[Wish], Awaitable[Any]]) -> None:
        """`pay` asks once and returns a receipt, or raises a PaylabError."""
        self._host = host
        self._owner = owner
        self._pay = pay
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._filled = asyncio.Event()

    async def open(self) -> Store:
        """Open the disk and begin to send what is on it; once is enough."""
        async with self._opening:
            if self._store is None:
                store = self._host.store(f"outbox-{self._owner}")
                await store.create_tables(TABLES)
                self._store = store
                self._filled.set()
                self._host.spawn(self._send_all(store), daemon=True)
        return self._store

    async def put(self, wish: Wish) -> None:
        """Write a wish down; once more under the same key changes nothing. Raises KeyReused, Overloaded."""
        store = await self.open()
        row = {name: getattr(wish, name, None) for name in _REQUEST}
        row |= {"amount_minor": wish.money.amount_minor, "currency": wish.money.currency}

        def write(connection: Connection) -> None:
            known = connection.execute(select(OUTBOX).where(OUTBOX.c.key == wish.key)).first()
            if known is not None:
                if any(getattr(known, name) != row[name] for name in _REQUEST):
                    raise KeyReused("KEY_REUSED", f"key {wish.key!r} was used for another payment")
                return
            waiting = select(func.count()).where(OUTBOX.c.state == WAITING)
            if connection.execute(waiting).scalar_one() >= LENGTH_MAX:
                raise Overloaded(message="the outbox is full")
            connection.execute(insert(OUTBOX), row | {"state": WAITING, "reason": "", "payment": ""})

        await store.run(write, told=lambda _: store.forced(f"outbox {wish.key}"))
        self._filled.set()

    async def wishes(self) -> list[Wish]:
        """Everything that is written down, oldest first."""
        store = await self.open()
        return [_wish(row) for row in await store.rows(select(OUTBOX).order_by(OUTBOX.c.seq))]

    async def _send_all(self, store: Store) -> None:
        failures = 0
        while True:
            await self._filled.wait()
            self._filled.clear()
            while rows := await store.rows(_OLDEST):
                failures = 0 if await self._send(store, rows[0]) else failures + 1
                if failures:
                    delay_s = full_jitter(
                        failures, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, rng=self._host.rng
                    )
                    await self._host.sleep(delay_s)

    async def _send(self, store: Store, row: Any) -> bool:
        """Whether the oldest wish has an answer now."""
        try:
            receipt = await self._pay(_wish(row))
        except PaylabError as error:
            if not error.definite or isinstance(error, Overloaded):
                return False
            answer = {"_state": REFUSED, "_reason": error.reason, "_payment": ""}
        else:
            answer = {"_state": receipt.state, "_reason": receipt.reason, "_payment": receipt.payment}

        def keep(connection: Connection) -> None:
            connection.execute(_ANSWER, answer | {"_seq": row.seq})
            answered = (OUTBOX.c.state != WAITING) & (OUTBOX.c.seq <= row.seq - LENGTH_MAX)
            connection.execute(delete(OUTBOX).where(answered))

        await store.run(keep)
        return True


def _wish(row: Any) -> Wish:
    return Wish(
        row.key,
        row.payer,
        row.payee,
        Money(row.amount_minor, row.currency),
        row.when_short,
        row.state,
        row.reason,
        row.payment,
    )
