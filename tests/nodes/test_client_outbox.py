"""A client's outbox: it pays while the gateway is away, survives a crash of its own, and pays once."""

from collections.abc import Callable
from itertools import count

import pytest

from paylab import Lab
from paylab.core.money import Money
from paylab.errors import KeyReused, LabError, Overloaded
from paylab.lab.clients import LabClient
from paylab.nodes import client_outbox

Eventually = Callable[..., None]
NAMES = count(1)


def pair(lab: Lab) -> tuple[LabClient, LabClient]:
    n = next(NAMES)
    return lab.client(f"alice-{n}", bank="alpine", balance="50.00 EUR"), lab.client(f"bob-{n}", bank="boreal")


def states(client: LabClient) -> list[str]:
    return [wish.state for wish in client.outbox()]


def test_a_client_pays_while_the_gateway_is_away(lab: Lab, eventually: Eventually) -> None:
    """It has the key at once; when the gateway is back all are paid, in the order of the wishes."""
    alice, bob = pair(lab)
    lab.crash("gateway")
    keys = [alice.pay_later(bob, f"{n}.00 EUR", key=f"k{n}") for n in (1, 2, 3)]
    drawn = alice.pay_later(bob, "4.00 EUR")
    assert [wish.key for wish in alice.outbox()] == [*keys, drawn]
    assert states(alice) == ["WAITING"] * 4
    lab.restart("gateway")
    eventually(lambda: states(alice) == ["COMMITTED"] * 4)
    assert lab.settle()
    assert (alice.balance(), bob.balance()) == (Money(4_000, "EUR"), Money(1_000, "EUR"))
    lines = lab.world.rows(
        "bank-boreal",
        f"SELECT amount_minor FROM postings WHERE account = '{bob.name}' ORDER BY posting",  # noqa: S608 - a name of ours
    )
    assert [amount for (amount,) in lines] == [100, 200, 300, 400]
    # The receipt of the same key is that of the wish.
    assert alice.pay(bob, "1.00 EUR", key="k1").payment == alice.outbox()[0].payment


def test_a_client_that_crashes_forgets_no_wish(lab: Lab, eventually: Eventually) -> None:
    """Written down, crashed, back: it is paid under the same key, and once."""
    alice, bob = pair(lab)
    lab.crash("gateway")
    alice.pay_later(bob, "5.00 EUR", key="k")
    alice.crash()
    with pytest.raises(LabError, match="down already"):
        alice.crash()
    lab.restart("gateway")
    alice.restart()
    eventually(lambda: states(alice) == ["COMMITTED"])
    alice.crash()
    alice.restart()
    assert states(alice) == ["COMMITTED"]
    assert alice.pay(bob, "5.00 EUR", key="k").payment == alice.outbox()[0].payment
    assert bob.balance() == Money(500, "EUR")


def test_a_lost_answer_is_asked_for_again(lab: Lab, eventually: Eventually) -> None:
    """The money has moved, the client does not know: the next try finds it out and moves nothing."""
    alice, bob = pair(lab)
    alice.pay(bob, "1.00 EUR")
    lab.partition("gateway", alice.name, one_way=True)
    alice.pay_later(bob, "5.00 EUR", key="k")
    query = f"SELECT state FROM payments WHERE caller = '{alice.name}' AND key = 'k'"  # noqa: S608 - a name of ours
    eventually(lambda: lab.world.rows("gateway", query) == [("COMMITTED",)])
    assert states(alice) == ["WAITING"]
    lab.heal()
    eventually(lambda: states(alice) == ["COMMITTED"])
    assert bob.balance() == Money(600, "EUR")


def test_a_wish_once_more_is_one_wish(lab: Lab, eventually: Eventually) -> None:
    """The same key and request change nothing, before and after the answer; another request is refused."""
    alice, bob = pair(lab)
    for _ in range(3):
        assert alice.pay_later(bob, "5.00 EUR", key="k") == "k"
    with pytest.raises(KeyReused):
        alice.pay_later(bob, "6.00 EUR", key="k")
    eventually(lambda: states(alice) == ["COMMITTED"])
    alice.pay_later(bob, "5.00 EUR", key="k")
    assert states(alice) == ["COMMITTED"]
    assert bob.balance() == Money(500, "EUR")


def test_what_is_refused_does_not_stop_the_rest(lab: Lab, eventually: Eventually) -> None:
    """A definite error and a decline are answers, too: the next wish has its turn."""
    alice, bob = pair(lab)
    alice.pay_later("boreal", "5.00 EUR", key="bad")
    alice.pay_later(bob, "70.00 EUR", key="much")
    alice.pay_later(bob, "5.00 EUR", key="good")
    eventually(lambda: "WAITING" not in states(alice))
    assert [(wish.state, wish.reason) for wish in alice.outbox()] == [
        ("REFUSED", "BAD_ACCOUNT"),
        ("DECLINED", "INSUFFICIENT_FUNDS"),
        ("COMMITTED", ""),
    ]


def test_an_outbox_has_an_end(lab: Lab, monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> None:
    """What does not fit is refused at once, and what was answered makes room."""
    monkeypatch.setattr(client_outbox, "LENGTH_MAX", 2)
    alice, bob = pair(lab)
    lab.crash("gateway")
    alice.pay_later(bob, "1.00 EUR")
    alice.pay_later(bob, "2.00 EUR")
    with pytest.raises(Overloaded):
        alice.pay_later(bob, "3.00 EUR")
    lab.restart("gateway")
    eventually(lambda: states(alice) == ["COMMITTED"] * 2)
    alice.pay_later(bob, "3.00 EUR")
    eventually(lambda: bob.balance() == Money(600, "EUR"))
    eventually(lambda: len(states(alice)) == 2)
