"""The ledger: postings sum to zero, holds come off again, nothing is overdrawn."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.ledger import (
    CLEARING,
    FUNDING,
    HOLD_TRANSITIONS,
    Account,
    Hold,
    HoldState,
    expirations,
    hold,
    post,
    posting,
    refusal,
    release,
    settle,
)
from paylab.core.messages import HoldOrder, Leg, Verb
from paylab.core.money import Money

AMOUNTS = st.integers(-1_000, 1_000)
LEGS = st.builds(
    Leg,
    st.just("alpine"),
    st.sampled_from(["alice", "bob", "shop"]),
    st.builds(Money, AMOUNTS, st.sampled_from(["EUR", "CZK"])),
)
ACCOUNTS = st.builds(
    Account,
    st.just("alice"),
    st.just("EUR"),
    posted_minor=st.integers(0, 1_000),
    held_minor=st.integers(0, 1_000),
)


def leg(amount_minor: int, currency: str = "EUR") -> Leg:
    return Leg("alpine", "alice", Money(amount_minor, currency))


@given(st.lists(LEGS, max_size=6), st.sampled_from([CLEARING, FUNDING]))
def test_every_posting_sums_to_zero(legs: list[Leg], against: str) -> None:
    """In each currency, whatever the legs are: the internal account takes the difference."""
    sums: Counter[str] = Counter()
    for line in posting(legs, against=against):
        sums[line.money.currency] += line.money.amount_minor
    assert not any(sums.values())


@given(st.lists(LEGS, max_size=6))
def test_a_posting_holds_every_leg(legs: list[Leg]) -> None:
    """The legs stand first and unchanged; a posting that balances by itself gets no other line."""
    lines = posting(legs, against=CLEARING)
    assert [(line.account, line.money) for line in lines[: len(legs)]] == [(x.account, x.money) for x in legs]
    assert all(line.account == CLEARING and line.money.amount_minor for line in lines[len(legs) :])


@given(ACCOUNTS, AMOUNTS)
def test_release_undoes_hold(account: Account, amount_minor: int) -> None:
    """A hold that comes off leaves the account as it was."""
    assert release(hold(account, leg(amount_minor)), leg(amount_minor)) == account


@given(ACCOUNTS, AMOUNTS)
def test_a_hold_lowers_what_can_be_spent_and_nothing_else(account: Account, amount_minor: int) -> None:
    """The posted balance stays; a credit sets nothing aside."""
    held = hold(account, leg(amount_minor))
    assert held.posted_minor == account.posted_minor
    assert account.available_minor - held.available_minor == max(0, -amount_minor)


@given(ACCOUNTS, AMOUNTS)
def test_posting_moves_the_amount(account: Account, amount_minor: int) -> None:
    """A debit lowers the posted balance, a credit raises it; holds stay."""
    posted = post(account, leg(amount_minor))
    assert posted.posted_minor - account.posted_minor == amount_minor
    assert posted.held_minor == account.held_minor


def test_more_than_is_held_cannot_be_released() -> None:
    """That would be a broken invariant, so it asserts."""
    with pytest.raises(AssertionError, match="releases more"):
        release(Account("alice", "EUR", posted_minor=10, held_minor=4), leg(-5))


@pytest.mark.parametrize(
    ("account", "of", "reason"),
    [
        (None, leg(5), "ACCOUNT_NOT_FOUND"),
        (Account("alice", "EUR", closed=True), leg(5), "ACCOUNT_CLOSED"),
        (Account("alice", "EUR"), leg(5, "CZK"), "CURRENCY_MISMATCH"),
        (Account("alice", "EUR", posted_minor=4), leg(-5), "INSUFFICIENT_FUNDS"),
        (Account("alice", "EUR", posted_minor=9, held_minor=5), leg(-5), "INSUFFICIENT_FUNDS"),
        (Account("alice", "EUR", posted_minor=5), leg(-5), ""),
        (Account("alice", "EUR"), leg(5), ""),
    ],
)
def test_reasons_to_refuse(account: Account | None, of: Leg, reason: str) -> None:
    """Each reason for a no, and that the last cent may be spent."""
    assert refusal(account, of) == reason


@given(st.integers(0, 500), st.lists(st.tuples(st.sampled_from("htp"), AMOUNTS), max_size=40))
def test_no_sequence_overdraws(opening_minor: int, steps: list[tuple[str, int]]) -> None:
    """Holding, releasing and posting in any order, as long as refusals are heeded, never overdraws."""
    account, holds = Account("alice", "EUR", posted_minor=opening_minor), list[Leg]()
    for what, amount_minor in steps:
        if what == "h" and not refusal(account, leg(amount_minor)):
            account = hold(account, leg(amount_minor))
            holds.append(leg(amount_minor))
        elif what == "t" and holds:
            account = release(account, holds.pop(0))
        elif what == "p" and holds:
            taken = holds.pop()
            account = post(release(account, taken), taken)
        assert account.available_minor >= 0
        assert account.held_minor == sum(max(0, -held.money.amount_minor) for held in holds)


# Authorisations -------------------------------------------------------------------------------------


def ordered(verb: Verb, amount_minor: int, expires_at_s: float = 10.0) -> Leg:
    return Leg("alpine", "alice", Money(amount_minor, "EUR"), HoldOrder(verb, "a1", expires_at_s))


def authorised(left_minor: int = 60, state: HoldState = HoldState.OPEN) -> Account:
    """An account of 100 of which an authorisation holds so much."""
    return Account("alice", "EUR", 100, held_minor=left_minor, holds=(Hold("a1", left_minor, 10.0, state),))


def carried_out(account: Account, of: Leg) -> Account:
    assert not refusal(account, of)
    return settle(hold(account, of), of)


def test_an_authorisation_holds_and_moves_nothing() -> None:
    """The prepared hold becomes the authorisation's own; the payee's side changes nothing."""
    place = ordered(Verb.PLACE, -60)
    assert not place.moves
    assert carried_out(Account("alice", "EUR", 100), place) == authorised()
    assert carried_out(Account("alice", "EUR"), ordered(Verb.PLACE, 60)) == Account("alice", "EUR")


def test_a_capture_takes_over_the_hold_and_posts_it() -> None:
    """While it is prepared the same amount is held, but no longer by the authorisation."""
    take = ordered(Verb.TAKE, -40)
    prepared = hold(authorised(), take)
    assert (prepared.held_minor, prepared.holds[0].left_minor) == (60, 20)
    assert settle(prepared, take) == Account("alice", "EUR", 60, held_minor=20, holds=(Hold("a1", 20, 10.0),))
    assert release(prepared, take) == authorised()


def test_a_void_gives_back_what_is_left() -> None:
    """Nothing is posted, and the authorisation is closed; an aborted void changes nothing."""
    free = ordered(Verb.FREE, -60)
    assert not free.moves
    assert carried_out(authorised(), free) == replace(authorised(0, HoldState.VOIDED), posted_minor=100)
    assert release(hold(authorised(), free), free) == authorised()


def test_what_is_taken_over_does_not_expire() -> None:
    """Only the rest is let go of; and a capture that is aborted after that gives nothing back."""
    take = ordered(Verb.TAKE, -40)
    prepared = hold(authorised(), take)
    assert expirations(prepared, now=9.9) == []
    [(gone, left)] = expirations(prepared, now=10.0)
    assert gone.left_minor == 20
    assert (left.held_minor, left.holds) == (40, (Hold("a1", 0, 10.0, HoldState.EXPIRED),))
    assert settle(left, take).posted_minor == 60
    assert release(left, take).held_minor == 0
    assert expirations(left, now=99.0) == []


@pytest.mark.parametrize(
    ("account", "of", "reason"),
    [
        (authorised(), ordered(Verb.TAKE, -61), "AUTHORISATION_CLOSED"),
        (authorised(), ordered(Verb.TAKE, -60), ""),
        (Account("alice", "EUR", 100), ordered(Verb.TAKE, -1), "AUTHORISATION_CLOSED"),
        (authorised(0, HoldState.VOIDED), ordered(Verb.TAKE, -1), "AUTHORISATION_CLOSED"),
        (authorised(0, HoldState.VOIDED), ordered(Verb.FREE, -1), "AUTHORISATION_CLOSED"),
        (authorised(0, HoldState.EXPIRED), ordered(Verb.TAKE, -1), "AUTHORISATION_EXPIRED"),
        (authorised(), leg(-41), "INSUFFICIENT_FUNDS"),
        (authorised(), ordered(Verb.PLACE, -41), "INSUFFICIENT_FUNDS"),
        (replace(authorised(), closed=True), ordered(Verb.TAKE, -1), "ACCOUNT_CLOSED"),
        (replace(authorised(), closed=True), ordered(Verb.FREE, -60), ""),
    ],
)
def test_reasons_to_refuse_an_order(account: Account, of: Leg, reason: str) -> None:
    """A bank captures only what is held, and gives back what is held on a closed account, too."""
    assert refusal(account, of) == reason


def test_a_hold_ends_once() -> None:
    """Nothing leads out of VOIDED and EXPIRED."""
    assert {state for state, _ in HOLD_TRANSITIONS} == {None, HoldState.OPEN}
    with pytest.raises(KeyError):
        Hold("a1", 0, 10.0, HoldState.EXPIRED).after("voided")


@given(
    st.integers(0, 300),
    st.lists(
        st.tuples(
            st.sampled_from(Verb) | st.none(), st.integers(1, 120), st.sampled_from("sa"), st.booleans()
        ),
        max_size=30,
    ),
)
def test_no_sequence_of_orders_overdraws(
    opening_minor: int, steps: list[tuple[Verb | None, int, str, bool]]
) -> None:
    """Two transactions at most prepared at a time, settled or aborted, and time passing in between.

    Never is more held than there is; what is held is what is prepared and what authorisations have left.
    """
    account, now, prepared = Account("alice", "EUR", opening_minor), 0.0, list[Leg]()
    for n, (verb, amount_minor, end, later) in enumerate(steps):
        now += 4.0 if later else 0.0
        for _, after in expirations(account, now=now):
            account = after
        name = f"a{n if verb is Verb.PLACE else n // 2}"
        order = HoldOrder(verb, name, now + 5.0) if verb else None
        wanted = Leg("alpine", "alice", Money(-amount_minor, "EUR"), order)
        if not refusal(account, wanted):
            account = hold(account, wanted)
            prepared.append(wanted)
        if len(prepared) > 1:
            account = (settle if end == "s" else release)(account, prepared.pop(0))
        left_minor = sum(each.left_minor for each in account.holds)
        assert account.held_minor == left_minor + sum(each.debit_minor for each in prepared)
        assert 0 <= account.held_minor <= account.posted_minor
        assert all(not each.left_minor for each in account.holds if each.state is not HoldState.OPEN)
