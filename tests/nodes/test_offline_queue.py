"""The offline queue: a payment whose bank is away waits, and is paid by itself when the bank is back."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import grpc
import pytest

from paylab import Lab, Receipt
from paylab.core.authorization import Identity, Role
from paylab.core.coordinator import Timing
from paylab.core.money import Money
from paylab.core.retry_schedule import RetrySchedule
from paylab.errors import LabError, NotFound, WrongState
from paylab.lab.clients import LabClient
from paylab.lab.operator import Queued
from paylab.nodes.coordinator import CoordinatorNode
from paylab.nodes.events import Event, Kind
from paylab.nodes.host import Host
from paylab.nodes.offline_queue import LEASE_S, OfflineQueue
from paylab.nodes.passwords import PasswordCost
from paylab.pb import offline_queue_pb2 as pb
from paylab.pb import offline_queue_pb2_grpc as pb_grpc
from paylab.pb import payment_gateway_pb2, payment_gateway_pb2_grpc

Dial = Callable[..., grpc.Channel]
Eventually = Callable[..., None]
OPERATOR = Identity("lab", Role.OPERATOR)
TIMEOUT_S = 20.0
NAMES = count(1)


class HastyCoordinator(CoordinatorNode):
    """Waits for votes just long enough to see that nobody answers."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, timing=Timing(vote_deadline_s=0.4, resend_first_s=0.1, resend_cap_s=0.5))


class HastyQueue(OfflineQueue):
    """Tries again soon, and for as long as a test may take."""

    def __init__(self, host: Host) -> None:
        schedule = RetrySchedule(base_s=0.1, cap_s=0.5, funds_every_s=0.2)
        super().__init__(host, schedule=schedule, look_every_s=0.05)


class WearyQueue(OfflineQueue):
    """Gives up after the second try."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, schedule=RetrySchedule(base_s=0.05, cap_s=0.1, tries_max=2))


class ShortQueue(OfflineQueue):
    """Full with two."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, schedule=RetrySchedule(base_s=0.1, cap_s=0.5), length_max=2)


async def second_queue(lab: Lab) -> Host:
    """Another process over the queue's store."""
    host = lab.world.host(Identity("queue-2", Role.QUEUE))
    await HastyQueue(host).start()
    return host


def redrives(lab: Lab, payment: str) -> list[Event]:
    """What the gateway has told of the queue's calls about a payment."""
    return [
        event
        for event in list(lab.history)
        if payment in event.payments and event.node == "gateway" and event.method.endswith("/Redrive")
    ]


def workers(lab: Lab, payment: str) -> set[str]:
    """Who has asked for another try of a payment."""
    return {event.peer for event in redrives(lab, payment)}


def tries(lab: Lab, payment: str) -> list[tuple[float, float]]:
    """When each try of a payment began at the gateway, and when it ended."""
    events = redrives(lab, payment)
    began = {event.call: event.at_s for event in events if event.kind is Kind.RECEIVED}
    ended = {event.call: event.at_s for event in events if event.kind is not Kind.RECEIVED}
    return [(at_s, ended[call]) for call, at_s in began.items()]


def at_once(spans: list[tuple[float, float]]) -> list[int]:
    """How many spans each of them meets at its beginning, itself included."""
    return [sum(other[0] <= span[0] < other[1] for other in spans) for span in spans]


@pytest.fixture(scope="module")
def hasty(cheap: PasswordCost, world: str) -> Iterator[Lab]:
    """A small network that finds out soon that a bank is away."""
    replace = {"node.coordinator": HastyCoordinator, "node.queue": HastyQueue}
    with Lab(
        name="hasty", bank_servers=2, auth_servers=1, replace=replace, password_cost=cheap, world=world
    ) as lab:
        yield lab


@pytest.fixture(scope="module")
def weary(cheap: PasswordCost, world: str) -> Iterator[Lab]:
    """The same, with a queue that gives up."""
    replace = {"node.coordinator": HastyCoordinator, "node.queue": WearyQueue}
    with Lab(
        name="weary", bank_servers=1, auth_servers=1, replace=replace, password_cost=cheap, world=world
    ) as lab:
        yield lab


