"""Claims: what a token with a good signature must still say."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.tokens import (
    ACCESS_LIFETIME_S,
    CUSTOMER_SCOPES,
    LEEWAY_S,
    ORIGINATOR,
    REQUIRED,
    Caller,
    access_claims,
    check_account,
    check_claims,
    check_header,
    find_key,
)
from paylab.errors import PermissionDenied, Unauthenticated

NOW = 1_700_000_000.0


def claims(**changes: Any) -> dict[str, Any]:
    made = access_claims(
        subject="alice", accounts=["alpine/alice"], roles=["customer"], token_id="t1", now=NOW
    )
    return {**made, **changes}


def refused(changed: dict[str, Any], *, now: float = NOW) -> str:
    with pytest.raises(Unauthenticated) as caught:
        check_claims(changed, now=now)
    return caught.value.reason


@given(st.text(), st.lists(st.text()), st.lists(st.text()), st.floats(0, 2**40))
def test_our_own_claims_are_believed(subject: str, accounts: list[str], roles: list[str], now: float) -> None:
    """What an authentication server signs now is accepted now, also after a trip through JSON."""
    made = access_claims(subject=subject, accounts=accounts, roles=roles, token_id="t", now=now)
    caller = check_claims(json.loads(json.dumps(made)), now=now)
    assert caller == Caller(subject, CUSTOMER_SCOPES, tuple(accounts), tuple(roles))


@pytest.mark.parametrize("name", REQUIRED)
def test_every_required_claim_is_required(name: str) -> None:
    """A token that leaves one out is not valid, exp and jti included, which PyJWT would not ask for."""
    made = claims()
    del made[name]
    assert refused(made) == "TOKEN_INVALID"


def test_a_token_expires() -> None:
    """It is good until its end plus the leeway, and says TOKEN_EXPIRED from then on."""
    end = int(NOW) + ACCESS_LIFETIME_S + LEEWAY_S
    assert check_claims(claims(), now=end - 0.001).subject == "alice"
    assert refused(claims(), now=end) == "TOKEN_EXPIRED"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://auth.elsewhere.test"},
        {"aud": "elsewhere"},
        {"aud": ["paylab", "elsewhere"]},
        {"exp": "2100-01-01"},
        {"exp": None},
        {"iat": "now"},
        {"iat": NOW + LEEWAY_S + 1},
        {"nbf": NOW + LEEWAY_S + 1},
        {"nbf": "later"},
    ],
)
def test_wrong_claims_are_refused(changes: dict[str, Any]) -> None:
    """Another issuer, another audience, times that are no times, and a token from the future."""
    assert refused(claims(**changes)) == "TOKEN_INVALID"


def test_an_end_that_is_no_number_has_passed() -> None:
    """JSON can carry NaN, and every comparison with it is false: such a token must not live for ever."""
    assert refused(claims(exp=float("nan"))) == "TOKEN_EXPIRED"


def test_clocks_may_differ_by_the_leeway() -> None:
    """A token that was issued a moment from now, by another clock, is believed."""
    assert check_claims(claims(iat=NOW + LEEWAY_S, nbf=NOW + LEEWAY_S), now=NOW).subject == "alice"


def test_accounts_are_those_of_the_caller() -> None:
    """A caller acts on his own accounts; an originator on any."""
    alice = Caller("alice", (), ("alpine/alice",), ())
    check_account(alice, "alpine/alice")
    with pytest.raises(PermissionDenied) as caught:
        check_account(alice, "alpine/alic")
    assert caught.value.reason == "NOT_OWNER"
    check_account(Caller("runner", (), (), (ORIGINATOR,)), "alpine/alice")


@pytest.mark.parametrize(
    "header", [{}, {"typ": "JWT"}, {"typ": "AT+JWT"}, {"typ": None}, {"typ": ["at+jwt"]}]
)
def test_a_token_of_another_kind_is_refused(header: dict[str, Any]) -> None:
    """Only what says of itself that it is an access token is read as one."""
    check_header({"typ": "at+jwt", "alg": "whatever"})
    with pytest.raises(Unauthenticated):
        check_header(header)


@pytest.mark.parametrize("kid", [None, "", "another", "../a", ["a"], {"a": 1}, 7])
def test_a_key_is_looked_up_and_nothing_else(kid: Any) -> None:
    """What is no published key id is no key, whatever else the header offers."""
    assert find_key({"kid": "a"}, {"a": "key a"}) == "key a"
    assert find_key({"kid": kid, "jwk": {}, "jku": "https://", "x5u": "https://"}, {"a": "key a"}) is None
    assert find_key({}, {"a": "key a"}) is None
