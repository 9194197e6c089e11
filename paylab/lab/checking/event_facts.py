"""What an event says, for machines: the facts that checks fold over, from both worlds and from a file.

A node writes the facts of its forced writes and changes of state into the event. What an RPC says stands in
its message, and is read from there only when somebody asks. Every set of facts is a JSON object whose "at"
tells what it is about:

| at | who | what it says |
|---|---|---|
| opened | a bank server | bank, accounts: [[account, amount_minor, currency], …] |
| bank | a bank server | bank, txn, state, reason; legs, lines, after: [[account, posted, held], …] |
| expired | a bank server | bank, authorisation, released_minor, after: it let go of what was held |
| refusal | a bank server | bank, txn, refusal: a decision that contradicts the bank's row |
| decision | the coordinator | txn, banks: its commit record is durable |
| coordinator | the coordinator | txn, outcome, reason, committed_attempt: its answer |
| decide | the coordinator | items: [[txn, commit], …], on their way to a bank |
| votes | a bank server | votes: [[txn, yes, reason], …], on their way to the coordinator |
| gateway | the gateway | payment, attempt, state, reason, caller, key, payer, payee, amount_minor, currency |
| | | operation; about, authorised_until_s where it has them |
| forgotten | the gateway | keys: [[caller, key], …] whose time is over |
| logger | the logger | events: the ids that it appended |
| queue | the queue | queued: the payments that it took in |
| receipt | who gives or gets one | what the gateway says, without caller and attempt; attempts |
| quiet | the lab | it waited until nothing was in doubt, open or unsent |
"""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from paylab.nodes.events import Event, Kind
from paylab.pb import bank_pb2
from paylab.pb import payment_gateway_pb2 as gateway_pb

Facts = Mapping[str, Any]


def facts_of(event: Event) -> Facts | None:
    """An event's facts; None for one that says nothing that is checked."""
    if event.facts is not None:
        return event.facts
    read = _READ.get(type(event.detail))
    return read[1](event.detail) if read is not None and event.kind in read[0] else None


def _receipt(message: Any) -> Facts:
    return {
        "at": "receipt",
        "payment": message.payment,
        "state": gateway_pb.PaymentState.Name(message.state),
        "reason": message.reason,
        "key": message.idempotency_key,
        "payer": message.payer,
        "payee": message.payee,
        "amount_minor": message.money.amount_minor,
        "currency": message.money.currency,
        "attempts": message.attempts,
        "operation": gateway_pb.Operation.Name(message.operation),
        "about": message.about,
        "authorised_until_s": message.authorised_until_s,
        "key_until_s": message.key_until_s,
    }


def _decide(message: Any) -> Facts:
    items = [[f"{item.txn.payment}/{item.txn.attempt}", item.commit] for item in message.items]
    return {"at": "decide", "items": items}


def _votes(message: Any) -> Facts:
    votes = [[f"{vote.txn.payment}/{vote.txn.attempt}", vote.yes, vote.reason] for vote in message.votes]
    return {"at": "votes", "votes": votes}


# By type, which tells most events apart at the first look.
_READ: dict[type[Message], tuple[tuple[Kind, ...], Callable[[Any], Facts]]] = {
    gateway_pb.Receipt: ((Kind.ANSWERED, Kind.RETURNED), _receipt),
    bank_pb2.DecideRequest: ((Kind.SENT,), _decide),
    bank_pb2.PrepareResponse: ((Kind.ANSWERED,), _votes),
    bank_pb2.InquireResponse: ((Kind.ANSWERED,), _votes),
}
