"""Mutants: networks with one mistake each, for which campaigns are the test. `MUTANTS` lists all of them.

The planted bugs of the package come first; what follows is not shown to readers.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import grpc
from sqlalchemy import update

from paylab.core import ledger, participant
from paylab.core import payment as rules
from paylab.core.coordinator import Coordinator
from paylab.core.effects import Append, Effect, EndRecord
from paylab.core.ledger import Account
from paylab.core.messages import Ack, Answer, Commit, Decide, Inquire, Leg, Outcome, Prepare, Txn, Vote
from paylab.core.money import Money
from paylab.core.participant import Change, Transaction
from paylab.core.payment import Payment, State
from paylab.lab.planted_bugs import PLANTED, PlantedBug
from paylab.nodes import wire
from paylab.nodes.bank_server import BankServer
from paylab.nodes.offline_queue import OfflineQueue
from paylab.nodes.payment_gateway import PaymentGateway
from paylab.nodes.payment_messages import QUEUE
from paylab.nodes.payment_store import PAYMENTS
from paylab.pb import bank_pb2, payment_gateway_pb2

Accounts = Mapping[str, Account]

# Banks ----------------------------------------------------------------------------------------------


class VotesBeforeForcing(BankServer):
    """Looks whether there is enough, says yes, and writes the promise afterwards."""

    async def Prepare(  # noqa: N802 - the proto's name
        self, request: bank_pb2.PrepareRequest, context: Any
    ) -> bank_pb2.PrepareResponse:
        if any(item.one_phase for item in request.items):
            return await super().Prepare(request, context)
        votes = []
        for item in (wire.prepare_from_pb(message) for message in request.items):
            found = [await self._books.account(leg.account) for leg in item.legs]
            accounts = {account.account: account for account in found if account}
            reason = self.host.decisions.bank_vote(accounts, item.legs)
            votes.append(wire.vote_to_pb(Vote(item.txn, yes=not reason, reason=reason)))
        self.host.spawn(super().Prepare(request, context))
        return bank_pb2.PrepareResponse(votes=votes)


def credit_at_prepare(
    row: Transaction | None, accounts: Accounts, request: Prepare, *, vote: Any
) -> tuple[Vote, Change]:
    """Give the payee the money as soon as it is promised."""
    answer, change = participant.prepare(row, accounts, request, vote=vote)
    credits_only = all(leg.money.amount_minor > 0 for leg in request.legs)
    if not answer.yes or change.transaction is None or request.one_phase or not credits_only:
        return answer, change
    books = {leg.account: ledger.post(accounts[leg.account], leg) for leg in request.legs}
    lines = ledger.posting(request.legs, against=ledger.CLEARING)
    return answer, replace(change, accounts=tuple(books.values()), lines=lines)


def decide_after_credit(row: Transaction | None, accounts: Accounts, request: Decide) -> tuple[Ack, Change]:
    """Post debits only: credits were posted before."""
    ack, change = participant.decide(row, accounts, request)
    credits_only = row is not None and all(leg.money.amount_minor > 0 for leg in row.legs)
    return ack, replace(change, accounts=(), lines=()) if credits_only else change


def prepare_over_tombstone(
    row: Transaction | None, accounts: Accounts, request: Prepare, *, vote: Any
) -> tuple[Vote, Change]:
    """Take a Prepare that comes after the abort for a new one."""
    late = row is not None and row.state is participant.State.ABORTED
    return participant.prepare(None if late else row, accounts, request, vote=vote)


def inquire_without_tombstone(row: Transaction | None, request: Inquire) -> tuple[Vote, Change]:
    """Say that an unknown transaction is aborted, and remember nothing of having said so."""
    return participant.inquire(row, request)[0], participant.UNCHANGED


def no_is_forgotten(
    row: Transaction | None, accounts: Accounts, request: Prepare, *, vote: Any
) -> tuple[Vote, Change]:
    """Say no and remember nothing of it."""
    answer, change = participant.prepare(row, accounts, request, vote=vote)
    return answer, change if answer.yes else participant.UNCHANGED


def hold_again(
    row: Transaction | None, accounts: Accounts, request: Prepare, *, vote: Any
) -> tuple[Vote, Change]:
    """Set the money aside once more when a Prepare is repeated."""
    answer, change = participant.prepare(row, accounts, request, vote=vote)
    if row is None or row.state is not participant.State.PREPARED:
        return answer, change
    books = dict(accounts)
    for leg in row.legs:
        books[leg.account] = ledger.hold(books[leg.account], leg)
    return answer, Change(row, tuple(books[leg.account] for leg in row.legs), forced=True)


def post_again(row: Transaction | None, accounts: Accounts, request: Decide) -> tuple[Ack, Change]:
    """Post once more when a commit is repeated."""
    if row is None or row.state is not participant.State.COMMITTED or not request.commit:
        return participant.decide(row, accounts, request)
    books = dict(accounts)
    for leg in row.legs:
        books[leg.account] = ledger.post(books[leg.account], leg)
    lines = ledger.posting(row.legs, against=ledger.CLEARING)
    return Ack(request.txn, ok=True), Change(row, tuple(books[leg.account] for leg in row.legs), lines)


def commit_alone(outcome: Outcome | None) -> bool | None:
    """Commit whatever is in doubt when the coordinator does not answer."""
    return outcome is not Outcome.ABORTED if outcome is not Outcome.UNDECIDED else None


def vote_on_posted(accounts: Accounts, legs: tuple[Leg, ...]) -> str:
    """Forget that holds lower what can be spent."""
    free = {name: replace(account, held_minor=0) for name, account in accounts.items()}
    return participant.vote_reason(free, legs)


# Coordinator ----------------------------------------------------------------------------------------


class AcceptsAnyEpoch(Coordinator):
    """Begins an attempt that an earlier boot may have begun."""

    def commit(self, request: Commit, *, now: float) -> list[Effect]:
        return super().commit(replace(request, epoch=self.epoch), now=now)


class EndsWithoutGateway(Coordinator):
    """Drops a commit record when the banks know it, whether the gateway does or not."""

    def acknowledge(self, bank: str, ack: Ack) -> list[Effect]:
        effects = super().acknowledge(bank, ack)
        attempt = self.attempts.get(ack.txn.payment)
        done = attempt is not None and attempt.txn == ack.txn and not attempt.waiting_for
        return effects or ([Append(EndRecord(ack.txn), forced=False)] if done and ack.ok else [])


class CommitsOnFirstYes(Coordinator):
    """Takes one yes for all."""

    def vote(self, bank: str, vote: Vote) -> list[Effect]:
        attempt = self._open(vote.txn)
        if attempt is None or not vote.yes or bank not in attempt.waiting_for or attempt.one_phase:
            return super().vote(bank, vote)
        return self._commit(attempt)


class PresumesCommit(Coordinator):
    """Answers a bank in doubt about a transaction that it does not know with commit."""

    def decision(self, txn: Txn, *, now: float) -> Outcome:
        if txn.payment not in self.attempts:
            return Outcome.COMMITTED
        return super().decision(txn, now=now)


# Gateway, queue and keys ----------------------------------------------------------------------------


class IgnoresKeys(PaymentGateway):
    """Makes a new payment of every request, whatever its key."""

    async def Pay(  # noqa: N802 - the proto's name
        self, request: payment_gateway_pb2.PayRequest, context: Any
    ) -> Any:
        request.idempotency_key = f"{request.idempotency_key}#{self.host.new_id()}"
        return await super().Pay(request, context)


class SavesKeyAfterwards(PaymentGateway):
    """Carries the payment out under a makeshift key, and enters the caller's own when it is done."""

    async def Pay(  # noqa: N802 - the proto's name
        self, request: payment_gateway_pb2.PayRequest, context: Any
    ) -> Any:
        key, makeshift = request.idempotency_key, f"makeshift-{self.host.new_id()}"
        rows = await self._payments.store.rows(PAYMENTS.select().where(PAYMENTS.c.key == key))
        if rows:
            return await super().Pay(request, context)
        request.idempotency_key = makeshift
        receipt = await super().Pay(request, context)
        mine = update(PAYMENTS).where(PAYMENTS.c.key == makeshift).values(key=key)
        await self._payments.store.execute(mine)
        receipt.idempotency_key = key
        return receipt


