"""Translates between protobuf and core, and between errors and gRPC statuses."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from paylab.core import messages as core
from paylab.core.ledger import Account
from paylab.core.money import Money
from paylab.core.payment import Payment
from paylab.errors import ERROR_OF_REASON, InvalidRequest, OutcomeUnknown, Overloaded, PaylabError
from paylab.pb import (
    bank_pb2,
    coordinator_pb2,
    money_pb2,
    offline_queue_pb2,
    payment_gateway_pb2,
    transaction_logger_pb2,
)

# Errors ---------------------------------------------------------------------------------------------

ERROR_DOMAIN = "paylab"
DETAILS_KEY = "grpc-status-details-bin"
STATUS_OF_REASON = {
    "INVALID_AMOUNT": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_CURRENCY": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_ACCOUNT": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_NAME": grpc.StatusCode.INVALID_ARGUMENT,
    "KEY_MISSING": grpc.StatusCode.INVALID_ARGUMENT,
    "KEY_REUSED": grpc.StatusCode.FAILED_PRECONDITION,
    "TOKEN_EXPIRED": grpc.StatusCode.UNAUTHENTICATED,
    "TOKEN_INVALID": grpc.StatusCode.UNAUTHENTICATED,
    "NOT_OWNER": grpc.StatusCode.PERMISSION_DENIED,
    "SCOPE": grpc.StatusCode.PERMISSION_DENIED,
    "ROLE": grpc.StatusCode.PERMISSION_DENIED,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "WRONG_STATE": grpc.StatusCode.FAILED_PRECONDITION,
    "OVERLOADED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "LOCKED_OUT": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "OUTCOME_UNKNOWN": grpc.StatusCode.DEADLINE_EXCEEDED,
}


def error_to_status(error: PaylabError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Status code, message and trailing metadata with google.rpc.ErrorInfo (AIP-193)."""
    code = STATUS_OF_REASON[error.reason]
    number = code.value[0]
    status = status_pb2.Status(code=number, message=str(error))
    status.details.append(_packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN)))
    if isinstance(error, Overloaded):
        delay = Duration()
        delay.FromMilliseconds(int(error.pushback_s * 1000))
        status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return code, str(error), ((DETAILS_KEY, status.SerializeToString(deterministic=True)),)


