"""The wire: errors keep their reason, messages keep their content, secrets are not shown."""

from dataclasses import replace
from typing import get_type_hints

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.messages import Ack, Answer, Commit, Decide, Leg, Outcome, Prepare, Txn, Vote
from paylab.core.money import MINOR_DIGITS, Money
from paylab.core.payment import Payment, State
from paylab.errors import ERROR_OF_REASON, InvalidRequest, OutcomeUnknown, Overloaded, PaylabError
from paylab.nodes import wire
from paylab.pb import authentication_pb2, bank_pb2, coordinator_pb2, money_pb2, payment_gateway_pb2

MONEY = st.builds(Money, st.integers(-(2**63), 2**63 - 1), st.sampled_from(sorted(MINOR_DIGITS)))
TXNS = st.builds(Txn, st.text(), st.integers(0, 2**32 - 1))
LEGS = st.lists(st.builds(Leg, st.text(), st.text(), MONEY), max_size=4).map(tuple)


def failed(
    code: grpc.StatusCode, message: str, trailers: tuple[tuple[str, bytes], ...]
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), message)


@pytest.mark.parametrize("reason", sorted(ERROR_OF_REASON))
def test_every_error_survives_the_wire(reason: str) -> None:
    """Class, reason, message and what is known of the outcome arrive as they left."""
    kind = ERROR_OF_REASON[reason]
    sent = kind(reason, "for people") if kind is not Overloaded else Overloaded(reason, "for people", 1.25)
    received = wire.status_to_error(failed(*wire.error_to_status(sent)))
    assert type(received) is kind
    assert (received.reason, received.message, received.definite) == (reason, "for people", sent.definite)
    if isinstance(received, Overloaded):
        assert received.pushback_s == 1.25


@pytest.mark.parametrize("reason", sorted(ERROR_OF_REASON))
def test_status_code_and_details_agree(reason: str) -> None:
    """A tool that knows google.rpc.Status and nothing of paylab reads code, reason and domain."""
    code, message, ((key, value),) = wire.error_to_status(ERROR_OF_REASON[reason](reason))
    status = status_pb2.Status.FromString(value)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert key == "grpc-status-details-bin"
    assert (status.code, status.message) == (code.value[0], message)
    assert (info.reason, info.domain) == (reason, "paylab")


def test_every_reason_has_a_status_and_an_error() -> None:
    """The two tables speak of the same reasons."""
    assert set(wire.STATUS_OF_REASON) == set(ERROR_OF_REASON)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_a_failure_without_details_is_indefinite(code: grpc.StatusCode) -> None:
    """The transport failed: whatever the code says, it may have happened."""
    error = wire.status_to_error(failed(code, "", ()))
    assert isinstance(error, OutcomeUnknown)
    assert error.definite is False


def test_details_of_another_kind_are_indefinite() -> None:
    """A reason that we do not know is not taken for a refusal."""
    trailers = wire.error_to_status(PaylabError("NOT_FOUND"))[2]
    odd = ((trailers[0][0], trailers[0][1].replace(b"NOT_FOUND", b"NOT_FOUNT")),)
    assert isinstance(wire.status_to_error(failed(grpc.StatusCode.NOT_FOUND, "", odd)), OutcomeUnknown)


@given(TXNS)
def test_a_transaction_id_survives_text_and_wire(txn: Txn) -> None:
    """Also when a payment's id holds a slash."""
    assert wire.txn_from_text(str(txn)) == txn
    assert wire.txn_from_pb(wire.txn_to_pb(txn)) == txn


@given(TXNS, LEGS, st.booleans(), st.text())
def test_two_phase_commit_survives_the_wire(txn: Txn, legs: tuple[Leg, ...], yes: bool, text: str) -> None:  # noqa: FBT001 - drawn
    """Every message arrives as it left."""
    prepare, vote = Prepare(txn, legs, yes), Vote(txn, yes, text)
    decide, ack = Decide(txn, yes), Ack(txn, yes, text)
    assert wire.prepare_from_pb(wire.prepare_to_pb(prepare)) == prepare
    assert wire.vote_from_pb(wire.vote_to_pb(vote)) == vote
    assert wire.decide_from_pb(wire.decide_to_pb(decide)) == decide
    assert wire.ack_from_pb(wire.ack_to_pb(ack)) == ack


@given(TXNS, st.sampled_from(list(Outcome)), st.text(), st.integers(0, 2**32 - 1))
def test_an_answer_survives_the_wire(txn: Txn, outcome: Outcome, reason: str, attempt: int) -> None:
    """The outcome, its reason and the attempt that committed."""
    answer = Answer(txn, outcome, reason, attempt)
    assert wire.answer_from_pb(wire.answer_to_pb(answer)) == answer


def test_an_outcome_that_nobody_sent_is_undecided() -> None:
    """A default value is no decision, so it changes nothing."""
    assert wire.answer_from_pb(coordinator_pb2.Answer()).outcome is Outcome.UNDECIDED


@pytest.mark.parametrize(
    "legs",
    [
        (),
        (Leg("a", "x", Money(-5, "EUR")), Leg("b", "y", Money(4, "EUR"))),
        (Leg("a", "x", Money(-5, "EUR")), Leg("b", "y", Money(5, "USD"))),
    ],
)
def test_legs_that_make_money_are_refused(legs: tuple[Leg, ...]) -> None:
    """They must sum to zero in one currency, whoever asks."""
    message = wire.commit_to_pb(Commit(Txn("p", 1), legs, 1.0, 1))
    with pytest.raises(InvalidRequest):
        wire.commit_from_pb(message)


@given(st.text(max_size=4))
def test_unknown_currencies_are_refused_on_arrival(currency: str) -> None:
    """What comes in from the wire passes the same gate as what is made here."""
    message = money_pb2.Money(amount_minor=5, currency=currency)
    if currency in MINOR_DIGITS:
        assert wire.money_from_pb(message) == Money(5, currency)
    else:
        with pytest.raises(InvalidRequest):
            wire.money_from_pb(message)


def test_a_receipt_shows_every_state() -> None:
    """Each of a payment's states has a name on the wire."""
    saved = Payment("p", "alice", "k", "f", "a/x", "b/y", Money(5, "EUR"), attempt=2, reason="R")
    for state in State:
        receipt = wire.receipt_to_pb(replace(saved, state=state))
        assert payment_gateway_pb2.PaymentState.Name(receipt.state) == state.value
    assert len(payment_gateway_pb2.PaymentState.keys()) == len(State) + 1
    assert set(get_type_hints(Payment)) >= {"payment", "payer", "payee", "money", "reason"}


def test_payments_of_a_batch_are_named_once() -> None:
    """A message says which payments it is about, and a request that is about none says none."""
    request = bank_pb2.DecideRequest(
        items=[
            bank_pb2.Decide(txn=money_pb2.Txn(payment=name, attempt=n))
            for n, name in enumerate(["p1", "p2", "p1"])
        ]
    )
    assert wire.payments_of(request) == ("p1", "p2")
    assert wire.payments_of(authentication_pb2.LoginRequest(username="alice")) == ()
    assert wire.payments_of(b"raw bytes at a balancer") == ()
