"""Look-aside: the coordinator picks bank servers for itself, from the balancer's list."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from paylab import Lab
from paylab.nodes.events import Kind
from paylab.nodes.passwords import PasswordCost

Eventually = Callable[..., None]


@pytest.fixture(scope="module")
def direct(cheap: PasswordCost, world: str) -> Iterator[Lab]:
    with Lab(name="direct", look_aside=True, lease_s=1.5, password_cost=cheap, world=world) as lab:
        lab.client("ann", bank="alpine", balance="100.00 EUR")
        lab.client("ben", bank="boreal")
        yield lab


def asked(lab: Lab) -> Counter[str]:
    """How often the coordinator has sent something, by to whom."""
    return Counter(e.peer for e in lab.history if e.node == "coordinator" and e.kind is Kind.SENT)


def by_balancer(lab: Lab) -> int:
    """How many calls the bank balancer has forwarded."""
    return sum(info.forwarded for info in lab.servers().listed["bank-lb"])


def pay(lab: Lab, times: int) -> set[str]:
    ann, ben = lab.client("ann"), lab.client("ben")
    return {ann.pay(ben, "0.01 EUR", deadline_s=6.0).state for _ in range(times)}


def test_calls_go_straight_to_both_twins(direct: Lab) -> None:
    """In turn, and the balancer forwards none; it is only asked for its list."""
    before, forwarded = asked(direct), by_balancer(direct)
    assert pay(direct, 4) == {"COMMITTED"}
    direct.settle()
    got = asked(direct) - before
    assert {"alpine-1", "alpine-2", "boreal-1", "boreal-2"} <= set(got)
    assert by_balancer(direct) == forwarded


def test_a_dead_twin_is_stepped_around(direct: Lab, eventually: Eventually) -> None:
    """Whether the list says so already or a call finds out."""
    direct.crash("alpine-1")
    assert pay(direct, 4) == {"COMMITTED"}
    direct.restart("alpine-1")
    eventually(lambda: direct.servers()["alpine-1"].eligible)


def test_a_hung_twin_is_given_up_when_the_list_says_so(direct: Lab) -> None:
    """What was sent to it goes to the other, since a bank's steps may be repeated."""
    direct.pause("boreal-1")
    assert pay(direct, 3) == {"COMMITTED"}
    direct.resume("boreal-1")


def test_the_list_serves_on_without_its_balancer(direct: Lab, eventually: Eventually) -> None:
    """Payments do not pass through it, so they do not need it."""
    direct.settle()
    direct.crash("bank-lb")
    assert pay(direct, 3) == {"COMMITTED"}
    direct.restart("bank-lb")
    eventually(lambda: all(info.eligible for info in direct.servers()) and len(list(direct.servers())) == 6)