def status_to_error(error: grpc.aio.AioRpcError) -> PaylabError:
    """The error that a failed call stands for. Without ErrorInfo the transport failed: nothing is known."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            found = _from_details(status_pb2.Status.FromString(value))
            if found is not None:
                return found
    return OutcomeUnknown(error.code().name, error.details() or "the transport failed")


def _from_details(status: status_pb2.Status) -> PaylabError | None:
    reason, pushback_s = "", 0.0
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            reason = error_details_pb2.ErrorInfo.FromString(detail.value).reason
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            pushback_s = (
                error_details_pb2.RetryInfo.FromString(detail.value).retry_delay.ToMilliseconds() / 1000
            )
    kind = ERROR_OF_REASON.get(reason)
    if kind is None:
        return None
    message = status.message.removeprefix(f"{reason}: ")
    if kind is Overloaded:
        return Overloaded(reason, message, pushback_s)
    return kind(reason, message)


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


# Money and transactions -----------------------------------------------------------------------------


def money_to_pb(money: Money) -> money_pb2.Money:
    """Write money."""
    return money_pb2.Money(amount_minor=money.amount_minor, currency=money.currency)


def money_from_pb(message: money_pb2.Money) -> Money:
    """Read money. Raises InvalidRequest BAD_CURRENCY."""
    return Money(message.amount_minor, message.currency)


def txn_to_pb(txn: core.Txn) -> money_pb2.Txn:
    """Write a transaction id."""
    return money_pb2.Txn(payment=txn.payment, attempt=txn.attempt)


def txn_from_pb(message: money_pb2.Txn) -> core.Txn:
    """Read a transaction id."""
    return core.Txn(message.payment, message.attempt)


def txn_from_text(text: str) -> core.Txn:
    """Read what `str(txn)` wrote."""
    payment, _, attempt = text.rpartition("/")
    return core.Txn(payment, int(attempt))


def _legs_to_pb(legs: Iterable[core.Leg]) -> list[money_pb2.Leg]:
    return [
        money_pb2.Leg(
            bank=leg.bank,
            account=leg.account,
            money=money_to_pb(leg.money),
            hold=_order_to_pb(leg.hold) if leg.hold else None,
        )
        for leg in legs
    ]


def _legs_from_pb(legs: Iterable[money_pb2.Leg]) -> tuple[core.Leg, ...]:
    return tuple(
        core.Leg(
            leg.bank,
            leg.account,
            money_from_pb(leg.money),
            _order_from_pb(leg.hold) if leg.HasField("hold") else None,
        )
        for leg in legs
    )


def _order_to_pb(order: core.HoldOrder) -> money_pb2.HoldOrder:
    return money_pb2.HoldOrder(
        verb=money_pb2.HoldOrder.Verb.Value(order.verb.value),
        authorisation=order.authorisation,
        expires_at_s=order.expires_at_s,
    )


def _order_from_pb(message: money_pb2.HoldOrder) -> core.HoldOrder:
    try:
        verb = core.Verb(money_pb2.HoldOrder.Verb.Name(message.verb))
    except ValueError:
        raise InvalidRequest("INVALID_AMOUNT", "a leg orders what no bank does with a hold") from None
    return core.HoldOrder(verb, message.authorisation, message.expires_at_s)


# Two-phase commit -----------------------------------------------------------------------------------


def commit_to_pb(commit: core.Commit) -> coordinator_pb2.Commit:
    """Write a Commit."""
    return coordinator_pb2.Commit(
        txn=txn_to_pb(commit.txn),
        legs=_legs_to_pb(commit.legs),
        expires_at_s=commit.expires_at_s,
        epoch=commit.epoch,
    )


def commit_from_pb(message: coordinator_pb2.Commit) -> core.Commit:
    """Read a Commit. Raises InvalidRequest when its legs do not sum to zero in one currency."""
    legs = _legs_from_pb(message.legs)
    currencies = {leg.money.currency for leg in legs}
    if len(currencies) != 1 or sum(leg.money.amount_minor for leg in legs) != 0:
        raise InvalidRequest("INVALID_AMOUNT", "the legs must sum to zero in one currency")
    return core.Commit(txn_from_pb(message.txn), legs, message.expires_at_s, message.epoch)


_OUTCOME_TO_PB = {
    core.Outcome.UNDECIDED: coordinator_pb2.UNDECIDED,
    core.Outcome.COMMITTED: coordinator_pb2.OUTCOME_COMMITTED,
    core.Outcome.ABORTED: coordinator_pb2.OUTCOME_ABORTED,
}
_OUTCOME_FROM_PB: dict[int, core.Outcome] = {number: outcome for outcome, number in _OUTCOME_TO_PB.items()}


def outcome_to_pb(outcome: core.Outcome) -> "coordinator_pb2.Outcome.ValueType":
    """Write an outcome."""
    return _OUTCOME_TO_PB[outcome]


def outcome_from_pb(number: int) -> core.Outcome:
    """Read an outcome; one that is not known counts as undecided, which changes nothing."""
    return _OUTCOME_FROM_PB.get(number, core.Outcome.UNDECIDED)


def answer_to_pb(answer: core.Answer) -> coordinator_pb2.Answer:
    """Write the coordinator's answer."""
    return coordinator_pb2.Answer(
        txn=txn_to_pb(answer.txn),
        outcome=outcome_to_pb(answer.outcome),
        reason=answer.reason,
        committed_attempt=answer.committed_attempt,
    )


def answer_from_pb(message: coordinator_pb2.Answer) -> core.Answer:
    """Read the coordinator's answer."""
    return core.Answer(
        txn_from_pb(message.txn),
        outcome_from_pb(message.outcome),
        message.reason,
        message.committed_attempt,
    )


def prepare_to_pb(prepare: core.Prepare) -> bank_pb2.Prepare:
    """Write a Prepare."""
    return bank_pb2.Prepare(
        txn=txn_to_pb(prepare.txn), legs=_legs_to_pb(prepare.legs), one_phase=prepare.one_phase
    )


def prepare_from_pb(message: bank_pb2.Prepare) -> core.Prepare:
    """Read a Prepare."""
    return core.Prepare(txn_from_pb(message.txn), _legs_from_pb(message.legs), message.one_phase)


def vote_to_pb(vote: core.Vote) -> bank_pb2.Vote:
    """Write a vote."""
    return bank_pb2.Vote(txn=txn_to_pb(vote.txn), yes=vote.yes, reason=vote.reason)


def vote_from_pb(message: bank_pb2.Vote) -> core.Vote:
    """Read a vote."""
    return core.Vote(txn_from_pb(message.txn), message.yes, message.reason)


def decide_to_pb(decide: core.Decide) -> bank_pb2.Decide:
    """Write a decision."""
    return bank_pb2.Decide(txn=txn_to_pb(decide.txn), commit=decide.commit)


