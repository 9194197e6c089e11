"""What the messages of a payment say, in plain English."""

from collections.abc import Callable, Iterable
from typing import Any

from paylab.nodes import wire
from paylab.nodes.events import Event, Kind
from paylab.pb import (
    bank_pb2,
    coordinator_pb2,
    offline_queue_pb2,
    payment_gateway_pb2,
    transaction_logger_pb2,
)


def asked(event: Event) -> str:
    """What the sender of a call asks for; empty for a call that no story tells of."""
    asks = _ASKS.get(type(event.detail))
    return asks(event) if asks is not None else ""


def _pay(event: Event) -> str:
    request = event.detail
    money = wire.money_from_pb(request.money)
    who, key = f"from {request.payer} to {request.payee}", request.idempotency_key
    return f"{event.node} asked to pay {money} {who}, key {key!r}"


def _prepare(event: Event) -> str:
    banks = dict.fromkeys(leg.bank for item in event.detail.items for leg in item.legs)
    alone = ", as the only bank," if one_phase(event.detail) else ""
    return f"the coordinator asked {' and '.join(banks)}{alone} to prepare {_txns(event.detail.items)}"


def _decide(event: Event) -> str:
    what = "commit" if all(item.commit for item in event.detail.items) else "abort"
    return f"the coordinator told a bank to {what} {_txns(event.detail.items)}"


_ASKS: dict[type, Callable[[Event], str]] = {
    payment_gateway_pb2.PayRequest: _pay,
    payment_gateway_pb2.RedriveRequest: lambda e: (
        f"the queue asked the gateway to try {e.detail.payment} again"
    ),
    coordinator_pb2.CommitRequest: lambda e: (
        f"the gateway asked the coordinator to carry out {_txns(e.detail.items)}"
    ),
    coordinator_pb2.GetDecisionRequest: lambda e: (
        f"{e.node}, in doubt, asked the coordinator about {_txns(e.detail.txns)}"
    ),
    offline_queue_pb2.EnqueueRequest: lambda e: (
        f"the gateway told the queue of {' and '.join(dict.fromkeys(i.payment for i in e.detail.items))}"
    ),
    transaction_logger_pb2.AppendRequest: lambda e: (
        f"the gateway told the logger of {' and '.join(one.event_id for one in e.detail.events)}"
    ),
    bank_pb2.PrepareRequest: _prepare,
    bank_pb2.DecideRequest: _decide,
    bank_pb2.InquireRequest: lambda e: f"the coordinator asked what became of {_txns(e.detail.txns)}",
}


def _votes(votes: Iterable[Any]) -> str:
    said = {str(vote.txn): "yes" if vote.yes else f"no ({vote.reason})" for vote in votes}
    return " and ".join(said.values())


def _outcome(value: Any) -> str:
    return coordinator_pb2.Outcome.Name(value).removeprefix("OUTCOME_")


_SAYS: dict[type, Callable[[Any], str]] = {
    payment_gateway_pb2.Receipt: lambda m: (
        f"{payment_gateway_pb2.PaymentState.Name(m.state)} {m.reason}".rstrip() + f", payment {m.payment}"
    ),
    coordinator_pb2.CommitResponse: lambda m: " and ".join(
        f"{_outcome(answer.outcome)} {answer.reason}".rstrip() for answer in m.answers
    ),
    coordinator_pb2.GetDecisionResponse: lambda m: " and ".join(map(_outcome, m.outcomes)),
    bank_pb2.PrepareResponse: lambda m: _votes(m.votes),
    bank_pb2.InquireResponse: lambda m: _votes(m.votes),
    bank_pb2.DecideResponse: lambda m: " and ".join("done" if a.ok else f"no ({a.refusal})" for a in m.acks),
}


def said(message: Any) -> str:
    """What an answer says; empty for one that only says that it is one."""
    says = _SAYS.get(type(message))
    return says(message) if says is not None else ""


def who(node: str) -> str:
    """The node as a sentence calls it."""
    return f"the {node}" if node in ("gateway", "coordinator", "queue", "logger") else node


def names(message: Any, txn: str) -> bool:
    """Whether a message to a bank is about this transaction."""
    return txn in _txns(getattr(message, "items", None) or message.txns)


def supersedes(event: Event, txn: str) -> bool:
    """Whether a bank learns from this event that a later attempt of the payment is open."""
    if event.kind is not Kind.RECEIVED or not isinstance(event.detail, bank_pb2.PrepareRequest):
        return False
    payment, _, attempt = txn.rpartition("/")
    return any(item.txn.payment == payment and item.txn.attempt > int(attempt) for item in event.detail.items)


def one_phase(request: bank_pb2.PrepareRequest) -> bool:
    """Whether its bank is the only one."""
    return any(item.one_phase for item in request.items)


def _txns(items: Iterable[Any]) -> str:
    # What was sent again in the meantime stands in a batch more than once.
    return " and ".join(dict.fromkeys(str(wire.txn_from_pb(getattr(item, "txn", item))) for item in items))
