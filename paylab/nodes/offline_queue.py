"""The offline queue: keeps payments that cannot be made now and asks the gateway to try them again.

It never moves money itself: it calls the gateway's Redrive, and the gateway decides. So two queues that try
the same payment do no harm; leases (`queue_store`) only keep them from it.
"""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from sqlalchemy import Connection

from paylab.core.authorization import Role
from paylab.core.payment import REDRIVEN, SHORT
from paylab.core.retry_schedule import RetrySchedule, next_try_s
from paylab.errors import OutcomeUnknown, Overloaded
from paylab.nodes import queue_store, wire
from paylab.nodes.host import Host
from paylab.nodes.node import Node
from paylab.nodes.queue_store import DEAD, FRONT, HISTORY_MAX
from paylab.pb import offline_queue_pb2 as pb
from paylab.pb import offline_queue_pb2_grpc as pb_grpc
from paylab.pb import payment_gateway_pb2 as gateway_pb
from paylab.pb import payment_gateway_pb2_grpc as gateway_pb_grpc

LIST_DEFAULT = 1_000
LIST_MAX = 10_000
# A full queue asks to be left alone for so long.
PUSHBACK_S = 1.0
# Less than a lease: whoever tries has given up before somebody else may try.
TRY_TIMEOUT_S = 20.0
LEASE_S = 30.0
# Another process over our store may have died: we look so often without being told.
LOOK_EVERY_S = 10.0
# Payments tried at the same time by one process, each of another payer.
AT_ONCE_MAX = 16
# About 100 MB on disk; what comes then is refused, and waits in the gateway's outbox.
LENGTH_MAX = 200_000
WAITING_STATES = (gateway_pb.QUEUED, gateway_pb.PREPARING)
SETTLED_STATES = (gateway_pb.COMMITTED, gateway_pb.DECLINED, gateway_pb.CANCELLED)


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a try: the payment's state, None when the gateway did not say, and why."""

    state: "gateway_pb.PaymentState.ValueType | None"
    reason: str