class ForgetsToQueue(PaymentGateway):
    """Tells the queue after the transaction instead of in it."""

    def _outbox_rows(self, payment: Payment) -> list[tuple[str, bytes]]:
        rows = super()._outbox_rows(payment)
        late = [payload for topic, payload in rows if topic == QUEUE]
        if late:
            self.host.spawn(self._tell(late))
        return [(topic, payload) for topic, payload in rows if topic != QUEUE]

    async def _tell(self, payloads: list[bytes]) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self._send_queue(payloads)


def fingerprint_without_amount(*, payer: str, payee: str, money: Money) -> str:  # noqa: ARG001 - the slot's shape
    """Bind a key to who pays whom, not to how much."""
    return f"{payer}>{payee}"


def undecided_is_abort(payment: Payment, answer: Answer, *, expires_at_s: float, epoch: int) -> Payment:
    """Open the next attempt when the coordinator has not decided in time."""
    if answer.outcome is Outcome.UNDECIDED and payment.state is State.PREPARING:
        return rules.open_attempt(payment, expires_at_s=expires_at_s, epoch=epoch)
    return rules.conclude(payment, answer, expires_at_s=expires_at_s, epoch=epoch)


def undecided_is_declined(payment: Payment, answer: Answer, *, expires_at_s: float, epoch: int) -> Payment:
    """Tell the client that the payment failed when nobody knows."""
    if answer.outcome is Outcome.UNDECIDED and payment.state is State.PREPARING:
        return replace(payment, state=State.DECLINED, reason="TIMED_OUT")
    return rules.conclude(payment, answer, expires_at_s=expires_at_s, epoch=epoch)


