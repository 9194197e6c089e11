"""Key rotation: no token is refused while it is good, whoever signed it when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.key_rotation import TIMES, KeyTimes, Rotation, SigningKey, rotate
from paylab.core.tokens import ACCESS_LIFETIME_S, LEEWAY_S
from paylab.nodes.token_verifier import FRESH_FOR_S

SHORT = KeyTimes(signs_for_s=100.0, published_ahead_s=10.0, kept_after_s=30.0)
OLD, NEW = SigningKey("old", 0.0), SigningKey("new", 100.0)


def test_the_first_key_signs_at_once() -> None:
    """There is nobody yet whom it could surprise."""
    assert rotate([], now=5.0, times=SHORT) == Rotation("", (), 5.0)


@pytest.mark.parametrize(
    ("now", "signs", "published"),
    [
        (90.0, "old", ("old", "new")),
        (99.9, "old", ("old", "new")),
        (100.0, "new", ("old", "new")),
        (129.9, "new", ("old", "new")),
        (130.0, "new", ("new",)),
    ],
)
def test_a_key_is_published_before_it_signs_and_after(
    now: float, signs: str, published: tuple[str, ...]
) -> None:
    """The old one signs until the new one does, and is withdrawn when its last token has ended."""
    rotation = rotate([NEW, OLD], now=now, times=SHORT)
    assert (rotation.signs, rotation.published) == (signs, published)


def test_the_next_key_is_made_early_enough() -> None:
    """So long before it signs as it must be published; one that was forgotten is made now."""
    assert rotate([OLD], now=89.9, times=SHORT).make_from_s is None
    assert rotate([OLD], now=90.0, times=SHORT).make_from_s == 100.0
    assert rotate([OLD], now=500.0, times=SHORT).make_from_s == 510.0
    assert rotate([OLD], now=5.0, asked=True, times=SHORT).make_from_s == 15.0


def test_the_times_fit_together() -> None:
    """A verifier knows a key before it signs, and the last token of a key ends before the key goes."""
    assert TIMES.published_ahead_s > FRESH_FOR_S + LEEWAY_S
    assert TIMES.kept_after_s >= ACCESS_LIFETIME_S + LEEWAY_S
    assert TIMES.signs_for_s > TIMES.published_ahead_s


@given(st.lists(st.floats(1.0, 400.0), max_size=30))
def test_whatever_signs_is_published_for_as_long_as_its_tokens_live(steps: list[float]) -> None:
    """A key that signed at any moment verifies until its token's end, however the clock is looked at."""
    keys: list[SigningKey] = []
    now, owed = 0.0, list[tuple[float, str]]()
    for n, step in enumerate(steps):
        now += step
        rotation = rotate(keys, now=now, times=SHORT)
        if rotation.make_from_s is not None:
            keys.append(SigningKey(f"k{n}", rotation.make_from_s))
            rotation = rotate(keys, now=now, times=SHORT)
        assert rotation.signs in rotation.published
        assert all(kid in rotation.published for end_s, kid in owed if now < end_s)
        keys = [key for key in keys if key.kid in rotation.published]
        owed.append((now + SHORT.kept_after_s, rotation.signs))
