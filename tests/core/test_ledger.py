"""The ledger: postings sum to zero, holds come off again, nothing is overdrawn."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.ledger import CLEARING, FUNDING, Account, hold, post, posting, refusal, release
from paylab.core.messages import Leg
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
