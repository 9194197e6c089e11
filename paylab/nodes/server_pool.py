"""The servers that calls can go to: who is offered, who gets the next call, and what becomes of it.

A balancer forwards over a pool, and a client that picks for itself (look-aside) has one of its own.
"""

import asyncio
import math
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import grpc

from paylab.core.balancing import Call, Endpoint, Policy
from paylab.core.health import (
    FAILURES,
    Fate,
    Health,
    Limits,
    OutlierDetector,
    may_send_again,
    pushback_s,
)
from paylab.errors import OutcomeUnknown, Overloaded
from paylab.nodes.host import Host
from paylab.nodes.interceptors import DEADLINE

# A deadline that is so near has come: two clocks looked at it.
CLOCK_S = 0.005


class Errand(NamedTuple):
    """A call that is to be made at some server of a group."""

    method: str
    group: str
    # Whom it is about, for policies that send the same to the same.
    key: str
    # Whether doing it twice is doing it once.
    repeatable: bool
    # Starts it at a server of that name.
    send: Callable[[str], Any]
    # How long it may wait for room; None when whoever waits for it sees to that.
    patience_s: float | None = None


class Offer(NamedTuple):
    """Who can be picked, until a moment comes or something about a server changes."""

    endpoints: list[Endpoint]
    until_s: float


class NoServer(Exception):
    """Nobody of a group can be picked."""


