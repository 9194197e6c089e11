"""Which errors may be tried again, by whom, under which key; and how the trying is kept within bounds.

A retry is load on a network that has too much already. So a caller backs off (`paylab.core.backoff`), keeps
within its time, and asks one of the limits here before each retry.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from paylab.errors import Overloaded, PaylabError

# Which errors ------------------------------------------------------------------------------------


class Again(StrEnum):
    """What may follow an error."""

    NEVER = "never"  # the same request gets the same answer
    REFRESHED = "once, with a fresh token"
    PUSHED_BACK = "after the delay that the server asks for"
    BACKED_OFF = "after a delay"


class By(StrEnum):
    """Who does what follows."""

    LIBRARY = "the client library, by itself"
    CALLER = "whoever called it, who must change something first"
    NOBODY = "nobody"


class Key(StrEnum):
    """Under which idempotency key."""

    SAME = "the same key"
    OTHER = "another key"
    NONE = "no key, for nothing is sent"


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about an error."""

    again: Again
    by: By
    key: Key


_FIX = Advice(Again.NEVER, By.CALLER, Key.SAME)
_REFUSED = Advice(Again.NEVER, By.NOBODY, Key.NONE)
_LATER = Advice(Again.PUSHED_BACK, By.LIBRARY, Key.SAME)
# It may have happened, so that another key could do it twice.
_UNKNOWN = Advice(Again.BACKED_OFF, By.LIBRARY, Key.SAME)

ADVICE: Mapping[str, Advice] = {
    "INVALID_AMOUNT": _FIX,
    "BAD_CURRENCY": _FIX,
    "BAD_ACCOUNT": _FIX,
    "BAD_NAME": _FIX,
    "KEY_MISSING": _FIX,
    "KEY_REUSED": Advice(Again.NEVER, By.CALLER, Key.OTHER),
    "TOKEN_EXPIRED": Advice(Again.REFRESHED, By.LIBRARY, Key.SAME),
    "TOKEN_INVALID": _REFUSED,
    "NOT_OWNER": _REFUSED,
    "SCOPE": _REFUSED,
    "ROLE": _REFUSED,
    "NOT_FOUND": _REFUSED,
    "WRONG_STATE": _REFUSED,
    "OVERLOADED": _LATER,
    "LOCKED_OUT": _LATER,
    "OUTCOME_UNKNOWN": _UNKNOWN,
}


def advice(error: PaylabError) -> Advice:
    """What to do about an error; one of no known reason is a transport that failed, unless it is definite."""
    return ADVICE.get(error.reason, _REFUSED if error.definite else _UNKNOWN)


def wait_s(error: PaylabError, *, backoff_s: float, left_s: float) -> float | None:
    """How long to wait before the same request is sent again; None to give up with `error`.

    A delay that the server asks for comes before our own, which spreads those who were all told the same.
    What would be sent when the caller's time, `left_s`, is over is not worth waiting for.
    """
    if advice(error).again not in (Again.PUSHED_BACK, Again.BACKED_OFF):
        return None
    delay_s = backoff_s + (error.pushback_s if isinstance(error, Overloaded) else 0.0)
    return delay_s if delay_s < left_s else None


# How many ----------------------------------------------------------------------------------------


class RetryLimit(Protocol):
    """Decides over all calls of a client together; each hears what becomes of every try."""

    def sent(self) -> None:
        """A call was sent for the first time."""

    def succeeded(self) -> None:
        """A try was answered."""

    def failed(self) -> None:
        """A try failed in a way that may be tried again."""

    def allows(self, *, now: float) -> bool:
        """Whether one retry may be sent now; it is counted as sent."""


@dataclass(slots=True)
class RetryBudget:
    """A token bucket: calls put in a share of a token each, and a retry takes out a whole one.

    So retries add at most `ratio` to the load, however much fails, beside the few a second that keep a client
    of few calls going. Source: Finagle, `RetryBudget`: 20 % and a minimum rate.
    """

    ratio: float = 0.2
    # What comes in by itself, so that a client that makes one call an hour can repeat that one.
    per_s: float = 1.0
    # More than this is not saved up.
    tokens_max: float = 10.0
    tokens: float = field(init=False)
    _filled_at_s: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Begin full."""
        self.tokens = self.tokens_max

    def sent(self) -> None:
        """Put in this call's share."""
        self.tokens = min(self.tokens_max, self.tokens + self.ratio)

    def succeeded(self) -> None:
        """Change nothing."""

    def failed(self) -> None:
        """Change nothing."""

    def allows(self, *, now: float) -> bool:
        """Take a token if there is one."""
        if self._filled_at_s is not None:
            came_in = self.per_s * max(0.0, now - self._filled_at_s)
            self.tokens = min(self.tokens_max, self.tokens + came_in)
        self._filled_at_s = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


