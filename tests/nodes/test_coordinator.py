"""The coordinator as operators see it, its log that stays short, and twins that finish what was begun."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from paylab import Lab, Receipt
from paylab.core.coordinator import Coordinator, Timing
from paylab.core.effects import Append, Effect, EndRecord
from paylab.core.messages import Ack, Commit, Leg, Txn
from paylab.core.money import Money
from paylab.core.retry_schedule import RetrySchedule
from paylab.errors import LabError, NotFound, WrongState
from paylab.lab.clients import LabClient
from paylab.lab.faults import at, crash_at_commit
from paylab.lab.loop import LabFuture
from paylab.lab.operator import InDoubt, Retried
from paylab.nodes import wire
from paylab.nodes.coordinator import CoordinatorNode
from paylab.nodes.events import Kind
from paylab.nodes.host import Host
from paylab.nodes.offline_queue import OfflineQueue
from paylab.nodes.passwords import PasswordCost
from paylab.pb import coordinator_pb2, coordinator_pb2_grpc

Eventually = Callable[..., None]

NAMES = count(1)
# Longer than any test: nothing comes of itself.
NEVER_S = 600.0


class HastyCoordinator(CoordinatorNode):
    """Gives a silent bank up soon."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, timing=Timing(vote_deadline_s=1.0, resend_first_s=0.1, resend_cap_s=0.2))


class PatientCoordinator(CoordinatorNode):
    """Sends again soon, and does not give a bank up while a busy machine is slow."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, timing=Timing(vote_deadline_s=20.0, resend_first_s=0.2, resend_cap_s=0.5))


class SluggishCoordinator(CoordinatorNode):
    """Sends once."""

    def __init__(self, host: Host) -> None:
        timing = Timing(vote_deadline_s=NEVER_S, resend_first_s=NEVER_S, resend_cap_s=NEVER_S)
        super().__init__(host, timing=timing)


class SluggishQueue(OfflineQueue):
    """Tries again when an operator says so."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, schedule=RetrySchedule(base_s=NEVER_S, cap_s=NEVER_S))

    def _delay_s(self, attempt: int, *, short: bool) -> float:  # noqa: ARG002 - the same for every try
        return NEVER_S


@pytest.fixture(scope="module")
def lab(world: str, cheap: PasswordCost) -> Iterator[Lab]:
    """A network to be broken; closing it raises what went wrong."""
    replace = {"node.coordinator": PatientCoordinator}
    with Lab(name="coordinator", world=world, replace=replace, password_cost=cheap) as lab:
        yield lab


@pytest.fixture(scope="module")
def hasty(world: str, cheap: PasswordCost) -> Iterator[Lab]:
    """A network whose coordinator gives up soon, and whose queue waits for an operator."""
    replace = {"node.coordinator": HastyCoordinator, "node.queue": SluggishQueue}
    with Lab(name="hasty", world=world, replace=replace, password_cost=cheap) as lab:
        yield lab


def people(lab: Lab) -> tuple[LabClient, LabClient, LabClient]:
    """Alice and a shop at alpine, Bob at boreal."""
    n = next(NAMES)
    alice = lab.client(f"alice-{n}", bank="alpine", balance="100.00 EUR")
    return alice, lab.client(f"shop-{n}", bank="alpine"), lab.client(f"bob-{n}", bank="boreal")


def asking(lab: Lab, eventually: Eventually) -> InDoubt:
    """The one attempt whose only bank does not answer."""
    eventually(lambda: [entry.phase for entry in lab.operator.in_doubt()] == ["ASKING"])
    (entry,) = lab.operator.in_doubt()
    assert entry.waiting_for == ("alpine",)
    return entry


def down(lab: Lab, *nodes: str) -> None:
    for node in nodes:
        lab.crash(node)


def up(lab: Lab, *nodes: str) -> None:
    for node in nodes:
        lab.restart(node)


# Operators ------------------------------------------------------------------------------------------


def retried(lab: Lab, payer: LabClient, payment: str) -> str:
    """Where a payment stands after an operator has had everything tried again."""
    lab.operator.retry_now()
    return payer.payment(payment).state


