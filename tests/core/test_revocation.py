"""Revocations: what was revoked stays refused until it has expired, in bounded memory."""

from hypothesis import given
from hypothesis import strategies as st

from paylab.core.revocation import Revocations, bounded, is_revoked


def test_a_revoked_id_is_refused_until_it_has_expired() -> None:
    """Then nobody need remember it."""
    revoked = [("a", 100.0), ("b", 200.0)]
    assert bounded(revoked, now=50.0) == Revocations(frozenset({"a", "b"}))
    assert bounded(revoked, now=100.0) == Revocations(frozenset({"b"}))
    assert is_revoked({"jti": "b", "exp": 200.0}, bounded(revoked, now=100.0))
    assert not is_revoked({"jti": "c", "exp": 200.0}, bounded(revoked, now=100.0))


@given(st.dictionaries(st.text(max_size=3), st.floats(1, 1000)), st.floats(0, 1000), st.integers(0, 5))
def test_bounded_memory_forgets_no_revocation(revoked: dict[str, float], now: float, limit: int) -> None:
    """At most so many ids are kept, and every revoked token that has not expired is refused."""
    kept = bounded(revoked.items(), now=now, limit=limit)
    assert len(kept.token_ids) <= limit
    for token_id, expires_at_s in revoked.items():
        if expires_at_s > now:
            assert is_revoked({"jti": token_id, "exp": expires_at_s}, kept)


def test_an_overflow_costs_the_oldest_tokens_only() -> None:
    """Tokens that were issued later than those that were dropped are believed."""
    kept = bounded([("a", 100.0), ("b", 200.0), ("c", 300.0)], now=0.0, limit=1)
    assert kept == Revocations(frozenset({"c"}), 200.0)
    assert not is_revoked({"jti": "mine", "exp": 201.0}, kept)
    assert is_revoked({"jti": "mine", "exp": 199.0}, kept)


def test_nothing_revoked_refuses_nothing() -> None:
    """A verifier that has not heard of any believes every token."""
    assert not is_revoked({"jti": "a", "exp": 0.5}, Revocations())
    assert not is_revoked({}, Revocations())