def pair(lab: Lab) -> tuple[LabClient, LabClient]:
    n = next(NAMES)
    return lab.client(f"alice-{n}", bank="alpine", balance="50.00 EUR"), lab.client(f"bob-{n}", bank="boreal")


def crash_bank(lab: Lab, bank: str = "boreal") -> list[str]:
    nodes = [node for node in lab.nodes if node.startswith(f"{bank}-")]
    for node in nodes:
        lab.crash(node)
    return nodes


def queue(lab: Lab, dial: Dial) -> Any:
    return pb_grpc.OfflineQueueStub(dial(lab, "queue", OPERATOR))


def waiting(lab: Lab, dial: Dial, payer: str) -> list[str]:
    """What waits of one payer, in order."""
    listed = queue(lab, dial).List(pb.ListQueuedRequest(), timeout=TIMEOUT_S)
    return [entry.payment for entry in listed.payments if entry.payer == payer]


def test_a_payment_waits_for_its_bank(hasty: Lab, dial: Dial, eventually: Eventually) -> None:
    """Both servers of the payee's bank are down: QUEUED. When they are back it is COMMITTED by itself."""
    alice, bob = pair(hasty)
    down = crash_bank(hasty)
    receipt = alice.pay(bob, "5.00 EUR", key="k")
    assert (receipt.state, receipt.reason) == ("QUEUED", "BANK_UNREACHABLE")
    eventually(lambda: receipt.payment in waiting(hasty, dial, alice.account))
    # A repeated request gets the present state, and nothing is held from the payer meanwhile.
    assert alice.pay(bob, "5.00 EUR", key="k").state == "QUEUED"
    eventually(lambda: alice.balance() == Money(5_000, "EUR"))
    states = alice.watch(receipt.payment)
    assert next(states).state in ("QUEUED", "PREPARING")
    for node in down:
        hasty.restart(node)
    assert [state.state for state in states][-1] == "COMMITTED"
    paid = alice.pay(bob, "5.00 EUR", key="k")
    assert (paid.state, paid.payment) == ("COMMITTED", receipt.payment)
    assert paid.attempts > 1
    assert hasty.settle()
    assert (alice.balance(), bob.balance()) == (Money(4_500, "EUR"), Money(500, "EUR"))
    eventually(lambda: waiting(hasty, dial, alice.account) == [])


def test_payments_of_one_payer_keep_their_order(hasty: Lab, dial: Dial, eventually: Eventually) -> None:
    """What was queued first is paid first, also when somebody asks for all of them at once."""
    alice, bob = pair(hasty)
    down = crash_bank(hasty)
    queued = [alice.pay(bob, f"{n}.00 EUR", key=f"k{n}") for n in (1, 2, 3)]
    assert {receipt.state for receipt in queued} == {"QUEUED"}
    eventually(lambda: waiting(hasty, dial, alice.account) == [receipt.payment for receipt in queued])
    for node in down:
        hasty.restart(node)
    queue(hasty, dial).RetryNow(pb.RetryNowRequest(), timeout=TIMEOUT_S)
    eventually(lambda: waiting(hasty, dial, alice.account) == [])
    assert hasty.settle()
    lines = hasty.world.rows(
        "bank-boreal",
        f"SELECT txn FROM postings WHERE account = '{bob.name}' ORDER BY posting",  # noqa: S608 - a name of ours
    )
    assert [txn.partition("/")[0] for (txn,) in lines] == [receipt.payment for receipt in queued]


def test_a_queue_that_was_away_forgets_nothing(hasty: Lab, dial: Dial, eventually: Eventually) -> None:
    """Queued while the queue is down: the row waits in the gateway's outbox, then in the queue's store."""
    alice, bob = pair(hasty)
    down = crash_bank(hasty)
    hasty.crash("queue")
    receipt = alice.pay(bob, "5.00 EUR")
    assert receipt.state == "QUEUED"
    hasty.restart("queue")
    eventually(lambda: receipt.payment in waiting(hasty, dial, alice.account))
    hasty.crash("queue")
    hasty.restart("queue")
    assert receipt.payment in waiting(hasty, dial, alice.account)
    for node in down:
        hasty.restart(node)
    eventually(lambda: alice.payment(receipt.payment).state == "COMMITTED")


