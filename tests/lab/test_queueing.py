"""The event heap keeps order, and queues on it wait as long as theory says."""

from statistics import fmean

import pytest

from paylab.core.balancing import LeastOutstanding, Policy, PowerOfChoices, RoundRobin
from paylab.lab.experiments.queueing import EventHeap, Farm, exponential, poisson
from paylab.lab.experiments.statistics import batch_means, mean_interval
from paylab.lab.simulation.choices import seeded


def waiting(
    policy: Policy,
    *,
    rate_per_s: float,
    until_s: float,
    servers: int = 1,
    workers: int = 1,
    mean_s: float = 1.0,
) -> Farm:
    """A farm after a run of Poisson arrivals with exponential service, its first tenth forgotten."""
    heap = EventHeap()
    service = exponential(mean_s, rng=seeded(1))
    farm = Farm(heap, policy, servers=servers, service=service, workers=workers)
    poisson(heap, rate_per_s, farm.arrive, rng=seeded(2))
    heap.run(until_s / 10)
    farm.forget()
    heap.run(until_s)
    return farm


def erlang_c(load: float, workers: int) -> float:
    """The probability that a job waits in M/M/c; `load` is the mean number of busy workers."""
    blocked = 1.0
    for n in range(1, workers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / workers * (1 - blocked))


def test_events_come_in_order_of_time_and_then_of_saying() -> None:
    """Also those that are said while others happen; functions themselves are never compared."""
    heap, seen = EventHeap(), list[tuple[float, str]]()

    def note(what: str) -> None:
        seen.append((heap.now_s, what))
        if what == "b":
            heap.after(0.0, note, "said during b")
            heap.after(5.0, note, "too late")

    heap.at(2.0, note, "b")
    heap.at(1.0, note, "a")
    heap.at(2.0, note, "c")
    heap.run(6.0)
    assert seen == [(1, "a"), (2, "b"), (2, "c"), (2, "said during b")]
    assert (heap.now_s, heap.events) == (6.0, 4)
    heap.run()
    assert seen[-1] == (7, "too late")


def test_one_server_waits_like_m_m_1() -> None:
    """At load 0.7 the time in system is 1/(1 - 0.7) services, by the batch means of one long run."""
    farm = waiting(RoundRobin(), rate_per_s=0.7, until_s=60_000)
    found = mean_interval(batch_means(farm.times_s, batches=20), confidence=0.999)
    assert found.low <= 1 / 0.3 <= found.high
    assert found.half_width < 0.15 / 0.3


def test_workers_of_one_queue_wait_like_m_m_c() -> None:
    """Erlang's C for 4 workers at 80 %: waiting plus service of 2 s."""
    farm = waiting(RoundRobin(), rate_per_s=1.6, until_s=50_000, workers=4, mean_s=2.0)
    expected = 2.0 + erlang_c(3.2, 4) * 2.0 / (4 * (1 - 0.8))
    found = mean_interval(batch_means(farm.times_s, batches=20), confidence=0.999)
    assert found.low <= expected <= found.high
    assert found.half_width < 0.15 * expected


def test_erlang_c_is_that_of_the_textbook() -> None:
    """For one worker it is the load; for two at 75 % it is 9/14."""
    assert erlang_c(0.4, 1) == pytest.approx(0.4)
    assert erlang_c(1.5, 2) == pytest.approx(9 / 14)


def test_policies_meet_the_same_jobs() -> None:
    """The same arrivals with the same work; only the waiting differs, and looking at two beats chance."""
    one, two = (
        waiting(PowerOfChoices(choices=choices), rate_per_s=18, servers=20, until_s=200) for choices in (1, 2)
    )
    assert (len(one.times_s), one.work_s) == (len(two.times_s), two.work_s)
    assert fmean(two.times_s) < 0.5 * fmean(one.times_s)


def test_any_policy_of_core_runs_on_a_farm() -> None:
    """Seeing what is in flight, it never leaves a server idle while another has two jobs."""
    heap = EventHeap()
    farm = Farm(heap, LeastOutstanding(), servers=3, service=lambda: 10.0)
    for _ in range(3):
        farm.arrive()
    assert [endpoint.in_flight for endpoint in farm.endpoints] == [1, 1, 1]
    heap.run(10.0)
    assert [endpoint.in_flight for endpoint in farm.endpoints] == [0, 0, 0]
    assert list(farm.times_s) == [10.0] * 3


def test_a_slow_server_takes_longer() -> None:
    """Speed divides the work."""
    farm = Farm(EventHeap(), RoundRobin(), servers=2, service=lambda: 1.0, speeds=[1.0, 0.25])
    for _ in range(4):
        farm.arrive()
    assert list(farm.times_s) == [1, 4, 2, 8]
