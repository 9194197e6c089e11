"""Authorise, capture, void and refund over gRPC: what moves, what is set aside, and who may ask."""

from collections.abc import Callable
from itertools import count

import pytest

from paylab import Lab, Receipt
from paylab.core.money import Money
from paylab.errors import InvalidRequest, KeyReused, NotFound, PermissionDenied, WrongState
from paylab.lab.clients import LabClient
from tests.conftest import Eventually

NAMES = count(1)


def customer(lab: Lab, balance: str = "100.00 EUR") -> LabClient:
    return lab.client(f"customer-{next(NAMES)}", bank="alpine", balance=balance)


def merchant(lab: Lab, bank: str = "boreal") -> LabClient:
    return lab.client(f"merchant-{next(NAMES)}", bank=bank)


def euros(client: LabClient) -> str:
    return str(client.balance()).removesuffix(" EUR")


@pytest.mark.parametrize("bank", ["boreal", "alpine"])
def test_what_is_authorised_can_be_captured_in_parts_and_the_rest_voided(lab: Lab, bank: str) -> None:
    """Across banks and inside one: held at once, posted by captures, given back by the void."""
    alice, shop = customer(lab), merchant(lab, bank)
    held = alice.authorise(shop, "50.00 EUR", key="order")
    assert (held.state, held.operation, held.about) == ("COMMITTED", "AUTHORISE", "")
    assert (euros(alice), euros(shop)) == ("50.00", "0.00")
    assert lab.balances()[alice.account] == Money(10_000, "EUR")
    captured = shop.capture(held, "20.00 EUR", key="first")
    assert (captured.operation, captured.about) == ("CAPTURE", held.payment)
    assert (euros(alice), euros(shop)) == ("50.00", "20.00")
    assert shop.capture(held, "5.00 EUR").state == "COMMITTED"
    voided = shop.void(held)
    assert (voided.state, voided.operation, voided.money) == ("COMMITTED", "VOID", Money(2_500, "EUR"))
    assert (euros(alice), euros(shop)) == ("75.00", "25.00")
    assert lab.settle()
    assert lab.check().ok, lab.check()
    assert lab.log.reconcile().ok


def test_a_capture_without_an_amount_takes_all_that_is_left(lab: Lab) -> None:
    """So does a refund; after that nothing is left to take."""
    alice, shop = customer(lab), merchant(lab)
    held = alice.authorise(shop, "50.00 EUR")
    shop.capture(held, "20.00 EUR")
    rest = shop.capture(held)
    assert rest.money == Money(3_000, "EUR")
    with pytest.raises(WrongState, match="SPENT"):
        shop.capture(held, "0.01 EUR")
    with pytest.raises(WrongState, match="SPENT"):
        shop.void(held)
    shop.refund(rest, "10.00 EUR")
    assert shop.refund(rest).money == Money(2_000, "EUR")
    with pytest.raises(WrongState, match="SPENT"):
        shop.refund(rest)
    assert (euros(alice), euros(shop)) == ("80.00", "20.00")


def test_never_more_than_there_is(lab: Lab) -> None:
    """No more is captured than authorised, nor paid back than paid; what is refused saves nothing."""
    alice, shop = customer(lab), merchant(lab)
    held, paid = alice.authorise(shop, "10.00 EUR"), alice.pay(shop, "8.00 EUR")
    shop.capture(held, "4.00 EUR")
    shop.refund(paid, "3.00 EUR")
    for taking, key in ((shop.capture, "more"), (shop.refund, "back")):
        about = held if taking == shop.capture else paid
        with pytest.raises(WrongState, match="are left") as caught:
            taking(about, "6.01 EUR", key=key)
        assert caught.value.definite
    assert shop.capture(held, "6.00 EUR", key="more").state == "COMMITTED"
    assert shop.refund(paid, "5.00 EUR", key="back").state == "COMMITTED"