def test_taking_in_twice_is_taking_in_once(hasty: Lab, dial: Dial) -> None:
    """The outbox sends at least once; the queue answers each time and keeps one entry."""
    stub = pb_grpc.OfflineQueueStub(dial(hasty, "queue", Identity("gateway", Role.GATEWAY)))
    item = pb.EnqueueItem(payment="unknown-payment", payer="alpine/nobody", attempts=1)
    for items in ([item], [item, item]):
        stub.Enqueue(pb.EnqueueRequest(items=items), timeout=TIMEOUT_S)
    assert waiting(hasty, dial, "alpine/nobody") == ["unknown-payment"]


def test_an_expired_token_does_not_stop_a_queued_payment(hasty: Lab, eventually: Eventually) -> None:
    """The payer was authorised when it was accepted; the queue comes with a certificate of its own."""
    alice, bob = pair(hasty)
    down = crash_bank(hasty)
    receipt = alice.pay(bob, "5.00 EUR")
    alice._client._access_token = alice._client._refresh_token = "worthless"
    for node in down:
        hasty.restart(node)
    query = f"SELECT state FROM payments WHERE payment = '{receipt.payment}'"  # noqa: S608 - an id of ours
    eventually(lambda: hasty.world.rows("gateway", query) == [("COMMITTED",)])


def test_the_queue_gives_up_in_the_end(weary: Lab, dial: Dial, eventually: Eventually) -> None:
    """After the last try the payment is a DEAD_LETTER for good, and it is listed with its reason."""
    alice, bob = pair(weary)
    down = crash_bank(weary)
    receipt = alice.pay(bob, "5.00 EUR", key="k")
    assert receipt.state == "QUEUED"
    assert [state.state for state in alice.watch(receipt.payment)][-1] == "DEAD_LETTER"

    def dead() -> list[pb.QueuedPayment]:
        return list(
            queue(weary, dial).ListDeadLetters(pb.ListDeadLettersRequest(), timeout=TIMEOUT_S).payments
        )

    eventually(lambda: [entry.payment for entry in dead()] == [receipt.payment])
    assert dead()[0].reason == "BANK_UNREACHABLE"
    assert waiting(weary, dial, alice.account) == []
    for node in down:
        weary.restart(node)
    assert alice.pay(bob, "5.00 EUR", key="k").state == "DEAD_LETTER"
    stub = payment_gateway_pb2_grpc.PaymentGatewayStub(dial(weary, "gateway", OPERATOR))
    again = stub.Redrive(payment_gateway_pb2.RedriveRequest(payment=receipt.payment), timeout=TIMEOUT_S)
    assert payment_gateway_pb2.PaymentState.Name(again.state) == "DEAD_LETTER"
    assert (alice.balance(), bob.balance()) == (Money(5_000, "EUR"), Money(0, "EUR"))


def test_an_operator_takes_a_dead_letter_up_again(weary: Lab, eventually: Eventually) -> None:
    """It is listed with the history of its tries; redriven, it is paid once its bank is there."""
    alice, bob = pair(weary)
    down = crash_bank(weary)
    receipt = alice.pay(bob, "5.00 EUR", key="k")
    eventually(lambda: receipt.payment in [letter.payment for letter in weary.operator.dead_letters()])
    letter = next(one for one in weary.operator.dead_letters() if one.payment == receipt.payment)
    assert [reason for _, reason in letter.history] == ["BANK_UNREACHABLE"] * 2
    assert str(letter) == f"{receipt.payment} of {alice.account}: BANK_UNREACHABLE, 2 tries"
    for node in down:
        weary.restart(node)
    assert weary.operator.redrive(receipt.payment) == 1
    eventually(lambda: alice.payment(receipt.payment).state == "COMMITTED")
    assert receipt.payment not in [letter.payment for letter in weary.operator.dead_letters()]
    with pytest.raises(WrongState):
        weary.operator.redrive(receipt.payment)
    assert weary.settle()
    assert (alice.balance(), bob.balance()) == (Money(4_500, "EUR"), Money(500, "EUR"))


