"""When a queued payment is tried: within its horizon, last exactly at its end, and not for ever."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from paylab.core.backoff import exponential, full_jitter
from paylab.core.payment import SHORT
from paylab.core.retry_schedule import RetrySchedule, next_try_s


def tries(schedule: RetrySchedule, *, reason: str = "BANK_UNREACHABLE", seed: int = 0) -> list[float]:
    """The moments of all tries of a payment that is queued at 100 and never settled."""
    rng, now, found = random.Random(seed), 100.0, list[float]()  # noqa: S311 - jitter guards no secret
    while (
        due := next_try_s(
            schedule, tries=len(found), now=now, queued_at_s=100.0, reason=reason, delay=full_jitter, rng=rng
        )
    ) is not None:
        assert due >= now
        now = due
        found.append(now)
    return found


@given(st.floats(1.0, 5_000.0), st.integers(0, 1_000))
def test_the_last_try_is_made_at_the_horizon(horizon_s: float, seed: int) -> None:
    """Not before, so that no recovery is missed, and never after."""
    found = tries(RetrySchedule(horizon_s=horizon_s), seed=seed)
    assert found[-1] == 100.0 + horizon_s
    assert sorted(found) == found


def test_a_number_of_tries_ends_it_sooner() -> None:
    """Whichever comes first."""
    assert len(tries(RetrySchedule(tries_max=3))) == 3


@given(st.integers(0, 1_000))
def test_no_wait_is_longer_than_the_cap(seed: int) -> None:
    """Each is within its exponential delay."""
    schedule = RetrySchedule(horizon_s=600.0)
    found = [100.0, *tries(schedule, seed=seed)]
    for n, (before, after) in enumerate(itertools.pairwise(found), 1):
        assert after - before <= exponential(n, base_s=schedule.base_s, cap_s=schedule.cap_s)


def test_funds_are_waited_for_by_the_hour() -> None:
    """Half to all of an hour each, whatever the horizon of outages; then it is given up, too."""
    schedule = RetrySchedule(horizon_s=60.0)
    found = [100.0, *tries(schedule, reason=SHORT)]
    gaps = [after - before for before, after in itertools.pairwise(found)]
    assert len(gaps) == schedule.funds_tries_max
    assert all(1_800 <= gap <= 3_600 for gap in gaps)
    assert 6 * 86_400 < found[-1] - found[0] < 8 * 86_400
