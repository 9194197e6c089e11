"""As many balls as bins, each put into the emptiest of one, two or three: how full is the fullest?"""

import math
from collections.abc import Mapping
from itertools import pairwise

from paylab.core.backoff import Rng
from paylab.lab.experiments.experiments import (
    Expectation,
    Experiment,
    Formula,
    Measurements,
    Parameters,
    Size,
)
from paylab.lab.simulation.choices import seeded

# Fuller bins than this do not occur; steps of the integration, beyond which nothing changes.
LOAD_MAX = 25
STEPS = 1_000


def mean_maximum(bins: int, choices: int) -> float:
    """The mean of the fullest bin's load, of as many balls as bins.

    The share s_k of bins with at least k balls follows ds_k/dt = s_{k-1}^d - s_k^d until time 1. How many
    bins that are is nearly Poisson, so the fullest has at least k balls with probability 1 - exp(-n s_k).
    """
    shares = [1.0] + [0.0] * LOAD_MAX

    def change(at: list[float]) -> list[float]:
        powers = [share**choices for share in at]
        return [0.0, *(before - here for before, here in pairwise(powers))]

    def ahead(by: float, slope: list[float]) -> list[float]:
        return [share + by * rise for share, rise in zip(shares, slope, strict=True)]

    for _ in range(STEPS):  # Runge-Kutta of order 4
        first = change(shares)
        second = change(ahead(0.5 / STEPS, first))
        third = change(ahead(0.5 / STEPS, second))
        fourth = change(ahead(1 / STEPS, third))
        slopes = zip(first, second, third, fourth, strict=True)
        shares = ahead(1 / STEPS, [(a + 2 * b + 2 * c + d) / 6 for a, b, c, d in slopes])
    return sum(-math.expm1(-bins * share) for share in shares[1:])


def trial(parameters: Parameters, seed: int) -> Measurements:
    """Throw as many balls as there are bins."""
    return {"fullest": max(throw(parameters["bins"], parameters["choices"], rng=seeded(seed, "balls")))}


def throw(bins: int, choices: int, *, rng: Rng) -> list[int]:
    """How many balls are in each bin.

    This is `core.balancing.PowerOfChoices` on bare numbers, ten times as fast; a test holds the two together.
    """
    loads, random, more = [0] * bins, rng.random, range(choices - 1)
    for _ in range(bins):
        best = int(random() * bins)
        for _ in more:
            other = int(random() * bins)
            if loads[other] < loads[best]:
                best = other
        loads[best] += 1
    return loads


def expect(parameters: Parameters) -> Mapping[str, Expectation]:
    """The fluid limit."""
    formula = mean_maximum(parameters["bins"], parameters["choices"])
    return {"fullest": Formula(formula, precision=parameters["precision"])}


BALLS_IN_BINS = Experiment(
    name="balls-in-bins",
    question="How full is the fullest bin, if every ball goes into the emptiest of 1, 2 or 3 random ones?",
    expectation="7.8, 3.5 and 3.0 for 100,000 balls: the sum over k of 1 - exp(-n s_k), s_k the fluid limit",
    source="Y. Azar et al., Balanced Allocations, SIAM J. Comput. 29(1), 1999; fluid limit: M. Mitzenmacher, "
    "The Power of Two Choices in Randomized Load Balancing, dissertation, UC Berkeley, 1996",
    grid={"choices": [1, 2, 3]},
    trial=trial,
    expect=expect,
    full=Size(750, {"bins": 100_000, "precision": 0.02}),
    quick=Size(60, {"bins": 10_000, "precision": 0.10}),
    units={"fullest": "balls"},
)
