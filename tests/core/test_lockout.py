"""Lockout: a few failures are free, then the delay doubles up to its cap, and time forgives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.lockout import BY_PEER, BY_USER, Failures, LockoutRules, counted, locked_for_s

RULES = LockoutRules(free=3, base_s=1.0, cap_s=60.0, forget_after_s=600.0)


@pytest.mark.parametrize(
    ("count", "expected"), [(0, 0), (2, 0), (3, 1), (4, 2), (8, 32), (9, 60), (5000, 60)]
)
def test_the_delay_doubles(count: int, expected: float) -> None:
    """From the first failure that is not free on."""
    assert locked_for_s(Failures(count, 100.0), now=100.0, rules=RULES) == expected


def test_time_passes_and_forgives() -> None:
    """The delay runs from the last failure; without one for long enough all are forgotten."""
    failures = Failures(4, 100.0)
    assert locked_for_s(failures, now=101.5, rules=RULES) == 0.5
    assert locked_for_s(failures, now=102.0, rules=RULES) == 0
    assert counted(failures, now=102.0, rules=RULES) == Failures(5, 102.0)
    assert counted(failures, now=700.0, rules=RULES) == Failures(1, 700.0)
    assert locked_for_s(Failures(5000, 100.0), now=700.0, rules=RULES) == 0


@given(st.integers(0, 10_000), st.floats(0, 1e9), st.floats(0, 1e6))
def test_nobody_waits_longer_than_the_cap(count: int, last_s: float, later_s: float) -> None:
    """Whatever was counted: a user who is attacked for ever still gets in between two attacks."""
    for rules in (BY_USER, BY_PEER):
        assert 0 <= locked_for_s(Failures(count, last_s), now=last_s + later_s, rules=rules) <= rules.cap_s


def test_a_day_of_guessing_finds_nothing() -> None:
    """At the pace that is left, one user's password can be tried a few hundred times a day."""
    failures, now, tries = Failures(), 0.0, 0
    while now < 86_400.0:
        failures, tries = counted(failures, now=now, rules=BY_USER), tries + 1
        now += locked_for_s(failures, now=now, rules=BY_USER)
    assert tries < 320