def decide_from_pb(message: bank_pb2.Decide) -> core.Decide:
    """Read a decision."""
    return core.Decide(txn_from_pb(message.txn), message.commit)


def ack_to_pb(ack: core.Ack) -> bank_pb2.Ack:
    """Write an acknowledgement."""
    return bank_pb2.Ack(txn=txn_to_pb(ack.txn), ok=ack.ok, refusal=ack.refusal)


def ack_from_pb(message: bank_pb2.Ack) -> core.Ack:
    """Read an acknowledgement."""
    return core.Ack(txn_from_pb(message.txn), message.ok, message.refusal)


# Accounts and receipts ------------------------------------------------------------------------------


def account_to_pb(account: Account) -> bank_pb2.Account:
    """Write an account's balances."""
    return bank_pb2.Account(
        account=account.account,
        posted=money_to_pb(Money(account.posted_minor, account.currency)),
        held=money_to_pb(Money(account.held_minor, account.currency)),
        owner=account.owner,
        closed=account.closed,
    )


def receipt_to_pb(payment: Payment) -> payment_gateway_pb2.Receipt:
    """Write where a payment stands."""
    return payment_gateway_pb2.Receipt(
        payment=payment.payment,
        state=payment_gateway_pb2.PaymentState.Value(payment.state.value),
        reason=payment.reason,
        payer=payment.payer,
        payee=payment.payee,
        money=money_to_pb(payment.money),
        attempts=payment.attempt,
        idempotency_key=payment.key,
        accepted_at_s=payment.accepted_at_s,
        operation=payment_gateway_pb2.Operation.Value(payment.operation.value),
        about=payment.about,
        authorised_until_s=payment.authorised_until_s,
        key_until_s=payment.key_until_s,
    )


def when_short_to_pb(when_short: str) -> "payment_gateway_pb2.WhenShort.ValueType":
    """Write "decline" or "wait". Raises ValueError for any other word."""
    return payment_gateway_pb2.WhenShort.Value(f"WHEN_SHORT_{when_short.upper()}")


# What an event says --------------------------------------------------------------------------------

# Never shown, whatever records them.
SECRET_FIELDS = frozenset({"password", "access_token", "refresh_token", "token"})


def payments_of(message: Any) -> tuple[str, ...]:
    """The payments that a message is about, each once."""
    find = _PAYMENTS.get(type(message))
    return tuple(dict.fromkeys(find(message))) if find else ()


def _items(name: str) -> Callable[[Any], Sequence[str]]:
    return lambda message: [item.txn.payment for item in getattr(message, name)]


_PAYMENTS: dict[type, Callable[[Any], Sequence[str]]] = {
    payment_gateway_pb2.Receipt: lambda m: [m.payment],
    payment_gateway_pb2.GetPaymentRequest: lambda m: [m.payment],
    payment_gateway_pb2.RedriveRequest: lambda m: [m.payment],
    payment_gateway_pb2.GiveUpRequest: lambda m: [m.payment],
    payment_gateway_pb2.CancelPaymentRequest: lambda m: [m.payment],
    payment_gateway_pb2.RequeueRequest: lambda m: [m.payment],
    coordinator_pb2.CommitRequest: _items("items"),
    coordinator_pb2.CommitResponse: _items("answers"),
    coordinator_pb2.GetDecisionRequest: lambda m: [txn.payment for txn in m.txns],
    coordinator_pb2.AcknowledgeRequest: lambda m: [txn.payment for txn in m.txns],
    bank_pb2.PrepareRequest: _items("items"),
    bank_pb2.PrepareResponse: _items("votes"),
    bank_pb2.DecideRequest: _items("items"),
    bank_pb2.DecideResponse: _items("acks"),
    bank_pb2.InquireRequest: lambda m: [txn.payment for txn in m.txns],
    bank_pb2.InquireResponse: _items("votes"),
    transaction_logger_pb2.AppendRequest: lambda m: [event.payment for event in m.events],
    offline_queue_pb2.EnqueueRequest: lambda m: [item.payment for item in m.items],
}

# Calls that only keep the network alive; graphs and counts leave them out.
HOUSEKEEPING = frozenset(
    {
        "/paylab.v1.LoadBalancer/Register",
        "/paylab.v1.LoadBalancer/ReportLoad",
        "/paylab.v1.LoadBalancer/ListServers",
        "/paylab.v1.LoadBalancer/WatchServers",
        "/paylab.v1.Authentication/GetJwks",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    }
)
