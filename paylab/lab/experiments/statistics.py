"""Intervals for what chance measured: how far the truth may be from the mean of a few runs.

A confidence of 0.999 means that of a thousand such intervals one misses the truth. Where many intervals
are looked at together, `simultaneous` makes each wider, so that the promise holds for all of them at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, linear_regression, stdev

# Halving an interval so often leaves nothing that a float could tell apart.
HALVINGS = 100
# The continued fraction of the beta distribution has converged long before.
FRACTION_MAX = 500
FRACTION_DONE = 1e-15
TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Interval:
    """What was measured, and the bounds between which the truth lies with a stated confidence."""

    measured: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """How far the truth may be away."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Tally:
    """So many `events` among so many chances, as counted in one run."""

    events: float
    of: int


@dataclass(frozen=True, slots=True)
class Controlled:
    """A value, and by how much something whose mean is known came out above that mean in the same run.

    Runs in which by chance more work arrived have longer queues; knowing how much more removes that part of
    the spread ("control variate"; A. M. Law, Simulation Modeling and Analysis, 5th ed., section 11.4).
    """

    value: float
    surplus: float


def simultaneous(confidence: float, count: int) -> float:
    """The confidence that each of `count` intervals needs for all to hold together (Bonferroni)."""
    return 1 - (1 - confidence) / max(1, count)


def mean_interval(values: Sequence[float], *, confidence: float) -> Interval:
    """Where the mean of independent values lies: Student's t. One value alone says nothing about that.

    Whole numbers that were all the same have no spread to judge by: another one, a step away, may have been
    so rare that it was not seen.
    """
    mean, count = fmean(values), len(values)
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    if len(set(values)) == 1 and isinstance(values[0], int):
        reach = zero_bound(count, confidence=confidence)
        return Interval(mean, mean - reach, mean + reach)
    return _around(mean, stdev(values) / math.sqrt(count), freedom=count - 1, confidence=confidence)


def controlled_interval(runs: Sequence[Controlled], *, confidence: float) -> Interval:
    """Where the mean lies, after what the surplus explains is taken away: the intercept of a regression."""
    surpluses, values = [run.surplus for run in runs], [run.value for run in runs]
    if len(runs) <= 2 or len(set(surpluses)) == 1:  # noqa: PLR2004 - two points always lie on a line
        return mean_interval(values, confidence=confidence)
    slope, mean = linear_regression(surpluses, values)
    centre, freedom = fmean(surpluses), len(runs) - 2
    left = [v - mean - slope * s for v, s in zip(values, surpluses, strict=True)]
    variance = math.fsum(x * x for x in left) / freedom
    spread = math.fsum((s - centre) ** 2 for s in surpluses)
    error = math.sqrt(variance * (1 / len(runs) + centre**2 / spread))
    return _around(mean, error, freedom=freedom, confidence=confidence)


def tally_interval(tallies: Sequence[Tally], *, confidence: float) -> Interval:
    """Where the rate of events per chance lies; runs are independent, what happens in one need not be.

    The ratio estimator over runs. When nothing was counted at all, the upper bound is `zero_bound`.
    """
    events, of = math.fsum(tally.events for tally in tallies), sum(tally.of for tally in tallies)
    if not events:
        return Interval(0.0, 0.0, zero_bound(of, confidence=confidence))
    rate, count = events / of, len(tallies)
    if count == 1:
        return Interval(rate, 0.0, math.inf)
    left = math.fsum((tally.events - rate * tally.of) ** 2 for tally in tallies)
    error = math.sqrt(left * count / (count - 1)) / of
    found = _around(rate, error, freedom=count - 1, confidence=confidence)
    return Interval(rate, max(0.0, found.low), found.high)


def zero_bound(of: int, *, confidence: float) -> float:
    """The rate below which the truth lies when `of` independent chances gave no event.

    At 95 % it is about 3/`of`, the rule of three (J. A. Hanley, A. Lippman-Hand, JAMA 249, 1983).
    """
    return -math.expm1(math.log1p(-confidence) / of) if of else 1.0


def batch_means(series: Sequence[float], *, batches: int) -> list[float]:
    """Means of consecutive batches of one long run; nearly independent once a batch outlasts its memory.

    What does not fill a batch is left out. Source: A. M. Law, Simulation Modeling and Analysis, section 9.5.
    """
    size = len(series) // batches
    return [fmean(series[start : start + size]) for start in range(0, size * batches, size)]


@cache
def student_quantile(confidence: float, *, freedom: int) -> float:
    """How many standard errors around a mean hold the truth with this confidence, both sides together."""
    # P(|T| > t) = I(f / (f + t²); f/2, 1/2), with I the distribution function of the beta distribution.
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if beta_cdf(middle, freedom / 2, 0.5) < 1 - confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom * (1 - high) / high)


def beta_cdf(x: float, a: float, b: float) -> float:
    """The distribution function of the beta distribution, by its continued fraction.

    Source: NIST Digital Library of Mathematical Functions, 8.17(v), evaluated by Lentz's method.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, the other tail does quickly
        return 1 - beta_cdf(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, FRACTION_MAX):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            c, d = _not_zero(1 + term / c), 1 / _not_zero(1 + term * d)
            fraction *= c * d
        if abs(c * d - 1) < FRACTION_DONE:
            break
    return front * fraction / a


def _not_zero(x: float) -> float:
    return x if abs(x) > TINY else TINY


def _around(mean: float, error: float, *, freedom: int, confidence: float) -> Interval:
    reach = student_quantile(confidence, freedom=freedom) * error
    return Interval(mean, mean - reach, mean + reach)
