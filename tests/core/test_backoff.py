"""Backoff: doubled, capped, and spread over the whole delay."""

import random

from hypothesis import given
from hypothesis import strategies as st

from paylab.core.backoff import constant, decorrelated_jitter, equal_jitter, exponential, full_jitter

ATTEMPTS = st.integers(1, 10_000)
SECONDS = st.floats(0.001, 1_000)


@given(ATTEMPTS, SECONDS, SECONDS)
def test_delay_doubles_up_to_the_cap(attempt: int, base_s: float, cap_s: float) -> None:
    """Each delay is twice the one before it, or the cap; a huge attempt number overflows nothing."""
    delay_s = exponential(attempt, base_s=base_s, cap_s=cap_s)
    assert 0 < delay_s <= cap_s
    following_s = exponential(attempt + 1, base_s=base_s, cap_s=cap_s)
    assert following_s == min(cap_s, delay_s * 2)


def test_the_first_delay_is_the_base() -> None:
    """Attempts count from 1."""
    assert [exponential(n, base_s=0.5, cap_s=3.0) for n in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(ATTEMPTS, SECONDS, SECONDS, st.integers())
def test_jitter_stays_between_zero_and_the_delay(
    attempt: int, base_s: float, cap_s: float, seed: int
) -> None:
    """No wait is longer than the exponential delay."""
    delay_s = full_jitter(attempt, base_s=base_s, cap_s=cap_s, rng=random.Random(seed))  # noqa: S311 - jitter guards no secret
    assert 0 <= delay_s <= exponential(attempt, base_s=base_s, cap_s=cap_s)


def test_jitter_is_full() -> None:
    """Delays fill the whole range evenly, so that clients that failed together do not come back together."""
    rng = random.Random(7)  # noqa: S311 - jitter guards no secret
    delays = sorted(full_jitter(3, base_s=1.0, cap_s=60.0, rng=rng) for _ in range(1_000))
    assert delays[100] < 0.6
    assert delays[900] > 3.4
    assert 1.85 < sum(delays) / len(delays) < 2.15


def test_chance_is_an_argument() -> None:
    """The same randomness gives the same delay."""
    rngs = [random.Random(1) for _ in range(2)]  # noqa: S311 - jitter guards no secret
    assert len({full_jitter(2, base_s=1, cap_s=9, rng=rng) for rng in rngs}) == 1


@given(ATTEMPTS, SECONDS, SECONDS, st.integers())
def test_equal_jitter_waits_at_least_half(attempt: int, base_s: float, cap_s: float, seed: int) -> None:
    """Between half of the exponential delay and all of it."""
    whole_s = exponential(attempt, base_s=base_s, cap_s=cap_s)
    delay_s = equal_jitter(attempt, base_s=base_s, cap_s=cap_s, rng=random.Random(seed))  # noqa: S311 - jitter guards no secret
    assert whole_s / 2 <= delay_s <= whole_s


@given(SECONDS, SECONDS, SECONDS, st.integers())
def test_decorrelated_jitter_grows_from_the_previous_delay(
    previous_s: float, base_s: float, cap_s: float, seed: int
) -> None:
    """From the base to three times the previous delay, and never above the cap."""
    delay_s = decorrelated_jitter(previous_s, base_s=base_s, cap_s=cap_s, rng=random.Random(seed))  # noqa: S311 - jitter guards no secret
    assert min(base_s, cap_s) <= delay_s <= min(cap_s, max(base_s, 3 * previous_s))


def test_a_constant_delay_is_constant() -> None:
    """Base or cap, whichever is less, for every attempt."""
    assert {constant(n, base_s=0.5, cap_s=3.0) for n in range(1, 100)} == {0.5}
    assert constant(1, base_s=5.0, cap_s=3.0) == 3.0
