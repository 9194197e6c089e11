"""Idempotency keys: what can become a payment, and when a request is the same one again."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.idempotency import KEY_LENGTH_MAX, check_request, fingerprint, frozen, same_request
from paylab.core.money import AMOUNT_MINOR_MAX, Money
from paylab.core.payment import TERMINAL, Payment, State
from paylab.errors import InvalidRequest, KeyReused

EUR = Money(1250, "EUR")
REQUESTS = st.tuples(
    st.text(max_size=8),
    st.text(max_size=8),
    st.builds(Money, st.integers(-5, 5), st.sampled_from(["EUR", "USD"])),
)


def payment(**changes: object) -> Payment:
    saved = Payment(
        payment="p1",
        caller="alice",
        key="k1",
        fingerprint=fingerprint(payer="a/x", payee="b/y", money=EUR),
        payer="a/x",
        payee="b/y",
        money=EUR,
    )
    return replace(saved, **changes)  # type: ignore[arg-type]


@given(REQUESTS, REQUESTS)
def test_fingerprints_tell_requests_apart(one: tuple[str, str, Money], other: tuple[str, str, Money]) -> None:
    """Two requests have the same fingerprint exactly when payer, payee and money are the same."""
    prints = [fingerprint(payer=payer, payee=payee, money=money) for payer, payee, money in (one, other)]
    assert (prints[0] == prints[1]) == (one == other)


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    """It is stored for ever, so its value must never change."""
    made = fingerprint(payer="alpine/alice", payee="boreal/bob", money=EUR)
    assert made == "bb76f010b0339dd8c29afd9267be2c8e5a572651618ab4f3788f659475d65008"


def test_another_operation_is_another_request() -> None:
    """A capture of the same amount between the same accounts is no payment, nor a capture of another."""
    kinds = [(), ("CAPTURE", "p1", 0.0), ("CAPTURE", "p2", 0.0), ("REFUND", "p1", 0.0)]
    assert len({fingerprint(payer="a/x", payee="b/y", money=EUR, operation=kind) for kind in kinds}) == 4


@pytest.mark.parametrize("state", State)
def test_a_keys_time_runs_from_the_end(state: State) -> None:
    """What is not terminal keeps its key for ever."""
    after = frozen(payment(state=state), now=100.0, retention_s=60.0)
    assert after.key_until_s == (160.0 if state in TERMINAL else 0.0)
    assert replace(after, key_until_s=0.0) == payment(state=state)


def test_the_same_request_gets_the_saved_payment() -> None:
    """A repetition is answered with what is saved, whatever state that is in."""
    for state in State:
        saved = payment(state=state)
        assert same_request(saved, saved.fingerprint) is saved


def test_another_request_under_the_key_is_refused() -> None:
    """A key belongs to one request for ever, even when that was declined."""
    other = fingerprint(payer="a/x", payee="b/y", money=Money(1251, "EUR"))
    for state in State:
        with pytest.raises(KeyReused) as caught:
            same_request(payment(state=state), other)
        assert caught.value.reason == "KEY_REUSED"


@pytest.mark.parametrize("key", ["", "k" * (KEY_LENGTH_MAX + 1)])
def test_a_key_is_needed(key: str) -> None:
    """Without a key, or with one that is too long, nothing is accepted."""
    with pytest.raises(InvalidRequest) as caught:
        check_request(key=key, payer="a/x", payee="b/y", money=EUR)
    assert caught.value.reason == "KEY_MISSING"


@pytest.mark.parametrize(
    "account", ["", "x", "a/", "/x", "a/x/y", "a/@clearing", "@a/x", "a/" + "x" * 200, "b/y"]
)
def test_an_account_is_bank_and_name(account: str) -> None:
    """Anything else is refused: internal accounts, long names, and paying oneself."""
    with pytest.raises(InvalidRequest) as caught:
        check_request(key="k", payer=account, payee="b/y", money=EUR)
    assert caught.value.reason == "BAD_ACCOUNT"


@pytest.mark.parametrize("amount_minor", [0, -1, AMOUNT_MINOR_MAX + 1, 2**63 - 1, -(2**63)])
def test_an_amount_is_above_zero_and_bounded(amount_minor: int) -> None:
    """Nothing, less than nothing and more than the limit are refused."""
    with pytest.raises(InvalidRequest) as caught:
        check_request(key="k", payer="a/x", payee="b/y", money=Money(amount_minor, "EUR"))
    assert caught.value.reason == "INVALID_AMOUNT"


def test_limits_are_inclusive() -> None:
    """The longest key and the largest amount are accepted."""
    check_request(key="k" * KEY_LENGTH_MAX, payer="a/x", payee="b/y", money=Money(AMOUNT_MINOR_MAX, "EUR"))