def test_a_payer_takes_a_queued_payment_back(hasty: Lab, eventually: Eventually) -> None:
    """Cancelled it is never paid, whatever the queue does; nobody else's can be cancelled, nor a paid one."""
    alice, bob = pair(hasty)
    down = crash_bank(hasty)
    first, second = alice.pay(bob, "5.00 EUR", key="a"), alice.pay(bob, "7.00 EUR", key="b")

    def cancelled() -> bool:
        try:
            return alice.cancel(first).state == "CANCELLED"
        except WrongState:  # an attempt is under way at this moment
            return False

    eventually(cancelled)
    assert alice.cancel(first).state == "CANCELLED"
    with pytest.raises(NotFound):
        bob.cancel(second)
    for node in down:
        hasty.restart(node)
    eventually(lambda: alice.payment(second.payment).state == "COMMITTED")
    with pytest.raises(WrongState):
        alice.cancel(second)
    assert alice.pay(bob, "5.00 EUR", key="a").state == "CANCELLED"
    eventually(lambda: all(entry.payer != alice.account for entry in hasty.operator.queued()))
    assert hasty.settle()
    assert bob.balance() == Money(700, "EUR")


def test_an_operator_takes_back_what_waits(weary: Lab, eventually: Eventually) -> None:
    """A dead letter, too: then it is listed no more, and cannot be taken up again."""
    alice, bob = pair(weary)
    down = crash_bank(weary)
    receipt = alice.pay(bob, "5.00 EUR")
    eventually(lambda: alice.payment(receipt.payment).state == "DEAD_LETTER")
    weary.operator.cancel(receipt.payment)
    assert alice.payment(receipt.payment).state == "CANCELLED"
    eventually(lambda: receipt.payment not in [letter.payment for letter in weary.operator.dead_letters()])
    with pytest.raises(WrongState):
        weary.operator.redrive(receipt.payment)
    for node in down:
        weary.restart(node)


def test_a_payment_waits_for_funds_when_its_payer_asks(hasty: Lab, eventually: Eventually) -> None:
    """It lets the payer's later payments pass, and is paid when there is enough; without asking: DECLINED."""
    alice, bob = pair(hasty)
    assert alice.pay(bob, "60.00 EUR").state == "DECLINED"
    large = alice.pay(bob, "60.00 EUR", key="large", when_short="wait")
    assert (large.state, large.reason) == ("QUEUED", "INSUFFICIENT_FUNDS")
    eventually(lambda: large.payment in [entry.payment for entry in hasty.operator.queued()])
    assert alice.pay(bob, "5.00 EUR").state == "COMMITTED"
    down = crash_bank(hasty)
    small = alice.pay(bob, "6.00 EUR")
    for node in down:
        hasty.restart(node)
    eventually(lambda: alice.payment(small.payment).state == "COMMITTED")
    assert alice.payment(large.payment).state in ("QUEUED", "PREPARING")
    eventually(lambda: str(bob.balance()) == "11.00 EUR")  # a receipt may be earlier than the credit
    assert bob.pay(alice, "11.00 EUR").state == "COMMITTED"
    carol = hasty.client(f"carol-{next(NAMES)}", bank="boreal", balance="20.00 EUR")
    carol.pay(alice, "15.00 EUR")
    eventually(lambda: alice.payment(large.payment).state == "COMMITTED")
    with pytest.raises(LabError, match="decline or wait"):
        alice.pay(bob, "1.00 EUR", when_short="beg")


def test_a_full_queue_refuses_and_the_gateway_keeps_what_it_has(
    cheap: PasswordCost, world: str, eventually: Eventually
) -> None:
    """OVERLOADED, so the rows stay in the gateway's outbox; once there is room all come in and are paid."""
    replace = {"node.coordinator": HastyCoordinator, "node.queue": ShortQueue}
    with Lab(
        name="short", bank_servers=1, auth_servers=1, replace=replace, password_cost=cheap, world=world
    ) as lab:
        people = [lab.client(f"p{n}", bank="alpine", balance="10.00 EUR") for n in range(6)]
        bob = lab.client("bob", bank="boreal")
        down = crash_bank(lab)
        receipts = [person.pay(bob, "5.00 EUR") for person in people]
        assert {receipt.state for receipt in receipts} == {"QUEUED"}
        eventually(lambda: len(lab.operator.queued()) >= 2)
        kept = lab.world.rows("gateway", "SELECT count(*) FROM outbox WHERE topic = 'queue'")[0][0]
        assert kept > 0
        assert lab.world.rows("queue", "SELECT count(*) FROM entries")[0][0] < 6
        for node in down:
            lab.restart(node)
        eventually(lambda: bob.balance() == Money(3_000, "EUR"))