@dataclass(slots=True)
class RetryThrottle:
    """gRPC's: a failure costs a token, a success brings `token_ratio`; at half or less nothing is retried.

    Source: gRPC proposal A6, "Throttling Retry Attempts and Hedged RPCs".
    """

    max_tokens: float = 10.0
    token_ratio: float = 0.1
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin full."""
        self.tokens = self.max_tokens

    def sent(self) -> None:
        """Change nothing: only ends count."""

    def succeeded(self) -> None:
        """Bring a little back."""
        self.tokens = min(self.max_tokens, self.tokens + self.token_ratio)

    def failed(self) -> None:
        """Take a token."""
        self.tokens = max(0.0, self.tokens - 1.0)

    def allows(self, *, now: float) -> bool:  # noqa: ARG002 - time brings nothing back here
        """Whether more than half is left."""
        return self.tokens > self.max_tokens / 2


class NoLimit:
    """Allows every retry: what makes a storm."""

    def sent(self) -> None:
        """Do not count."""

    def succeeded(self) -> None:
        """Do not count."""

    def failed(self) -> None:
        """Do not count."""

    def allows(self, *, now: float) -> bool:  # noqa: ARG002 - whatever the time
        """Yes."""
        return True


# Whether at all ----------------------------------------------------------------------------------


class Circuit(StrEnum):
    """What a breaker lets through."""

    CLOSED = "closed"  # everything
    OPEN = "open"  # nothing
    HALF_OPEN = "half-open"  # a few probes, to see


@dataclass(slots=True)
class CircuitBreaker:
    """Stops calling a server that keeps failing, first tries as well, and sends a probe now and then.

    CLOSED ──`failures_max` in a row──▶ OPEN ──after `open_s`──▶ HALF_OPEN ──`probes` answered──▶ CLOSED
                                         ▲                          │
                                         └──────a probe failed──────┘
    Each time in a row that it opens it stays open twice as long, at most `open_max_s`.
    Source: M. Nygard, Release It!, 2nd ed., 2018, chapter 5.
    """

    failures_max: int = 5
    open_s: float = 0.5
    open_max_s: float = 5.0
    probes: int = 1
    state: Circuit = field(init=False, default=Circuit.CLOSED)
    _failures: int = field(init=False, default=0)
    _answered: int = field(init=False, default=0)
    _under_way: int = field(init=False, default=0)
    _opened: int = field(init=False, default=0)
    _until_s: float = field(init=False, default=0.0)

    def room(self, *, now: float) -> float:
        """How many calls may be sent now; infinitely many while it is closed."""
        if self.state is Circuit.OPEN and now >= self._until_s:
            self.state, self._answered, self._under_way = Circuit.HALF_OPEN, 0, 0
        if self.state is Circuit.HALF_OPEN:
            return self.probes - self._answered - self._under_way
        return math.inf if self.state is Circuit.CLOSED else 0

    def allows(self, *, now: float) -> bool:
        """Whether a call may be sent now; of a half-open breaker, each yes is a probe under way."""
        if self.room(now=now) < 1:
            return False
        self._under_way += 1
        return True

    def opens_in_s(self, *, now: float) -> float:
        """How long it still lets nothing through."""
        return max(0.0, self._until_s - now) if self.state is Circuit.OPEN else 0.0

    def succeeded(self) -> None:
        """A call was answered: the server is well, or one probe nearer to it."""
        self._failures = 0
        if self.state is Circuit.HALF_OPEN:
            self._answered += 1
            self._under_way = max(0, self._under_way - 1)
            if self._answered >= self.probes:
                self.state, self._opened = Circuit.CLOSED, 0

    def failed(self, *, now: float) -> None:
        """A call failed; while the breaker is open that is one sent before, and tells nothing new."""
        self._failures += 1
        if self.state is Circuit.HALF_OPEN or (
            self.state is Circuit.CLOSED and self._failures >= self.failures_max
        ):
            self._opened += 1
            open_s = min(self.open_max_s, self.open_s * 2.0 ** (self._opened - 1))
            self.state, self._until_s, self._failures = Circuit.OPEN, now + open_s, 0
