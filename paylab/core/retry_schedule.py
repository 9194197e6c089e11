"""When a queued payment is tried next, and when it is given up."""

from collections.abc import Callable
from dataclasses import dataclass

from paylab.core.backoff import Rng, equal_jitter
from paylab.core.payment import SHORT


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """Delays that double up to a cap, until the horizon or a number of tries."""

    base_s: float = 0.5
    cap_s: float = 60.0
    # From the moment at which it was queued; the last try is made exactly then. Of outages whose lengths are
    # exponential with mean m this recovers a share of 1 - exp(-horizon/m), so 95 % takes three times m.
    horizon_s: float = 5 * 3_600.0
    tries_max: int = 600
    # A payment that waits for funds is tried after half to all of this time: hourly, for about a week.
    funds_every_s: float = 3_600.0
    funds_tries_max: int = 220


def next_try_s(
    schedule: RetrySchedule,
    *,
    tries: int,
    now: float,
    queued_at_s: float,
    reason: str,
    delay: Callable[..., float],
    rng: Rng,
) -> float | None:
    """When a payment is due again that was tried `tries` times and waits for `reason`; None to give it up.

    `delay` is one of those in `paylab.core.backoff` that count attempts.
    """
    if reason == SHORT:
        every_s = schedule.funds_every_s
        wait_s = equal_jitter(1, base_s=every_s, cap_s=every_s, rng=rng)
        return now + wait_s if tries < schedule.funds_tries_max else None
    ends_at_s = queued_at_s + schedule.horizon_s
    if tries >= schedule.tries_max or now >= ends_at_s:
        return None
    return min(ends_at_s, now + delay(tries + 1, base_s=schedule.base_s, cap_s=schedule.cap_s, rng=rng))
