"""What clients ask the gateway for, as payments to be entered, and what others are told of a payment."""

from dataclasses import dataclass, replace

from paylab.core import idempotency
from paylab.core.follow_ups import AUTHORISATION_LIFETIME_MAX_S, AUTHORISATION_LIFETIME_S
from paylab.core.money import Money
from paylab.core.payment import Operation, Payment, State
from paylab.core.tokens import Caller
from paylab.errors import InvalidRequest, NotFound, PermissionDenied
from paylab.nodes import wire
from paylab.nodes.host import Host
from paylab.pb import offline_queue_pb2 as queue_pb
from paylab.pb import payment_gateway_pb2 as pb
from paylab.pb import transaction_logger_pb2 as log_pb

LOG, QUEUE, SAVED = "log", "queue", "saved"


@dataclass(frozen=True, slots=True)
class Request:
    """A request of `caller`, judged with the decisions of `host`. Each method raises what it refuses."""

    host: Host
    caller: Caller
    key: str

    def pay(self, message: pb.PayRequest) -> Payment:
        """Raises InvalidRequest, PermissionDenied."""
        payment = self._new(message.payer, message.payee, wire.money_from_pb(message.money))
        return replace(payment, waits_for_funds=message.when_short == pb.WHEN_SHORT_WAIT)

    def authorise(self, message: pb.AuthoriseRequest) -> Payment:
        """Raises InvalidRequest, PermissionDenied."""
        if not 0 <= message.lifetime_s <= AUTHORISATION_LIFETIME_MAX_S:
            days = AUTHORISATION_LIFETIME_MAX_S / (24 * 3600)
            raise InvalidRequest("INVALID_AMOUNT", f"an authorisation lasts 0 to {days:.0f} days")
        return self._new(
            message.payer,
            message.payee,
            wire.money_from_pb(message.money),
            Operation.AUTHORISE,
            lifetime_s=message.lifetime_s,
        )

    def follow(self, operation: Operation, about: Payment | None, money: Money | None) -> Payment:
        """A capture, void or refund; without `money` of all that is left.

        Raises InvalidRequest, PermissionDenied, and NotFound to whoever has no part in the payment.
        """
        idempotency.check_key(self.key)
        if money is not None:
            idempotency.check_amount(money)
        if about is None or not (self._owns(about.payer) or self._owns(about.payee)):
            raise NotFound("NOT_FOUND", "you have no part in such a payment")
        self.host.decisions.access_account(self.caller, about.payee)
        payer, payee = about.payer, about.payee
        if operation is Operation.REFUND:
            payer, payee = payee, payer
        return self._payment(
            payer, payee, money or Money(0, about.money.currency), operation, about=about.payment
        )

    def _owns(self, account: str) -> bool:
        try:
            self.host.decisions.access_account(self.caller, account)
        except PermissionDenied:
            return False
        return True

    def _new(
        self,
        payer: str,
        payee: str,
        money: Money,
        operation: Operation = Operation.PAY,
        *,
        lifetime_s: float = 0.0,
    ) -> Payment:
        idempotency.check_request(key=self.key, payer=payer, payee=payee, money=money)
        self.host.decisions.access_account(self.caller, payer)
        return self._payment(payer, payee, money, operation, lifetime_s=lifetime_s)

    def _payment(
        self,
        payer: str,
        payee: str,
        money: Money,
        operation: Operation,
        *,
        about: str = "",
        lifetime_s: float = 0.0,
    ) -> Payment:
        now, request = self.host.now(), {"payer": payer, "payee": payee, "money": money}
        if operation is not Operation.PAY:
            request["operation"] = (operation.value, about, lifetime_s)
        until_s = now + (lifetime_s or AUTHORISATION_LIFETIME_S)
        return Payment(
            payment=self.host.new_id(),
            caller=self.caller.subject,
            key=self.key,
            fingerprint=self.host.decisions.gateway_fingerprint(**request),
            payer=payer,
            payee=payee,
            money=money,
            accepted_at_s=now,
            operation=operation,
            about=about,
            authorised_until_s=until_s if operation is Operation.AUTHORISE else 0.0,
        )


def outbox_rows(payment: Payment, *, now: float) -> list[tuple[str, bytes]]:
    """What logger, queue and coordinator must learn about a payment's new state."""
    if payment.state is State.PREPARING:
        return []
    event = log_pb.LogEvent(
        event_id=f"{payment.txn}/{payment.state}",
        payment=payment.payment,
        attempt=payment.attempt,
        state=payment.state.value,
        reason=payment.reason,
        payer=payment.payer,
        payee=payment.payee,
        money=wire.money_to_pb(payment.money),
        at_s=now,
        operation=payment.operation.value,
        about=payment.about,
    )
    rows: list[tuple[str, bytes]] = [(LOG, event.SerializeToString(deterministic=True))]
    if payment.state in (State.QUEUED, State.CANCELLED):
        item = queue_pb.EnqueueItem(
            payment=payment.payment,
            payer=payment.payer,
            attempts=payment.attempt,
            reason=payment.reason,
            withdrawn=payment.state is State.CANCELLED,
        )
        rows.append((QUEUE, item.SerializeToString(deterministic=True)))
    if payment.state is State.COMMITTED:
        rows.append((SAVED, wire.txn_to_pb(payment.txn).SerializeToString(deterministic=True)))
    return rows
