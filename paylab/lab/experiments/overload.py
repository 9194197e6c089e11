"""A server that was away for a moment, and clients that try again: does it ever recover?

The server works off its queue, whether or not those who asked still wait. What it does for callers who have
gone is lost, so retries can keep it busy for ever with work that nobody wants: a metastable failure.
Source: N. Bronson et al., Metastable Failures in Distributed Systems, HotOS 2021.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from paylab.core.backoff import full_jitter
from paylab.lab.experiments.queueing import EventHeap, poisson
from paylab.lab.simulation.choices import seeded

# Calls a second that arrive, and that the server can answer.
RATE, CAPACITY = 60.0, 100.0
TIMEOUT_S = 1.0
TRIES_MAX = 5
BASE_S, CAP_S = 0.1, 1.0
# So many requests are lost even on good days.
LOSS = 0.02
AWAY_FROM_S, AWAY_FOR_S = 8.0, 3.0
LENGTH_S = 45.0


class Limit(Protocol):
    """Whether a client may try again; `paylab.core.retries` has some."""

    def sent(self) -> None:
        """A call was sent for the first time."""

    def allows(self, *, now: float) -> bool:
        """Whether one retry may be sent now."""


@dataclass(slots=True)
class Overload:
    """Counts by second."""

    first_tries: list[int] = field(default_factory=lambda: [0] * int(LENGTH_S))
    retries: list[int] = field(default_factory=lambda: [0] * int(LENGTH_S))
    # Answers that came in time.
    answered: list[int] = field(default_factory=lambda: [0] * int(LENGTH_S))

    def goodput(self, from_s: float, to_s: float) -> float:
        """Calls answered in time, as a share of those that were made in these seconds."""
        seconds = slice(int(from_s), int(to_s))
        return sum(self.answered[seconds]) / max(1, sum(self.first_tries[seconds]))


class _Service:
    """One server and all its clients."""

    def __init__(self, limit: Limit, seed: int) -> None:
        self.seen = Overload()
        self._heap = EventHeap()
        self._limit = limit
        self._rng = seeded(seed, "overload")
        # When the server will have worked off what it has.
        self._free_at_s = 0.0
        poisson(self._heap, RATE, self._call, rng=seeded(seed, "calls"))

    def run(self) -> Overload:
        """Let it all happen."""
        self._heap.at(AWAY_FROM_S, self._go_away)
        self._heap.run(LENGTH_S - 1e-9)
        return self.seen

    def _go_away(self) -> None:
        self._free_at_s = max(self._free_at_s, self._heap.now_s) + AWAY_FOR_S

    def _call(self) -> None:
        self.seen.first_tries[int(self._heap.now_s)] += 1
        self._limit.sent()
        self._try(1)

    def _try(self, number: int) -> None:
        now = self._heap.now_s
        if self._rng.random() >= LOSS:
            self._free_at_s = max(self._free_at_s, now) + 1 / CAPACITY
            if self._free_at_s - now <= TIMEOUT_S:
                self._heap.at(self._free_at_s, self._answer)
                return
        self._heap.after(TIMEOUT_S, self._give_up, number)

    def _answer(self) -> None:
        self.seen.answered[int(self._heap.now_s)] += 1

    def _give_up(self, number: int) -> None:
        if number < TRIES_MAX and self._limit.allows(now=self._heap.now_s):
            self.seen.retries[int(self._heap.now_s)] += 1
            delay_s = full_jitter(number, base_s=BASE_S, cap_s=CAP_S, rng=self._rng)
            self._heap.after(delay_s, self._try, number + 1)


def overload(limit: Callable[[], Limit], *, seed: int = 0) -> Overload:
    """Three quarters of a minute with 60 calls a second for a server that answers 100 and is away for 3 s."""
    return _Service(limit(), seed).run()
