"""Balancing: policies pick among those offered, and keep what they promise of turns, weights and load."""

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paylab.core.balancing import (
    POLICIES,
    Call,
    Endpoint,
    LeastLoad,
    LeastOutstanding,
    PeakEwma,
    Policy,
    PowerOfChoices,
    Random,
    RingHash,
    RoundRobin,
    WeightedRoundRobin,
)

WEIGHTS = st.lists(st.integers(1, 7), min_size=1, max_size=6)


def endpoints(*loads: int, weights: Sequence[int] = ()) -> list[Endpoint]:
    return [
        Endpoint(f"alpine-{n}", "alpine", 10.0, 3.0, reported_load=load, weight=weight)
        for n, (load, weight) in enumerate(zip(loads, weights or [1] * len(loads), strict=True), 1)
    ]


def call(*, now_s: float = 0.0, key: str = "", seed: int = 0) -> Call:
    return Call(random.Random(seed), now_s, key)  # noqa: S311 - which server is picked is no secret


def picks(policy: Policy, offered: Sequence[Endpoint], count: int) -> list[str]:
    asked = call()
    return [policy.pick(offered, asked).server for _ in range(count)]


def owners(policy: Policy, offered: Sequence[Endpoint], keys: Iterable[str]) -> dict[str, str]:
    return {key: policy.pick(offered, call(key=key)).server for key in keys}


KEYS = [f"alpine/account-{n}" for n in range(2_000)]


@pytest.mark.parametrize("name", POLICIES)
@given(data=st.data())
def test_every_policy_picks_one_that_is_offered(name: str, data: st.DataObject) -> None:
    """Whoever comes and goes, whatever they are doing, the pick is one of those that are there."""
    known, policy = endpoints(0, 1, 2, 0, 0, weights=[1, 3, 2, 1, 5]), POLICIES[name]()
    offers = data.draw(st.lists(st.sets(st.integers(0, 4), min_size=1), max_size=20))
    for now_s, offer in enumerate(offers):
        offered = [known[n] for n in sorted(offer)]
        picked = policy.pick(offered, call(now_s=now_s, key=data.draw(st.text(max_size=4)), seed=now_s))
        assert any(picked is endpoint for endpoint in offered)
        picked.in_flight += data.draw(st.integers(0, 2))
        picked.answered(data.draw(st.floats(0.0, 2.0)), now=now_s)


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_chance_gives_the_same_picks(name: str) -> None:
    """A policy is a function of what it is told: two of them, told the same, agree."""
    seen: list[list[str]] = []
    for _ in range(2):
        offered, policy, rng = endpoints(0, 1, 0, weights=[2, 1, 1]), POLICIES[name](), call().rng
        seen.append([])
        for n in range(50):
            picked = policy.pick(offered, Call(rng, float(n), f"key-{n}"))
            picked.in_flight += 1
            picked.answered(0.01 * n, now=n)
            seen[-1].append(picked.server)
    assert seen[0] == seen[1]


# Turns and weights --------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 20))
def test_round_robin_is_even(servers: int, rounds: int) -> None:
    """After whole rounds every server got the same number of calls."""
    picked = Counter(picks(RoundRobin(), endpoints(*[0] * servers), servers * rounds))
    assert set(picked.values()) == {rounds}
    assert len(picked) == servers


@given(WEIGHTS, st.integers(1, 4))
def test_weights_are_kept_in_every_round(weights: list[int], rounds: int) -> None:
    """Of as many calls as the weights sum up to, each server gets its weight; a second round repeats it."""
    offered, total = endpoints(*[0] * len(weights), weights=weights), sum(weights)
    picked = picks(WeightedRoundRobin(), offered, rounds * total)
    assert picked == picked[:total] * rounds
    assert Counter(picked[:total]) == {e.server: e.weight for e in offered}


@given(WEIGHTS, st.integers(1, 200))
def test_weights_are_nearly_kept_at_any_time(weights: list[int], count: int) -> None:
    """No server is ever a whole call ahead of its share, nor further behind than there are others."""
    offered = endpoints(*[0] * len(weights), weights=weights)
    picked = Counter(picks(WeightedRoundRobin(), offered, count))
    for endpoint in offered:
        ahead = picked[endpoint.server] - count * endpoint.weight / sum(weights)
        assert -len(weights) < ahead < 1


def test_turns_of_a_heavy_server_are_spread() -> None:
    """The order that nginx gives as its example."""
    picked = picks(WeightedRoundRobin(), endpoints(0, 0, 0, weights=[5, 1, 1]), 7)
    assert "".join("abc"[int(server[-1]) - 1] for server in picked) == "aabacaa"


def test_a_server_that_was_away_is_owed_nothing() -> None:
    """It comes back into the round, and is not flooded with the turns that it missed."""
    offered, policy = endpoints(0, 0), WeightedRoundRobin()
    picks(policy, offered, 3)
    picks(policy, offered[1:], 50)
    assert sorted(picks(policy, offered, 4)) == ["alpine-1"] * 2 + ["alpine-2"] * 2


# Load ---------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9))
def test_the_least_is_picked(loads: list[tuple[int, int]]) -> None:
    """Nobody with more is picked while somebody has less: by report, or by what is under way."""
    offered = endpoints(*[reported for reported, _ in loads])
    for endpoint, (_, in_flight) in zip(offered, loads, strict=True):
        endpoint.in_flight = in_flight
    assert LeastLoad().pick(offered, call()).reported_load == min(reported for reported, _ in loads)
    assert LeastOutstanding().pick(offered, call()).in_flight == min(in_flight for _, in_flight in loads)


