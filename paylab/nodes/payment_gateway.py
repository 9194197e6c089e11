"""The payment gateway: claims keys, owns payments, drives their attempts and keeps their outcomes.

Several gateways may stand over one store: any of them answers and drives any payment, and whoever writes
second finds what the first has written.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc

from paylab.core import payment as rules
from paylab.core.authorization import Role
from paylab.core.backoff import exponential, full_jitter
from paylab.core.idempotency import KEY_RETENTION_S, frozen
from paylab.core.messages import Answer, Commit
from paylab.core.money import Money
from paylab.core.payment import Operation, Payment, State
from paylab.errors import NotFound, OutcomeUnknown
from paylab.nodes import wire
from paylab.nodes.batching import Batcher
from paylab.nodes.host import Host
from paylab.nodes.interceptors import REPLAYED_KEY, current_caller, current_peer
from paylab.nodes.node import Node
from paylab.nodes.outbox import OutboxPump
from paylab.nodes.payment_messages import LOG, QUEUE, SAVED, Request, outbox_rows
from paylab.nodes.payment_store import OUTBOX, PaymentStore
from paylab.pb import coordinator_pb2, coordinator_pb2_grpc, money_pb2
from paylab.pb import offline_queue_pb2 as queue_pb
from paylab.pb import offline_queue_pb2_grpc as queue_pb_grpc
from paylab.pb import payment_gateway_pb2 as pb
from paylab.pb import payment_gateway_pb2_grpc as pb_grpc
from paylab.pb import transaction_logger_pb2 as log_pb
from paylab.pb import transaction_logger_pb2_grpc as log_pb_grpc

# An attempt that the coordinator has not begun by then is closed unbegun.
ATTEMPT_LIFETIME_S = 20.0
# The coordinator answers when it knows or our time ends: the longer it has not known, the longer we listen.
COMMIT_TIMEOUT_S = 8.0
COMMIT_TIMEOUT_CAP_S = 60.0
RETRY_BASE_S = 0.1
RETRY_CAP_S = 2.0
RESUME_EVERY_S = 30.0
# Another gateway may have changed what somebody watches here.
LOOK_AGAIN_S = 1.0
FORGET_KEYS_EVERY_S = 3600.0
# Answer OUTCOME_UNKNOWN this long before the caller would stop listening.
ANSWER_MARGIN_S = 0.1
LIST_DEFAULT = 100
LIST_MAX = 1000


class PaymentGateway(Node, pb_grpc.PaymentGatewayServicer):
    """Owns payment ids. Only it opens attempts, by compare-and-set on the payment's row."""

    role = Role.GATEWAY
    # Every payment is a call of its own, where other nodes are asked about many in one.
    ports = 4

    def __init__(self, host: Host, *, key_retention_s: float = KEY_RETENTION_S) -> None:
        """Keep payments in the store "gateway", and their keys so long after their end."""
        super().__init__(host)
        self._payments = PaymentStore(host)
        self._key_retention_s = key_retention_s
        self._epoch = 0
        self._learning = asyncio.Lock()
        self._commits = Batcher(self._ask_together, spawn=host.spawn, overlap=True)
        self._drivers: dict[str, asyncio.Task[Payment]] = {}
        self._changed = asyncio.Condition()
        self._pumps = {
            topic: OutboxPump(host, store=self._payments.store, table=OUTBOX, topic=topic, send=send)
            for topic, send in ((LOG, self._send_log), (QUEUE, self._send_queue), (SAVED, self._send_saved))
        }

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Serve PaymentGateway."""
        pb_grpc.add_PaymentGatewayServicer_to_server(self, server)
        return ["paylab.v1.PaymentGateway"]

    async def boot(self) -> None:
        """Create the tables."""
        await self._payments.create_tables()

    async def run(self) -> None:
        """Drive whatever was left open, now and from time to time, and pump the outbox."""
        self.host.spawn(self._resume(), daemon=True)
        self.host.spawn(self._forget_keys(), daemon=True)
        for pump in self._pumps.values():
            self.host.spawn(pump.run(), daemon=True)

    # PaymentGateway -----------------------------------------------------------------------------

    async def Pay(self, request: pb.PayRequest, context: Any) -> pb.Receipt:
        """Claim the key, then carry the payment out. Raises InvalidRequest, KeyReused, PermissionDenied.

        Raises OutcomeUnknown when the caller's time ends first; the work goes on.
        """
        return await self._accept(self._request(request).pay(request), context)

    async def Authorise(self, request: pb.AuthoriseRequest, context: Any) -> pb.Receipt:
        """Set money aside for the payee, who may capture it. Raises as Pay."""
        return await self._accept(self._request(request).authorise(request), context)

    async def Capture(self, request: pb.CaptureRequest, context: Any) -> pb.Receipt:
        """Take what was authorised, or part of it. Raises as Pay, NotFound, WrongState."""
        return await self._accept(await self._follow_up(Operation.CAPTURE, request), context)

    async def Void(self, request: pb.VoidRequest, context: Any) -> pb.Receipt:
        """Give back what is left of an authorisation. Raises as Pay, NotFound, WrongState."""
        return await self._accept(await self._follow_up(Operation.VOID, request), context)

    async def Refund(self, request: pb.RefundRequest, context: Any) -> pb.Receipt:
        """Pay back what was paid or captured, or part of it. Raises as Pay, NotFound, WrongState."""
        return await self._accept(await self._follow_up(Operation.REFUND, request), context)

    def _request(self, request: Any) -> Request:
        return Request(self.host, current_caller(), request.idempotency_key)

    async def _follow_up(self, operation: Operation, request: Any) -> Payment:
        amount: Money | None = None
        if operation is not Operation.VOID and request.HasField("money"):
            amount = wire.money_from_pb(request.money)
        about = await self._payments.read(request.payment)
        return self._request(request).follow(operation, about, amount)

    async def _accept(self, wanted: Payment, context: Any) -> pb.Receipt:
        """Claim the key and carry the payment out, or answer for the one that has the key."""
        wanted = self.host.decisions.gateway_open_attempt(
            wanted, expires_at_s=self._expiry(), epoch=await self._known_epoch()
        )
        payment, mine = await self._payments.claim(wanted)
        if not mine:
            payment = self.host.decisions.gateway_same_request(payment, wanted.fingerprint)
            if payment.state in rules.TERMINAL:
                # Outside of the answer, whose bytes are those of the first time.
                context.set_trailing_metadata(((REPLAYED_KEY, "true"),))
        return wire.receipt_to_pb(await self._settled(payment, context))

    async def GetPayment(self, request: pb.GetPaymentRequest, context: Any) -> pb.Receipt:
        """Where one of the caller's payments stands. Raises NotFound."""
        return wire.receipt_to_pb(await self._own_payment(request.payment))

    async def ListPayments(self, request: pb.ListPaymentsRequest, context: Any) -> pb.ListPaymentsResponse:
        """The caller's payments, newest first."""
        limit = min(request.limit or LIST_DEFAULT, LIST_MAX)
        payments = await self._payments.of_caller(current_caller().subject, limit=limit)
        return pb.ListPaymentsResponse(receipts=[wire.receipt_to_pb(payment) for payment in payments])

    async def WatchPayment(self, request: pb.GetPaymentRequest, context: Any) -> AsyncIterator[pb.Receipt]:
        """Yield the present state, then every later one, until it comes to rest. Raises NotFound."""
        payment = await self._own_payment(request.payment)
        yield wire.receipt_to_pb(payment)
        while payment.state not in rules.AT_REST:
            async with self._changed:
                latest = await self._payments.read(payment.payment)
                if latest == payment:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_AGAIN_S):
                            await self._changed.wait()
                    continue
            assert latest is not None
            payment = latest
            yield wire.receipt_to_pb(payment)

    async def Redrive(self, request: pb.RedriveRequest, context: Any) -> pb.Receipt:
        """Open the next attempt of a queued payment and carry it out. Raises NotFound."""
        payment = await self._existing(request.payment)
        if payment.state is State.QUEUED:
            following = self.host.decisions.gateway_open_attempt(
                payment, expires_at_s=self._expiry(), epoch=await self._known_epoch()
            )
            payment = await self._replace(payment, following)
        return wire.receipt_to_pb(await self._settled(payment, context))

    async def GiveUp(self, request: pb.GiveUpRequest, context: Any) -> pb.Receipt:
        """Make a queued payment a dead letter. Raises NotFound, WrongState."""
        payment = await self._existing(request.payment)
        if payment.state is not State.DEAD_LETTER:
            payment = await self._replace(payment, rules.give_up(payment, request.reason))
        return wire.receipt_to_pb(payment)

    async def CancelPayment(self, request: pb.CancelPaymentRequest, context: Any) -> pb.Receipt:
        """Take a waiting payment back. Raises NotFound, WrongState; then nothing was taken back."""
        operator = current_peer().role is Role.OPERATOR
        find = self._existing if operator else self._own_payment
        return await self._moved(await find(request.payment), State.CANCELLED, rules.cancel)

    async def Requeue(self, request: pb.RequeueRequest, context: Any) -> pb.Receipt:
        """Queue a dead letter again. Raises NotFound, WrongState."""
        return await self._moved(await self._existing(request.payment), State.QUEUED, rules.requeue)

    async def _moved(self, payment: Payment, state: State, rule: Callable[[Payment], Payment]) -> pb.Receipt:
        """Move a payment by a rule, unless it is there already. Raises WrongState."""
        while payment.state is not state:
            payment = await self._replace(payment, rule(payment))
        return wire.receipt_to_pb(payment)

    # Driving a payment --------------------------------------------------------------------------

    async def _settled(self, payment: Payment, context: Any) -> Payment:
        """The payment once no attempt of it is open; OutcomeUnknown when the caller's time ends first."""
        if payment.state is not State.PREPARING:
            return payment
        driver = self._drive_in_background(payment)
        remaining_s = context.time_remaining()
        patience_s = None if remaining_s is None else max(0.0, remaining_s - ANSWER_MARGIN_S)
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.shield(driver)
        except TimeoutError:
            raise OutcomeUnknown("OUTCOME_UNKNOWN", "still under way: ask again with the same key") from None

    def _drive_in_background(self, payment: Payment) -> asyncio.Task[Payment]:
        """One driver a payment: a caller who repeats himself joins it."""
        driver = self._drivers.get(payment.payment)
        if driver is None:
            driver = self._drivers[payment.payment] = self.host.spawn(self._drive(payment))
            driver.add_done_callback(lambda _: self._drivers.pop(payment.payment, None))
        return driver

    async def _drive(self, payment: Payment) -> Payment:
        """Ask the coordinator about the open attempt until it gives a definite answer."""
        asked = failures = 0
        while payment.state is State.PREPARING:
            asked += 1
            commit = Commit(payment.txn, payment.legs, payment.expires_at_s, payment.epoch)
            try:
                answer = await (self._commits.submit(commit) if asked == 1 else self._ask(commit, asked))
            except grpc.aio.AioRpcError:
                # It may have been begun: only this attempt may be asked about again.
                failures += 1
                await self.host.sleep(
                    full_jitter(failures, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, rng=self.host.rng)
                )
                continue
            following = self.host.decisions.gateway_conclude(
                payment, answer, expires_at_s=self._expiry(), epoch=self._epoch
            )
            if following != payment:
                payment = await self._replace(payment, following)
                asked = failures = 0
        return payment

    async def _ask_together(
        self, commits: Sequence[Commit], *, timeout_s: float = COMMIT_TIMEOUT_S
    ) -> list[Answer]:
        """Ask the coordinator about attempts that were opened at the same moment."""
        request = coordinator_pb2.CommitRequest(items=map(wire.commit_to_pb, commits))
        response = await self._coordinator().Commit(request, timeout=timeout_s)
        self._epoch = max(self._epoch, response.epoch)
        return [wire.answer_from_pb(answer) for answer in response.answers]

    async def _ask(self, commit: Commit, asked: int) -> Answer:
        """Ask once more about an attempt that is not answered yet: alone, so that nobody waits for it."""
        timeout_s = exponential(asked, base_s=COMMIT_TIMEOUT_S, cap_s=COMMIT_TIMEOUT_CAP_S)
        (answer,) = await self._ask_together([commit], timeout_s=timeout_s)
        return answer

    async def _replace(self, payment: Payment, following: Payment) -> Payment:
        """Compare-and-set the payment's row, with its outbox rows; returns what stands there afterwards."""
        following = frozen(following, now=self.host.now(), retention_s=self._key_retention_s)
        rows = self._outbox_rows(following)
        present = await self._payments.replace(payment, following, rows)
        if present is not following:
            return present
        for topic, _ in rows:
            self._pumps[topic].wake()
        async with self._changed:
            self._changed.notify_all()
        return following

    async def _resume(self) -> None:
        """Drive every payment whose attempt is open and that nobody drives: after a restart, all of them.

        Another gateway may have died and left us some, and rows in the outbox.
        """
        while True:
            payments, topics = await self._payments.left_open()
            for payment in payments:
                self._drive_in_background(payment)
            for topic in topics:
                self._pumps[topic].wake()
            await self.host.sleep(RESUME_EVERY_S)

    async def _forget_keys(self) -> None:
        """Drop the keys whose time is over, so that they do not grow for ever."""
        while True:
            await self.host.sleep(FORGET_KEYS_EVERY_S)
            await self._payments.forget_keys(now=self.host.now())

    # Steps --------------------------------------------------------------------------------------

    def _expiry(self) -> float:
        return self.host.now() + ATTEMPT_LIFETIME_S

    async def _known_epoch(self) -> int:
        """The coordinator's epoch as far as we know; 0 makes it answer WRONG_EPOCH and tell."""
        async with self._learning:  # of many payments that need the epoch, one asks for it
            if not self._epoch:
                try:
                    response = await self._coordinator().GetEpoch(
                        coordinator_pb2.GetEpochRequest(), timeout=1.0
                    )
                except grpc.aio.AioRpcError:
                    return 0
                self._epoch = response.epoch
        return self._epoch

    def _coordinator(self) -> "coordinator_pb2_grpc.CoordinatorAsyncStub":
        return coordinator_pb2_grpc.CoordinatorStub(self.host.channel("coordinator"))

    async def _existing(self, payment: str) -> Payment:
        found = await self._payments.read(payment)
        if found is None:
            raise NotFound("NOT_FOUND", f"there is no payment {payment!r}")
        return found

    async def _own_payment(self, payment: str) -> Payment:
        found = await self._payments.read(payment)
        if found is None or found.caller != current_caller().subject:
            raise NotFound("NOT_FOUND", f"you have no payment {payment!r}")
        return found

    # Outbox -------------------------------------------------------------------------------------

    def _outbox_rows(self, payment: Payment) -> list[tuple[str, bytes]]:
        return outbox_rows(payment, now=self.host.now())

    async def _send_log(self, payloads: list[bytes]) -> None:
        stub = log_pb_grpc.TransactionLoggerStub(self.host.channel("logger"))
        await stub.Append(log_pb.AppendRequest(events=[log_pb.LogEvent.FromString(p) for p in payloads]))

    async def _send_queue(self, payloads: list[bytes]) -> None:
        stub = queue_pb_grpc.OfflineQueueStub(self.host.channel("queue"))
        await stub.Enqueue(
            queue_pb.EnqueueRequest(items=[queue_pb.EnqueueItem.FromString(p) for p in payloads])
        )

    async def _send_saved(self, payloads: list[bytes]) -> None:
        txns = [money_pb2.Txn.FromString(payload) for payload in payloads]
        await self._coordinator().Acknowledge(coordinator_pb2.AcknowledgeRequest(txns=txns))