def test_two_queues_over_one_store_never_try_the_same_at_once(hasty: Lab, eventually: Eventually) -> None:
    """Both try, one at a time, and the payments of one payer in their order."""
    alice, bob = pair(hasty)
    down = crash_bank(hasty)
    twin = hasty.world.call(second_queue(hasty))
    receipts = [alice.pay(bob, f"{n}.00 EUR", key=f"k{n}") for n in (1, 2, 3)]
    eventually(lambda: workers(hasty, receipts[0].payment) == {"queue", "queue-2"})
    for node in down:
        hasty.restart(node)
    eventually(lambda: alice.payment(receipts[-1].payment).state == "COMMITTED")
    tried = [attempt for receipt in receipts for attempt in tries(hasty, receipt.payment)]
    assert max(at_once(tried)) == 1
    hasty.world.call(hasty.world.crash(twin))
    assert hasty.settle()


def test_the_lease_of_a_dead_worker_runs_out(world: str) -> None:
    """Taken by a process that dies, an entry is nobody's until its lease ends, and then another's."""
    if world == "real":
        pytest.skip("a lease of 30 s is waited for in virtual time")
    replace = {"node.coordinator": HastyCoordinator, "node.queue": HastyQueue}
    with Lab(name="leases", bank_servers=1, auth_servers=1, replace=replace, world=world) as lab:
        alice, bob = pair(lab)
        crash_bank(lab)
        receipt = alice.pay(bob, "5.00 EUR")
        while not lab.operator.queued() or not lab.operator.queued()[0].worker:
            lab.advance(0.01)
        lab.crash("queue")
        twin = lab.world.call(second_queue(lab))
        lab.restart("boreal-1")
        lab.advance(LEASE_S - 1.0)
        left = "SELECT count(*) FROM entries"
        assert (lab.world.rows("queue", left), workers(lab, receipt.payment)) == ([(1,)], {"queue"})
        lab.advance(3.0)
        assert alice.payment(receipt.payment).state == "COMMITTED"
        assert (lab.world.rows("queue", left), workers(lab, receipt.payment)) == (
            [(0,)],
            {"queue", "queue-2"},
        )
        lab.world.call(lab.world.crash(twin))
        lab.restart("queue")


def test_an_outage_of_the_gateway_is_no_try(hasty: Lab, eventually: Eventually) -> None:
    """Nothing is counted, the breaker opens after a few calls, and a probe finds the gateway again."""
    alice, bob = pair(hasty)
    down = crash_bank(hasty)
    receipt = alice.pay(bob, "5.00 EUR")
    eventually(lambda: receipt.payment in [entry.payment for entry in hasty.operator.queued()])
    hasty.crash("gateway")

    def entry() -> Queued:
        return next(one for one in hasty.operator.queued() if one.payment == receipt.payment)

    eventually(lambda: [reason for _, reason in entry().history].count("UNAVAILABLE") >= 2)
    before = entry().tries
    eventually(lambda: [reason for _, reason in entry().history].count("UNAVAILABLE") >= 4)
    assert entry().tries == before
    hasty.restart("gateway")
    for node in down:
        hasty.restart(node)
    eventually(lambda: alice.payment(receipt.payment).state == "COMMITTED")


def test_only_what_is_queued_can_be_given_up(weary: Lab, dial: Dial) -> None:
    """A committed payment stays committed: WRONG_STATE; one that is not there is NOT_FOUND."""
    alice, bob = pair(weary)
    receipt: Receipt = alice.pay(bob, "5.00 EUR")
    stub = payment_gateway_pb2_grpc.PaymentGatewayStub(dial(weary, "gateway", OPERATOR))
    for payment, code in (
        (receipt.payment, grpc.StatusCode.FAILED_PRECONDITION),
        ("nothing", grpc.StatusCode.NOT_FOUND),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            stub.GiveUp(payment_gateway_pb2.GiveUpRequest(payment=payment, reason="tired"), timeout=TIMEOUT_S)
        error: Any = caught.value
        assert error.code() is code
    assert alice.payment(receipt.payment).state == "COMMITTED"
