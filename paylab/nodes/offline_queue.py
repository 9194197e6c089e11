"""The offline queue: keeps payments whose bank was out of reach and asks the gateway to try again.

It never moves money itself: it calls the gateway's Redrive, and the gateway decides.
"""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
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

from paylab.core.authorization import Role
from paylab.nodes.host import Host
from paylab.nodes.node import Node
from paylab.nodes.statements import Statement, among
from paylab.pb import offline_queue_pb2 as pb
from paylab.pb import offline_queue_pb2_grpc as pb_grpc
from paylab.pb import payment_gateway_pb2 as gateway_pb
from paylab.pb import payment_gateway_pb2_grpc as gateway_pb_grpc

TABLES = MetaData()
ENTRIES = Table(
    "entries",
    TABLES,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("payment", String, nullable=False, unique=True),
    Column("payer", String, nullable=False, index=True),
    Column("tries", Integer, nullable=False),
    Column("due_at_s", Float, nullable=False),
    Column("reason", String, nullable=False),
    Column("dead", Boolean, nullable=False),
    sqlite_autoincrement=True,
)
_KNOWN = Statement(select(ENTRIES.c.payment).where(among(ENTRIES.c.payment, "payments")))
_INSERT = Statement(insert(ENTRIES), columns=("payment", "payer", "tries", "due_at_s", "reason", "dead"))
_MINE = ENTRIES.c.payment == bindparam("_payment")
_SETTLED = Statement(delete(ENTRIES).where(_MINE))
_TRIED = Statement(update(ENTRIES).where(_MINE), columns=("tries", "due_at_s", "reason", "dead"))
LIST_DEFAULT = 1_000
LIST_MAX = 10_000


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """Full jitter between tries, and when to stop."""

    base_s: float = 0.5
    cap_s: float = 60.0
    # With a cap of 60 s this is about five hours of trying.
    tries_max: int = 600
    # Payments tried at the same time, each of another payer.
    at_once_max: int = 16


