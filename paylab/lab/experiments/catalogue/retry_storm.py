"""A server stands still for a few seconds; whether its clients let it recover ("metastable failure").

One queue on a bare heap, clients of core's backoff, limits and breaker (`core.retries`). The server works off
whatever has arrived, also what nobody waits for any more: that is the work which keeps it from recovering.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paylab.core.backoff import Rng, constant, full_jitter
from paylab.core.retries import CircuitBreaker, NoLimit, RetryBudget, RetryLimit, RetryThrottle, wait_s
from paylab.errors import OutcomeUnknown
from paylab.lab.experiments.experiments import (
    AtLeast,
    AtMost,
    Expectation,
    Experiment,
    Formula,
    Measurements,
    Parameters,
    Size,
)
from paylab.lab.experiments.queueing import EventHeap, exponential, poisson
from paylab.lab.experiments.statistics import Tally
from paylab.lab.simulation.choices import seeded

CAPACITY_PER_S, CLIENTS = 100.0, 5
# A try is given up after this time, a request after four times as long.
TIMEOUT_S, DEADLINE_S = 1.0, 4.0
BASE_S, CAP_S = 0.1, 2.0
STILL_AT_S, STILL_FOR_S = 60.0, 10.0
# Requests that begin in one of these are counted, each to its own.
WINDOWS_S = {"before": (20.0, 60.0), "soon": (70.0, 100.0), "after": (180.0, 240.0)}
ENDS_S = WINDOWS_S["after"][1] + DEADLINE_S


def _at_once(_attempt: int, *, base_s: float, cap_s: float, rng: Rng) -> float:  # noqa: ARG001 - no chance
    return constant(1, base_s=0.0, cap_s=cap_s)


@dataclass(frozen=True, slots=True)
class Manner:
    """How a client tries again."""

    delay: Callable[..., float] = full_jitter
    limit: Callable[[], RetryLimit] = NoLimit
    breaker: Callable[[], CircuitBreaker] | None = None


NAIVE, BACKOFF, BUDGET = "naive", "backoff", "budget"
MANNERS = {
    NAIVE: Manner(delay=_at_once),
    BACKOFF: Manner(),
    BUDGET: Manner(limit=RetryBudget),
    "gRPC throttling": Manner(limit=RetryThrottle),
    "breaker": Manner(breaker=CircuitBreaker),
    "budget and breaker": Manner(limit=RetryBudget, breaker=CircuitBreaker),
}


class Server:
    """Serves in the order of arrival."""

    def __init__(self, heap: EventHeap, *, service_s: Callable[[], float]) -> None:
        """Idle."""
        self._heap, self._service_s = heap, service_s
        self._free_s = 0.0

    def arrive(self) -> float:
        """Take a try in; when it will be answered."""
        self._free_s = max(self._free_s, self._heap.now_s) + self._service_s()
        return self._free_s

    def stand_still(self) -> None:
        """Do nothing for a while."""
        self._free_s = max(self._free_s, self._heap.now_s) + STILL_FOR_S


class Client:
    """Makes requests, and counts what becomes of those that began within each window."""

    def __init__(self, heap: EventHeap, server: Server, manner: Manner, *, rng: Rng) -> None:
        """`rng` is for jitter."""
        self._heap, self._server, self._rng = heap, server, rng
        self._delay, self._limit = manner.delay, manner.limit()
        self._breaker = manner.breaker() if manner.breaker else None
        # By window: requests, those answered in time, and tries.
        self.counts = {window: [0, 0, 0] for window in WINDOWS_S}

    def request(self) -> None:
        """Somebody wants something now."""
        now = self._heap.now_s
        windows = [self.counts[window] for window, (a, b) in WINDOWS_S.items() if a <= now < b]
        counts = windows[0] if windows else [0, 0, 0]
        counts[0] += 1
        self._limit.sent()
        self._try(now + DEADLINE_S, 0, counts)

    def _try(self, until_s: float, failures: int, counts: list[int]) -> None:
        now = self._heap.now_s
        if self._breaker is not None and not self._breaker.allows(now=now):
            self._rest(until_s, failures, counts)
            return
        counts[2] += 1
        timeout_s = min(TIMEOUT_S, until_s - now)
        answered_s = self._server.arrive()
        if answered_s <= now + timeout_s:
            self._heap.at(answered_s, self._succeed, counts)
        else:
            self._heap.at(now + timeout_s, self._fail, until_s, failures, counts)

    def _succeed(self, counts: list[int]) -> None:
        counts[1] += 1
        self._limit.succeeded()
        if self._breaker is not None:
            self._breaker.succeeded()

    def _fail(self, until_s: float, failures: int, counts: list[int]) -> None:
        self._limit.failed()
        if self._breaker is not None:
            self._breaker.failed(now=self._heap.now_s)
        self._rest(until_s, failures, counts)

    def _rest(self, until_s: float, failures: int, counts: list[int]) -> None:
        """Wait, then try again with leave, and without it wait once more, as the client library does."""
        backoff_s = self._delay(failures + 1, base_s=BASE_S, cap_s=CAP_S, rng=self._rng)
        delay_s = wait_s(OutcomeUnknown(), backoff_s=backoff_s, left_s=until_s - self._heap.now_s)
        if delay_s is not None:
            self._heap.after(delay_s, self._again, until_s, failures + 1, counts)

    def _again(self, until_s: float, failures: int, counts: list[int]) -> None:
        if self._limit.allows(now=self._heap.now_s):
            self._try(until_s, failures, counts)
        else:
            self._rest(until_s, failures, counts)


def trial(parameters: Parameters, seed: int) -> Measurements:
    """Open loop: requests come whether or not those before were answered."""
    heap, manner, load = EventHeap(), MANNERS[parameters["client"]], parameters["load"]
    server = Server(heap, service_s=exponential(1 / CAPACITY_PER_S, rng=seeded(seed, "service")))
    clients = [Client(heap, server, manner, rng=seeded(seed, "jitter", n)) for n in range(CLIENTS)]
    for n, client in enumerate(clients):
        rate_per_s = load * CAPACITY_PER_S / CLIENTS
        poisson(heap, rate_per_s, client.request, rng=seeded(seed, "arrivals", n))
    heap.at(STILL_AT_S, server.stand_still)
    heap.run(ENDS_S)
    found: dict[str, Tally] = {}
    for window in WINDOWS_S:
        requests, answered, tries = (sum(client.counts[window][n] for client in clients) for n in range(3))
        found[f"goodput_{window}"] = Tally(answered, requests)
        found[f"tries_{window}"] = Tally(tries, requests)
    return found


def expect(parameters: Parameters) -> Mapping[str, Expectation]:
    """All is well before; afterwards nothing recovers whose requests and retries exceed the capacity."""
    kind = parameters["client"]
    before: dict[str, Expectation] = {"goodput_before": AtLeast(0.99), "tries_before": AtMost(1.05)}
    if kind == NAIVE:
        tries = Formula(DEADLINE_S / TIMEOUT_S, 0.02)
        return before | {"goodput_after": AtMost(0.1), "tries_after": tries}
    if kind == BACKOFF:
        return before | {"goodput_after": AtMost(0.1), "tries_after": AtLeast(1 / parameters["load"])}
    return before | {"goodput_after": AtLeast(0.99), "tries_after": AtMost(1.05)}


RETRY_STORM = Experiment(
    name="retry-storm",
    question="A server stands still for ten seconds: which share of requests succeeds two minutes later?",
    expectation="naive clients make four tries of each request for ever and get nothing, nor does backoff; "
    "with a budget, gRPC's throttling or a breaker all is as before",
    source="N. Bronson et al., Metastable Failures in Distributed Systems, HotOS 2021",
    grid={"client": list(MANNERS)},
    trial=trial,
    expect=expect,
    full=Size(20, {"load": 0.7}),
    quick=Size(5, {"load": 0.7}),
    units={f"goodput_{window}": "share of requests" for window in WINDOWS_S}
    | {f"tries_{window}": "per request" for window in WINDOWS_S},
)
