"""Which server gets the next call. Observed load goes in, a pick comes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from paylab.core.backoff import Rng


@dataclass(slots=True)
class Endpoint:
    """What a balancer knows about one server."""

    server: str
    group: str
    lease_until_s: float
    lease_s: float
    reported_load: int = 0
    in_flight: int = 0
    forwarded: int = 0
    # Not picked before this moment, after a call to it failed.
    suspect_until_s: float = 0.0

    def eligible(self, now: float) -> bool:
        """Whether its lease runs and no call to it has just failed."""
        return now < self.lease_until_s and now >= self.suspect_until_s


class Policy(Protocol):
    """Picks one of the endpoints that are offered, which are never empty and sorted by name."""

    def pick(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        """Return one of `endpoints`."""


class RoundRobin:
    """Each in turn, whatever they are doing."""

    def __init__(self) -> None:
        """Start with the first."""
        self._turn = 0

    def pick(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        """Return the next in turn."""
        self._turn += 1
        return endpoints[(self._turn - 1) % len(endpoints)]


class LeastLoad:
    """The one that reported the least load, plus what it was given since; ties go round robin.

    Servers report by lease heartbeat, so the report may be old.
    """

    def __init__(self) -> None:
        """Ties start with the first."""
        self._ties = RoundRobin()

    def pick(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        """Return one of those with the least load."""
        least = min(endpoint.reported_load + endpoint.in_flight for endpoint in endpoints)
        return self._ties.pick([e for e in endpoints if e.reported_load + e.in_flight == least])


class PowerOfChoices:
    """The one with the fewest calls under way among a few that chance draws; the first drawn wins a tie.

    Two choices are nearly as good as knowing every server, and one is plain chance. Servers are drawn with
    replacement. Chance comes with the constructor, so that `pick` is the same for every policy.
    Source: M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, IEEE TPDS 12(10), 2001.
    """

    def __init__(self, *, rng: Rng, choices: int = 2) -> None:
        """Draw `choices` servers a call from `rng`."""
        self._random = rng.random
        self._more = range(choices - 1)

    def pick(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        """Return the least busy of those drawn."""
        random, count = self._random, len(endpoints)
        best = endpoints[int(random() * count)]
        for _ in self._more:
            other = endpoints[int(random() * count)]
            if other.in_flight < best.in_flight:
                best = other
        return best


POLICIES: dict[str, type[RoundRobin | LeastLoad]] = {"round_robin": RoundRobin, "least_load": LeastLoad}
