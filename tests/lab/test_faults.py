"""One schedule of faults, in both worlds: afterwards every invariant holds and every payment has an end."""

import pytest

import paylab
from paylab.errors import PaylabError
from paylab.lab.faults import (
    at,
    crash,
    crash_at_commit,
    delay,
    duplicate,
    heal,
    lose,
    lose_between,
    mend,
    partition,
    pause,
    reorder,
    restart,
    resume,
    skew,
    slow,
)

SCHEDULE = [
    at(0.1, lose(0.1)),
    at(0.2, duplicate(0.3)),
    at(0.3, reorder(0.3, 0.2)),
    at(0.5, crash_at_commit("coordinator", "before", 2)),
    at(0.9, restart("coordinator")),
    at(1.0, pause("alpine-1")),
    at(1.2, partition("bank-lb", "boreal-2", one_way=True)),
    at(1.4, delay("gateway", "coordinator", 0.05)),
    at(1.5, resume("alpine-1")),
    at(1.6, crash_at_commit("boreal-1", "unanswered")),
    at(1.7, skew("gateway", 0.5)),
    at(1.8, slow("bank-lb", 10.0)),
    at(2.0, crash_at_commit("gateway", "after")),
    at(2.4, heal()),
    at(2.4, slow("bank-lb", 1.0)),
    at(2.4, skew("gateway", 0.0)),
    at(2.6, restart("boreal-1")),
    at(2.6, restart("gateway")),
]


def start_all(lab: paylab.Lab) -> None:
    for node in lab.nodes:
        if not lab.is_up(node):
            lab.restart(node)


@pytest.mark.parametrize("world", ["simulated", "real"])
def test_a_schedule_that_is_cancelled_goes_no_further(world: str) -> None:
    """What it has done stays done; what it would have done later does not happen."""
    with paylab.Lab(world=world, name=f"cancelled-{world}") as lab:
        injecting = lab.inject([at(0.0, crash("logger")), at(0.5, crash("queue"))])
        lab.advance(0.1)
        assert injecting.cancel()
        lab.advance(0.6)
        assert not lab.is_up("logger")
        assert lab.is_up("queue")
        lab.restart("logger")


@pytest.mark.parametrize("world", ["simulated", "real"])
def test_a_schedule_runs_in_either_world(world: str) -> None:
    """Messages are lost, doubled and late, nodes die at commits, and no payment is lost or doubled."""
    with paylab.Lab(world=world, seed=3, name=f"faults-{world}") as lab:
        ada = lab.client("ada", bank="alpine", balance="100.00 EUR")
        bob = lab.client("bob", bank="boreal")
        injecting = lab.inject(SCHEDULE)
        sent = []
        for batch in range(6):
            lab.advance(0.4)
            sent += [ada.submit_pay(bob, "1.00 EUR", key=f"{batch}/{n}", deadline_s=3.0) for n in range(3)]
        injecting.result(60)
        for payment in sent:
            error = payment.exception(60)
            assert error is None or (isinstance(error, PaylabError) and not error.definite)
        keys = [f"{batch}/{n}" for batch in range(6) for n in range(3)]
        asking = [ada.submit_pay(bob, "1.00 EUR", key=key, deadline_s=60.0) for key in keys]
        while not all(asked.done() for asked in asking):
            lab.advance(0.3)
            start_all(lab)  # a death that was armed may come only now
        again = [asked.result(60) for asked in asking]
        start_all(lab)
        assert lab.settle(timeout_s=60.0)
        for _ in range(120):  # what was queued is tried again by and by
            if {ada.payment(receipt.payment).state for receipt in again} == {"COMMITTED"}:
                break
            lab.advance(0.5)
        assert lab.settle(timeout_s=60.0)
        report = lab.check()
        assert report.ok, report
        assert lab.balances()["boreal/bob"] == paylab.Money(18_00, "EUR")


def test_one_link_loses_until_it_is_mended() -> None:
    """Loss between two nodes stops what goes between them, nothing else, until that link is mended."""
    with paylab.Lab(world="simulated", seed=5, name="one-link") as lab:
        ada = lab.client("ada", bank="alpine", balance="100.00 EUR")
        bob = lab.client("bob", bank="boreal")
        lab.inject(
            [at(0.0, lose_between("bank-lb", "boreal-1", 1.0)), at(0.0, delay("gateway", "logger", 0.5))]
        )
        lab.advance(0.1)
        lost = dict(lab.world.troubles().losses)
        assert lost == {("bank-lb", "boreal-1"): 1.0, ("boreal-1", "bank-lb"): 1.0}
        before = arrived(lab, "boreal-1")
        receipts = [ada.pay(bob, "1.00 EUR") for _ in range(6)]
        assert arrived(lab, "boreal-1") == before
        assert arrived(lab, "boreal-2") > 0
        lab.inject([at(0.0, mend("bank-lb", "boreal-1"))])
        lab.advance(60.0)  # its balancer has ejected it meanwhile
        assert lab.world.troubles().losses == {}
        assert lab.world.troubles().delays[("gateway", "logger")] == 0.5
        receipts += [ada.pay(bob, "1.00 EUR") for _ in range(6)]
        assert arrived(lab, "boreal-1") > before
        assert lab.settle()
        assert {ada.payment(receipt.payment).state for receipt in receipts} <= {"COMMITTED", "QUEUED"}


def arrived(lab: paylab.Lab, node: str) -> int:
    """How many requests about payments have reached a node."""
    return sum(
        event.node == node and event.kind == "received" and bool(event.payments) for event in lab.history
    )
