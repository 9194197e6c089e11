"""Which server gets the next call. What is known of servers and call goes in, a pick comes out.

A policy is a class with one method, `pick(endpoints, call)`; POLICIES has those that paylab brings along.
"""

import hashlib
import math
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from paylab.core.backoff import Rng

# Peak EWMA forgets a latency with this time constant; Finagle's default.
DECAY_S = 10.0
# What a server costs that is busy and has never answered: more than any that has.
UNKNOWN_LATENCY_S = 1e6
# Points that a server of weight 1 has on the ring; libketama's number.
RING_POINTS = 160


@dataclass(frozen=True, slots=True)
class Call:
    """What a policy may know of the call that it picks for: chance, the time, and whom it is about."""

    rng: Rng
    now_s: float = 0.0
    key: str = ""


@dataclass(slots=True)
class Endpoint:
    """What a balancer knows about one server."""

    server: str
    group: str
    lease_until_s: float
    lease_s: float
    # How many calls it should get beside a server of weight 1.
    weight: int = 1
    # What it said with its last lease renewal, which may be old.
    reported_load: int = 0
    # What the balancer knows at first hand.
    in_flight: int = 0
    forwarded: int = 0
    # Peak EWMA of its latency, and when that was.
    latency_s: float = 0.0
    latency_at_s: float = -math.inf

    def leased(self, now: float) -> bool:
        """Whether it has renewed its lease in time."""
        return now < self.lease_until_s

    def answered(self, took_s: float, *, now: float) -> None:
        """Learn from an answer: a higher latency counts at once, a lower one little by little."""
        kept = math.exp(-max(0.0, now - self.latency_at_s) / DECAY_S)
        self.latency_s = max(took_s, took_s * (1 - kept) + self.latency_s * kept)
        self.latency_at_s = now


class Policy(Protocol):
    """Picks one of the endpoints that are offered, which are never empty and sorted by name."""

    def pick(self, endpoints: Sequence[Endpoint], call: Call) -> Endpoint:
        """Return one of `endpoints`."""


class RoundRobin:
    """Each in turn, whatever they are doing."""

    def __init__(self) -> None:
        """Start with the first."""
        self._turn = 0

    def pick(self, endpoints: Sequence[Endpoint], call: Call) -> Endpoint:  # noqa: ARG002 - any call is alike
        """Return the next in turn."""
        self._turn += 1
        return endpoints[(self._turn - 1) % len(endpoints)]


class WeightedRoundRobin:
    """Each as often as its weight says, and its turns spread as evenly as they can be.

    Every server gains its weight, the richest is picked and pays what all have gained. Of weights 5, 1, 1
    the picks are a a b a c a a, not a a a a a b c.
    Source: smooth weighted round robin of nginx 1.3.1 (I. Sysoev, M. Dounin, 2012).
    """

    def __init__(self) -> None:
        """All begin with nothing."""
        self._credit: dict[str, int] = {}

    def pick(self, endpoints: Sequence[Endpoint], call: Call) -> Endpoint:  # noqa: ARG002 - any call is alike
        """Return the one with the most credit, the first of several."""
        # Whoever is not offered forgets its credit: it would be paid for turns that it was not there for.
        self._credit = {e.server: self._credit.get(e.server, 0) + e.weight for e in endpoints}
        best = max(endpoints, key=lambda endpoint: self._credit[endpoint.server])
        self._credit[best.server] -= sum(endpoint.weight for endpoint in endpoints)
        return best


class Random:
    """Any of them, with equal chance."""

    def pick(self, endpoints: Sequence[Endpoint], call: Call) -> Endpoint:
        """Return one drawn by chance."""
        return endpoints[int(call.rng.random() * len(endpoints))]


class _Least:
    """The one of which `_amount` is least; ties go in turn, so that idle servers share."""

    def __init__(self) -> None:
        """Ties start with the first."""
        self._ties = RoundRobin()

    def pick(self, endpoints: Sequence[Endpoint], call: Call) -> Endpoint:
        """Return one of those with the least."""
        least = min(map(self._amount, endpoints))
        return self._ties.pick([e for e in endpoints if self._amount(e) == least], call)

    def _amount(self, endpoint: Endpoint) -> int:
        raise NotImplementedError