def test_an_operator_aborts_what_a_bank_leaves_in_doubt(hasty: Lab, eventually: Eventually) -> None:
    """The only bank is away: the payment is in doubt until an operator aborts it; later it is paid once.

    The audit says who did it, and outlives the coordinator.
    """
    alice, shop, _ = people(hasty)
    down(hasty, "alpine-1", "alpine-2")
    payment = alice.submit_pay(shop, "10.00 EUR", deadline_s=60)
    entry = asking(hasty, eventually)
    assert hasty.operator.resolve(entry.payment, "ABORTED").attempt == entry.attempt
    assert payment.result(60).state == "QUEUED"
    assert hasty.operator.in_doubt() == []
    with pytest.raises(WrongState, match="ABORTED already"):
        hasty.operator.resolve(entry.payment, "COMMITTED")
    up(hasty, "alpine-1", "alpine-2")
    down(hasty, "coordinator")
    up(hasty, "coordinator")
    (line,) = [line for line in hasty.operator.resolutions() if line.txn.payment == entry.payment]
    assert (line.commit, line.operator) == (False, "lab.operator.paylab")
    eventually(lambda: retried(hasty, alice, entry.payment) == "COMMITTED")
    assert hasty.settle(timeout_s=30)
    assert str(alice.balance()) == "90.00 EUR"
    assert hasty.check().ok


def test_an_operator_commits_what_the_only_bank_has_posted(hasty: Lab, eventually: Eventually) -> None:
    """The bank has posted and its answers are lost: the operator reads its ledger and says so."""
    alice, shop, _ = people(hasty)
    hasty.partition("bank-lb", "coordinator", one_way=True)
    payment = alice.submit_pay(shop, "10.00 EUR", deadline_s=60)
    entry = asking(hasty, eventually)
    assert hasty.balances()[shop.account].amount_minor == 1_000
    hasty.operator.resolve(entry.payment, "COMMITTED")
    assert payment.result(60).state == "COMMITTED"
    hasty.heal()
    assert hasty.settle(timeout_s=30)
    assert hasty.world.rows("coordinator", "SELECT count(*) FROM commits") == [(0,)]
    assert hasty.check().ok


def test_what_cannot_be_resolved_is_refused(lab: Lab) -> None:
    """What is decided, what is not known, and a decision that is none; nothing of it is in the audit."""
    alice, _, bob = people(lab)
    paid = alice.pay(bob, "1.00 EUR")
    assert lab.settle()
    with pytest.raises(WrongState, match="COMMITTED already"):
        lab.operator.resolve(paid.payment, "ABORTED")
    with pytest.raises(NotFound):
        lab.operator.resolve("nobody", "ABORTED")
    with pytest.raises(LabError, match="BAD_ARGUMENT"):
        lab.operator.resolve(paid.payment, "MAYBE")
    assert [line for line in lab.operator.resolutions() if line.txn.payment == paid.payment] == []


def test_an_operator_aborts_before_the_vote_deadline(world: str, cheap: PasswordCost) -> None:
    """Across banks an attempt that waits for votes can be aborted, not committed; what is queued goes on.

    Everything that would come of itself comes in ten minutes: `retry_now` does not wait for that.
    """
    replace = {"node.coordinator": SluggishCoordinator, "node.queue": SluggishQueue}
    with Lab(name="sluggish", world=world, replace=replace, password_cost=cheap, lease_s=0.6) as lab:
        alice, _, bob = people(lab)
        lab.crash("bank-lb")
        payment = alice.submit_pay(bob, "10.00 EUR", deadline_s=60)
        entry = voting(lab)
        assert set(entry.waiting_for) == {"alpine", "boreal"}
        with pytest.raises(WrongState, match="alpine and boreal did not promise"):
            lab.operator.resolve(entry.payment, "COMMITTED")
        lab.operator.resolve(entry.payment, "ABORTED")
        assert payment.result(30).state == "QUEUED"
        lab.settle(timeout_s=2)  # until the queue has it
        assert lab.operator.retry_now() == Retried(0, 1)
        again = voting(lab)
        assert again.attempt == entry.attempt + 1
        lab.restart("bank-lb")
        lab.advance(1.0)  # the servers make themselves known
        assert lab.operator.retry_now().messages == 2
        assert lab.settle(timeout_s=20)
        assert alice.payment(entry.payment).state == "COMMITTED"
        assert lab.check().ok


def voting(lab: Lab) -> InDoubt:
    """The one attempt that waits for votes."""
    for _ in range(500):
        entries = lab.operator.in_doubt()
        if entries:
            assert [entry.phase for entry in entries] == ["VOTING"]
            return entries[0]
        lab.advance(0.02)
    pytest.fail("nothing is in doubt")


