"""The operator's console: what is in doubt, and what a person may do about it.

lab.operator.in_doubt()                          undecided, or decided and not acknowledged by every bank
lab.operator.resolve(payment, "ABORTED")         decide what is undecided, in your name; it is audited
lab.operator.retry_now()                         ask silent banks again, and try what is queued, at once
lab.operator.queued()                            what waits in the queue, and how each try ended
lab.operator.dead_letters()                      what the queue gave up
lab.operator.redrive()                           queue dead letters again, all or some
lab.operator.cancel(payment)                     take back what is queued or a dead letter
lab.operator.resolutions()                       the audit
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc

from paylab.core.effects import ResolvedRecord
from paylab.core.messages import Outcome, Txn
from paylab.errors import LabError
from paylab.nodes import wire
from paylab.nodes.host import Host
from paylab.pb import coordinator_pb2 as pb
from paylab.pb import coordinator_pb2_grpc as pb_grpc
from paylab.pb import offline_queue_pb2 as queue_pb
from paylab.pb import offline_queue_pb2_grpc as queue_pb_grpc
from paylab.pb import payment_gateway_pb2 as gateway_pb
from paylab.pb import payment_gateway_pb2_grpc as gateway_pb_grpc

if TYPE_CHECKING:  # the lab makes its operator, so at run time the import goes the other way
    from paylab.lab.real_world import World

T = TypeVar("T")
# As many as one answer of the queue can hold.
LETTERS_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class InDoubt:
    """An attempt that is not settled: where it stands, and whose word is missing."""

    payment: str
    attempt: int
    # VOTING, ASKING (its only bank) or COMMITTED.
    phase: str
    waiting_for: tuple[str, ...]

    def __str__(self) -> str:
        """In one line."""
        return f"{self.payment}/{self.attempt} {self.phase}, waiting for {' and '.join(self.waiting_for)}"


@dataclass(frozen=True, slots=True)
class Queued:
    """A payment in the queue, or a dead letter: `history` has when its latest tries ended, and how."""

    payment: str
    payer: str
    reason: str
    tries: int
    queued_at_s: float
    due_at_s: float
    # Who tries it at this moment; empty while it waits.
    worker: str
    history: tuple[tuple[float, str], ...]

    def __str__(self) -> str:
        """In one line."""
        tries = "1 try" if self.tries == 1 else f"{self.tries} tries"
        return f"{self.payment} of {self.payer}: {self.reason}, {tries}"


@dataclass(frozen=True, slots=True)
class Retried:
    """What `retry_now` has set going: messages to silent banks, and queued payments."""

    messages: int
    queued: int


def _queued(entry: queue_pb.QueuedPayment) -> Queued:
    return Queued(
        payment=entry.payment,
        payer=entry.payer,
        reason=entry.reason,
        tries=entry.tries,
        queued_at_s=entry.queued_at_s,
        due_at_s=entry.due_at_s,
        worker=entry.worker,
        history=tuple((each.at_s, each.reason) for each in entry.history),
    )


class Operator:
    """Acts with an operator's certificate; every call may raise what its node answers."""

    def __init__(self, world: "World", host: Host) -> None:
        """Call from `host`."""
        self._world = world
        self._host = host

    def in_doubt(self) -> list[InDoubt]:
        """What is undecided, or decided and not acknowledged by every bank."""
        response = self._ask(self._in_doubt())
        return [
            InDoubt(entry.txn.payment, entry.txn.attempt, entry.phase, tuple(entry.waiting_for))
            for entry in response.attempts
        ]

    def resolve(self, payment: str, decision: Outcome | str) -> Txn:
        """Decide an undecided attempt, "COMMITTED" or "ABORTED"; returns which attempt that was.

        Only an attempt inside one bank can be committed, and you vouch for what that bank's ledger says.
        Raises NotFound, WrongState.
        """
        if decision not in (Outcome.COMMITTED, Outcome.ABORTED):
            raise LabError("BAD_ARGUMENT", f"a decision is COMMITTED or ABORTED, not {decision!r}")
        return self._ask(self._resolve(payment, commit=decision == Outcome.COMMITTED))

    def retry_now(self) -> Retried:
        """Ask silent banks again and try what is queued, at once instead of at the end of the backoff."""
        return self._ask(self._retry_now())

    def queued(self, *, limit: int = 1_000) -> list[Queued]:
        """What waits in the queue, oldest first."""
        return self._ask(self._queued(dead=False, limit=limit))

    def dead_letters(self, *, limit: int = 1_000) -> list[Queued]:
        """What the queue gave up, oldest first."""
        return self._ask(self._queued(dead=True, limit=limit))

    def redrive(self, *payments: str) -> int:
        """Queue dead letters again, all or those; returns how many. Raises NotFound, WrongState."""
        return self._ask(self._redrive(payments))

    def cancel(self, payment: str) -> None:
        """Take back what is queued or a dead letter, whoever pays. Raises NotFound, WrongState."""
        self._ask(self._cancel(payment))

    def resolutions(self) -> list[ResolvedRecord]:
        """What operators have resolved, oldest first."""
        response = self._ask(self._resolutions())
        return [
            ResolvedRecord(wire.txn_from_pb(line.txn), line.commit, line.operator, line.at_s)
            for line in response.resolutions
        ]

    async def _in_doubt(self) -> pb.ListInDoubtResponse:
        return await self._coordinator().ListInDoubt(pb.ListInDoubtRequest())

    async def _resolve(self, payment: str, *, commit: bool) -> Txn:
        request = pb.ResolveRequest(payment=payment, commit=commit)
        return wire.txn_from_pb((await self._coordinator().Resolve(request)).txn)

    async def _retry_now(self) -> Retried:
        queue = queue_pb_grpc.OfflineQueueStub(self._host.channel("queue"))
        sent = await self._coordinator().RetryNow(pb.RetryInDoubtRequest())
        due = await queue.RetryNow(queue_pb.RetryNowRequest())
        return Retried(sent.messages, due.due)

    async def _queued(self, *, dead: bool, limit: int) -> list[Queued]:
        queue = queue_pb_grpc.OfflineQueueStub(self._host.channel("queue"))
        if dead:
            letters = await queue.ListDeadLetters(queue_pb.ListDeadLettersRequest(limit=limit))
            return [_queued(entry) for entry in letters.payments]
        listed = await queue.List(queue_pb.ListQueuedRequest(limit=limit))
        return [_queued(entry) for entry in listed.payments]

    async def _redrive(self, payments: Sequence[str]) -> int:
        wanted = payments or [entry.payment for entry in await self._queued(dead=True, limit=LETTERS_AT_ONCE)]
        for payment in wanted:
            await self._gateway().Requeue(gateway_pb.RequeueRequest(payment=payment))
        return len(wanted)

    async def _cancel(self, payment: str) -> None:
        await self._gateway().CancelPayment(gateway_pb.CancelPaymentRequest(payment=payment))

    def _gateway(self) -> "gateway_pb_grpc.PaymentGatewayAsyncStub":
        return gateway_pb_grpc.PaymentGatewayStub(self._host.channel("gateway"))

    async def _resolutions(self) -> pb.ListResolutionsResponse:
        return await self._coordinator().ListResolutions(pb.ListResolutionsRequest())

    def _coordinator(self) -> "pb_grpc.CoordinatorAsyncStub":
        return pb_grpc.CoordinatorStub(self._host.channel("coordinator"))

    def _ask(self, call: "Awaitable[T]") -> T:
        async def asked() -> T:
            try:
                return await call
            except grpc.aio.AioRpcError as error:
                raise wire.status_to_error(error) from None

        return self._world.call(asked())
