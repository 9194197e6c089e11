"""Intervals hold the truth as often as they promise, on distributions whose mean is known."""

import math
import random
import statistics as stdlib
from collections.abc import Callable

import pytest

from paylab.lab.experiments.statistics import (
    Controlled,
    Tally,
    batch_means,
    beta_cdf,
    controlled_interval,
    mean_interval,
    simultaneous,
    student_quantile,
    tally_interval,
    zero_bound,
)
from paylab.lab.simulation.choices import seeded

ROUNDS = 600


def covered(interval: Callable[[random.Random], tuple[float, float]], truth: float) -> float:
    """The share of rounds in which the interval held the truth."""
    bounds = [interval(seeded(seed)) for seed in range(ROUNDS)]
    return sum(low <= truth <= high for low, high in bounds) / ROUNDS


@pytest.mark.parametrize(
    ("confidence", "freedom", "quantile"),
    [
        (0.95, 1, 12.706), (0.95, 10, 2.228), (0.99, 5, 4.032), (0.999, 3, 12.924), (0.999, 30, 3.646),
        (0.95, 10_000, 1.960),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_the_tables(confidence: float, freedom: int, quantile: float) -> None:
    """Student's t as it is printed in textbooks."""
    assert student_quantile(confidence, freedom=freedom) == pytest.approx(quantile, abs=6e-4)


def test_the_beta_distribution_is_a_binomial_tail() -> None:
    """P(at least k of n) is I(p; k, n - k + 1), which can be summed by hand."""
    for n, k, p in ((5, 2, 0.3), (40, 1, 0.01), (100, 60, 0.5), (300, 20, 0.05)):
        tail = sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1))
        assert beta_cdf(p, k, n - k + 1) == pytest.approx(tail, rel=1e-10)
    assert [beta_cdf(x, 2, 3) for x in (0, 1)] == [0, 1]


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_mean_intervals_hold_the_mean_as_often_as_promised(confidence: float) -> None:
    """Of many intervals of 8 normal values the promised share holds the mean."""

    def draw(rng: random.Random) -> tuple[float, float]:
        found = mean_interval([rng.gauss(5, 2) for _ in range(8)], confidence=confidence)
        return found.low, found.high

    assert covered(draw, 5) == pytest.approx(
        confidence, abs=4 * math.sqrt(confidence * (1 - confidence) / ROUNDS)
    )


def test_controlled_intervals_are_narrower_and_still_hold_the_mean() -> None:
    """With half of the spread explained they are 1/√2 as wide and cover as promised."""
    widths = []

    def draw(rng: random.Random) -> tuple[float, float]:
        surpluses = [rng.gauss(0, 1) for _ in range(20)]
        runs = [Controlled(3 + 2 * s + rng.gauss(0, 2), s) for s in surpluses]
        found = controlled_interval(runs, confidence=0.99)
        widths.append(found.half_width / mean_interval([r.value for r in runs], confidence=0.99).half_width)
        return found.low, found.high

    assert 0.98 <= covered(draw, 3) <= 1
    assert stdlib.fmean(widths) == pytest.approx(1 / math.sqrt(2), abs=0.05)


def test_tallies_count_runs_and_not_single_chances() -> None:
    """Where all chances of a run share their luck, the interval over runs still covers as promised."""

    def draw(rng: random.Random) -> tuple[float, float]:
        tallies = []
        for _ in range(30):
            luck, of = rng.uniform(0.1, 0.5), rng.choice((20, 60))
            tallies.append(Tally(sum(rng.random() < luck for _ in range(of)), of))
        found = tally_interval(tallies, confidence=0.95)
        return found.low, found.high

    assert covered(draw, 0.3) == pytest.approx(0.95, abs=0.03)


def test_zero_has_the_bound_of_the_rule_of_three() -> None:
    """Nothing in n chances leaves a rate of about 3/n at 95 %, and 1 - (1-bound)^n is the confidence."""
    assert zero_bound(1_000, confidence=0.95) == pytest.approx(3 / 1_000, rel=0.01)
    bound = zero_bound(70, confidence=0.999)
    assert 1 - (1 - bound) ** 70 == pytest.approx(0.999)
    found = tally_interval([Tally(0, 600), Tally(0, 400)], confidence=0.95)
    assert (found.measured, found.low) == (0, 0)
    assert found.high == pytest.approx(3 / 1_000, rel=0.01)
    assert zero_bound(0, confidence=0.95) == 1


def test_one_value_says_nothing_about_the_mean() -> None:
    """The interval of a single run has no ends, so nothing is ever met by it by luck."""
    assert mean_interval([3.0], confidence=0.9).half_width == math.inf
    assert tally_interval([Tally(1, 9)], confidence=0.9).high == math.inf
    assert controlled_interval([Controlled(3.0, 0.1)], confidence=0.9).half_width == math.inf


def test_equal_whole_numbers_are_no_proof() -> None:
    """Sixty times the same count leaves room for another that was not seen."""
    found = mean_interval([3] * 60, confidence=0.999)
    assert found.low < 2.95
    assert found.high > 3.05


def test_all_of_many_intervals_hold_together() -> None:
    """With Bonferroni's correction hardly a round of ten intervals has one that misses."""
    confidence = simultaneous(0.95, 10)
    assert confidence == pytest.approx(0.995)
    missed = 0
    for seed in range(300):
        rng = seeded(seed)
        intervals = [
            mean_interval([rng.gauss(0, 1) for _ in range(6)], confidence=confidence) for _ in range(10)
        ]
        missed += not all(found.low <= 0 <= found.high for found in intervals)
    assert missed / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_batch_means_repair_what_memory_breaks() -> None:
    """Neighbours of an autoregressive series are alike: single values promise too much, batches do not."""

    def series(rng: random.Random) -> list[float]:
        values, x = [], rng.gauss(0, 1 / math.sqrt(1 - 0.81))
        for _ in range(2_000):
            x = 0.9 * x + rng.gauss(0, 1)
            values.append(x)
        return values

    naive = batched = 0
    for seed in range(100):
        values = series(seeded(seed))
        one = mean_interval(values, confidence=0.95)
        two = mean_interval(batch_means(values, batches=10), confidence=0.95)
        naive += one.low <= 0 <= one.high
        batched += two.low <= 0 <= two.high
    assert naive / 100 < 0.6
    assert batched / 100 > 0.87


def test_batches_leave_out_what_does_not_fill_one() -> None:
    """Seven values in three batches are six."""
    assert batch_means([1, 1, 2, 2, 3, 3, 100], batches=3) == [1, 2, 3]
