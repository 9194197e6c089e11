"""Several gateways over one store, and how long keys are remembered."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from paylab import Lab
from paylab.core.idempotency import KEY_RETENTION_S
from paylab.errors import LabError
from paylab.lab.clients import LabClient
from paylab.lab.lab import open_labs
from paylab.nodes.host import Host
from paylab.nodes.passwords import PasswordCost
from paylab.nodes.payment_gateway import PaymentGateway
from tests.conftest import Eventually


@pytest.fixture(scope="module")
def two(cheap: PasswordCost, world: str) -> Iterator[Lab]:
    """A network with two gateways."""
    with Lab(name="two", gateways=2, bank_servers=1, password_cost=cheap, world=world) as lab:
        yield lab


def people(lab: Lab, name: str) -> tuple[LabClient, LabClient]:
    return (
        lab.client(f"{name}-payer", bank="alpine", balance="100.00 EUR"),
        lab.client(f"{name}-payee", bank="boreal"),
    )


def ask_first(client: LabClient, gateway: str) -> None:
    """Let a client begin at another gateway."""
    known = client._client._gateways
    client._client._gateways = (gateway, *(name for name in known if name != gateway))


def test_one_gateway_keeps_its_name(two: Lab) -> None:
    """The second one gets a number; how many is an argument that is checked."""
    assert [node for node in two.nodes if node.startswith("gateway")] == ["gateway", "gateway-2"]
    with pytest.raises(LabError, match="gateways is 1 to 9"):
        Lab(gateways=0)
    assert two in open_labs()


def test_both_answer_for_one_key(two: Lab) -> None:
    """What one gateway has carried out, the other one replays."""
    alice, bob = people(two, "replay")
    first = alice.pay(bob, "5.00 EUR", key="k")
    ask_first(alice, "gateway-2")
    again = alice.pay(bob, "5.00 EUR", key="k")
    assert again == first
    assert again.replayed
    assert not first.replayed
    assert str(bob.balance()) == "5.00 EUR"


def test_a_double_click_at_two_gateways_charges_once(two: Lab) -> None:
    """Twenty calls with one key, half of them at each gateway: one payment, one attempt."""
    alice, bob = people(two, "click")
    futures = []
    for n in range(20):
        ask_first(alice, "gateway-2" if n % 2 else "gateway")
        futures.append(alice.submit_pay(bob, "7.00 EUR", key="once"))
    receipts = {future.result(60) for future in futures}
    assert [(receipt.state, receipt.attempts) for receipt in receipts] == [("COMMITTED", 1)]
    assert str(bob.balance()) == "7.00 EUR"
    assert two.settle()
    assert two.check().ok, two.check()


def test_the_client_turns_to_the_other_gateway(two: Lab) -> None:
    """With one gateway gone the same key is asked for at the other, which also finishes what was begun."""
    alice, bob = people(two, "failover")
    alice.balance()
    futures = [alice.submit_pay(bob, "1.00 EUR", key=f"k{n}", deadline_s=60) for n in range(20)]
    futures[2].result(60)
    two.crash("gateway")
    receipts = [future.result(90) for future in futures]
    assert {receipt.state for receipt in receipts} == {"COMMITTED"}
    assert alice.payment(receipts[0].payment) == receipts[0]
    assert len(alice.payments()) == 20
    two.restart("gateway")
    assert two.settle(timeout_s=60)
    assert str(bob.balance()) == "20.00 EUR"
    assert two.check().ok, two.check()


def test_a_payment_is_watched_at_one_gateway_and_driven_at_another(two: Lab, eventually: Eventually) -> None:
    """Whoever watches learns of its end, although nobody tells this gateway."""
    alice, bob = people(two, "watch")
    alice.balance()
    two.crash("boreal-1")
    queued = alice.pay(bob, "1.00 EUR", key="k", deadline_s=60)
    assert queued.state == "QUEUED"
    ask_first(alice, "gateway-2")
    states = alice.watch(queued.payment)
    assert next(states).state == "QUEUED"
    two.restart("boreal-1")
    assert [receipt.state for receipt in states][-1] == "COMMITTED"
    eventually(lambda: two.settle(timeout_s=1))


def test_the_queue_turns_to_the_other_gateway(two: Lab, eventually: Eventually) -> None:
    """A payment that waits is paid although the gateway that the queue asks first is gone."""
    alice, bob = people(two, "queue")
    two.crash("boreal-1")
    queued = alice.pay(bob, "1.00 EUR", key="k", deadline_s=60)
    assert queued.state == "QUEUED"
    assert two.settle(timeout_s=60)
    two.crash("gateway")
    two.restart("boreal-1")
    eventually(lambda: alice.payment(queued.payment).state == "COMMITTED")
    two.restart("gateway")
    assert two.settle(timeout_s=60)


# How long keys are remembered -----------------------------------------------------------------------


def kept(lab: Lab) -> list[tuple[str, Any]]:
    return lab.world.rows("gateway", "SELECT key, key_kept FROM payments ORDER BY key")


class ForgetfulGateway(PaymentGateway):
    """Remembers keys for a minute."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, key_retention_s=60.0)


