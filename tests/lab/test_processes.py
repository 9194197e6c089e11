"""Nodes as operating-system processes: killed at random and at each of their forced writes, nothing is lost.

This is process death, not power loss: what a process has handed to the operating system survives it.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import pytest

from paylab import Lab, Receipt
from paylab.core.coordinator import Timing
from paylab.core.retry_schedule import RetrySchedule
from paylab.errors import LabError, OutcomeUnknown
from paylab.lab.clients import LabClient
from paylab.lab.loop import LabFuture
from paylab.lab.processes.death import Death
from paylab.nodes.coordinator import CoordinatorNode
from paylab.nodes.events import Kind
from paylab.nodes.host import Host
from paylab.nodes.offline_queue import OfflineQueue
from paylab.nodes.passwords import PasswordCost
from paylab.nodes.transaction_logger import TransactionLogger

Eventually = Callable[..., None]

PROCESSES = ("coordinator", "alpine-1", "alpine-2", "boreal-1")
KILLS, AT_ONCE = 20, 2
# A client asks again with the same key for so long; the whole test takes less.
PATIENCE_S = 110.0
IN_DOUBT_MAX_S = 10.0
NAMES = count(1)
# Every forced write of a coordinator and of a bank, and what makes it happen.
COORDINATOR_WRITES = (
    ("EPOCH", ""),
    ("COMMIT", "across"),
    ("SAVED", "across"),
    ("RESOLVED", "operator"),  # the audit of what an operator decides
)
BANK_WRITES = (
    ("PREPARED", "across"),
    ("COMMITTED", "across"),
    ("COMMITTED", "inside"),  # in one phase
    ("ABORTED", "too much"),  # a no in one phase
    ("ABORTED", "unknown"),  # an inquiry about a one-phase payment that never came
)


class HastyCoordinator(CoordinatorNode):
    """Gives a silent bank up soon."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, timing=Timing(vote_deadline_s=1.5, resend_first_s=0.2, resend_cap_s=0.5))