def test_an_operator_who_is_wrong_is_found_out(cheap: PasswordCost, eventually: Eventually) -> None:
    """Aborting what the bank has posted: the bank refuses and reports it, and the checks see it."""
    replace = {"node.coordinator": HastyCoordinator, "node.queue": SluggishQueue}
    lab = Lab(name="wrong", world="simulated", replace=replace, password_cost=cheap)
    alice, shop, _ = people(lab)
    lab.partition("bank-lb", "coordinator", one_way=True)
    payment = alice.submit_pay(shop, "10.00 EUR", deadline_s=60)
    entry = asking(lab, eventually)
    lab.operator.resolve(entry.payment, "ABORTED")
    assert payment.result(60).state == "QUEUED"
    eventually(lambda: any("ALREADY_COMMITTED" in violation for violation in lab.check().violations))
    with pytest.raises(LabError, match="BROKEN"):
        lab.close()


# The log --------------------------------------------------------------------------------------------


def commits(lab: Lab) -> int:
    return int(lab.world.rows("coordinator", "SELECT count(*) FROM commits")[0][0])


def remembered(lab: Lab) -> int:
    coordinator: Any = lab.network.nodes["coordinator"].node
    return len(coordinator._core.attempts)


def test_the_log_is_as_long_as_what_is_under_way(lab: Lab) -> None:
    """Wave after wave: no more records than payments under way, none when all is settled."""
    alice, _, bob = people(lab)
    for _ in range(3):
        futures = [alice.submit_pay(bob, "0.10 EUR", deadline_s=60) for _ in range(40)]
        for future in futures:
            assert future.result(60).state == "COMMITTED"
            assert commits(lab) <= len(futures)
        assert lab.settle(timeout_s=30)
        assert commits(lab) == 0


# What is asked together ------------------------------------------------------------------------------


def leg(who: LabClient, minor: int) -> Leg:
    bank, _, account = who.account.partition("/")
    return Leg(bank, account, Money(minor, "EUR"))


def answered(lab: Lab, payer: LabClient, *payees: LabClient) -> tuple[list[str], float]:
    """The outcomes of payments that the coordinator is asked about in one call, and how long that took."""

    async def ask() -> tuple[list[str], float]:
        gateway: Any = lab.network.nodes["gateway"].host
        stub: Any = coordinator_pb2_grpc.CoordinatorStub(gateway.channel("coordinator"))
        epoch = (await stub.GetEpoch(coordinator_pb2.GetEpochRequest())).epoch
        commits = [
            Commit(
                Txn(f"asked-{next(NAMES)}", 1),
                (leg(payer, -100), leg(payee, 100)),
                gateway.now() + 15.0,
                epoch,
            )
            for payee in payees
        ]
        items = [wire.commit_to_pb(commit) for commit in commits]
        began = gateway.now()
        response = await stub.Commit(coordinator_pb2.CommitRequest(items=items), timeout=5.0)
        answers = [wire.answer_from_pb(answer) for answer in response.answers]
        assert [answer.txn for answer in answers] == [commit.txn for commit in commits]
        return [answer.outcome.value for answer in answers], gateway.now() - began

    return lab.world.call(ask())


def test_what_is_asked_together_is_answered_together(cheap: PasswordCost) -> None:
    """All outcomes in one answer; but nobody waits for a bank that has nothing to do with him."""
    banks = ["alpine", "boreal", "corvo"]
    lab = Lab(name="together", world="simulated", banks=banks, password_cost=cheap)
    alice, _, bob = people(lab)
    carol = lab.client("carol", bank="corvo")
    assert answered(lab, alice, bob, carol, bob)[0] == ["COMMITTED"] * 3
    down(lab, "corvo-1", "corvo-2")
    outcomes, took_s = answered(lab, alice, bob, carol, bob)
    assert outcomes == ["COMMITTED", "UNDECIDED", "COMMITTED"]
    assert took_s < 1.0
    with pytest.raises(LabError, match="the gateway knows no such payment"):  # it was us who asked
        lab.close()


def test_payments_of_one_moment_are_asked_about_in_one_call(lab: Lab) -> None:
    """Many payments, few calls; and each payment has its own outcome."""
    alice, _, bob = people(lab)
    before = len([e for e in lab.history if e.kind is Kind.SENT and e.method.endswith("/Commit")])
    futures = [alice.submit_pay(bob, f"{1 + n % 2}0.00 EUR", deadline_s=60) for n in range(24)]
    states = [future.result(60).state for future in futures]
    assert 5 <= states.count("COMMITTED") <= 10
    assert states.count("DECLINED") == 24 - states.count("COMMITTED")
    asked = len([e for e in lab.history if e.kind is Kind.SENT and e.method.endswith("/Commit")]) - before
    assert 0 < asked < 24
    assert lab.settle(timeout_s=30)