def test_twenty_captures_at_once_take_no_more_than_was_authorised(lab: Lab) -> None:
    """Each of 1.00 from 7.00, with a key of its own: seven are committed and thirteen refused."""
    alice, shop = customer(lab), merchant(lab)
    held = alice.authorise(shop, "7.00 EUR")
    one = Money(100, "EUR")
    futures = [lab.submit(shop._client.capture(held.payment, one)) for _ in range(20)]
    ends = [future.exception(60) for future in futures]
    assert sum(isinstance(end, WrongState) for end in ends) == 13
    assert {future.result().state for future in futures if future.exception() is None} == {"COMMITTED"}
    assert (euros(alice), euros(shop)) == ("93.00", "7.00")
    assert lab.settle()
    assert lab.check().ok, lab.check()


def test_what_follows_must_be_able_to_follow(lab: Lab) -> None:
    """A payment cannot be captured, an authorisation not refunded, a declined one not captured."""
    alice, shop = customer(lab), merchant(lab)
    paid, held = alice.pay(shop, "1.00 EUR"), alice.authorise(shop, "1.00 EUR")
    refused = alice.authorise(shop, "999.00 EUR")
    assert (refused.state, refused.reason) == ("DECLINED", "INSUFFICIENT_FUNDS")
    asks: tuple[Callable[[], Receipt], ...] = (
        lambda: shop.capture(paid),
        lambda: shop.void(paid),
        lambda: shop.refund(held),
        lambda: shop.capture(refused),
    )
    for ask in asks:
        with pytest.raises(WrongState) as caught:
            ask()
        assert caught.value.reason == "WRONG_STATE"


def test_only_the_merchant_captures_voids_and_refunds(lab: Lab) -> None:
    """The payer may not; to whoever has no part in it the payment does not exist."""
    alice, shop, mallory = customer(lab), merchant(lab), customer(lab)
    held, paid = alice.authorise(shop, "5.00 EUR"), alice.pay(shop, "5.00 EUR")
    asks: tuple[Callable[[LabClient], Receipt], ...] = (
        lambda who: who.capture(held),
        lambda who: who.void(held),
        lambda who: who.refund(paid),
    )
    for ask in asks:
        with pytest.raises(PermissionDenied) as caught:
            ask(alice)
        assert caught.value.reason == "NOT_OWNER"
        with pytest.raises(NotFound):
            ask(mallory)
    with pytest.raises(NotFound):
        shop.capture("no such payment")
    with pytest.raises(PermissionDenied):
        lab.world.call(
            mallory._client.authorise(payer=alice.account, payee=mallory.account, money=Money(1, "EUR"))
        )


def test_an_authorisation_expires() -> None:
    """Until then nobody else gets what it holds; a capture that comes later is declined."""
    with Lab(name="expiry", world="simulated", seed=5) as lab:
        alice, shop = customer(lab), merchant(lab)
        held = alice.authorise(shop, "100.00 EUR", lifetime_s=60.0)
        assert alice.pay(shop, "1.00 EUR").reason == "INSUFFICIENT_FUNDS"
        shop.capture(held, "30.00 EUR")
        lab.advance("2 min")
        assert alice.pay(shop, "70.00 EUR").state == "COMMITTED"
        late = shop.capture(held, "1.00 EUR", key="late")
        assert (late.state, late.reason) == ("DECLINED", "AUTHORISATION_EXPIRED")
        assert shop.void(held).reason == "AUTHORISATION_EXPIRED"
        assert shop.capture(held, "1.00 EUR", key="late") == late
        assert (euros(alice), euros(shop)) == ("0.00", "100.00")
        assert lab.settle()
        assert lab.check().ok, lab.check()


