"""Faults in the real world: the same names as in a simulated one, done by interceptors, stores and clocks.

What real servers cannot be asked for is approximated: a paused node sends, receives and writes nothing, but
what it computes goes on; a slow node's messages and writes take longer, its other code does not.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import grpc
from sqlalchemy import Connection

from paylab.lab.faulty_world import CommitPoint, Troubles
from paylab.lab.simulation.sim_disk import SimStore
from paylab.lab.simulation.sim_host import ArmedCrash
from paylab.nodes.host import GrpcHost
from paylab.nodes.store import Databases, Store

T = TypeVar("T")

# What a message takes between two nodes of one machine; a slow node's takes a multiple.
MESSAGE_S = 0.001
# A paused node looks so often whether it may go on.
LOOK_S = 0.01
# A node that dies after a commit has this long for last words.
LAST_WORDS_S = 0.002


class Links:
    """What is wrong with the network and the nodes of a real lab. Plain values: any thread may set them."""

    def __init__(self) -> None:
        """Everything works."""
        self.rng = random.Random()  # noqa: S311 - which message is lost is no secret
        self.loss_of_requests = 0.0
        self.loss_of_replies = 0.0
        self.duplication = 0.0
        self.reordering = 0.0
        self.reorder_s = 0.0
        self.cuts: frozenset[tuple[str, str]] = frozenset()
        self.delays: dict[tuple[str, str], float] = {}
        self.losses: dict[tuple[str, str], float] = {}
        self.slowness: dict[str, float] = {}
        self.skews: dict[str, float] = {}
        self.paused: frozenset[str] = frozenset()

    def heal(self) -> None:
        """End every fault of the network."""
        self.loss_of_requests = self.loss_of_replies = self.duplication = self.reordering = 0.0
        self.cuts, self.delays, self.losses = frozenset(), {}, {}

    def calm(self) -> bool:
        """Whether nothing is wrong with any message."""
        return not (
            self.loss_of_requests
            or self.loss_of_replies
            or self.duplication
            or self.reordering
            or self.cuts
            or self.delays
            or self.losses
            or self.slowness
            or self.paused
        )

    def transit_s(self, source: str, target: str, *, reply: bool = False) -> float | None:
        """How much later than usual the next message arrives; None when it is lost."""
        rate = max(
            self.loss_of_replies if reply else self.loss_of_requests, self.losses.get((source, target), 0.0)
        )
        if (source, target) in self.cuts or (rate and self.rng.random() < rate):
            return None
        factor = self.slowness.get(source, 1.0) * self.slowness.get(target, 1.0)
        delay_s = self.delays.get((source, target), 0.0) + (factor - 1.0) * MESSAGE_S
        if self.reordering and self.rng.random() < self.reordering:
            delay_s += self.rng.uniform(0.0, self.reorder_s)
        return max(0.0, delay_s)

    def duplicates(self) -> bool:
        """Whether the next request arrives twice."""
        return bool(self.duplication) and self.rng.random() < self.duplication

    async def pass_gate(self, *nodes: str) -> None:
        """Wait while one of these nodes is paused."""
        while self.paused & set(nodes):  # noqa: ASYNC110 - see Links: plain values, set by any thread
            await asyncio.sleep(LOOK_S)


class FaultInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """Loses, delays and doubles what goes from one host to one target, and what comes back."""

    def __init__(self, host: "FaultyHost", target: str) -> None:
        """Stands closest to the wire, so that everything else sees what a network does."""
        self._host = host
        self._links = host.links
        self._source = host.identity.node
        self._target = target

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Carry one call there and back. Raises AioRpcError at its deadline when a message is lost."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + (client_call_details.timeout or 0.0)
        try:
            async with asyncio.timeout_at(until_s if client_call_details.timeout is not None else None):
                await self._travel(self._source, self._target, reply=False)
                left_s = until_s - loop.time() if client_call_details.timeout is not None else None
                details = client_call_details._replace(timeout=left_s)
                if self._links.duplicates():
                    self._host.spawn(self._again(continuation, details, request), daemon=True)
                call = await continuation(details, request)
                if await call.code() is not grpc.StatusCode.UNAVAILABLE:
                    await self._travel(self._target, self._source, reply=True)
                return call
        except TimeoutError:
            empty = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.DEADLINE_EXCEEDED, empty, empty, "Deadline Exceeded"
            ) from None

    async def _travel(self, source: str, target: str, *, reply: bool) -> None:
        """Take the time that a message takes; for ever if it is lost."""
        await self._links.pass_gate(source, target)
        delay_s = self._links.transit_s(source, target, reply=reply)
        if delay_s is None:
            await asyncio.get_running_loop().create_future()
        elif delay_s:
            await asyncio.sleep(delay_s)
        await self._links.pass_gate(target)

    async def _again(self, continuation: Any, details: Any, request: Any) -> None:
        """Send the duplicate, of whose answer nobody hears."""
        delay_s = self._links.transit_s(self._source, self._target)
        if delay_s is not None:
            await asyncio.sleep(delay_s)
            call = await continuation(details, request)
            await call.code()


class FaultyChannel:
    """Two channels to one node; while nothing is wrong, calls are spared the way through the faults."""

    def __init__(self, calm: grpc.aio.Channel, faulty: grpc.aio.Channel, links: Links) -> None:
        """`faulty` is used while anything is wrong."""
        self._calm = calm
        self._faulty = faulty
        self._links = links

    def unary_unary(self, *method: Any, **codecs: Any) -> Callable[..., Any]:
        """A method with one request and one response."""
        calm, faulty = self._calm.unary_unary(*method, **codecs), self._faulty.unary_unary(*method, **codecs)

        def call(request: Any, **options: Any) -> Any:
            return (calm if self._links.calm() else faulty)(request, **options)

        return call

    async def close(self, grace: float | None = None) -> None:
        """Make no calls any more."""
        await self._calm.close(grace)
        await self._faulty.close(grace)

    def __getattr__(self, name: str) -> Any:
        """The rest is as on the calm one."""
        return getattr(self._calm, name)


class FaultyStore(SimStore):
    """A node's disk at which a paused node waits and where a node may die."""

    def __init__(self, databases: Databases, name: str, host: "FaultyHost") -> None:
        """A handle of this node's own on the shared database."""
        mortal: Any = host
        super().__init__(databases.open(name), host=mortal)
        self._links = host.links
        self._node = host.identity.node

    async def run(
        self, transaction: Callable[[Connection], T], *, told: Callable[[T], None] | None = None
    ) -> T:
        """Run a transaction and return its result once that is durable. Raises what it raises."""
        await self._links.pass_gate(self._node)
        result = await super().run(transaction, told=told)
        if self.fenced:
            await asyncio.get_running_loop().create_future()  # a dead node's code does not go on
        return result


