"""Which share of the payments that an outage held up is made in the end ("95 % recovered").

Runs on `reduced_network`, with the schedule of the offline queue (`core.retry_schedule`) and a queue that is
a dictionary: a durable one survives a crash. A test holds the queue of the nodes to the same rule: paid if
the outage ends before the horizon, given up otherwise.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from paylab.core import backoff, payment
from paylab.core.coordinator import Timing
from paylab.core.money import Money
from paylab.core.payment import TERMINAL, Payment
from paylab.core.retry_schedule import RetrySchedule, next_try_s
from paylab.lab.experiments.experiments import (
    AtLeast,
    AtMost,
    Expectation,
    Experiment,
    Formula,
    Measurements,
    Never,
    Parameters,
    Size,
)
from paylab.lab.experiments.queueing import EventHeap, exponential
from paylab.lab.experiments.reduced_network import TRANSIT_S, Life, ReducedNetwork, if_alive
from paylab.lab.experiments.statistics import Tally
from paylab.lab.simulation.choices import seeded

NO_QUEUE, MEMORY, DURABLE, CRASHING = "none", "in memory", "durable", "durable, crashing"
OUTAGE_MEAN_S = 600.0
# A queue that crashes does so as often as outages are long, and comes back after this time.
CRASH_MEAN_S, AWAY_S = 600.0, 5.0
SCHEDULE = RetrySchedule(base_s=0.5, cap_s=200.0, tries_max=1_000_000)
# The first attempt asks the bank as long as the last one does, and each step takes a transit.
MARGIN_S = Timing().vote_deadline_s + 4 * TRANSIT_S
# So many make the expectation of a queue in memory known to half a percent.
SCHEDULES = 4_000
AMOUNT = Money(1_000, "EUR")
CLAIM = 0.95


@dataclass(slots=True)
class Entry:
    """A payment that waits."""

    queued_at_s: float
    due_at_s: float
    tries: int = 0


class Queue:
    """An offline queue: the schedule of the real one around a dictionary."""

    def __init__(self, network: ReducedNetwork, *, horizon_s: float, durable: bool, seed: int) -> None:
        """Empty, and in the place of the network's own."""
        self.life = Life()
        self._network, self._heap, self._durable = network, network.heap, durable
        self._schedule = replace(SCHEDULE, horizon_s=horizon_s)
        self._rng = seeded(seed, "jitter")
        self._entries: dict[str, Entry] = {}
        self._given_up: set[str] = set()
        network.queue = lambda payment: network.send(self.life, self._enqueue, payment)

    def crash(self) -> None:
        """Die, and come back a little later with what is on disk."""
        self.life.number += 1
        if not self._durable:
            self._entries.clear()
        self._heap.after(AWAY_S, self._restart)

    def _restart(self) -> None:
        self.life.number += (
            1  # what has come meanwhile, from an outbox that goes on sending, waits like the rest
        )
        for name, entry in self._entries.items():
            self._wait(name, max(entry.due_at_s, self._heap.now_s))

    def _enqueue(self, payment: Payment) -> None:
        now = self._heap.now_s
        # Each failed attempt says so once more, the last one, too.
        if payment.payment not in self._entries and payment.payment not in self._given_up:
            self._entries[payment.payment] = Entry(now, now)
            self._put_off(payment.payment)

    def _wait(self, name: str, due_at_s: float) -> None:
        self._entries[name].due_at_s = due_at_s
        self._heap.at(due_at_s, if_alive, self.life, self.life.number, self._try, (name,))

    def _try(self, name: str) -> None:
        gateway, life, number = self._network.gateway, self.life, self.life.number

        def told(payment: Payment) -> None:
            self._heap.after(TRANSIT_S, if_alive, life, number, self._tried, (payment,))

        self._network.send(gateway.life, gateway.redrive, name, told)

    def _tried(self, paid: Payment) -> None:
        if paid.state in TERMINAL:
            del self._entries[paid.payment]
            return
        self._entries[paid.payment].tries += 1
        self._put_off(paid.payment)

    def _put_off(self, name: str) -> None:
        entry, gateway = self._entries[name], self._network.gateway
        due_at_s = _next_s(
            self._schedule, entry.tries, self._heap.now_s, queued_at_s=entry.queued_at_s, rng=self._rng
        )
        if due_at_s is not None:
            self._wait(name, due_at_s)
            return
        del self._entries[name]
        self._given_up.add(name)
        gateway.put(payment.give_up(gateway.payments[name], "BANK_UNREACHABLE"))


