"""The client library repeats itself safely: under the same key, in step with its budget, when it may."""

from collections.abc import Callable
from typing import Any

import pytest

from paylab import Lab
from paylab.core.retries import NoLimit
from paylab.errors import NotFound, OutcomeUnknown, Overloaded, Unauthenticated
from paylab.lab.clients import LabClient
from paylab.nodes.events import Event, Kind
from paylab.nodes.payment_gateway import PaymentGateway
from paylab.pb import payment_gateway_pb2 as pb

PAYMENTS, PATIENCE_S = 40, 10.0


def booted(**about: Any) -> Lab:
    return Lab(name="client-retries", bank_servers=1, auth_servers=1, world="simulated", **about)


def asked(lab: Lab, client: LabClient, method: str = "Pay") -> list[Event]:
    """Every time that a client sent a call."""
    return [
        event
        for event in lab.history
        if event.node == client.name and event.kind is Kind.SENT and event.method.endswith(f"/{method}")
    ]


def storm(lab: Lab) -> list[Event]:
    """Many payments at once while the gateway is away; what was sent until all have given up."""
    alice, bob = lab.client("alice", bank="alpine", balance="99.00 EUR"), lab.client("bob", bank="boreal")
    alice.pay(bob, "1.00 EUR")
    before = len(asked(lab, alice))
    lab.crash("gateway")
    calls = [alice.submit_pay(bob, "1.00 EUR", key=f"k{n}", deadline_s=PATIENCE_S) for n in range(PAYMENTS)]
    assert {type(call.exception()) for call in calls} == {OutcomeUnknown}
    lab.restart("gateway")
    return asked(lab, alice)[before:]


def test_many_that_fail_together_make_no_storm() -> None:
    """First tries, and retries as the budget has them: what it began with, a fifth, and one a second."""
    with booted() as lab:
        assert PAYMENTS < len(storm(lab)) <= PAYMENTS + 10 + 0.2 * PAYMENTS + PATIENCE_S + 1
    with booted(replace={"client.retry_budget": NoLimit}) as lab:
        assert len(storm(lab)) > 6 * PAYMENTS


def test_it_is_always_the_same_key() -> None:
    """However often an answer is lost, each try names the key of the first."""
    with booted() as lab:
        alice, bob = lab.client("alice", bank="alpine", balance="99.00 EUR"), lab.client("bob", bank="boreal")
        alice.pay(bob, "1.00 EUR")
        lab.partition("gateway", "alice", one_way=True)
        call = alice.submit_pay(bob, "1.00 EUR", deadline_s=60.0)
        lab.advance(25.0)
        lab.heal()
        receipt = call.result()
        tries = asked(lab, alice)[1:]
        assert len(tries) > 2
        assert {event.detail.idempotency_key for event in tries} == {receipt.key}
        assert len(alice.payments()) == 2


class BusyGateway(PaymentGateway):
    """Asks twice to be left alone for three seconds."""

    refused = 0

    async def Pay(self, request: pb.PayRequest, context: Any) -> pb.Receipt:  # noqa: N802 - as in the proto
        if self.refused < 2:
            self.refused += 1
            raise Overloaded(message="later", pushback_s=3.0)
        return await super().Pay(request, context)


def test_pushback_is_honoured() -> None:
    """Nothing is sent before the server's delay is over; what cannot be sent in time is not waited for."""
    with booted(replace={"node.gateway": BusyGateway}) as lab:
        alice, bob = lab.client("alice", bank="alpine", balance="99.00 EUR"), lab.client("bob", bank="boreal")
        began_s = lab.world.now()
        with pytest.raises(Overloaded):
            alice.pay(bob, "1.00 EUR", key="k", deadline_s=2.0)
        assert lab.world.now() - began_s < 1.0
        assert alice.pay(bob, "1.00 EUR", key="k").state == "COMMITTED"
        first, second, third = (event.at_s for event in asked(lab, alice))
        assert second - first < 3.0 < third - second < 4.0


class Suspicious(PaymentGateway):
    """Takes every token for one that has expired."""

    async def Pay(self, request: pb.PayRequest, context: Any) -> pb.Receipt:  # noqa: ARG002, N802 - as in the proto
        raise Unauthenticated("TOKEN_EXPIRED", "so I say")


def test_a_token_is_refreshed_once() -> None:
    """A second refusal is final: no loop of refreshing."""
    with booted(replace={"node.gateway": Suspicious}) as lab:
        alice, bob = lab.client("alice", bank="alpine", balance="99.00 EUR"), lab.client("bob", bank="boreal")
        with pytest.raises(Unauthenticated):
            alice.pay(bob, "1.00 EUR")
        assert len(asked(lab, alice)) == 2
        assert len(asked(lab, alice, "Refresh")) == 1


@pytest.mark.parametrize(
    ("ask", "method"),
    [
        (lambda client: client.payment("nothing"), "GetPayment"),
        (lambda client: client.cancel("no"), "CancelPayment"),
    ],
)
def test_what_is_refused_is_asked_once(ask: Callable[[LabClient], object], method: str) -> None:
    """The same question would get the same answer."""
    with booted() as lab:
        alice = lab.client("alice")
        with pytest.raises(NotFound):
            ask(alice)
        assert len(asked(lab, alice, method)) == 1