class ServerPool:
    """Endpoints by name, a policy and an outlier detector for each group, and who waits for room."""

    def __init__(self, host: Host, *, limits: Limits | None = None) -> None:
        """Empty; servers `enter`."""
        self.host = host
        self.limits = limits or Limits()
        self.endpoints: dict[str, Endpoint] = {}
        self.health: dict[str, Health] = {}
        # What makes policies; when another is put in, every group begins anew.
        self._factory: Callable[[], Policy] | None = None
        self._policies: dict[str, Policy] = {}
        self._outliers: dict[str, OutlierDetector] = {}
        # By group, as every call asks; forgotten at any news.
        self._offers: dict[str, Offer] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = defaultdict(deque)
        # Calls under way, by server, so that they can be given up.
        self._under_way: dict[str, dict[Any, None]] = defaultdict(dict)
        # Called whenever what the pool says of itself has changed.
        self.changed: Callable[[], None] = lambda: None

    # Servers ------------------------------------------------------------------------------------

    def enter(self, server: str, group: str, *, lease_s: float, weight: int) -> Endpoint:
        """Count a server in, or know it again; either way it starts with a clean slate."""
        until_s = self.host.now() + lease_s
        endpoint = self.endpoints.get(server)
        if endpoint is None or endpoint.group != group:
            endpoint = self.endpoints[server] = Endpoint(server, group, until_s, lease_s, weight)
            self.endpoints = dict(sorted(self.endpoints.items()))  # policies are offered them by name
        endpoint.lease_s, endpoint.weight, endpoint.reported_load = lease_s, weight, 0
        self.detector(group).join(server)
        self.health[server] = Health.SERVING
        self._extend(endpoint, until_s)
        return endpoint

    def renew(self, endpoint: Endpoint, *, load: int) -> None:
        """Learn that a server lives and how busy it is."""
        endpoint.reported_load = load
        if self.health[endpoint.server] is Health.UNREACHABLE:
            self.health[endpoint.server] = Health.SERVING
        self._extend(endpoint, self.host.now() + endpoint.lease_s)

    def _extend(self, endpoint: Endpoint, until_s: float) -> None:
        endpoint.lease_until_s = until_s
        if endpoint.lease_s < float("inf"):
            self.host.call_later(endpoint.lease_s, partial(self._lease_ended, endpoint, until_s))
        self._news(endpoint.group)

    def _lease_ended(self, endpoint: Endpoint, until_s: float) -> None:
        if endpoint.lease_until_s != until_s:
            return  # it was renewed
        left_s = until_s - self.host.now()
        if left_s > 0:  # timers and clocks do not agree to the last microsecond
            self.host.call_later(left_s, partial(self._lease_ended, endpoint, until_s))
        else:
            self.give_up(endpoint)

    def give_up(self, endpoint: Endpoint) -> None:
        """Wait no longer for anything that a server was asked."""
        for call in self._under_way.pop(endpoint.server, {}):
            call.cancel()
        self._news(endpoint.group)

    def say(self, endpoint: Endpoint, health: Health) -> None:
        """Note what a health check says."""
        if self.health[endpoint.server] is not health:
            self.health[endpoint.server] = health
            self._news(endpoint.group)

    def detector(self, group: str) -> OutlierDetector:
        """Who counts the failures of a group."""
        if group not in self._outliers:
            self._outliers[group] = OutlierDetector(rule=self.host.decisions.balancer_eject)
        return self._outliers[group]

    def able(self, endpoint: Endpoint, now: float) -> bool:
        """Whether a server is there and says that it serves."""
        return endpoint.leased(now) and self.health[endpoint.server] is Health.SERVING

    def eligible(self, endpoint: Endpoint, now: float) -> bool:
        """Whether a server is picked at the moment."""
        return self.able(endpoint, now) and not self.detector(endpoint.group).ejected(
            endpoint.server, now=now
        )

    def waiting(self, group: str) -> int:
        """How many calls wait for room."""
        return len(self._waiting[group])

    def _news(self, group: str) -> None:
        """Let those who wait go on who now can, or hear that nobody is left; and tell whoever listens."""
        self._offers.clear()
        queue = self._waiting[group]
        if queue:
            offered = self.offered(group)
            for _ in range(sum(max(0, self.limits.calls_max - e.in_flight) for e in offered)):
                _wake_first(queue)
            if not offered:
                for future in queue:
                    if not future.done():
                        future.set_exception(NoServer(f"no server of {group!r} is up"))
        self.changed()

    # Picking ------------------------------------------------------------------------------------

    def offered(self, group: str, *, but: Collection[str] = ()) -> list[Endpoint]:
        """Who can be picked, by name. A bad server is better than none: if all are ejected, none is."""
        return self._offer(group, but, self.host.now()).endpoints

    def _offer(self, group: str, but: Collection[str], now: float) -> Offer:
        offer = self._offers.get(group)
        if offer is None or but or now >= offer.until_s:
            offer = self._new_offer(group, but, now)
            if not but:
                self._offers[group] = offer
        return offer

    def _new_offer(self, group: str, but: Collection[str], now: float) -> Offer:
        able = [
            endpoint
            for server, endpoint in self.endpoints.items()
            if endpoint.group == group and server not in but and self.able(endpoint, now)
        ]
        outliers = self.detector(group)
        out_s = {e.server: outliers.ejected_for_s(e.server, now=now) for e in able}
        ends_s = [now + left_s for left_s in out_s.values() if left_s]
        ends_s += [endpoint.lease_until_s for endpoint in able]
        return Offer([e for e in able if not out_s[e.server]] or able, min(ends_s, default=math.inf))

    async def take(
        self, group: str, *, key: str = "", but: Collection[str] = (), patience_s: float | None = None
    ) -> Endpoint:
        """The server for the next call, once one has room. Raises NoServer, Overloaded, TimeoutError.

        A call that comes back from a server that failed it is let in ahead of those that wait.
        """
        queue, woken = self._waiting[group], bool(but)
        while (endpoint := self._take_now(group, key, but, woken=woken)) is None:
            async with asyncio.timeout(patience_s):
                await self._turn(queue, first=woken)
            woken = True
        return endpoint

    def _take_now(self, group: str, key: str, but: Collection[str], *, woken: bool) -> Endpoint | None:
        """The server for the next call; None when it has to wait. Raises NoServer, Overloaded."""
        queue, now = self._waiting[group], self.host.now()
        offered = self._offer(group, but, now).endpoints
        if not offered:
            raise NoServer(f"no server of {group!r} is up")
        if woken or not queue:
            free = [endpoint for endpoint in offered if endpoint.in_flight < self.limits.calls_max]
            if free:
                endpoint = self._policy(group).pick(free, Call(self.host.rng, now, key))
                endpoint.in_flight += 1
                endpoint.forwarded += 1
                return endpoint
        if not woken and len(queue) >= self.limits.waiting_max:
            raise self._overloaded(group, offered)
        return None

    async def _turn(self, queue: "deque[asyncio.Future[None]]", *, first: bool) -> None:
        """Wait until somebody makes room for whoever is in front."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (queue.appendleft if first else queue.append)(future)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                _wake_first(queue)  # the turn was ours, and we do not take it
            raise
        finally:
            queue.remove(future)

    def _overloaded(self, group: str, offered: list[Endpoint]) -> Overloaded:
        latency_s = max(endpoint.latency_s for endpoint in offered)
        room = self.limits.calls_max * len(offered)
        waiting = len(self._waiting[group])
        delay_s = pushback_s(waiting=waiting, room=room, latency_s=latency_s)
        return Overloaded(
            message=f"every server of {group!r} is full and {waiting} calls wait", pushback_s=delay_s
        )

    def _policy(self, group: str) -> Policy:
        factory = self.host.decisions.balancer_policy
        if factory is not self._factory:
            self._factory, self._policies = factory, {}
        if group not in self._policies:
            self._policies[group] = factory()
        return self._policies[group]

    # Calling ------------------------------------------------------------------------------------

    async def run(self, errand: Errand) -> tuple[Any, Any]:
        """Make a call, at another server if that is allowed; returns the response and the call.

        Raises AioRpcError as the last server gave it, NoServer, Overloaded, OutcomeUnknown, and TimeoutError
        when there was no room in time.
        """
        tried: set[str] = set()
        while True:
            # Hardly any call has to wait, and one that has not is spared a coroutine.
            endpoint = self._take_now(errand.group, errand.key, tried, woken=bool(tried)) or await self.take(
                errand.group, key=errand.key, but=tried, patience_s=errand.patience_s
            )
            tried.add(endpoint.server)
            try:
                return await self._call(endpoint, errand)
            except grpc.aio.AioRpcError as error:
                lost = error.code() is grpc.StatusCode.UNAVAILABLE
                if not may_send_again(Fate.LOST if lost else Fate.ANSWERED, repeatable=errand.repeatable):
                    raise
            except TimeoutError:
                if not may_send_again(Fate.WITHDRAWN, repeatable=errand.repeatable):
                    raise OutcomeUnknown(message=f"{endpoint.server} hangs; it may have happened") from None

    async def _call(self, endpoint: Endpoint, errand: Errand) -> tuple[Any, Any]:
        """One call to one server. Raises TimeoutError when the server is given up meanwhile."""
        with self.counted(endpoint):
            call, calls = errand.send(endpoint.server), self._under_way[endpoint.server]
            calls[call] = None
            try:
                return await call, call
            except asyncio.CancelledError:
                # Who is being cancelled is our caller, unless it is the server that was given up.
                if calls is self._under_way[endpoint.server] or _cancelled():
                    raise
                raise TimeoutError from None
            finally:
                calls.pop(call, None)

    def counted(self, endpoint: Endpoint) -> "Counted":
        """Count a call that was taken while it is under way, and learn from how it ends."""
        return Counted(self, endpoint)

    def ended(self, endpoint: Endpoint, error: BaseException | None, *, began_s: float) -> None:
        """Learn how a call ended."""
        failed = isinstance(error, TimeoutError)
        if isinstance(error, grpc.aio.AioRpcError):
            failed = error.code().name in FAILURES
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self.say(endpoint, Health.UNREACHABLE)
        elif isinstance(error, asyncio.CancelledError):
            failed = _too_late()
        now = self.host.now()
        endpoint.in_flight -= 1
        if not failed:
            endpoint.answered(now - began_s, now=now)
        if self.detector(endpoint.group).count(endpoint.server, failed=failed, now=now):
            self._offers.clear()
            self.changed()
        _wake_first(self._waiting[endpoint.group])


class Counted:
    """A call under way: `with pool.counted(endpoint): …`."""

    __slots__ = ("_began_s", "_endpoint", "_pool")

    def __init__(self, pool: ServerPool, endpoint: Endpoint) -> None:
        """It begins now."""
        self._pool = pool
        self._endpoint = endpoint
        self._began_s = pool.host.now()

    def __enter__(self) -> None:
        """It was counted when it was taken."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Whatever is raised is raised on."""
        self._pool.ended(self._endpoint, error, began_s=self._began_s)


def _wake_first(queue: "deque[asyncio.Future[None]]") -> None:
    for future in queue:
        if not future.done():
            future.set_result(None)
            return


def _cancelled() -> bool:
    """Whether somebody has cancelled the running task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _too_late() -> bool:
    """Whether the caller's time was up: whoever kept it waiting so long has failed."""
    deadline = DEADLINE.get()
    return deadline is not None and asyncio.get_running_loop().time() >= deadline - CLOCK_S
