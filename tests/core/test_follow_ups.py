"""What may follow what, and how much of it: captures, voids and refunds."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.follow_ups import ALLOWED, FAILED, Standing, follow, left_minor, standing
from paylab.core.money import Money
from paylab.core.payment import Operation, Payment, State
from paylab.errors import WrongState

FOLLOWING = {Operation.CAPTURE, Operation.VOID, Operation.REFUND}


def payment(
    operation: Operation, minor: int = 100, state: State = State.COMMITTED, about: str = ""
) -> Payment:
    fields = ("p1", "shop", "k1", "f", "alpine/alice", "boreal/shop", Money(minor, "EUR"), state)
    return replace(Payment(*fields), operation=operation, about=about)


FOLLOWERS = st.lists(
    st.builds(
        payment,
        st.sampled_from(sorted(FOLLOWING)),
        st.integers(1, 60),
        st.sampled_from(list(State)),
        st.just("p1"),
    ),
    max_size=4,
)


def allowed(wanted: Payment, about: Payment, followers: list[Payment]) -> bool:
    try:
        follow(wanted, about, followers)
    except WrongState:
        return False
    return True


@pytest.mark.parametrize(("operation", "about"), list(product(Operation, Operation)))
def test_only_the_table_allows_one_to_follow_another(operation: Operation, about: Operation) -> None:
    """Captures and voids follow authorisations, refunds follow payments and captures, and that is all."""
    expected = operation in ALLOWED.get((about, Standing.OPEN), frozenset())
    assert expected is (
        (operation in (Operation.CAPTURE, Operation.VOID) and about is Operation.AUTHORISE)
        or (operation is Operation.REFUND and about in (Operation.PAY, Operation.CAPTURE))
    )
    assert allowed(payment(operation, 10), payment(about), []) is expected


@pytest.mark.parametrize("state", State)
def test_only_what_is_committed_is_followed(state: State) -> None:
    """What may still fail, or has failed, has set nothing aside."""
    about = payment(Operation.AUTHORISE, state=state)
    assert allowed(payment(Operation.CAPTURE, 10), about, []) is (state is State.COMMITTED)


@given(FOLLOWERS, st.integers(1, 120))
def test_captures_never_exceed_what_was_authorised(followers: list[Payment], minor: int) -> None:
    """Whatever was asked for before and however that stands: all that may still happen fits."""
    about = payment(Operation.AUTHORISE)
    captures = [each for each in followers if each.operation is Operation.CAPTURE]
    if left_minor(about, captures) < 0:
        return  # no such captures were ever allowed
    if allowed(payment(Operation.CAPTURE, minor), about, captures):
        live = sum(each.money.amount_minor for each in captures if each.state not in FAILED)
        assert live + minor <= 100
        assert not allowed(payment(Operation.CAPTURE, 101 - live), about, captures)


def test_what_has_failed_gives_its_part_back() -> None:
    """A declined or cancelled capture takes nothing; one under way keeps its part, as a dead letter does."""
    about, wanted = payment(Operation.AUTHORISE), payment(Operation.CAPTURE, 100)
    for state in State:
        other = payment(Operation.CAPTURE, 1, state, "p1")
        assert allowed(wanted, about, [other]) is (state in {State.DECLINED, State.CANCELLED})


def test_a_void_waits_for_captures_and_ends_them() -> None:
    """While a capture is under way nobody knows what is left; after a void nothing is captured."""
    about, void = payment(Operation.AUTHORISE), payment(Operation.VOID, 0)
    under_way = payment(Operation.CAPTURE, 40, State.PREPARING, "p1")
    assert standing(about, [under_way]) is Standing.BUSY
    assert not allowed(void, about, [under_way])
    done = replace(under_way, state=State.COMMITTED)
    assert follow(void, about, [done]).money == Money(60, "EUR")
    for state in (State.PREPARING, State.QUEUED, State.COMMITTED):
        voided = payment(Operation.VOID, 60, state, "p1")
        assert standing(about, [done, voided]) is Standing.VOIDED
        assert not allowed(payment(Operation.CAPTURE, 1), about, [done, voided])
        assert not allowed(void, about, [done, voided])
    assert allowed(void, about, [done, payment(Operation.VOID, 60, State.DECLINED, "p1")])


def test_without_an_amount_it_is_all_that_is_left() -> None:
    """As much as no other takes."""
    about = payment(Operation.PAY)
    before = payment(Operation.REFUND, 30, State.PREPARING, "p1")
    assert follow(payment(Operation.REFUND, 0), about, [before]).money == Money(70, "EUR")
    assert standing(about, [payment(Operation.REFUND, 100, about="p1")]) is Standing.SPENT


def test_another_currency_is_refused() -> None:
    """Even of a smaller amount."""
    wanted = replace(payment(Operation.REFUND), money=Money(1, "CZK"))
    assert not allowed(wanted, payment(Operation.PAY), [])
