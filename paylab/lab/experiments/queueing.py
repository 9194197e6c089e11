"""A bare event heap and a farm of queues on it: the policies of `core/` without any network around them.

It is for questions about waiting alone: a job costs two events, where a payment on the simulated network
costs hundreds.
"""

import math
from array import array
from collections.abc import Callable, Sequence
from heapq import heappop, heappush, heapreplace
from typing import Any

from paylab.core.backoff import Rng
from paylab.core.balancing import Call, Endpoint, Policy
from paylab.lab.simulation.choices import seeded


class EventHeap:
    """What will happen, earliest first; of what happens at the same moment, first what was said first."""

    __slots__ = ("_heap", "_said", "events", "now_s")

    def __init__(self) -> None:
        """Begin at 0 with nothing to do."""
        self.now_s = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._said = 0

    def at(self, time_s: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function at a moment to come."""
        self._said += 1
        heappush(self._heap, (time_s, self._said, function, arguments))

    def after(self, delay_s: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function after a delay."""
        self.at(self.now_s + delay_s, function, *arguments)

    def run(self, until_s: float = math.inf) -> None:
        """Let everything up to `until_s` happen, or all there is; the clock ends there or with it."""
        heap, events = self._heap, 0
        while heap and heap[0][0] <= until_s:
            self.now_s, _, function, arguments = heappop(heap)
            function(*arguments)
            events += 1
        self.events += events
        if until_s < math.inf:
            self.now_s = until_s


class Farm:
    """Servers behind a policy, each with a queue of its own: first come, first served.

    `service` draws how long the next job takes, in the order of arrival, so that two policies meet the same
    jobs. A server has `workers` that share its queue, and works at its speed, 1 unless `speeds` says other.
    The policy sees what a balancer sees: endpoints with the number of jobs `in_flight` and their latency;
    chance comes from `rng`, and what a job is about from `key`. With `learn` endpoints learn from latencies,
    which takes time; without `watch` not even of jobs that leave, for policies that look at none.
    """

    def __init__(
        self,
        heap: EventHeap,
        policy: Policy,
        *,
        servers: int,
        service: Callable[[], float],
        workers: int = 1,
        speeds: Sequence[float] = (),
        rng: Rng | None = None,
        key: Callable[[], str] = str,
        learn: bool = False,
        watch: bool = True,
    ) -> None:
        """Begin with every server idle."""
        self.endpoints = [
            Endpoint(f"server-{n:05}", "farm", lease_until_s=math.inf, lease_s=math.inf)
            for n in range(servers)
        ]
        # How long each job since `forget` was in the system, waiting and service, in order of arrival.
        self.times_s = array("d")
        self.work_s = 0.0
        self._heap = heap
        self._pick = policy.pick
        self._rng = rng or seeded("farm")
        self._key = key
        self._service = service
        self._leave = _leave_and_tell if learn else _leave
        self._watch = watch
        # When each worker of a server will be free, the first to be so in front.
        self._free_s = {endpoint.server: [0.0] * workers for endpoint in self.endpoints}
        self._speed = dict(zip(self._free_s, speeds or [1.0] * servers, strict=True))

    def arrive(self) -> None:
        """Give a job that comes now to the server that the policy picks."""
        heap = self._heap
        endpoint = self._pick(self.endpoints, Call(self._rng, heap.now_s, self._key()))
        endpoint.in_flight += 1
        server, work_s = endpoint.server, self._service()
        free_s, now_s = self._free_s[server], heap.now_s
        done_s = max(now_s, free_s[0]) + work_s / self._speed[server]
        heapreplace(free_s, done_s)
        self.times_s.append(done_s - now_s)
        self.work_s += work_s
        if self._watch:
            heap.at(done_s, self._leave, endpoint, done_s - now_s, done_s)

    def forget(self) -> None:
        """Leave out of the measurement what has arrived until now, such as while the queues were filling."""
        del self.times_s[:]
        self.work_s = 0.0


def _leave(endpoint: Endpoint, _took_s: float, _now_s: float) -> None:
    endpoint.in_flight -= 1


def _leave_and_tell(endpoint: Endpoint, took_s: float, now_s: float) -> None:
    endpoint.in_flight -= 1
    endpoint.answered(took_s, now=now_s)


def report_loads(heap: EventHeap, endpoints: Sequence[Endpoint], *, every_s: float) -> None:
    """Let each endpoint report its load every so often, one after the other."""

    def report(endpoint: Endpoint) -> None:
        endpoint.reported_load = endpoint.in_flight
        heap.after(every_s, report, endpoint)

    for n, endpoint in enumerate(endpoints):
        heap.after(every_s * n / len(endpoints), report, endpoint)


def poisson(heap: EventHeap, rate_per_s: float, arrive: Callable[[], object], *, rng: Rng) -> None:
    """Call `arrive` at the moments of a Poisson process, for as long as the heap runs."""
    gap_s = exponential(1 / rate_per_s, rng=rng)

    def one() -> None:
        arrive()
        heap.after(gap_s(), one)

    heap.after(gap_s(), one)


def exponential(mean_s: float, *, rng: Rng) -> Callable[[], float]:
    """Draws of an exponential distribution."""
    random, log = rng.random, math.log
    return lambda: -mean_s * log(1.0 - random())