class LeastLoad(_Least):
    """The one that reported the least load with its last lease renewal, however old that is.

    This is the policy of the project that paylab grew from. Between two reports every call goes to the
    same server.
    """

    def _amount(self, endpoint: Endpoint) -> int:
        return endpoint.reported_load


class LeastOutstanding(_Least):
    """The one with the fewest calls of this balancer under way, which it knows at first hand.

    Source: W. Winston, Optimality of the Shortest Line Discipline, J. Appl. Prob. 14(1), 1977; `least_conn`
    of nginx.
    """

    def _amount(self, endpoint: Endpoint) -> int:
        return endpoint.in_flight


class PowerOfChoices:
    """The one with the fewest calls under way among a few that chance draws; the first drawn wins a tie.

    Two choices are nearly as good as knowing every server, and one is plain chance. Servers are drawn with
    replacement.
    Source: M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, IEEE TPDS 12(10), 2001.
    """

    def __init__(self, *, choices: int = 2) -> None:
        """Draw `choices` servers a call."""
        self._more = range(choices - 1)

    def pick(self, endpoints: Sequence[Endpoint], call: Call) -> Endpoint:
        """Return the least busy of those drawn."""
        random, count = call.rng.random, len(endpoints)
        best = endpoints[int(random() * count)]
        for _ in self._more:
            other = endpoints[int(random() * count)]
            if other.in_flight < best.in_flight:
                best = other
        return best


class PeakEwma:
    """Of two that chance draws, the one that would take less time: latency times calls under way.

    Latency is a peak EWMA (`Endpoint.answered`) that decays while nobody asks, so that a server that was
    slow is tried again. Drawing two keeps callers from running after the fastest all together.
    Source: Finagle's `p2cPeakEwma` (M. Oliver, Twitter, 2015).
    """

    def pick(self, endpoints: Sequence[Endpoint], call: Call) -> Endpoint:
        """Return the cheaper of the two."""
        count = len(endpoints)
        first, second = (endpoints[int(call.rng.random() * count)] for _ in range(2))
        return second if self.cost(second, call.now_s) < self.cost(first, call.now_s) else first

    @staticmethod
    def cost(endpoint: Endpoint, now: float) -> float:
        """About how long one more call would take there, in seconds; 0 for an idle one that is not known."""
        latency_s = endpoint.latency_s * math.exp(-max(0.0, now - endpoint.latency_at_s) / DECAY_S)
        if not latency_s and endpoint.in_flight:
            return UNKNOWN_LATENCY_S * endpoint.in_flight
        return latency_s * (endpoint.in_flight + 1)


class RingHash:
    """Calls of the same key to the same server, for as long as it is there.

    Servers have points on a ring, by hash of their names, and a key belongs to the first point after its own
    hash. When a server leaves, its keys alone move; when it comes back, they come back.
    Source: D. Karger et al., Consistent Hashing and Random Trees, STOC 1997; points as in libketama.
    """

    def __init__(self) -> None:
        """The ring is made when servers are known, and again when others are."""
        self._members: tuple[tuple[str, int], ...] = ()
        self._points: list[int] = []
        self._owners: list[str] = []

    def pick(self, endpoints: Sequence[Endpoint], call: Call) -> Endpoint:
        """Return the owner of the call's key."""
        members = tuple((endpoint.server, endpoint.weight) for endpoint in endpoints)
        if members != self._members:
            self._members = members
            ring = sorted(
                (_hash(f"{server}_{n}"), server)
                for server, weight in members
                for n in range(RING_POINTS * weight)
            )
            self._points, self._owners = [point for point, _ in ring], [server for _, server in ring]
        owner = self._owners[bisect(self._points, _hash(call.key)) % len(self._owners)]
        return next(endpoint for endpoint in endpoints if endpoint.server == owner)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


POLICIES: dict[str, Callable[[], Policy]] = {
    "round_robin": RoundRobin,
    "weighted_round_robin": WeightedRoundRobin,
    "random": Random,
    "least_load": LeastLoad,
    "least_outstanding": LeastOutstanding,
    "p2c": PowerOfChoices,
    "peak_ewma": PeakEwma,
    "ring_hash": RingHash,
}
