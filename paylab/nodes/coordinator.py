"""The coordinator node: performs what `paylab.core.coordinator` decides, over gRPC and its log.

Events about one payment are handled one after the other, each with all its effects, so nothing is said
before the log entry that licenses it is durable.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import grpc

from paylab.core import messages
from paylab.core.authorization import Role
from paylab.core.coordinator import Coordinator, Timing
from paylab.core.effects import Append, Effect, Reply, Send, SetTimer, TimerKind
from paylab.core.messages import Answer, Decide, Inquire, Outcome, Prepare, Txn
from paylab.errors import PaylabError
from paylab.nodes import wire
from paylab.nodes.batching import PAUSE_S, UNHURRIED_S, Batcher
from paylab.nodes.commit_log import CommitLog
from paylab.nodes.events import Kind
from paylab.nodes.host import Host
from paylab.nodes.interceptors import ACCOUNT_KEY, BANK_KEY, current_peer
from paylab.nodes.look_aside import LookAside
from paylab.nodes.node import Node
from paylab.pb import bank_pb2, bank_pb2_grpc
from paylab.pb import coordinator_pb2 as pb
from paylab.pb import coordinator_pb2_grpc as pb_grpc

# Answer UNDECIDED this long before the caller would stop listening.
ANSWER_MARGIN_S = 0.2
FORGET_EVERY_S = 10.0
# Once the first outcome of a call is known, the others get this long to be answered with it.
STRAGGLERS_S = 0.05


class CoordinatorNode(Node, pb_grpc.CoordinatorServicer):
    """Drives the core; its log is the store "coordinator"."""

    role = Role.COORDINATOR

    def __init__(
        self,
        host: Host,
        *,
        balancer: str = "bank-lb",
        timing: Timing | None = None,
        look_aside: bool = False,
    ) -> None:
        """Reach the banks through `balancer`, or directly by its list of servers."""
        super().__init__(host)
        self._balancer = balancer
        self._look_aside = LookAside(host, balancer=balancer) if look_aside else None
        self._timing = timing or Timing()
        self._log = CommitLog(host)
        self._core: Coordinator = host.decisions.coordinator_core(epoch=0, timing=self._timing)
        self._recovered: list[Effect] = []
        self._waiters: dict[Txn, list[asyncio.Future[Answer]]] = {}
        # The last event under way of each payment.
        self._busy: dict[str, asyncio.Future[None]] = {}
        self._batchers: dict[tuple[str, type], Batcher[Any, None]] = {}

    def add_to(self, server: grpc.aio.Server) -> Sequence[str]:
        """Serve Coordinator."""
        pb_grpc.add_CoordinatorServicer_to_server(self, server)
        return ["paylab.v1.Coordinator"]

    async def boot(self) -> None:
        """Force the next epoch, and remember the commits that are not settled before anybody can ask."""
        await self._log.create_tables()
        epoch = await self._log.next_epoch()
        self._core = self.host.decisions.coordinator_core(epoch=epoch, timing=self._timing)
        self._recovered = self._core.recover(await self._log.commits())

    async def run(self) -> None:
        """Resend what the log says, and forget what is settled from time to time."""
        if self._look_aside is not None:
            self.host.spawn(self._look_aside.watch(), daemon=True)
        for effect in self._recovered:
            self._perform(effect)
        self.host.spawn(self._forget(), daemon=True)

    # Coordinator --------------------------------------------------------------------------------

    async def Commit(self, request: pb.CommitRequest, context: Any) -> pb.CommitResponse:
        """Carry attempts out. UNDECIDED for those that outlast the others or the call; they go on."""
        commits = [wire.commit_from_pb(item) for item in request.items]
        asked = [(commit.txn, self._waiter(commit.txn)) for commit in commits]
        for commit in commits:
            self._feed(commit.txn.payment, partial(self._opened, commit))
        try:
            await _most([waiter for _, waiter in asked], timeout_s=_patience_s(context))
        finally:
            for txn, waiter in asked:
                self._waiters[txn].remove(waiter)
                if not self._waiters[txn]:
                    del self._waiters[txn]
        answers = (w.result() if w.done() else Answer(txn, Outcome.UNDECIDED) for txn, w in asked)
        return pb.CommitResponse(answers=map(wire.answer_to_pb, answers), epoch=self._core.epoch)

    async def GetDecision(self, request: pb.GetDecisionRequest, context: Any) -> pb.GetDecisionResponse:
        """Answer banks in doubt, never with a decision that is not durable yet."""
        outcomes = []
        for txn in (wire.txn_from_pb(message) for message in request.txns):
            await self._turn(txn.payment)
            # Read at once: while the next one has its turn, this one may be decided and not durable yet.
            outcomes.append(wire.outcome_to_pb(self._core.decision(txn, now=self.host.now())))
        return pb.GetDecisionResponse(outcomes=outcomes)

    async def Acknowledge(self, request: pb.AcknowledgeRequest, context: Any) -> pb.AcknowledgeResponse:
        """The gateway has saved these outcomes; once we have written it, it need not say so again."""
        txns = [wire.txn_from_pb(message) for message in request.txns]
        writing = [self._feed(txn.payment, partial(self._core.saved, txn)) for txn in txns]
        for task in writing:
            if task is not None:
                await asyncio.shield(task)
        return pb.AcknowledgeResponse()

    async def GetEpoch(self, request: pb.GetEpochRequest, context: Any) -> pb.GetEpochResponse:
        """The present epoch."""
        return pb.GetEpochResponse(epoch=self._core.epoch)

    # Operators ----------------------------------------------------------------------------------

    async def ListInDoubt(self, request: pb.ListInDoubtRequest, context: Any) -> pb.ListInDoubtResponse:
        """What is undecided or not acknowledged; a decision only once it is durable."""
        found = []
        for txn in self._core.in_doubt():
            await self._turn(txn.payment)
            attempt = self._core.attempts.get(txn.payment)
            if attempt is not None and attempt.txn == txn and attempt.waiting_for:
                found.append(
                    pb.InDoubt(
                        txn=wire.txn_to_pb(txn), phase=attempt.phase.value, waiting_for=attempt.waiting_for
                    )
                )
        return pb.ListInDoubtResponse(attempts=found)

    async def Resolve(self, request: pb.ResolveRequest, context: Any) -> pb.ResolveResponse:
        """Decide in an operator's name. Raises NotFound, WrongState."""
        operator = str(current_peer())
        txn = Txn(request.payment, 0)

        def event() -> list[Effect]:
            nonlocal txn
            effects = self._core.resolve(
                request.payment, commit=request.commit, operator=operator, now=self.host.now()
            )
            txn = self._core.attempts[request.payment].txn
            return effects

        async def resolve() -> PaylabError | None:
            try:
                await self._handle(request.payment, event)
            except PaylabError as error:
                return error
            return None

        refusal = await asyncio.shield(self.host.spawn(resolve()))
        if refusal is not None:
            raise refusal
        return pb.ResolveResponse(txn=wire.txn_to_pb(txn))

    async def RetryNow(self, request: pb.RetryInDoubtRequest, context: Any) -> pb.RetryInDoubtResponse:
        """Send again at once what banks have not answered."""
        sent = 0

        def event(txn: Txn) -> list[Effect]:
            nonlocal sent
            effects = self._core.retry_now(txn)
            sent += len(effects)
            return effects

        for txn in self._core.in_doubt():
            await self._handle(txn.payment, partial(event, txn))
        return pb.RetryInDoubtResponse(messages=sent)

    async def ListResolutions(
        self, request: pb.ListResolutionsRequest, context: Any
    ) -> pb.ListResolutionsResponse:
        """The audit: what operators have resolved."""
        lines = [
            pb.Resolution(
                txn=wire.txn_to_pb(line.txn), commit=line.commit, operator=line.operator, at_s=line.at_s
            )
            for line in await self._log.resolutions()
        ]
        return pb.ListResolutionsResponse(resolutions=lines)

    def _waiter(self, txn: Txn) -> "asyncio.Future[Answer]":
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(txn, []).append(waiter)
        return waiter

    def _opened(self, commit: messages.Commit) -> list[Effect]:
        return self._core.commit(commit, now=self.host.now())

    # The driver ---------------------------------------------------------------------------------

    def _feed(
        self, payment: str, event: Callable[[], list[Effect]], *, daemon: bool = False
    ) -> "asyncio.Task[None] | None":
        """Feed one event to the core and see to its effects, after those of the event before.

        Most events wait for nothing: then all is done on return. Otherwise the task that does the rest.
        """
        try:
            work = self._handle(payment, event) if payment in self._busy else self._begin(payment, event)
        except Exception as error:  # noqa: BLE001 - as if it had been a task of its own
            self.host.failures.append(error)
            return None
        return None if work is None else self.host.spawn(work, daemon=daemon)

    async def _handle(self, payment: str, event: Callable[[], list[Effect]]) -> None:
        """Wait for our turn, feed one event to the core, and perform all its effects."""
        await self._turn(payment)
        rest = self._begin(payment, event)
        if rest is not None:
            await rest

    def _begin(self, payment: str, event: Callable[[], list[Effect]]) -> Coroutine[Any, Any, None] | None:
        """Feed an event whose turn it is, up to its first forced write; that and what follows is left."""
        effects = event()
        for n, effect in enumerate(effects):
            if isinstance(effect, Append) and effect.forced:
                done = self._busy[payment] = asyncio.get_running_loop().create_future()
                return self._perform_all(payment, effects[n:], done)
            self._perform(effect)
        return None

    async def _perform_all(
        self, payment: str, effects: Sequence[Effect], done: "asyncio.Future[None]"
    ) -> None:
        try:
            for effect in effects:
                if isinstance(effect, Append) and effect.forced:
                    await self._log.append(effect)
                else:
                    self._perform(effect)
        finally:
            if self._busy.get(payment) is done:
                del self._busy[payment]
            done.set_result(None)

    async def _turn(self, payment: str) -> None:
        """Wait until no event about this payment is under way."""
        while (busy := self._busy.get(payment)) is not None:
            await asyncio.shield(busy)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Append():
                self._log.append(effect)
            case Send(bank, message):
                self._batcher(bank, type(message)).submit(message)
            case Reply(answer):
                self._reply(answer)
            case SetTimer(kind, txn, delay_s, tries):
                self.host.call_later(delay_s, partial(self._fire, kind, txn, tries))

    def _fire(self, kind: TimerKind, txn: Txn, tries: int) -> None:
        self._feed(txn.payment, partial(self._core.timer, kind, txn, tries), daemon=True)

    def _reply(self, answer: Answer) -> None:
        self.host.recorder.record(
            Kind.STATE,
            payments=(answer.txn.payment,),
            detail=f"{answer.txn} is {answer.outcome} {answer.reason}".rstrip(),
            facts={
                "at": "coordinator",
                "txn": str(answer.txn),
                "outcome": answer.outcome.value,
                "reason": answer.reason,
                "committed_attempt": answer.committed_attempt,
            },
        )
        if answer.outcome is Outcome.UNDECIDED:
            return  # whoever asked waits with the others
        for waiter in self._waiters.get(answer.txn, ()):
            if not waiter.done():
                waiter.set_result(answer)

    # Messages to banks --------------------------------------------------------------------------

    def _batcher(self, bank: str, kind: type) -> Batcher[Any, None]:
        if (bank, kind) not in self._batchers:
            sends: dict[type, Any] = {
                Prepare: self._send_prepares,
                Decide: self._send_decides,
                Inquire: self._send_inquiries,
            }
            pause_s = UNHURRIED_S if kind is Decide else PAUSE_S
            self._batchers[bank, kind] = Batcher(
                partial(sends[kind], bank), spawn=self.host.spawn, pause_s=pause_s
            )
        return self._batchers[bank, kind]

    def _bank(self) -> "bank_pb2_grpc.BankAsyncStub":
        stub: Any = bank_pb2_grpc.BankStub
        banks: bank_pb2_grpc.BankAsyncStub = stub(self._look_aside or self.host.channel(self._balancer))
        return banks

    async def _send_prepares(self, bank: str, items: Sequence[Prepare]) -> list[None]:
        request = bank_pb2.PrepareRequest(items=[wire.prepare_to_pb(item) for item in items])
        return await self._votes(bank, items, self._bank().Prepare, request, about=items[0].legs[0].account)

    async def _send_inquiries(self, bank: str, items: Sequence[Inquire]) -> list[None]:
        request = bank_pb2.InquireRequest(txns=[wire.txn_to_pb(item.txn) for item in items])
        return await self._votes(bank, items, self._bank().Inquire, request, about=items[0].txn.payment)

    async def _votes(
        self, bank: str, items: Sequence[Any], method: Any, request: Any, *, about: str
    ) -> list[None]:
        try:
            response = await method(
                request, metadata=_routed(bank, about), timeout=self._timing.vote_deadline_s
            )
        except grpc.aio.AioRpcError:
            return [None] * len(items)  # a failed call is a lost message; timers cope
        for vote in (wire.vote_from_pb(message) for message in response.votes):
            self._feed(vote.txn.payment, partial(self._core.vote, bank, vote))
        return [None] * len(items)

    async def _send_decides(self, bank: str, items: Sequence[Decide]) -> list[None]:
        request = bank_pb2.DecideRequest(items=[wire.decide_to_pb(item) for item in items])
        try:
            response = await self._bank().Decide(
                request, metadata=_routed(bank, items[0].txn.payment), timeout=self._timing.vote_deadline_s
            )
        except grpc.aio.AioRpcError:
            return [None] * len(items)
        for ack in (wire.ack_from_pb(message) for message in response.acks):
            self._feed(ack.txn.payment, partial(self._core.acknowledge, bank, ack))
        return [None] * len(items)

    async def _forget(self) -> None:
        while True:
            await self.host.sleep(FORGET_EVERY_S)
            self._core.forget(now=self.host.now())


def _routed(bank: str, about: str) -> tuple[tuple[str, str], ...]:
    """Where a batch goes: to the bank, and if its balancer cares, where its first item belongs."""
    return ((BANK_KEY, bank), (ACCOUNT_KEY, f"{bank}/{about}"))


async def _most(waiters: Sequence["asyncio.Future[Answer]"], *, timeout_s: float | None) -> None:
    """Wait until all are done, or until some are and the others take much longer, or until the time ends."""
    if not waiters:
        return
    done, others = await asyncio.wait(waiters, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    if done and others:
        await asyncio.wait(others, timeout=STRAGGLERS_S)


def _patience_s(context: Any) -> float | None:
    remaining_s = context.time_remaining()
    return None if remaining_s is None else max(0.0, remaining_s - ANSWER_MARGIN_S)