def trial(parameters: Parameters, seed: int) -> Measurements:
    """One outage: payments that begin with it, and what became of those that were queued."""
    kind, payments = parameters["queue"], parameters["payments"]
    heap, queued = EventHeap(), set[str]()
    network = ReducedNetwork(heap)
    horizon_s = parameters["horizon"] * OUTAGE_MEAN_S
    queue = Queue(network, horizon_s=horizon_s, durable=kind != MEMORY, seed=seed)
    enqueue = network.queue

    def hold_up(held: Payment) -> None:
        queued.add(held.payment)
        if kind != NO_QUEUE:
            enqueue(held)

    network.queue = hold_up
    network.down.add("boreal")
    heap.at(exponential(OUTAGE_MEAN_S, rng=seeded(seed, "outage"))(), network.down.clear)
    for n in range(payments):
        heap.at(n * TRANSIT_S, network.gateway.pay, f"buyer-{n}", "order", AMOUNT, _nobody)
    if kind in (MEMORY, CRASHING):
        gap_s = exponential(CRASH_MEAN_S, rng=seeded(seed, "crashes"))
        _crash_now_and_then(heap, queue, gap_s, until_s=2 * horizon_s)
    heap.run()
    banks = network.banks.values()
    times = {name: {bank.posted[name] for bank in banks} for name in queued}
    assert all(found in ({0}, {1}) for found in times.values()), "paid half, or twice"
    return {"recovered": Tally(sum(found == {1} for found in times.values()), len(queued))}


def _nobody(_payment: Payment) -> None:
    """The buyer has gone home."""


def _crash_now_and_then(heap: EventHeap, queue: Queue, gap_s: Callable[[], float], *, until_s: float) -> None:
    def crash() -> None:
        queue.crash()
        if heap.now_s < until_s:
            heap.after(AWAY_S + gap_s(), crash)

    heap.after(gap_s(), crash)


def recovered(horizon_s: float) -> float:
    """1 - exp(-H/mean): an outage is over within H, counted from any moment at which it lasts.

    H is the horizon, which the schedule's last try meets exactly, and MARGIN_S.
    """
    return -math.expm1(-(horizon_s + MARGIN_S) / OUTAGE_MEAN_S)


@cache
def recovered_from_memory(horizon_s: float) -> float:
    """The same, if the queue does not crash while the payment waits before the first try after the outage.

    The mean over drawn schedules of the sum over tries k of P(over between try k-1 and k) P(alive at k).
    A try that fails lasts MARGIN_S; a queue that dies meanwhile loses nothing by it, as the gateway queues
    the payment again.
    """
    schedule, rng, total = replace(SCHEDULE, horizon_s=horizon_s), seeded("schedules"), 0.0
    for _ in range(SCHEDULES):
        tries, now, waited_s, lasts = 0, 0.0, 0.0, 1.0
        while (due_s := _next_s(schedule, tries, now, queued_at_s=0.0, rng=rng)) is not None:
            waited_s += due_s - now
            before, lasts = lasts, math.exp(-(due_s + MARGIN_S) / OUTAGE_MEAN_S)
            total += (before - lasts) * math.exp(-waited_s / CRASH_MEAN_S)
            tries, now = tries + 1, due_s + MARGIN_S
    return total / SCHEDULES


def _next_s(
    schedule: RetrySchedule, tries: int, now: float, *, queued_at_s: float, rng: backoff.Rng
) -> float | None:
    return next_try_s(
        schedule,
        tries=tries,
        now=now,
        queued_at_s=queued_at_s,
        reason="BANK_UNREACHABLE",
        delay=backoff.full_jitter,
        rng=rng,
    )


