"""Which servers may be picked, which are ejected as outliers, and which calls may be sent to another one.

A server is offered while its lease runs, its health check says that it serves, and it is not ejected. Each of
the three sees what the others do not: a lease ends when a server hangs, a health check speaks when it crashes
or drains, and ejection notices one that is there and fails.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Health(StrEnum):
    """What a health check says about a server."""

    SERVING = "serving"
    NOT_SERVING = "not serving"  # it finishes what it has and takes no more
    UNREACHABLE = "unreachable"  # its connection broke, and it has not been heard of since


# Sending again ------------------------------------------------------------------------------------


class Fate(StrEnum):
    """What became of a call to one server, as far as the balancer knows."""

    ANSWERED = "answered"  # with success or an error of its own: the server has dealt with it
    LOST = "lost"  # the connection failed: it may have been done
    WITHDRAWN = "withdrawn"  # the server was given up while it kept us waiting: it may yet be done


def may_send_again(fate: Fate, *, repeatable: bool) -> bool:
    """Whether a call may go to another server after this.

    An answer is final. A call that may have been done goes again only if doing it twice is doing it once:
    then every server of the group is tried at most once.
    """
    return repeatable and fate is not Fate.ANSWERED


# Statuses that speak of the server's state and not of the request; gRPC's names.
FAILURES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "DATA_LOSS"})


# Circuit limits -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a balancer lets pile up."""

    # Calls under way at one server: gRPC's own limit of streams on a connection.
    calls_max: int = 100
    # Calls that wait until a server has room.
    waiting_max: int = 200


def pushback_s(*, waiting: int, room: int, latency_s: float) -> float:
    """When a refused caller should come again: once those who wait have been served, `room` at a time.

    At least 10 ms, since a balancer that has seen no answer yet knows nothing, and at most 5 s.
    """
    return min(5.0, max(0.01, (waiting + 1) / room * latency_s))


# Outlier ejection ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OutlierRules:
    """When a server is ejected and for how long; names and values are those of gRPC A50 and Envoy.

    Sources: gRPC proposal A50; Envoy, "Outlier detection". Their success rate rule is left out: it asks how
    many standard deviations a server is off, and of n servers none can be further off than √(n-1).
    """

    interval_s: float = 10.0
    # Ejected at once after so many failures in a row (Envoy's `consecutive_5xx`).
    failures_in_a_row: int = 5
    # Ejected at the end of an interval in which more than this failed of at least `requests_min`, if there
    # are `hosts_min` servers with as many.
    failure_percent: float = 85.0
    requests_min: int = 50
    hosts_min: int = 5
    # For `base_s` the first time, twice that the second, at most `max_s`; each good interval takes one off.
    base_s: float = 30.0
    max_s: float = 300.0
    # At most this share is ejected at a time.
    ejected_percent_max: float = 10.0


# A lab has few servers and lives for a minute, not for months.
LAB_RULES = OutlierRules(
    interval_s=2.0, requests_min=10, hosts_min=2, base_s=2.0, max_s=20.0, ejected_percent_max=50.0
)


@dataclass(slots=True)
class Seen:
    """What was seen of one server: failures in a row, and the calls of the interval that has just ended.

    In between, when a call has just failed, `calls` and `failed` are 0.
    """

    server: str
    failures_in_a_row: int = 0
    calls: int = 0
    failed: int = 0
    ejected: bool = False


def outliers(servers: Sequence[Seen], rules: OutlierRules) -> list[str]:
    """Which servers to eject now; asked after every failure and at the end of every interval."""
    room = int(len(servers) * rules.ejected_percent_max / 100) - sum(seen.ejected for seen in servers)
    known = [seen for seen in servers if seen.calls >= rules.requests_min]
    judged = known if len(known) >= rules.hosts_min else []
    bad = [
        seen.server
        for seen in servers
        if not seen.ejected
        and (
            seen.failures_in_a_row >= rules.failures_in_a_row
            or (seen in judged and 100 * seen.failed > rules.failure_percent * seen.calls)
        )
    ]
    return bad[: max(0, room)]


@dataclass(slots=True)
class _Record:
    """What a detector keeps of one server."""

    failures_in_a_row: int = 0
    calls: int = 0
    failed: int = 0
    ejections: int = 0
    multiplier: int = 0
    ejected_until_s: float = 0.0


@dataclass(slots=True)
class OutlierDetector:
    """Counts what becomes of calls to the servers of one group, and ejects by a rule."""

    rules: OutlierRules = LAB_RULES
    rule: Callable[[Sequence[Seen], OutlierRules], Sequence[str]] = outliers
    _records: dict[str, _Record] = field(default_factory=dict)
    _interval_ends_s: float | None = None

    def join(self, server: str) -> None:
        """Count a server in, with nothing held against it."""
        self._records[server] = _Record()

    def count(self, server: str, *, failed: bool, now: float) -> bool:
        """Learn what became of a call; whether that ejects anybody."""
        record = self._records[server]
        record.calls += 1
        record.failed += failed
        record.failures_in_a_row = record.failures_in_a_row + 1 if failed else 0
        if self._interval_ends_s is None:
            self._interval_ends_s = now + self.rules.interval_s
        if now >= self._interval_ends_s:
            return self._end_interval(now)
        return failed and self._eject(now, {})

    def ejected(self, server: str, *, now: float) -> bool:
        """Whether it is ejected at the moment."""
        return now < self._records[server].ejected_until_s

    def ejections(self, server: str) -> int:
        """How often it has been ejected."""
        return self._records[server].ejections

    def ejected_for_s(self, server: str, *, now: float) -> float:
        """How long it will be left out from now; 0 when it is not."""
        return max(0.0, self._records[server].ejected_until_s - now)

    def _end_interval(self, now: float) -> bool:
        assert self._interval_ends_s is not None
        interval_s = self.rules.interval_s
        ended = 1 + int((now - self._interval_ends_s) / interval_s)
        last_s = self._interval_ends_s + (ended - 1) * interval_s
        self._interval_ends_s = last_s + interval_s
        for record in self._records.values():
            good = min(ended, math.ceil((last_s - record.ejected_until_s) / interval_s))
            record.multiplier = max(0, record.multiplier - max(0, good))
        counts = {server: (record.calls, record.failed) for server, record in self._records.items()}
        for record in self._records.values():
            record.calls = record.failed = 0
        return self._eject(now, counts)

    def _eject(self, now: float, counts: Mapping[str, tuple[int, int]]) -> bool:
        seen = [
            Seen(server, record.failures_in_a_row, *counts.get(server, (0, 0)), now < record.ejected_until_s)
            for server, record in sorted(self._records.items())
        ]
        ejected = self.rule(seen, self.rules)
        for server in ejected:
            record = self._records[server]
            record.ejections += 1
            record.multiplier += 1
            record.failures_in_a_row = 0
            for_s = min(self.rules.base_s * record.multiplier, max(self.rules.base_s, self.rules.max_s))
            record.ejected_until_s = now + for_s
        return bool(ejected)
