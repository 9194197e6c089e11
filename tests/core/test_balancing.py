"""Balancing: turns are even, and the least loaded gets the call."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.balancing import POLICIES, Endpoint, LeastLoad, RoundRobin


def endpoints(*loads: int) -> list[Endpoint]:
    return [
        Endpoint(f"alpine-{n}", "alpine", lease_until_s=10.0, lease_s=3.0, reported_load=load)
        for n, load in enumerate(loads, 1)
    ]


@given(st.integers(1, 9), st.integers(1, 20))
def test_round_robin_is_even(servers: int, rounds: int) -> None:
    """After whole rounds every server got the same number of calls."""
    offered, policy = endpoints(*[0] * servers), RoundRobin()
    picked = Counter(policy.pick(offered).server for _ in range(servers * rounds))
    assert set(picked.values()) == {rounds}
    assert len(picked) == servers


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9))
def test_least_load_picks_a_least_loaded(loads: list[tuple[int, int]]) -> None:
    """Nobody with more reported and given load is picked while somebody has less."""
    offered = endpoints(*[reported for reported, _ in loads])
    for endpoint, (_, in_flight) in zip(offered, loads, strict=True):
        endpoint.in_flight = in_flight
    picked = LeastLoad().pick(offered)
    assert picked.reported_load + picked.in_flight == min(sum(load) for load in loads)


def test_least_load_breaks_ties_in_turn() -> None:
    """Equally loaded servers take turns, so an idle network does not lean on the first."""
    offered, policy = endpoints(1, 0, 0), LeastLoad()
    assert [policy.pick(offered).server for _ in range(4)] == ["alpine-2", "alpine-3"] * 2


def test_a_call_on_its_way_counts() -> None:
    """What a server was given since its last report counts as load."""
    offered = endpoints(0, 0)
    offered[0].in_flight = 1
    assert {LeastLoad().pick(offered).server for _ in range(3)} == {"alpine-2"}


@given(st.sampled_from(sorted(POLICIES)), st.lists(st.sets(st.integers(0, 4), min_size=1), max_size=30))
def test_every_policy_picks_one_that_is_offered(name: str, offers: list[set[int]]) -> None:
    """Whoever comes and goes, the pick is one of those that are there."""
    known, policy = endpoints(0, 1, 2, 0, 0), POLICIES[name]()
    for offer in offers:
        offered = [known[n] for n in sorted(offer)]
        assert policy.pick(offered) in offered


@pytest.mark.parametrize(
    ("now", "suspect_until_s", "eligible"),
    [(9.9, 0.0, True), (10.0, 0.0, False), (5.0, 5.1, False), (5.0, 5.0, True)],
)
def test_eligible_means_leased_and_not_suspect(now: float, suspect_until_s: float, eligible: bool) -> None:  # noqa: FBT001 - a case of the table
    """A server counts until its lease ends, and not right after a call to it failed."""
    (endpoint,) = endpoints(0)
    endpoint.suspect_until_s = suspect_until_s
    assert endpoint.eligible(now) is eligible