def expect(parameters: Parameters) -> Mapping[str, Expectation]:
    """Nothing without a queue, the formula with a durable one, crashing or not, less with one in memory."""
    kind, horizon_s = parameters["queue"], parameters["horizon"] * OUTAGE_MEAN_S
    if kind == NO_QUEUE:
        return {"recovered": Never()}
    if kind == MEMORY:
        return {"recovered": Formula(recovered_from_memory(horizon_s), parameters["precision"])}
    if parameters["horizon"] >= parameters["claim_from"]:
        return {"recovered": AtLeast(CLAIM)}
    return {"recovered": Formula(recovered(horizon_s), parameters["precision"])}


RECOVERY = Experiment(
    name="recovery",
    question="Of the payments that an outage held up, which share is made in the end, each exactly once?",
    expectation="1 - exp(-H/mean) for exponential outages and a horizon H: 63, 86, 95 % at 1, 2, 3 means; "
    "nothing without a queue, at least 95 % at 3.5 means also with a queue that crashes",
    source="what is left of an exponential outage is exponential; queue: core/retry_schedule.py",
    grid={"horizon": [1.0, 2.0, 3.0, 3.5], "queue": [NO_QUEUE, MEMORY, DURABLE, CRASHING]},
    trial=trial,
    expect=expect,
    full=Size(5_000, {"payments": 2, "precision": 0.1, "claim_from": 3.5}),
    quick=Size(150, {"payments": 2, "precision": 0.5, "claim_from": 9.0}),
    units={"recovered": "share of queued payments"},
)


# When everything is back -------------------------------------------------------------------------


def _no_jitter(attempt: int, *, base_s: float, cap_s: float, rng: object) -> float:  # noqa: ARG001 - no chance
    return backoff.exponential(attempt, base_s=base_s, cap_s=cap_s)


RECONNECTION_CAP_S = 20.0
JITTERS: dict[str, Callable[..., float]] = {
    "none": _no_jitter,
    "equal": backoff.equal_jitter,
    "full": backoff.full_jitter,
}


def reconnect(parameters: Parameters, seed: int) -> Measurements:
    """Clients that failed at the same moment try until an outage is over; how they come back."""
    rng, clients, delay = seeded(seed, "jitter"), parameters["clients"], JITTERS[parameters["jitter"]]
    over_s = 200.0 + RECONNECTION_CAP_S * seeded(seed, "outage").random()
    found = [_first_try_after(over_s, delay, rng) - over_s for _ in range(clients)]
    arrivals = sorted(found)
    busiest = max(sum(start <= other < start + 1.0 for other in arrivals) for start in arrivals)
    return {"busiest_second": busiest / clients, "first_second": sum(s < 1.0 for s in found) / clients}


def _first_try_after(over_s: float, delay: Callable[..., float], rng: Any) -> float:
    tries, now = 0, 0.0
    while now < over_s:
        tries += 1
        now += delay(tries, base_s=SCHEDULE.base_s, cap_s=RECONNECTION_CAP_S, rng=rng)
    return now


def expect_peak(parameters: Parameters) -> Mapping[str, Expectation]:
    """Without jitter all come in one second; with full jitter as the residual of a uniform wait says."""
    if parameters["jitter"] == "none":
        return {"busiest_second": AtLeast(1.0)}
    if parameters["jitter"] == "full":
        cap_s = RECONNECTION_CAP_S
        first = Formula((2 * cap_s - 1) / cap_s**2, parameters["precision"])
        return {"busiest_second": AtMost(0.2), "first_second": first}
    return {}


RECONNECTION = Experiment(
    name="reconnection",
    question="An outage ends: which share of those who wait come back within the same second?",
    expectation="all without jitter; with full jitter up to a cap c, 2/c - 1/c^2 in the first second",
    source="the residual of a uniform wait has the density 2(c - t)/c^2 (W. Feller, vol. II, XI.4)",
    grid={"jitter": list(JITTERS)},
    trial=reconnect,
    expect=expect_peak,
    full=Size(200, {"clients": 500, "precision": 0.1}),
    quick=Size(40, {"clients": 300, "precision": 0.3}),
    units={"busiest_second": "share of clients", "first_second": "share of clients"},
)