def test_the_coordinator_forgets_what_cannot_be_asked_again(cheap: PasswordCost) -> None:
    """When attempts have expired nothing of them is left in memory, committed or declined."""
    with Lab(name="forgetful", world="simulated", password_cost=cheap) as lab:
        alice, shop, bob = people(lab)
        for _ in range(10):
            for payee, amount in ((bob, "1.00 EUR"), (shop, "1.00 EUR"), (bob, "5000.00 EUR")):
                alice.pay(payee, amount)
        assert lab.settle()
        assert remembered(lab) == 30
        lab.advance("2 min")
        assert (remembered(lab), commits(lab)) == (0, 0)


class NeverEnds(Coordinator):
    """Keeps every commit record."""

    def acknowledge(self, bank: str, ack: Ack) -> list[Effect]:
        return _without_end(super().acknowledge(bank, ack))

    def saved(self, txn: Any) -> list[Effect]:
        return _without_end(super().saved(txn))


def _without_end(effects: list[Effect]) -> list[Effect]:
    return [e for e in effects if not (isinstance(e, Append) and isinstance(e.record, EndRecord))]


def test_without_end_records_the_log_grows(cheap: PasswordCost) -> None:
    """A record for every payment that ever was, and each is sent again at the next restart."""
    slots = {"coordinator.core": NeverEnds}
    with Lab(name="growing", world="simulated", password_cost=cheap, replace=slots) as lab:
        alice, _, bob = people(lab)
        for _ in range(5):
            alice.pay(bob, "1.00 EUR")
        assert not lab.settle(timeout_s=30)
        assert commits(lab) == 5


# Twins ----------------------------------------------------------------------------------------------


def writers(lab: Lab, receipt: Receipt, what: str) -> set[str]:
    """Which servers of alpine recorded that of a payment."""
    return {
        event.node
        for event in lab.history.of_payment(receipt.payment)
        if event.kind in (Kind.FORCED_WRITE, Kind.STATE)
        and event.node.startswith("alpine")
        and str(event.detail).startswith(what)
    }


@pytest.mark.parametrize("point", ["unanswered", "after"])
def test_a_twin_finishes_what_a_server_began(lab: Lab, point: str) -> None:
    """A server dies right after a write: the other one, which knows nothing, takes it from there."""
    alice, _, bob = people(lab)
    assert lab.settle(timeout_s=30)
    lab.inject([at(0.0, crash_at_commit("alpine-1", point))]).result(30)
    payments: list[LabFuture[Receipt]] = []
    while lab.is_up("alpine-1"):
        payments.append(alice.submit_pay(bob, "1.00 EUR", deadline_s=60))
        payments[-1].exception(60)
        lab.settle(timeout_s=30)  # while one of them is down
    receipt = payments[-1].result(60)
    assert receipt.state == "COMMITTED"
    assert writers(lab, receipt, "PREPARED") != writers(lab, receipt, "COMMITTED")
    assert lab.check().ok
    lab.restart("alpine-1")


def test_a_twin_asks_about_what_a_dead_server_has_promised(lab: Lab) -> None:
    """Coordinator and server die when all is promised: the twin asks, and releases the hold."""
    alice, _, bob = people(lab)
    assert lab.settle(timeout_s=30)
    lab.inject([at(0.0, crash_at_commit("coordinator", "before"))]).result(30)
    payment = alice.submit_pay(bob, "40.00 EUR", deadline_s=60)
    while lab.is_up("coordinator"):
        lab.advance(0.02)
    prepared = "SELECT count(*) FROM transactions WHERE state = 'PREPARED'"
    assert lab.world.rows("bank-alpine", prepared) == [(1,)]
    lab.crash("alpine-1")
    lab.restart("coordinator")
    receipt = payment.result(60)
    assert (receipt.state, receipt.attempts) == ("COMMITTED", 2)
    assert lab.settle(timeout_s=30)
    assert writers(lab, receipt, f"{receipt.payment}/1 is ABORTED") == {"alpine-2"}
    assert str(alice.balance()) == "60.00 EUR"
    lab.restart("alpine-1")
    assert lab.check().ok
