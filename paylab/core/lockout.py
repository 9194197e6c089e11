"""Guessing passwords must take too long: after a few failures every further one costs a growing delay.

Failures are counted by user, whom many may try to guess, and by peer, who may try many users. A peer may be
many honest people, so it has more of them free. Who waits is told so whether the user exists or not.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LockoutRules:
    """How many failures are free, and how the delay grows after them."""

    free: int
    base_s: float = 1.0
    cap_s: float = 300.0
    # Without a failure for so long, all are forgotten.
    forget_after_s: float = 3_600.0


BY_USER = LockoutRules(free=5)
BY_PEER = LockoutRules(free=50)


@dataclass(frozen=True, slots=True)
class Failures:
    """How often somebody failed, and when last."""

    count: int = 0
    last_at_s: float = 0.0


def counted(failures: Failures, *, now: float, rules: LockoutRules) -> Failures:
    """With one more failure, now."""
    stale = now >= failures.last_at_s + rules.forget_after_s
    return Failures(1 if stale else failures.count + 1, now)


def locked_for_s(failures: Failures, *, now: float, rules: LockoutRules) -> float:
    """How long to wait before the next try is even looked at; 0 when it may be tried now."""
    excess = failures.count - rules.free
    if excess < 0 or now >= failures.last_at_s + rules.forget_after_s:
        return 0.0
    # 2.0 ** 64 seconds are more than any cap, and more would not fit a float some day.
    delay_s = min(rules.cap_s, rules.base_s * 2.0 ** min(excess, 64))
    return max(0.0, failures.last_at_s + delay_s - now)
