"""Nodes die in the middle of many payments; after a restart each has one end and no money is missing."""

from collections.abc import Iterator, Sequence
from itertools import count

import pytest

from paylab import Lab, Receipt
from paylab.core.coordinator import Timing
from paylab.core.retry_schedule import RetrySchedule
from paylab.errors import OutcomeUnknown
from paylab.lab.clients import LabClient
from paylab.lab.loop import LabFuture
from paylab.nodes.coordinator import CoordinatorNode
from paylab.nodes.host import Host
from paylab.nodes.offline_queue import OfflineQueue
from paylab.nodes.passwords import PasswordCost

PAYMENTS = 60
NAMES = count(1)


class PatientCoordinator(CoordinatorNode):
    """Asks again soon, but does not give a bank up while a busy machine is slow."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, timing=Timing(vote_deadline_s=5.0, resend_first_s=0.2, resend_cap_s=0.5))


class HastyQueue(OfflineQueue):
    """Tries again soon."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, schedule=RetrySchedule(base_s=0.1, cap_s=0.5))


@pytest.fixture(scope="module")
def busy(cheap: PasswordCost, world: str) -> Iterator[Lab]:
    """A network to be broken; closing it raises what failed in the background."""
    replace = {"node.coordinator": PatientCoordinator, "node.queue": HastyQueue}
    with Lab(name="busy", replace=replace, password_cost=cheap, world=world) as lab:
        yield lab


def started(lab: Lab) -> tuple[list[LabFuture[Receipt]], list[LabClient]]:
    """Many payments under way at once, across banks and inside one, and some of them done already."""
    n = next(NAMES)
    people = [
        lab.client(f"p{n}-{i}", bank=("alpine", "boreal")[i % 2], balance="100.00 EUR") for i in range(4)
    ]
    futures = [
        people[i % 4].submit_pay(people[(i + 1 + i // 4 % 3) % 4], "1.00 EUR", key=f"k{i}", deadline_s=60)
        for i in range(PAYMENTS)
    ]
    futures[PAYMENTS // 10].result(60)
    return futures, people


def ended(lab: Lab, futures: Sequence[LabFuture[Receipt]], people: Sequence[LabClient]) -> None:
    """Everybody has an answer, nothing is in doubt, the checks hold, and each payment was charged once."""
    receipts = [future.result(90) for future in futures]
    assert lab.settle(timeout_s=30), "something stayed in doubt"
    report = lab.check()
    assert report.ok, report
    assert report.in_doubt == 0
    assert len({receipt.payment for receipt in receipts}) == PAYMENTS
    assert sum(person.balance().amount_minor for person in people) == 4 * 10_000
    states = {r.payment: r.state for person in people for r in person.payments()}
    assert {states[receipt.payment] for receipt in receipts} <= {"COMMITTED", "QUEUED", "PREPARING"}


@pytest.mark.parametrize(
    "node", ["coordinator", "gateway", "alpine-1", "boreal-2", "bank-lb", "auth-1", "logger"]
)
def test_a_node_crashes_in_the_middle(busy: Lab, node: str) -> None:
    """It dies without a word and comes back from its disk; nothing is lost and nothing is done twice."""
    futures, people = started(busy)
    busy.crash(node)
    busy.restart(node)
    ended(busy, futures, people)


def test_the_twin_serves_on(busy: Lab) -> None:
    """While one server of each bank stays down, every payment is committed by the other."""
    futures, people = started(busy)
    busy.crash("alpine-1")
    busy.crash("boreal-2")
    assert {future.result(90).state for future in futures} == {"COMMITTED"}
    busy.restart("alpine-1")
    busy.restart("boreal-2")
    ended(busy, futures, people)


def test_everybody_crashes_one_after_the_other(busy: Lab) -> None:
    """The coordinator three times, the gateway twice and a bank server, all under the same payments."""
    futures, people = started(busy)
    for node in ("coordinator", "gateway", "coordinator", "alpine-2", "gateway", "coordinator"):
        busy.crash(node)
        busy.restart(node)
    ended(busy, futures, people)


def test_a_crashed_coordinator_forgets_no_decision(busy: Lab) -> None:
    """A client that gave up waiting while it was down asks again with the same keys and is charged once."""
    n = next(NAMES)
    alice = busy.client(f"alice-{n}", bank="alpine", balance="100.00 EUR")
    bob = busy.client(f"bob-{n}", bank="boreal")
    futures = [alice.submit_pay(bob, "1.00 EUR", key=f"k{i}", deadline_s=1.0) for i in range(20)]
    busy.crash("coordinator")
    for future in futures:
        if (error := future.exception(30)) is not None:
            assert isinstance(error, OutcomeUnknown)
    busy.restart("coordinator")
    receipts = [alice.pay(bob, "1.00 EUR", key=f"k{i}") for i in range(20)]
    assert {receipt.state for receipt in receipts} == {"COMMITTED"}
    assert busy.settle(timeout_s=30)
    assert (str(alice.balance()), str(bob.balance())) == ("80.00 EUR", "20.00 EUR")
    assert busy.check().ok


def test_no_commit_record_is_left(busy: Lab) -> None:
    """When all is settled the coordinator's log is empty, however often it was restarted."""
    futures, people = started(busy)
    busy.crash("boreal-1")
    busy.crash("boreal-2")
    busy.crash("coordinator")
    for node in ("boreal-1", "coordinator", "boreal-2"):
        busy.restart(node)
    ended(busy, futures, people)
    assert busy.world.rows("coordinator", "SELECT count(*) FROM commits") == [(0,)]
