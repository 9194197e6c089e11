"""How long to wait before trying again."""

from typing import Protocol


class Rng(Protocol):
    """The randomness that a rule takes as an argument."""

    def random(self) -> float:
        """Uniform in [0, 1)."""

    def uniform(self, a: float, b: float) -> float:
        """Uniform in [a, b]."""


def exponential(attempt: int, *, base_s: float, cap_s: float) -> float:
    """`base_s`, doubled for every attempt after attempt 1, at most `cap_s`."""
    return min(cap_s, base_s * 2.0 ** min(attempt - 1, 60))


def full_jitter(attempt: int, *, base_s: float, cap_s: float, rng: Rng) -> float:
    """Uniform between 0 and the exponential delay.

    Source: M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
    """
    return rng.uniform(0.0, exponential(attempt, base_s=base_s, cap_s=cap_s))
