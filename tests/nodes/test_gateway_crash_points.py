"""The gateway dies at every point of every kind of payment; asked again, it has been done once."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from paylab import Lab, Receipt
from paylab.core.money import Money
from paylab.lab.clients import LabClient
from paylab.lab.loop import LabFuture
from paylab.nodes.events import Event, Kind

NAMES = count(1)
ONE = Money(100, "EUR")
# What a gateway does for the world to see: what it writes, asks, hears and answers.
POINTS = frozenset({Kind.FORCED_WRITE, Kind.SENT, Kind.RETURNED, Kind.RECEIVED, Kind.ANSWERED})
# More than any payment has of them.
POINTS_MAX = 40
CALLS = ("/Pay", "/Authorise", "/Capture", "/Void", "/Refund", "/Commit", "/Append", "/Acknowledge")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A network for all of them."""
    with Lab(name="points", world="simulated", seed=11, bank_servers=1, auth_servers=1) as lab:
        yield lab


class Killer:
    """Kills the gateway at its nth point from now on."""

    def __init__(self, lab: Lab) -> None:
        self.left = 0
        self.killed: list[str] = []
        self._lab = lab
        lab.history.listen(self._see)

    def _see(self, event: Event) -> None:
        of_payment = event.kind is Kind.FORCED_WRITE or event.method.endswith(CALLS)
        if not self.left or event.node != "gateway" or event.kind not in POINTS or not of_payment:
            return
        self.left -= 1
        if not self.left:
            self.killed.append(
                f"{event.kind} {event.method.rpartition('/')[2] or event.detail}".split(" p")[0]
            )
            self._lab.submit(self._lab.network.crash("gateway"))


def asked(lab: Lab, operation: str, alice: LabClient, shop: LabClient) -> Callable[[], LabFuture[Receipt]]:
    """How the operation is asked for with its one key, once what it follows is there."""
    buyer, seller = alice._client, shop._client
    about: dict[str, Any] = {"key": "k", "deadline_s": 60.0}
    payer_and_payee: dict[str, Any] = {"payer": alice.account, "payee": shop.account, "money": ONE}
    if operation == "PAY":
        return lambda: lab.submit(buyer.pay(**payer_and_payee, **about))
    if operation == "AUTHORISE":
        return lambda: lab.submit(buyer.authorise(**payer_and_payee, **about))
    before = (alice.pay if operation == "REFUND" else alice.authorise)(shop, "5.00 EUR")
    assert lab.settle()
    if operation == "VOID":
        return lambda: lab.submit(seller.void(before.payment, **about))
    ask = seller.refund if operation == "REFUND" else seller.capture
    return lambda: lab.submit(ask(before.payment, ONE, **about))


# What the payer can spend and the payee has, of 100 and 0 euros, in cents.
ENDS = {
    "PAY": (9_900, 100),
    "AUTHORISE": (9_900, 0),
    "CAPTURE": (9_500, 100),
    "VOID": (10_000, 0),
    "REFUND": (9_600, 400),
}


@pytest.mark.parametrize("bank", ["boreal", "alpine"])
@pytest.mark.parametrize("operation", ENDS)
def test_the_gateway_dies_at_every_point(lab: Lab, operation: str, bank: str) -> None:
    """Between claim and commit, between commit and save, before and after each call: once, and one answer."""
    killer = Killer(lab)
    for point in range(1, POINTS_MAX):
        n = next(NAMES)
        alice = lab.client(f"payer-{n}", bank="alpine", balance="100.00 EUR")
        shop = lab.client(f"payee-{n}", bank=bank)
        ask = asked(lab, operation, alice, shop)
        alice.balance(), shop.balance()
        killer.left = point
        future = ask()
        while not (future.done() and lab.settle(timeout_s=0)):
            lab.advance(0.05)
            if not lab.is_up("gateway"):
                lab.restart("gateway")
        unspent, killer.left = killer.left, 0
        receipt, again = future.result(0), ask().result(30)
        assert (receipt.state, again) == ("COMMITTED", receipt)
        assert again.replayed
        assert lab.settle()
        left = tuple(client.balance().amount_minor for client in (alice, shop))
        assert left == ENDS[operation], (operation, killer.killed[-1:])
        if unspent:  # it has not so many points
            break
    else:
        pytest.fail("it has more points than are tried")
    report = lab.check()
    assert report.ok, report
    points = Counter(killer.killed)
    assert points.total() >= 8, points
    assert any(name.startswith("forced write") for name in points)
    assert points["returned Commit"] == points["sent Commit"] == 1