@pytest.mark.parametrize("policy", [LeastLoad(), LeastOutstanding()])
def test_ties_go_in_turn(policy: Policy) -> None:
    """Equally loaded servers take turns, so an idle network does not lean on the first."""
    offered = endpoints(1, 0, 0)
    offered[0].in_flight = 1
    assert picks(policy, offered, 4) == ["alpine-2", "alpine-3"] * 2


def test_old_news_misleads() -> None:
    """Until the next report every call goes to whoever reported least, however much it has got since."""
    offered, policy = endpoints(1, 0), LeastLoad()
    for _ in range(10):
        policy.pick(offered, call()).in_flight += 1
    assert [endpoint.in_flight for endpoint in offered] == [0, 10]


def test_chance_is_even() -> None:
    """Each of four gets about a quarter, busy or not."""
    counts = Counter(picks(Random(), endpoints(0, 9, 0, 9), 4_000))
    assert all(850 < count < 1_150 for count in counts.values())
    assert len(counts) == 4


def test_the_less_busy_of_those_drawn_wins() -> None:
    """The busiest is picked only if drawn twice, the next only against those two; one choice is chance."""
    offered = endpoints(0, 0, 0, 0)
    offered[0].in_flight, offered[1].in_flight = 3, 1
    counts = Counter(picks(PowerOfChoices(), offered, 4_000))
    assert 170 < counts["alpine-1"] < 330
    assert 620 < counts["alpine-2"] < 880
    alone = PowerOfChoices(choices=1)
    counts = Counter(picks(alone, offered, 4_000))
    assert all(850 < counts[endpoint.server] < 1_150 for endpoint in offered)


# Latency ------------------------------------------------------------------------------------------


def test_a_peak_counts_at_once_and_is_forgotten_slowly() -> None:
    """A slow answer is believed; fast ones talk it down with a time constant of ten seconds."""
    (endpoint,) = endpoints(0)
    endpoint.answered(0.1, now=0.0)
    endpoint.answered(2.0, now=0.5)
    assert endpoint.latency_s == 2.0
    endpoint.answered(0.1, now=10.5)
    assert endpoint.latency_s == pytest.approx(0.1 * (1 - math.exp(-1)) + 2.0 * math.exp(-1))
    assert PeakEwma.cost(endpoint, 20.5) == pytest.approx(endpoint.latency_s * math.exp(-1))


def test_the_slow_server_is_avoided_and_tried_again() -> None:
    """It is picked only if drawn twice while its latency is known; then it is like others."""
    offered, policy = endpoints(0, 0), PeakEwma()
    offered[0].answered(1.0, now=0.0)
    offered[1].answered(0.01, now=0.0)
    rng = call().rng
    soon = Counter(policy.pick(offered, Call(rng, 0.1)).server for _ in range(1_000))
    assert 180 < soon["alpine-1"] < 320
    offered[1].answered(0.01, now=80.0)
    late = Counter(policy.pick(offered, Call(rng, 80.0)).server for _ in range(1_000))
    assert late["alpine-1"] > 700


def test_a_busy_stranger_is_the_last_resort() -> None:
    """Who has calls under way and has never answered costs more than the slowest that has."""
    stranger, slow = endpoints(0, 0)
    slow.answered(5.0, now=0.0)
    assert PeakEwma.cost(stranger, 0.0) < PeakEwma.cost(slow, 0.0)
    stranger.in_flight = 1
    assert PeakEwma.cost(stranger, 0.0) > PeakEwma.cost(slow, 0.0)


# The ring -----------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.integers(2, 8), st.data())
def test_only_the_keys_of_a_server_that_leaves_move(servers: int, data: st.DataObject) -> None:
    """They are about its share, and when it comes back they come back."""
    offered, policy = endpoints(*[0] * servers), RingHash()
    before = owners(policy, offered, KEYS)
    gone = data.draw(st.sampled_from(offered)).server
    after = owners(policy, [e for e in offered if e.server != gone], KEYS)
    moved = [key for key in KEYS if after[key] != before[key]]
    assert {before[key] for key in moved} == {gone}
    assert all(after[key] != gone for key in KEYS)
    assert len(moved) / len(KEYS) < 1.4 / servers
    assert owners(policy, offered, KEYS) == before


@settings(max_examples=15)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5))
def test_a_server_owns_keys_by_its_weight(weights: list[int]) -> None:
    """Within four tenths of its share; the points of 160 a unit of weight leave about a tenth to chance."""
    offered = endpoints(*[0] * len(weights), weights=weights)
    owned = Counter(owners(RingHash(), offered, KEYS).values())
    for endpoint in offered:
        share = endpoint.weight / sum(weights)
        assert owned[endpoint.server] / len(KEYS) == pytest.approx(share, rel=0.4)


def test_a_key_stays_where_it_is() -> None:
    """The same key, the same server, whoever asks and however busy it is."""
    offered = endpoints(0, 0, 0)
    first = RingHash().pick(offered, call(key="alpine/ann"))
    first.in_flight = 99
    assert RingHash().pick(offered, call(key="alpine/ann", seed=5, now_s=9.0)) is first
    assert len(set(owners(RingHash(), offered, KEYS).values())) == 3


@pytest.mark.parametrize(("now", "leased"), [(9.9, True), (10.0, False)])
def test_a_lease_ends(now: float, leased: bool) -> None:  # noqa: FBT001 - a case of the table
    """At its end it is over."""
    (endpoint,) = endpoints(0)
    assert endpoint.leased(now) is leased