class HastyQueue(OfflineQueue):
    """Tries again soon."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, schedule=RetrySchedule(base_s=0.1, cap_s=0.5))


@pytest.fixture(scope="module")
def lab(cheap: PasswordCost) -> Iterator[Lab]:
    """Two banks of two servers, one of them in the kernel; closing it raises what went wrong."""
    replace = {"node.coordinator": HastyCoordinator, "node.queue": HastyQueue}
    with Lab(name="processes", processes=PROCESSES, replace=replace, password_cost=cheap) as lab:
        yield lab


class Payers:
    """People who pay each other all the time, and what must be true in the end."""

    def __init__(self, lab: Lab, people: int) -> None:
        n = next(NAMES)
        self.lab = lab
        self.people = [
            lab.client(f"p{n}-{i}", bank=("alpine", "boreal")[i % 2], balance="1000.00 EUR")
            for i in range(people)
        ]
        self.shop = lab.client(f"shop-{n}", bank="alpine")
        self.futures: list[LabFuture[Receipt]] = []
        self.unaffordable: list[LabFuture[Receipt]] = []

    def pay(self, payer: LabClient, payee: LabClient, amount: str = "1.00 EUR") -> LabFuture[Receipt]:
        number = len(self.futures) + len(self.unaffordable)
        future = payer.submit_pay(payee, amount, key=f"k{number}", deadline_s=PATIENCE_S)
        (self.futures if amount == "1.00 EUR" else self.unaffordable).append(future)
        return future

    def ended(self, eventually: Eventually) -> None:
        """Nothing is in doubt, each payment was carried out once or was declined, and no cent is missing."""
        assert self.lab.settle(timeout_s=IN_DOUBT_MAX_S), "something is in doubt"
        open_payments = "SELECT count(*) FROM payments WHERE state NOT IN ('COMMITTED', 'DECLINED')"
        eventually(lambda: self.lab.world.rows("gateway", open_payments) == [(0,)], "a payment has no end")
        receipts = [future.result(60) for future in [*self.futures, *self.unaffordable]]
        everybody = [*self.people, self.shop]
        states = {r.payment: r.state for person in everybody for r in person.payments(limit=1_000)}
        ends = Counter(states[receipt.payment] for receipt in receipts)
        assert len({receipt.payment for receipt in receipts}) == len(receipts)
        assert ends == +Counter(COMMITTED=len(self.futures), DECLINED=len(self.unaffordable))
        assert self.lab.settle(timeout_s=IN_DOUBT_MAX_S)
        report = self.lab.check()
        assert report.ok, report
        assert report.in_doubt == 0
        assert sum(person.balance().amount_minor for person in everybody) == 100_000 * len(self.people)


def test_servers_and_coordinator_are_killed_at_random(lab: Lab, eventually: Eventually) -> None:
    """Twenty times SIGKILL under load, two at a time: every payment has one end, nothing stays in doubt."""
    rng, payers = random.Random(8), Payers(lab, 6)  # noqa: S311 - who is killed is no secret
    for _ in range(KILLS // AT_ONCE):
        for _ in range(12):
            payer, payee = rng.sample(payers.people, 2)
            payers.pay(payer, payee)
        killed = rng.sample(PROCESSES, AT_ONCE)
        lab.advance(rng.uniform(0.0, 0.3))
        for node in killed:
            lab.crash(node)
        for restarting in [lab.submit(lab.network.restart(node)) for node in killed]:
            restarting.result(60)
    payers.ended(eventually)


def provoke(payers: Payers, how: str, lab: Lab, eventually: Eventually) -> None:
    """Begin what makes the write happen."""
    alice, bob = payers.people[0], payers.people[1]
    match how:
        case "across":
            payers.pay(alice, bob)
        case "inside":
            payers.pay(alice, payers.shop)
        case "too much":
            payers.pay(alice, payers.shop, "5000.00 EUR")
        case "unknown":
            asked = inquiries(lab)
            payers.pay(alice, payers.shop)
            eventually(lambda: inquiries(lab) > asked, "the coordinator does not ask")
        case "operator":
            lab.crash("alpine-1")
            provoke(payers, "unknown", lab, eventually)
            with pytest.raises(OutcomeUnknown):
                lab.operator.resolve(asking(lab), "ABORTED")
            lab.restart("alpine-1")


def asking(lab: Lab) -> str:
    """The payment whose only bank does not answer."""
    return next(entry.payment for entry in lab.operator.in_doubt() if entry.phase == "ASKING")


def inquiries(lab: Lab) -> int:
    return sum(event.method.endswith("/Inquire") for event in lab.history)


def kill_itself(
    lab: Lab, payers: Payers, node: str, writes: Sequence[tuple[str, str]], eventually: Eventually
) -> None:
    """Let a node die right before and right after each of these writes, and restart it every time."""
    for write, how in writes:
        for point in ("before", "after"):
            if lab.is_up(node):
                lab.crash(node)
            if how == "unknown":  # it must be asked about what it has not seen
                provoke(payers, how, lab, eventually)
            lab.restart(node, death=Death(point, write))
            if how != "unknown":
                provoke(payers, how, lab, eventually)
            eventually(lambda: not lab.is_up(node), f"{node} did not die {point} {write}")
    lab.restart(node)


@pytest.mark.parametrize(
    ("node", "writes"),
    [
        pytest.param("coordinator", COORDINATOR_WRITES, id="coordinator"),
        pytest.param("alpine-1", BANK_WRITES, id="bank"),
    ],
)
def test_each_kills_itself_at_each_of_its_forced_writes(
    lab: Lab, node: str, writes: Sequence[tuple[str, str]], eventually: Eventually
) -> None:
    """Right before and right after every kind of forced write, one after the other; then all is well."""
    payers = Payers(lab, 2)
    lab.crash("alpine-2")  # whatever is asked of alpine, alpine-1 must write
    kill_itself(lab, payers, node, writes, eventually)
    lab.restart("alpine-2")
    payers.ended(eventually)


def test_these_are_all_forced_writes(cheap: PasswordCost, eventually: Eventually) -> None:
    """What coordinator and banks record as forced in every kind of course is what they are killed at."""
    replace = {"node.coordinator": HastyCoordinator, "node.queue": HastyQueue}
    with Lab(name="writes", world="simulated", bank_servers=1, replace=replace, password_cost=cheap) as lab:
        payers = Payers(lab, 2)
        for how in ("across", "inside", "too much"):
            provoke(payers, how, lab, eventually)
            assert lab.settle()
        lab.crash("alpine-1")
        provoke(payers, "unknown", lab, eventually)
        lab.operator.resolve(asking(lab), "ABORTED")
        provoke(payers, "unknown", lab, eventually)
        lab.restart("alpine-1")
        payers.ended(eventually)
        forced = [event for event in lab.history if event.kind is Kind.FORCED_WRITE]
        words = {(event.node.partition("-")[0], str(event.detail).partition(" ")[0]) for event in forced}
    assert {word for node, word in words if node == "coordinator"} == {word for word, _ in COORDINATOR_WRITES}
    assert {word for node, word in words if node == "alpine"} == {word for word, _ in BANK_WRITES}


def test_an_account_of_a_process_pays_exactly_what_it_affords(lab: Lab) -> None:
    """200 payments at the same time from an account that affords 120: 120 commit, 80 are declined."""
    alice = lab.client(f"alice-{next(NAMES)}", bank="alpine", balance="120.00 EUR")
    bob = lab.client(f"bob-{next(NAMES)}", bank="boreal")
    futures = [alice.submit_pay(bob, "1.00 EUR", key=f"k{n}", deadline_s=60) for n in range(200)]
    for future in futures:
        future.result(90)
    assert lab.settle(timeout_s=30)
    ends = Counter(receipt.state for receipt in alice.payments(limit=1_000))
    assert ends == {"COMMITTED": 120, "DECLINED": 80}
    assert (str(alice.balance()), str(bob.balance())) == ("0.00 EUR", "120.00 EUR")


def test_a_process_is_paused_by_the_operating_system(lab: Lab) -> None:
    """SIGSTOP and SIGCONT; other faults of a node's messages are refused, as they would do nothing."""
    alice = lab.client(f"alice-{next(NAMES)}", bank="alpine", balance="10.00 EUR")
    bob = lab.client(f"bob-{next(NAMES)}", bank="boreal")
    lab.pause("coordinator")
    payment = alice.submit_pay(bob, "1.00 EUR", deadline_s=60)
    lab.advance(0.3)
    assert not payment.done()
    assert lab.is_up("coordinator")
    lab.resume("coordinator")
    assert payment.result(60).state == "COMMITTED"
    with pytest.raises(LabError, match="OTHER_PROCESS"):
        lab.partition("gateway", "coordinator")


