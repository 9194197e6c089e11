"""How long to wait before trying again."""

from typing import Protocol


class Rng(Protocol):
    """The randomness that a rule takes as an argument."""

    def random(self) -> float:
        """Uniform in [0, 1)."""

    def uniform(self, a: float, b: float) -> float:
        """Uniform in [a, b]."""


def constant(_attempt: int, *, base_s: float, cap_s: float) -> float:
    """Always `base_s`, at most `cap_s`: clients that failed together come back together."""
    return min(cap_s, base_s)


def exponential(attempt: int, *, base_s: float, cap_s: float) -> float:
    """`base_s`, doubled for every attempt after attempt 1, at most `cap_s`."""
    return min(cap_s, base_s * 2.0 ** min(attempt - 1, 60))


def full_jitter(attempt: int, *, base_s: float, cap_s: float, rng: Rng) -> float:
    """Uniform between 0 and the exponential delay.

    Source: M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
    """
    return rng.uniform(0.0, exponential(attempt, base_s=base_s, cap_s=cap_s))


def equal_jitter(attempt: int, *, base_s: float, cap_s: float, rng: Rng) -> float:
    """Half of the exponential delay, and by chance up to as much again.

    Source: as of `full_jitter`.
    """
    half_s = exponential(attempt, base_s=base_s, cap_s=cap_s) / 2
    return half_s + rng.uniform(0.0, half_s)


def decorrelated_jitter(previous_s: float, *, base_s: float, cap_s: float, rng: Rng) -> float:
    """Uniform between `base_s` and three times the previous delay, at most `cap_s`.

    It remembers the previous delay instead of counting attempts; before the first, that is `base_s`.
    Source: as of `full_jitter`.
    """
    return min(cap_s, rng.uniform(base_s, max(base_s, 3 * previous_s)))
