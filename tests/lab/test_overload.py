"""A server that was away for a moment, and clients that try again."""

from paylab.core.retries import NoLimit, RetryBudget, RetryThrottle
from paylab.lab.experiments.overload import LENGTH_S, overload


def test_a_storm_stays_and_a_budget_ends_it() -> None:
    """The same standstill: for ever with unlimited retries, over within half a minute with limits."""
    for seed in range(3):
        naive, budget, throttle = (
            overload(limit, seed=seed) for limit in (NoLimit, RetryBudget, RetryThrottle)
        )
        assert naive.goodput(LENGTH_S - 10, LENGTH_S) < 0.1
        assert budget.goodput(LENGTH_S - 10, LENGTH_S) > 0.95
        assert sum(budget.retries) < 0.25 * sum(budget.first_tries)
        assert naive.first_tries == budget.first_tries == throttle.first_tries