class OfflineQueue(Node, pb_grpc.OfflineQueueServicer):
    """Durable; of the payments of one payer that wait for a bank only the oldest is tried."""

    role = Role.QUEUE

    def __init__(
        self,
        host: Host,
        *,
        schedule: RetrySchedule | None = None,
        length_max: int = LENGTH_MAX,
        look_every_s: float = LOOK_EVERY_S,
        gateways: Sequence[str] = ("gateway",),
    ) -> None:
        """Keep the queue in the store "queue", which other processes may share; any of `gateways` will do."""
        super().__init__(host)
        # The one that is asked, and then those to turn to.
        self._gateways = tuple(gateways)
        self._length_max = length_max
        self._look_every_s = look_every_s
        self._schedule = schedule or RetrySchedule()
        self._store = host.store("queue")
        self._worker = f"{self.name}/{host.new_id()}"
        self._trying = 0
        self._woken = asyncio.Event()
        self._breaker = host.decisions.queue_breaker()

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Serve OfflineQueue."""
        pb_grpc.add_OfflineQueueServicer_to_server(self, server)
        return ["paylab.v1.OfflineQueue"]

    async def boot(self) -> None:
        """Create the table, and end the leases of our earlier life."""
        await self._store.create_tables(queue_store.TABLES)
        await self._store.run(partial(queue_store.release, worker=self.name, now=self.host.now()))

    async def run(self) -> None:
        """Start trying."""
        self.host.spawn(self._work(), daemon=True)

    # OfflineQueue -------------------------------------------------------------------------------

    async def Enqueue(self, request: pb.EnqueueRequest, context: Any) -> pb.EnqueueResponse:
        """Take payments in, and answer once they are durable. Raises Overloaded while full."""
        items = [item for item in request.items if not item.withdrawn]
        gone = [item.payment for item in request.items if item.withdrawn]
        again = [item.payment for item in items if item.reason == REDRIVEN]
        rows = [self._row(item) for item in items]

        def change(connection: Connection) -> bool:
            # A batch may overshoot by its own length: one that must fit in whole would wait for ever.
            if rows and queue_store.waiting(connection) >= self._length_max:
                return False
            queue_store.take_in(connection, rows)
            queue_store.take_up(connection, again, now=self.host.now())
            queue_store.forget(connection, gone)
            return True

        def told(taken: bool) -> None:  # noqa: FBT001 - what `change` returned
            if taken:
                facts = {"at": "queue", "queued": [item.payment for item in items]}
                self._store.forced("queued", *(item.payment for item in request.items), facts=facts)

        if not await self._store.run(change, told=told):
            raise Overloaded(message="the queue is full", pushback_s=PUSHBACK_S)
        self._woken.set()
        return pb.EnqueueResponse()

    async def List(self, request: pb.ListQueuedRequest, context: Any) -> pb.ListQueuedResponse:
        """What is waiting."""
        payments = await self._listed(dead=False, limit=request.limit)
        waiting = await self._store.run(queue_store.waiting)
        return pb.ListQueuedResponse(payments=payments, waiting=waiting)

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Any
    ) -> pb.ListDeadLettersResponse:
        """What was given up."""
        return pb.ListDeadLettersResponse(payments=await self._listed(dead=True, limit=request.limit))

    async def RetryNow(self, request: pb.RetryNowRequest, context: Any) -> pb.RetryNowResponse:
        """Make waiting payments due at once."""
        due = partial(queue_store.make_due, payments=list(request.payments), now=self.host.now())
        count = await self._store.run(due)
        self._woken.set()
        return pb.RetryNowResponse(due=count)

    async def _listed(self, *, dead: bool, limit: int) -> list[pb.QueuedPayment]:
        limit = min(limit or LIST_DEFAULT, LIST_MAX)
        rows = await self._store.run(partial(queue_store.listed, dead=dead, limit=limit))
        return [_message(row) for row in rows]

    def _row(self, item: pb.EnqueueItem) -> dict[str, Any]:
        now = self.host.now()
        return {
            "payment": item.payment,
            "payer": item.payer,
            "in_order": item.reason != SHORT,
            "reason": item.reason,
            "queued_at_s": now,
            "due_at_s": self._due_at_s(0, now, item.reason) or now,
        }

    # Trying again -------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Try whatever is due, as much at once as may be; then wait for the next."""
        while True:
            self._woken.clear()
            now, free = self.host.now(), AT_ONCE_MAX - self._trying
            limit = int(min(free, self._breaker.room(now=now)))
            if not limit:
                await self._wait(self._breaker.opens_in_s(now=now) or self._look_every_s)
                continue
            entries, next_s = await self._store.run(partial(self._lease, now=now, limit=limit))
            for entry in entries:
                self._trying += 1
                self._breaker.allows(now=now)
                self.host.spawn(self._try(entry))
            if len(entries) < limit:
                await self._wait(self._look_every_s if next_s is None else next_s - self.host.now())

    def _lease(self, connection: Connection, *, now: float, limit: int) -> tuple[list[Any], float | None]:
        """Take what is due, and see when the next will be."""
        until_s = now + LEASE_S
        due = queue_store.lease(connection, worker=self._worker, now=now, until_s=until_s, limit=limit)
        return due, queue_store.next_due_s(connection)

    async def _wait(self, seconds: float) -> None:
        """Until something changes, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(max(0.0, seconds), self._look_every_s)):
                await self._woken.wait()

    async def _try(self, entry: Any) -> None:
        """Ask for one more attempt, then drop the entry, put it off or give it up."""
        try:
            tried, due_at_s = await self._redrive(entry.payment), None
            # A call that never reached the gateway is no try of the payment's.
            tries = entry.tries + (tried.state is not None)
            if tried.state is None or tried.state in WAITING_STATES:
                due_at_s = self._due_at_s(tries, entry.queued_at_s, tried.reason)
                if due_at_s is None:
                    tried = await self._give_up(entry.payment, tried)
            if tried.state in SETTLED_STATES:
                settle = partial(queue_store.settle, payment=entry.payment, payer=entry.payer)
                await self._store.run(partial(settle, worker=self._worker))
            else:
                await self._put_back(entry, tried, tries=tries, due_at_s=due_at_s)
        finally:
            self._trying -= 1
            self._woken.set()

    async def _put_back(self, entry: Any, tried: Tried, *, tries: int, due_at_s: float | None) -> None:
        """Let it wait for its next try, or rest among the dead letters."""
        now = self.host.now()
        changed: dict[str, Any] = {
            "place": DEAD if tried.state == gateway_pb.DEAD_LETTER else FRONT,
            "history": json.dumps([*json.loads(entry.history), [now, tried.reason]][-HISTORY_MAX:]),
            "reason": tried.reason,
            "tries": tries,
            # What waits for funds lets others of its payer pass, from now on.
            "in_order": entry.in_order and tried.reason != SHORT,
            # It should have been given up, and was not: soon somebody tries that again.
            "due_at_s": now + LOOK_EVERY_S if due_at_s is None else due_at_s,
        }
        put = partial(queue_store.put_back, payment=entry.payment, payer=entry.payer, worker=self._worker)
        await self._store.run(partial(put, **changed))

    async def _redrive(self, payment: str) -> Tried:
        """What the gateway makes of it; nothing is known after a call that failed."""
        request = gateway_pb.RedriveRequest(payment=payment)
        try:
            receipt = await self._gateway().Redrive(request, timeout=TRY_TIMEOUT_S)
        except grpc.aio.AioRpcError as failure:
            error = wire.status_to_error(failure)
            # The gateway speaks for itself; a transport that fails says that there is no gateway.
            if isinstance(error, OutcomeUnknown) and error.reason != "OUTCOME_UNKNOWN":
                self._breaker.failed(now=self.host.now())
                self._gateways = (*self._gateways[1:], self._gateways[0])
            else:
                self._breaker.succeeded()
            return Tried(None, error.reason)
        self._breaker.succeeded()
        return Tried(receipt.state, receipt.reason)

    async def _give_up(self, payment: str, tried: Tried) -> Tried:
        """Have the gateway make it a dead letter; if it does not, the payment goes on waiting."""
        request = gateway_pb.GiveUpRequest(payment=payment, reason=tried.reason)
        try:
            receipt = await self._gateway().GiveUp(request, timeout=TRY_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return tried
        return Tried(receipt.state, receipt.reason)

    def _gateway(self) -> "gateway_pb_grpc.PaymentGatewayAsyncStub":
        return gateway_pb_grpc.PaymentGatewayStub(self.host.channel(self._gateways[0]))

    def _due_at_s(self, tries: int, queued_at_s: float, reason: str) -> float | None:
        return next_try_s(
            self._schedule,
            tries=tries,
            now=self.host.now(),
            queued_at_s=queued_at_s,
            reason=reason,
            delay=self.host.decisions.queue_delay,
            rng=self.host.rng,
        )


def _message(row: Any) -> pb.QueuedPayment:
    return pb.QueuedPayment(
        payment=row.payment,
        payer=row.payer,
        tries=row.tries,
        due_at_s=row.due_at_s,
        reason=row.reason,
        queued_at_s=row.queued_at_s,
        worker=row.worker.partition("/")[0],
        in_order=row.in_order,
        history=[pb.Try(at_s=at_s, reason=reason) for at_s, reason in json.loads(row.history)],
    )
