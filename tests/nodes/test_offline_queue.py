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
from paylab.lab.clients import LabClient
from paylab.nodes.coordinator import CoordinatorNode
from paylab.nodes.host import Host
from paylab.nodes.offline_queue import OfflineQueue, RetrySchedule
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
        super().__init__(host, schedule=RetrySchedule(base_s=0.1, cap_s=0.5))


class WearyQueue(OfflineQueue):
    """Gives up after the second try."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, schedule=RetrySchedule(base_s=0.05, cap_s=0.1, tries_max=2))


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
    eventually(lambda: alice.payment(receipt.payment).state == "DEAD_LETTER")

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
