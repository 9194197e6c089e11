"""Health: what may be sent again, when a server is ejected and how long, what a refused caller hears."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paylab.core.health import (
    Fate,
    OutlierDetector,
    OutlierRules,
    Seen,
    may_send_again,
    outliers,
    pushback_s,
)

RULES = OutlierRules(ejected_percent_max=50.0)


def detector(count: int, rules: OutlierRules = RULES) -> OutlierDetector:
    made = OutlierDetector(rules)
    for n in range(count):
        made.join(f"s{n}")
    return made


def fail(at: OutlierDetector, server: str, times: int, *, now: float = 0.0) -> None:
    for _ in range(times):
        at.count(server, failed=True, now=now)


# Sending again ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", Fate)
def test_only_what_may_be_done_twice_is_sent_again(fate: Fate) -> None:
    """A step that is not idempotent is never repeated, and an answer is final for every step."""
    assert not may_send_again(fate, repeatable=False)
    assert may_send_again(fate, repeatable=True) is (fate is not Fate.ANSWERED)


@given(st.integers(0, 10_000), st.integers(1, 1_000), st.floats(0.0, 60.0))
def test_pushback_is_bounded_and_grows_with_the_queue(waiting: int, room: int, latency_s: float) -> None:
    """Nobody is told to come at once or never; who finds a longer queue comes no sooner."""
    first, second = (pushback_s(waiting=n, room=room, latency_s=latency_s) for n in (waiting, waiting + 1))
    assert 0.01 <= first <= second <= 5.0
    assert pushback_s(waiting=9, room=5, latency_s=1.0) == 2.0


# The rule -----------------------------------------------------------------------------------------


def seen(*servers: tuple[int, int, int], ejected: int = 0) -> list[Seen]:
    """From (failures in a row, calls, failed); the first `ejected` are out already."""
    return [Seen(f"s{n}", *about, ejected=n < ejected) for n, about in enumerate(servers)]


@pytest.mark.parametrize(("failures", "out"), [(4, []), (5, ["s1"]), (9, ["s1"])])
def test_failures_in_a_row_eject(failures: int, out: list[str]) -> None:
    """From the fifth on."""
    assert outliers(seen((0, 0, 0), (failures, 0, 0)), RULES) == out


def test_a_high_share_of_failures_ejects() -> None:
    """More than 85 % of at least 50 calls, and only beside four others with as many."""
    busy = [(0, 50, 0)] * 4
    assert outliers(seen((0, 100, 86), *busy), RULES) == ["s0"]
    assert outliers(seen((0, 100, 85), *busy), RULES) == []
    assert outliers(seen((0, 49, 49), *busy), RULES) == []
    assert outliers(seen((0, 100, 86), *busy[:3], (0, 49, 0)), RULES) == []


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), st.integers(0, 99)), max_size=9),
    st.integers(0, 9),
    st.floats(0, 100),
)
def test_at_most_a_share_is_ejected(
    servers: list[tuple[int, int, int]], ejected: int, percent: float
) -> None:
    """However badly all of them do; and nobody is ejected who is out already."""
    found = outliers(seen(*servers, ejected=ejected), OutlierRules(ejected_percent_max=percent))
    already = min(ejected, len(servers))
    assert not found or 100 * (len(found) + already) <= percent * len(servers)
    assert not set(found) & {f"s{n}" for n in range(ejected)}


def test_with_the_usual_share_a_pair_keeps_both() -> None:
    """A tenth of two servers is none: whoever has two must allow half."""
    assert outliers(seen((9, 0, 0), (0, 0, 0)), OutlierRules()) == []
    assert outliers(seen((9, 0, 0), (9, 0, 0)), RULES) == ["s0"]


# The detector -------------------------------------------------------------------------------------


def test_a_success_ends_a_row() -> None:
    """Four failures, a success and four failures eject nobody; a fifth does, for the base time."""
    at = detector(2)
    fail(at, "s0", 4)
    at.count("s0", failed=False, now=0.0)
    fail(at, "s0", 4)
    assert not at.ejected("s0", now=0.0)
    assert at.count("s0", failed=True, now=1.0)
    assert at.ejected_for_s("s0", now=1.0) == 30.0
    assert at.ejected("s0", now=30.9)
    assert not at.ejected("s0", now=31.0)
    assert at.ejections("s0") == 1


def test_ejection_times_grow_and_shrink_again() -> None:
    """30 s, then 60 s, at most 300 s; each interval in which it was not out takes 30 s off the next."""
    at, now, times = detector(2, OutlierRules(ejected_percent_max=50.0, interval_s=1e6)), 0.0, []
    for _ in range(12):
        fail(at, "s0", 5, now=now)
        times.append(at.ejected_for_s("s0", now=now))
        now += times[-1]
    assert times[:3] == [30.0, 60.0, 90.0]
    assert times[-3:] == [300.0] * 3

    at = detector(2)
    fail(at, "s0", 5)  # out until 30 s
    fail(at, "s0", 5, now=35.0)  # again, until 95 s: no interval has passed since
    assert at.ejected_for_s("s0", now=35.0) == 60.0
    at.count("s1", failed=False, now=100.0)
    at.count("s1", failed=False, now=110.0)
    fail(at, "s0", 5, now=111.0)
    assert at.ejected_for_s("s0", now=111.0) == 30.0


def test_a_share_of_failures_counts_at_the_end_of_the_interval() -> None:
    """Nine of ten calls fail: it is ejected when ten seconds are over, and not before."""
    at = detector(5, OutlierRules(ejected_percent_max=50.0, failures_in_a_row=99))
    for _ in range(10):
        for server in ("s1", "s2", "s3", "s4"):
            for _ in range(10):
                at.count(server, failed=False, now=1.0)
        fail(at, "s0", 9, now=1.0)
        at.count("s0", failed=False, now=1.0)
    assert not at.ejected("s0", now=10.9)
    at.count("s1", failed=False, now=11.0)
    assert at.ejected_for_s("s0", now=11.0) == 30.0
    assert not any(at.ejected(f"s{n}", now=11.0) for n in range(1, 5))


def test_whoever_joins_again_has_a_clean_slate() -> None:
    """A server that was restarted is not held to what it did before."""
    at = detector(2)
    fail(at, "s0", 5)
    at.join("s0")
    assert not at.ejected("s0", now=1.0)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.floats(0.0, 20.0)), max_size=200),
    st.sampled_from([0.0, 10.0, 20.0, 50.0, 100.0]),
)
def test_never_more_than_the_share_is_out(calls: list[tuple[int, bool, float]], percent: float) -> None:
    """Whatever happens, in whatever order."""
    at, now = detector(5, OutlierRules(ejected_percent_max=percent, failures_in_a_row=2)), 0.0
    for server, failed, gap_s in calls:
        now += gap_s
        at.count(f"s{server}", failed=failed, now=now)
        assert sum(at.ejected(f"s{n}", now=now) for n in range(5)) <= 5 * percent / 100


def test_a_rule_of_ones_own_decides() -> None:
    """The rule is a slot: one that ejects at the first failure does."""
    at = OutlierDetector(RULES, lambda servers, _: [s.server for s in servers if s.failures_in_a_row])
    for server in ("s0", "s1"):
        at.join(server)
    assert at.count("s1", failed=True, now=0.0)
    assert at.ejected("s1", now=0.0)