def test_what_has_expired_is_free_for_whoever_touches_the_account(lab: Lab) -> None:
    """He need not wait for a sweep."""
    alice, shop = customer(lab), merchant(lab)
    held = alice.authorise(shop, "100.00 EUR", lifetime_s=0.001)
    assert held.state == "COMMITTED"
    assert alice.pay(shop, "100.00 EUR").state == "COMMITTED"
    assert shop.capture(held).reason == "AUTHORISATION_EXPIRED"
    assert lab.settle()
    assert lab.check().ok, lab.check()


def test_a_sweep_frees_what_has_expired(lab: Lab, eventually: Eventually) -> None:
    """Also when nobody touches the account."""
    alice, shop = customer(lab), merchant(lab)
    assert alice.authorise(shop, "40.00 EUR", lifetime_s=0.001).state == "COMMITTED"
    eventually(lambda: euros(alice) == "100.00")


@pytest.mark.parametrize("lifetime_s", [-1.0, 31 * 24 * 3600.0])
def test_a_lifetime_is_bounded(lab: Lab, lifetime_s: float) -> None:
    """Nothing is authorised for ever, nor until yesterday."""
    with pytest.raises(InvalidRequest):
        customer(lab).authorise(merchant(lab), "1.00 EUR", lifetime_s=lifetime_s)


def test_each_has_its_key(lab: Lab) -> None:
    """The same request is replayed and says so; another one under its key is refused, of whatever kind."""
    alice, shop = customer(lab), merchant(lab)
    held = alice.authorise(shop, "50.00 EUR", key="a")
    captured = shop.capture(held, "20.00 EUR", key="c")
    refunded = shop.refund(captured, "1.00 EUR", key="r")
    voided = shop.void(held, key="v")
    again = [
        alice.authorise(shop, "50.00 EUR", key="a"),
        shop.capture(held, "20.00 EUR", key="c"),
        shop.refund(captured, "1.00 EUR", key="r"),
        shop.void(held, key="v"),
    ]
    assert again == [held, captured, refunded, voided]
    assert [receipt.replayed for receipt in again] == [True] * 4
    assert not any(receipt.replayed for receipt in (held, captured, refunded, voided))
    asks: tuple[Callable[[], Receipt], ...] = (
        lambda: alice.pay(shop, "50.00 EUR", key="a"),
        lambda: alice.authorise(shop, "50.00 EUR", key="a", lifetime_s=60),
        lambda: shop.capture(held, "20.01 EUR", key="c"),
        lambda: shop.capture(held, key="c"),
        lambda: shop.refund(captured, "20.00 EUR", key="c"),
        lambda: shop.void(held, key="c"),
    )
    for ask in asks:
        with pytest.raises(KeyReused):
            ask()
    assert (euros(alice), euros(shop)) == ("81.00", "19.00")


def test_lists_and_watches_show_what_each_is(lab: Lab) -> None:
    """Newest first, each with its operation and what it is about."""
    alice, shop = customer(lab), merchant(lab)
    held = alice.authorise(shop, "50.00 EUR")
    captured = shop.capture(held, "20.00 EUR")
    refunded, voided = shop.refund(captured), shop.void(held)
    assert [(each.operation, each.about) for each in shop.payments()] == [
        ("VOID", held.payment),
        ("REFUND", captured.payment),
        ("CAPTURE", held.payment),
    ]
    assert alice.payments() == [held]
    assert list(shop.watch(voided.payment)) == [voided]
    assert shop.payment(refunded.payment) == refunded


def test_a_merchant_without_money_cannot_pay_back(lab: Lab) -> None:
    """That is a decline, which is saved under its key."""
    alice, shop, other = customer(lab), merchant(lab), merchant(lab)
    paid = alice.pay(shop, "10.00 EUR")
    shop.pay(other, "5.00 EUR")
    refused = shop.refund(paid, key="r")
    assert (refused.state, refused.reason) == ("DECLINED", "INSUFFICIENT_FUNDS")
    alice.pay(shop, "10.00 EUR")
    assert shop.refund(paid, key="r") == refused
    assert shop.refund(paid).state == "COMMITTED"