def test_an_answer_says_how_long_its_key_is_remembered(lab: Lab) -> None:
    """From the terminal state on, a decline's like any other's; the second answer says the same."""
    alice, bob = people(lab, "retention")
    for amount, key in (("1.00 EUR", "good"), ("999.00 EUR", "bad")):
        before = lab.world.now()
        receipt = alice.pay(bob, amount, key=key)
        assert before + KEY_RETENTION_S <= receipt.key_until_s <= lab.world.now() + KEY_RETENTION_S
        assert alice.pay(bob, amount, key=key).key_until_s == receipt.key_until_s


def test_old_keys_are_dropped_and_open_ones_never() -> None:
    """After its time a key is free again; that of a payment that still waits is kept for ever."""
    with Lab(
        name="old-keys", world="simulated", lease_s=300, replace={"node.gateway": ForgetfulGateway}
    ) as lab:
        alice, bob = people(lab, "old")
        first = alice.pay(bob, "1.00 EUR", key="done")
        refused = alice.pay(bob, "999.00 EUR", key="declined")
        lab.partition("gateway", "queue")
        for node in ("boreal-1", "boreal-2"):
            lab.crash(node)
        waiting = alice.pay(bob, "1.00 EUR", key="waits", deadline_s=60)
        assert waiting.state == "QUEUED"
        assert waiting.key_until_s == 0
        lab.advance("2 h")
        assert kept(lab) == [("declined", 0), ("done", 0), ("waits", 1)]
        again = alice.pay(bob, "1.00 EUR", key="waits", deadline_s=60)
        assert (again.payment, again.state, again.replayed) == (waiting.payment, "QUEUED", False)
        for node in ("boreal-1", "boreal-2"):
            lab.restart(node)
        lab.heal()
        lab.advance("10 min")
        other = alice.pay(bob, "2.00 EUR", key="done")
        assert (other.state, other.payment != first.payment) == ("COMMITTED", True)
        assert alice.payment(first.payment) == first
        assert alice.payment(refused.payment) == refused
        assert str(bob.balance()) == "4.00 EUR"
        assert lab.settle(timeout_s=60)
        assert lab.check().ok, lab.check()


def test_the_index_of_keys_is_as_long_as_the_retention() -> None:
    """Of a thousand payments in a day with keys of a minute, hardly any is left in it."""
    make = partial(Lab, world="simulated", lease_s=300, replace={"node.gateway": ForgetfulGateway})
    with make(name="bounded") as lab:
        alice, bob = people(lab, "many")
        for hour in range(4):
            futures = [alice.submit_pay(bob, "0.01 EUR", key=f"{hour}-{n}") for n in range(50)]
            assert {future.result(60).state for future in futures} == {"COMMITTED"}
            lab.advance("1 h")
        assert [count for (count,) in lab.world.rows("gateway", "SELECT count(*) FROM payments")] == [200]
        assert sum(keep for _, keep in kept(lab)) <= 50
        plan = lab.world.rows(
            "gateway",
            "EXPLAIN QUERY PLAN SELECT * FROM payments WHERE payments.key_kept IS 1 AND key IN ('0-1')",
        )
        assert any("payments_by_key" in str(row) for row in plan), plan