class OfflineQueue(Node, pb_grpc.OfflineQueueServicer):
    """Durable; payments of one payer keep their order: only the oldest of each payer is tried."""

    role = Role.QUEUE

    def __init__(self, host: Host, *, schedule: RetrySchedule | None = None) -> None:
        """Keep the queue in the store "queue"."""
        super().__init__(host)
        self._schedule = schedule or RetrySchedule()
        self._store = host.store("queue")
        self._trying: dict[str, None] = {}
        self._woken = asyncio.Event()
        self._heads = _heads(limit=2 * self._schedule.at_once_max + 1)

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Serve OfflineQueue."""
        pb_grpc.add_OfflineQueueServicer_to_server(self, server)
        return ["paylab.v1.OfflineQueue"]

    async def boot(self) -> None:
        """Create the table."""
        await self._store.create_tables(TABLES)

    async def run(self) -> None:
        """Start trying."""
        self.host.spawn(self._work(), daemon=True)

    # OfflineQueue -------------------------------------------------------------------------------

    async def Enqueue(self, request: pb.EnqueueRequest, context: Any) -> pb.EnqueueResponse:
        """Take payments in, and answer once they are durable. One that is here already stays as it is."""
        now = self.host.now()
        rows = [
            {"payment": item.payment, "payer": item.payer, "tries": 0, "reason": "", "dead": False}
            | {"due_at_s": now + self._delay_s(1)}
            for item in request.items
        ]

        def take_in(connection: Connection) -> None:
            names = json.dumps([row["payment"] for row in rows])
            present = {row.payment for row in _KNOWN.rows(connection, {"payments": names})}
            fresh = {row["payment"]: row for row in rows if row["payment"] not in present}
            if fresh:
                _INSERT.run(connection, fresh.values())

        payments = [item.payment for item in request.items]
        facts = {"at": "queue", "queued": payments}
        await self._store.run(take_in, told=lambda _: self._store.forced("queued", *payments, facts=facts))
        self._woken.set()
        return pb.EnqueueResponse()

    async def List(self, request: pb.ListQueuedRequest, context: Any) -> pb.ListQueuedResponse:
        """What is waiting."""
        payments = await self._entries(dead=False, limit=request.limit)
        count = select(func.count()).select_from(ENTRIES).where(ENTRIES.c.dead.is_(False))
        waiting = await self._store.run(lambda connection: connection.execute(count).scalar_one())
        return pb.ListQueuedResponse(payments=payments, waiting=waiting)

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Any
    ) -> pb.ListDeadLettersResponse:
        """What was given up."""
        return pb.ListDeadLettersResponse(payments=await self._entries(dead=True, limit=request.limit))

    async def RetryNow(self, request: pb.RetryNowRequest, context: Any) -> pb.RetryNowResponse:
        """Make waiting payments due at once."""
        due = update(ENTRIES).where(ENTRIES.c.dead.is_(False)).values(due_at_s=self.host.now())
        if request.payments:
            due = due.where(ENTRIES.c.payment.in_(list(request.payments)))
        count = await self._store.execute(due)
        self._woken.set()
        return pb.RetryNowResponse(due=count)

    async def _entries(self, *, dead: bool, limit: int) -> list[pb.QueuedPayment]:
        query = (
            select(ENTRIES)
            .where(ENTRIES.c.dead.is_(dead))
            .order_by(ENTRIES.c.seq)
            .limit(min(limit or LIST_DEFAULT, LIST_MAX))
        )
        rows = await self._store.rows(query)
        return [
            pb.QueuedPayment(
                payment=r.payment, payer=r.payer, tries=r.tries, due_at_s=r.due_at_s, reason=r.reason
            )
            for r in rows
        ]

    # Trying again -------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Try every payment that is due and the oldest of its payer; then wait for the next."""
        while True:
            self._woken.clear()
            heads = [
                row for row in await self._store.run(self._read_heads) if row.payment not in self._trying
            ]
            now, free = self.host.now(), self._schedule.at_once_max - len(self._trying)
            due = [row for row in heads if row.due_at_s <= now][:free]
            for row in due:
                self._trying[row.payment] = None
                self.host.spawn(self._try(row))
            if not due:
                # With no place free, the first that ends wakes us.
                await self._wait(heads[0].due_at_s - now if heads and free else None)

    def _read_heads(self, connection: Connection) -> list[Any]:
        return self._heads.rows(connection, {})

    async def _wait(self, seconds: float | None) -> None:
        """Until something changes, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def _try(self, entry: Any) -> None:
        """Ask for one more attempt, then drop the entry, put it off or give it up."""
        mine = {"_payment": entry.payment}
        try:
            settled, reason = await self._redrive(entry.payment)
            tries = entry.tries + 1
            change, row = _SETTLED, mine
            if not settled:
                dead = tries >= self._schedule.tries_max and await self._give_up(entry.payment, reason)
                due_at_s = self.host.now() + self._delay_s(tries + 1)
                change, row = (
                    _TRIED,
                    mine | {"tries": tries, "due_at_s": due_at_s, "reason": reason, "dead": dead},
                )
            await self._store.run(lambda connection: change.run(connection, [row]))
        finally:
            self._trying.pop(entry.payment, None)
            self._woken.set()

    async def _redrive(self, payment: str) -> tuple[bool, str]:
        """Whether the payment is settled, and why not. A call that failed settles nothing."""
        try:
            receipt = await self._gateway().Redrive(gateway_pb.RedriveRequest(payment=payment))
        except grpc.aio.AioRpcError as error:
            return False, error.code().name
        return receipt.state not in (gateway_pb.QUEUED, gateway_pb.PREPARING), receipt.reason

    async def _give_up(self, payment: str, reason: str) -> bool:
        """Whether the gateway has made it a dead letter."""
        try:
            await self._gateway().GiveUp(gateway_pb.GiveUpRequest(payment=payment, reason=reason))
        except grpc.aio.AioRpcError:
            return False
        return True

    def _gateway(self) -> "gateway_pb_grpc.PaymentGatewayAsyncStub":
        return gateway_pb_grpc.PaymentGatewayStub(self.host.channel("gateway"))

    def _delay_s(self, attempt: int) -> float:
        return self.host.decisions.queue_delay(
            attempt, base_s=self._schedule.base_s, cap_s=self._schedule.cap_s, rng=self.host.rng
        )


def _heads(*, limit: int) -> Statement:
    """The oldest waiting payment of each payer, the one that is due first in front."""
    oldest = (
        select(func.min(ENTRIES.c.seq).label("seq"))
        .where(ENTRIES.c.dead.is_(False))
        .group_by(ENTRIES.c.payer)
        .subquery()
    )
    heads = select(ENTRIES).join(oldest, ENTRIES.c.seq == oldest.c.seq)
    return Statement(heads.order_by(ENTRIES.c.due_at_s, ENTRIES.c.seq).limit(limit))