class DropsOnFailure(OfflineQueue):
    """Takes a call that failed for a payment that is settled."""

    async def _redrive(self, payment: str) -> tuple[bool, str]:
        settled, reason = await super()._redrive(payment)
        return settled or reason in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), reason


def _mutants() -> Iterable[PlantedBug]:
    yield from PLANTED.values()
    for name, about, slots in (
        (
            "vote-before-force",
            "A bank votes yes before its promise is durable.",
            {"node.bank": VotesBeforeForcing},
        ),
        (
            "credit-at-prepare",
            "A bank posts the credit when it is promised.",
            {"bank.prepare": credit_at_prepare, "bank.decide": decide_after_credit},
        ),
        (
            "late-prepare-accepted",
            "A bank prepares what it has aborted, when the Prepare comes late.",
            {"bank.prepare": prepare_over_tombstone},
        ),
        (
            "tombstone-lost",
            "A bank that was asked about an unknown one-phase payment keeps no tombstone.",
            {"bank.inquire": inquire_without_tombstone},
        ),
        ("no-forgotten", "A bank keeps no record of having voted no.", {"bank.prepare": no_is_forgotten}),
        ("hold-twice", "A repeated Prepare places a second hold.", {"bank.prepare": hold_again}),
        ("post-twice", "A repeated commit posts a second time.", {"bank.decide": post_again}),
        ("commit-alone", "A bank in doubt commits when nobody answers.", {"bank.in_doubt": commit_alone}),
        ("holds-ignored", "A bank votes on the posted balance.", {"bank.vote": vote_on_posted}),
        (
            "any-epoch",
            "The coordinator begins attempts of an earlier epoch.",
            {"coordinator.core": AcceptsAnyEpoch},
        ),
        (
            "ended-without-gateway",
            "The coordinator forgets a commit that the gateway has not saved.",
            {"coordinator.core": EndsWithoutGateway},
        ),
        ("first-yes", "The coordinator commits at the first yes.", {"coordinator.core": CommitsOnFirstYes}),
        ("presumed-commit", "The coordinator presumes commit.", {"coordinator.core": PresumesCommit}),
        ("keys-ignored", "Every request becomes a payment of its own.", {"node.gateway": IgnoresKeys}),
        ("key-saved-late", "The key is saved after the payment.", {"node.gateway": SavesKeyAfterwards}),
        (
            "queue-told-late",
            "The queue is told outside of the transaction.",
            {"node.gateway": ForgetsToQueue},
        ),
        (
            "amount-not-bound",
            "A key is not bound to the amount.",
            {"gateway.fingerprint": fingerprint_without_amount},
        ),
        (
            "two-attempts",
            "A second attempt opens while the first is undecided.",
            {"gateway.conclude": undecided_is_abort},
        ),
        (
            "timeout-declined",
            "An undecided payment is declined.",
            {"gateway.conclude": undecided_is_declined},
        ),
        ("queue-drops", "The queue drops a payment when its call fails.", {"node.queue": DropsOnFailure}),
    ):
        yield PlantedBug(name, about, slots)


MUTANTS = {mutant.name: mutant for mutant in _mutants()}