class FaultyHost(GrpcHost):
    """A real host whose messages, disk and clock can be disturbed."""

    # Only the commits of a real node can be counted on, so it has no other place to die at.
    steps: None = None

    def __init__(self, *args: Any, links: Links, **kwargs: Any) -> None:
        """Must be made on the event loop that will own every aio object of this host."""
        super().__init__(*args, **kwargs)
        self.links = links
        self.crash_point: ArmedCrash | None = None
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        """Read the wall clock, as far off as this node's is."""
        return super().now() + self.links.skews.get(self.identity.node, 0.0)

    def store(self, name: str) -> Store:
        """A handle of this node's own on the shared database, so that a crash fences this node alone."""
        store = FaultyStore(self._databases, name, self)
        self._stores.append(store)
        return store

    def dial(self, target: str, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()) -> grpc.aio.Channel:
        """A channel on which faults happen while there are any."""
        faulty: Any = FaultyChannel(
            super().dial(target, interceptors),
            super().dial(target, [*interceptors, FaultInterceptor(self, target)]),
            self.links,
        )
        return faulty  # type: ignore[no-any-return] # it stands where one would

    def die_soon_of(self, armed: ArmedCrash) -> None:
        """Die within the time that is left for last words."""
        self.crash_point = None
        self.call_later(LAST_WORDS_S, lambda: self.die_of(armed))

    def die_of(self, armed: ArmedCrash) -> None:
        """Die at a commit: nothing more is written from this very moment; from any thread."""
        self.crash_point = None
        for store in self._stores:
            store.fence()
        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(armed.crash()))


class RealFaults:
    """The faults of a real lab. Implements `FaultyWorld`."""

    def __init__(self, links: Links, hosts: dict[str, FaultyHost]) -> None:
        """All of them act through `links`; `hosts` are those that live, by node."""
        self._links = links
        self._hosts = hosts

    def lose(self, rate: float, *, requests: bool = True, replies: bool = True) -> None:
        """Lose messages on every link."""
        self._links.loss_of_requests = rate if requests else 0.0
        self._links.loss_of_replies = rate if replies else 0.0

    def lose_between(self, a: str, b: str, rate: float) -> None:
        """Lose messages between two nodes, either way."""
        changed = {**self._links.losses, (a, b): rate, (b, a): rate}
        self._links.losses = {link: share for link, share in changed.items() if share}

    def mend(self, a: str, b: str) -> None:
        """End whatever is wrong with the link between two nodes alone."""
        self._links.cuts -= {(a, b), (b, a)}
        self.lose_between(a, b, 0.0)
        self.delay(a, b, 0.0)

    def troubles(self) -> Troubles:
        """What is wrong at the moment."""
        links = self._links
        everywhere = max(links.loss_of_requests, links.loss_of_replies)
        return Troubles(links.paused, links.cuts, links.delays, links.losses, links.slowness, everywhere)

    def duplicate(self, rate: float) -> None:
        """Deliver requests twice."""
        self._links.duplication = rate

    def reorder(self, rate: float, seconds: float) -> None:
        """Hold messages back for up to `seconds`."""
        self._links.reordering, self._links.reorder_s = rate, seconds

    def delay(self, a: str, b: str, seconds: float) -> None:
        """Add `seconds` to every message between two nodes, either way."""
        changed = {**self._links.delays, (a, b): seconds, (b, a): seconds}
        self._links.delays = {link: delay_s for link, delay_s in changed.items() if delay_s}

    def partition(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Lose everything from `a` to `b` and, unless `one_way`, from `b` to `a`."""
        self._links.cuts |= {(a, b)} if one_way else {(a, b), (b, a)}

    def heal(self) -> None:
        """End every fault of the network."""
        self._links.heal()

    def pause(self, node: str) -> None:
        """Let a node send, receive and write nothing."""
        self._links.paused |= {node}

    def resume(self, node: str) -> None:
        """Let a paused node go on."""
        self._links.paused -= {node}

    def slow(self, node: str, factor: float) -> None:
        """Make a node's messages take `factor` times as long."""
        changed = {**self._links.slowness, node: factor}
        self._links.slowness = {name: times for name, times in changed.items() if times != 1.0}

    def skew(self, node: str, seconds: float) -> None:
        """Set a node's clock forward or back."""
        self._links.skews = {**self._links.skews, node: seconds}

    def crash_at_commit(
        self, node: str, point: CommitPoint, crash: Callable[[], Coroutine[Any, Any, None]], *, nth: int = 1
    ) -> None:
        """Kill a node at its `nth` commit that writes, from now on."""
        if node in self._hosts:
            self._hosts[node].crash_point = ArmedCrash(point, crash, nth=nth)
