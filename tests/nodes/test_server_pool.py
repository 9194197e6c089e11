"""What a pool keeps about its servers is what looking at each of them would say."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from paylab.core.decisions import DEFAULT
from paylab.core.health import LAB_RULES, Health
from paylab.lab.simulation.choices import seeded
from paylab.nodes.host import Host
from paylab.nodes.server_pool import ServerPool

SERVERS = ("alpine-1", "alpine-2", "alpine-3")
LEASE_S = 3.0

Step = tuple[str, str, float]


class Clock:
    """A host's clock and timers, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def now(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._timers.append((self.now_s + delay_s, callback))

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        due = [timer for timer in self._timers if timer[0] <= self.now_s]
        self._timers = [timer for timer in self._timers if timer[0] > self.now_s]
        for _, callback in due:
            callback()


def pool_of(clock: Clock) -> ServerPool:
    host: Any = SimpleNamespace(
        now=clock.now, call_later=clock.call_later, decisions=DEFAULT, rng=seeded("pool")
    )
    pool = ServerPool(cast("Host", host))
    for server in SERVERS:
        pool.enter(server, "alpine", lease_s=LEASE_S, weight=1)
    return pool


def take(pool: ServerPool, clock: Clock, step: Step) -> None:
    what, server, amount = step
    endpoint = pool.endpoints[server]
    if what == "advance":
        clock.advance(amount)
    elif what == "renew":
        pool.renew(endpoint, load=0)
    elif what == "enter":
        pool.enter(server, "alpine", lease_s=LEASE_S, weight=1)
    elif what in ("fail", "answer"):
        for _ in range(LAB_RULES.failures_in_a_row):
            endpoint.in_flight += 1
            pool.ended(endpoint, TimeoutError() if what == "fail" else None, began_s=clock.now_s)
    else:
        pool.say(endpoint, Health[what])


def by_looking(pool: ServerPool, now_s: float) -> list[str]:
    able = [server for server, endpoint in pool.endpoints.items() if pool.able(endpoint, now_s)]
    return [server for server in able if pool.eligible(pool.endpoints[server], now_s)] or able


STEPS = st.tuples(
    st.sampled_from(["advance", "renew", "enter", "fail", "answer", "SERVING", "NOT_SERVING", "UNREACHABLE"]),
    st.sampled_from(SERVERS),
    st.floats(0.0, 2.5),
)


@given(steps=st.lists(STEPS, max_size=60))
def test_the_offer_is_what_looking_at_every_server_would_say(steps: list[Step]) -> None:
    """After any leases, health checks, ejections and time: it is kept, and forgotten in time."""
    clock = Clock()
    pool = pool_of(clock)
    for step in steps:
        take(pool, clock, step)
        assert [endpoint.server for endpoint in pool.offered("alpine")] == by_looking(pool, clock.now_s)


def test_five_failures_in_a_row_take_a_server_out_of_the_offer_until_its_time_is_over() -> None:
    """An ejection is news, and its end comes with time alone."""
    clock = Clock()
    pool = pool_of(clock)
    assert len(pool.offered("alpine")) == len(SERVERS)
    take(pool, clock, ("fail", "alpine-2", 0.0))
    assert [endpoint.server for endpoint in pool.offered("alpine")] == ["alpine-1", "alpine-3"]
    for endpoint in pool.endpoints.values():
        pool.renew(endpoint, load=0)
    pool.offered("alpine")
    clock.advance(2.5)
    assert len(pool.offered("alpine")) == len(SERVERS)