def test_what_a_lab_cannot_do_with_processes_is_refused(lab: Lab) -> None:
    """There is no process in a simulated world, no process of an unknown name, and no death elsewhere."""
    with pytest.raises(LabError, match="BAD_ARGUMENT"):
        Lab(name="simulated", world="simulated", processes=["coordinator"])
    lab.crash("logger")
    with pytest.raises(LabError, match="BAD_ARGUMENT"):
        lab.restart("logger", death=Death("before", "EPOCH"))
    lab.restart("logger")
    assert "processes keep none" in str(lab.check())


class Unbootable(TransactionLogger):
    """Cannot read its disk."""

    async def boot(self) -> None:
        raise ValueError("the disk is full of water")


def test_a_process_that_fails_says_why(cheap: PasswordCost) -> None:
    """At boot, and later when the lab is closed: with its last words, and nothing is left running."""
    small: Any = {"bank_servers": 1, "auth_servers": 1, "password_cost": cheap, "processes": ["logger"]}
    with pytest.raises(LabError, match=r"NODE_FAILED: logger ended with status 1: .*full of water"):
        Lab(name="failing", replace={"node.logger": Unbootable}, **small)
    lab = Lab(name="failing", **small)
    process: Any = lab.network.nodes["logger"].host
    os.kill(process.pid, signal.SIGKILL)  # not the lab's doing
    process.wait()
    assert not lab.is_up("logger")
    with pytest.raises(LabError, match="BROKEN: LabError: NODE_FAILED: logger ended with status -9"):
        lab.close()
