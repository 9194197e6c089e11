"""The simulated world: the same nodes in virtual time, over a network and disks that misbehave on request.

A world with the same seed that is asked the same things does the same, event for event.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

import grpc

from paylab.core.authorization import Identity
from paylab.lab.choices import Choices
from paylab.lab.faulty_world import CommitPoint
from paylab.lab.loop import CALL_TIMEOUT_S, LabFuture
from paylab.lab.sim_calls import SimCall
from paylab.lab.sim_channel import SimChannel
from paylab.lab.sim_deadlines import Deadlines
from paylab.lab.sim_disk import LAST_WORDS_US, NS_PER_US, Disk, SimDatabases, SimStore
from paylab.lab.sim_network import Network
from paylab.lab.sim_server import SimServer
from paylab.lab.virtual_thread import VirtualThread, where
from paylab.lab.virtual_time import DAEMON, OWNER, VirtualLoop
from paylab.nodes.auth_server import PasswordCost
from paylab.nodes.events import Event, Kind, Recorder
from paylab.nodes.host import MESSAGE_BYTES_MAX
from paylab.nodes.interceptors import client_interceptors, server_interceptors
from paylab.nodes.store import Store
from paylab.nodes.token_verifier import TokenVerifier

T = TypeVar("T")

# Every simulation begins on 1 January 2026, 00:00 UTC.
EPOCH_S = 1_767_225_600.0
# What Argon2 with its real cost takes; here it is computed with hardly any.
COMPUTE_LEAST_US = 30_000
COMPUTE_MOST_US = 60_000
STOP_GRACE_S = 0.5
# How often the tasks of dead nodes are let run when the world ends; one that needs more is left.
LAST_STEPS = 100


class ArmedCrash:
    """A node that is to die at one of its next commits."""

    def __init__(
        self, point: CommitPoint, crash: Callable[[], Coroutine[Any, Any, None]], *, nth: int
    ) -> None:
        """`crash` does the lab's bookkeeping once the node is dead."""
        self.point = point
        self.crash = crash
        self._left = nth

    def reached(self) -> bool:
        """Count one commit; whether it is the one."""
        self._left -= 1
        return self._left == 0


class SimHost:
    """A node's host in a simulated world."""

    def __init__(self, identity: Identity, *, world: "SimWorld", life: int) -> None:
        """Made by the world; `life` counts the node's restarts."""
        node = identity.node
        self.identity = identity
        self.world = world
        self.rng = random.Random(f"{world.seed}/rng/{node}/{life}")
        self.recorder = Recorder(node, self.now, self._record)
        self.verifier = TokenVerifier(self)
        self.failures: list[BaseException] = []
        self.dead = False
        # What the node would have done while it is paused or after its death.
        self.frozen: list[asyncio.Handle] | None = None
        self.crash_point: ArmedCrash | None = None
        # Calls under way that this node made.
        self.calls: dict[SimCall, None] = {}
        self.credentials = {
            "transport_security_type": [b"ssl"],
            "x509_common_name": [node.encode()],
            "x509_subject_alternative_name": [node.encode(), str(identity).encode()],
        }
        # Every task of this node begins in a copy of one of these.
        self.context = Context()
        self.context.run(OWNER.set, self)
        self.daemon_context = self.context.copy()
        self.daemon_context.run(DAEMON.set, True)
        self._secrets = random.Random(f"{world.seed}/secrets/{node}/{life}")
        self._compute = world.choices.lane("compute", node)
        self._channels: dict[str, SimChannel] = {}
        self._servers: list[SimServer] = []
        self._stores: list[SimStore] = []
        self._tasks: dict[asyncio.Task[Any], bool] = {}

    # Time, chance and work ----------------------------------------------------------------------

    def now(self) -> float:
        """Virtual time, as far off as this node's clock is."""
        return self.world.now() + self.world.skews.get(self.identity.node, 0.0)

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        await asyncio.sleep(seconds)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Run `callback` later; a crash forgets it."""
        if not self.dead:
            self.world.loop.call_later(delay_s, self._fire, callback, context=self.context.copy())

    def _fire(self, callback: Callable[[], None]) -> None:
        if not self.dead:
            callback()

    def spawn(self, work: Coroutine[Any, Any, T], *, daemon: bool = False) -> asyncio.Task[T]:
        """Start a task in a context that holds nothing but whose it is."""
        context = self.daemon_context if daemon else self.context
        task = self.world.loop.create_task(work, context=context.copy())
        self._tasks[task] = daemon
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None and not self.dead:
            self.failures.append(error)

    async def run_blocking(self, function: Callable[[], T]) -> T:
        """Run it at once, then let the time pass that it takes elsewhere."""
        result = function()
        duration_us = COMPUTE_LEAST_US + self._compute.below(COMPUTE_MOST_US - COMPUTE_LEAST_US)
        slowness = self.world.network.slowness.get(self.identity.node, 1.0)
        await asyncio.sleep(duration_us * slowness / 1_000_000)
        return result

    def new_id(self) -> str:
        """96 bits from the seed, as hex."""
        return self._secrets.randbytes(12).hex()

    def secret_bytes(self, length: int) -> bytes:
        """From the seed: whoever knows it can guess them, and nobody is harmed."""
        return self._secrets.randbytes(length)

    def _record(self, event: Event) -> None:
        # A dead node tells nothing but that it is dead.
        if not self.dead or event.kind is Kind.CRASHED:
            self.world.sink(event)

    # Disk and network ---------------------------------------------------------------------------

    def store(self, name: str) -> Store:
        """A handle of this node's own on the shared database."""
        store = SimStore(self.world.databases.open(name), host=self, disk=self.world.disk(name))
        self._stores.append(store)
        return store

    def server(self) -> grpc.aio.Server:
        """A server with paylab's interceptors."""
        interceptors = server_interceptors(self, self.verifier)
        server = SimServer(self, interceptors, message_bytes_max=MESSAGE_BYTES_MAX)
        self._servers.append(server)
        return server

    def channel(self, target: str) -> grpc.aio.Channel:
        """The channel to the node of that name."""
        channel = self._channels.get(target)
        if channel is None:
            channel = SimChannel(self, target, client_interceptors(self, target))
            self._channels[target] = channel
        return channel

    # Life ---------------------------------------------------------------------------------------

    def working(self) -> bool:
        """Whether work of the node's own, other than daemons, is under way."""
        return any(not daemon for daemon in self._tasks.values())

    def waits(self) -> list[str]:
        """Where the node's own work stands, daemons left out."""
        tasks = [task for task, daemon in self._tasks.items() if not daemon]
        tasks += [call.task for server in self._servers for call in server.calls if call.task is not None]
        return [f"{self.identity.node} waits at {where(task)}" for task in tasks]

    def die(self) -> None:
        """Be gone from this very moment: no line of this node's code runs any more."""
        if self.dead:
            return
        self.dead = True
        for store in self._stores:
            store.fence()
        self.world.loop.freeze(self)
        calls, self.calls = list(self.calls), {}
        for call in calls:
            call.tell_cancelled()
        for server in self._servers:
            server.leave()
            for served in server.calls:
                self.world.refuse(served.call, "Socket closed")

    def die_of(self, armed: ArmedCrash) -> None:
        """Die at a commit, and have the lab know."""
        self.crash_point = None
        self.die()
        self.world.job(armed.crash())

    def die_soon_of(self, armed: ArmedCrash) -> None:
        """Die within the time that is left for last words."""
        self.crash_point = None
        delay_us = self.world.choices.draw("last words", self.identity.node, LAST_WORDS_US)
        self.world.loop.after_ns(delay_us * NS_PER_US, lambda _: self.die_of(armed), None)

    async def stop(self, *, grace_s: float) -> None:
        """End in order: no new calls, running ones get `grace_s`, then everything stops."""
        if self.dead:
            return
        self.world.loop.thaw(self)
        for server in self._servers:
            await server.stop(grace_s)
        await self._end(list(self._tasks))
        self.dead = True

    async def _end(self, tasks: list[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def bury(self) -> None:
        """Let the tasks of a dead node end, at the end of the world, when they can reach nothing any more."""
        tasks = list(self._tasks)
        tasks += [call.task for server in self._servers for call in server.calls if call.task is not None]
        self.world.loop.thaw(self)
        for task in tasks:
            task.cancel()
        for _ in range(LAST_STEPS):
            if all(task.done() for task in tasks):
                return
            await asyncio.sleep(0)


class SimWorld:
    """Virtual time, seeded chance, faults on request. Implements `World` and `FaultyWorld`."""

    password_cost = PasswordCost(time_cost=1, memory_kib=8, parallelism=1)

    def __init__(
        self,
        name: str,
        *,
        seed: int = 0,
        sink: Callable[[Event], None],
        choices: Choices | None = None,
    ) -> None:
        """Give `choices` to repeat a run; their seed counts then."""
        self.choices = choices or Choices(seed)
        self.seed = self.choices.seed
        self.badge = f"simulated, seed {self.seed}"
        self.sink = sink
        self.network = Network(self.choices)
        self.databases = SimDatabases()
        self.servers: dict[str, SimServer] = {}
        self.skews: dict[str, float] = {}
        self._lives: dict[str, int] = {}
        self._hosts: list[SimHost] = []
        self._disks: dict[str, Disk] = {}
        self._jobs: dict[asyncio.Task[Any], None] = {}
        self._thread = VirtualThread(name)
        self._thread.describe = lambda: [line for host in self._hosts for line in host.waits()]
        self.loop: VirtualLoop = self._thread.loop
        self.deadlines = Deadlines(self.loop)
        self._closed = False

    # World --------------------------------------------------------------------------------------

    def call(self, work: Coroutine[Any, Any, T], *, timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Run work and wait for it, `timeout_s` of the wall clock at most; virtual time passes as it must."""
        return self._thread.call(work, timeout_s=timeout_s)

    def submit(self, work: Coroutine[Any, Any, T]) -> LabFuture[T]:
        """Start work; time moves on for it once somebody waits, for it or for anything else."""
        return self._thread.submit(work)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.call(asyncio.sleep(seconds))

    def host(self, identity: Identity) -> SimHost:
        """A new host; a second one of the same name is a restart of the first."""
        life = self._lives[identity.node] = self._lives.get(identity.node, 0) + 1
        host = SimHost(identity, world=self, life=life)
        self._hosts.append(host)
        return host

    async def crash(self, host: SimHost) -> None:
        """Kill what runs on a host."""
        host.die()

    async def stop(self, host: SimHost) -> None:
        """End what runs on a host in order."""
        await host.stop(grace_s=STOP_GRACE_S)

    async def run_blocking(self, function: Callable[[], T]) -> T:
        """Run it at once; time does not pass."""
        return function()

    def now(self) -> float:
        """Virtual time, seconds since the Unix epoch."""
        return EPOCH_S + self.loop.time()

    def secret_bytes(self, length: int) -> bytes:
        """Bytes from the seed."""
        return hashlib.shake_256(f"{self.seed}/lab".encode()).digest(length)

    def rows(self, store: str, query: str) -> list[tuple[Any, ...]]:
        """Read a database past the nodes; empty when it does not exist yet."""
        return self._thread.aside(lambda: self.databases.rows(store, query))

    def close(self) -> None:
        """Bury the dead, stop the loop, forget the disks."""
        if self._closed:
            return
        self._closed = True
        self.sink = _nowhere
        self.call(self._bury_all())
        self._thread.close()
        self.databases.close()

    async def _bury_all(self) -> None:
        for host in self._hosts:
            host.die()
        for host in self._hosts:
            await host.bury()
        for generator in self.loop.abandon():
            await generator.aclose()

    # For hosts ----------------------------------------------------------------------------------

    def disk(self, name: str) -> Disk:
        """The disk under a database."""
        if name not in self._disks:
            self._disks[name] = Disk(self, self.choices.lane("disk", name))
        return self._disks[name]

    def job(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work of the world's own."""
        task = self.loop.create_task(work, context=Context())
        self._jobs[task] = None
        task.add_done_callback(lambda task: self._jobs.pop(task, None))

    def arrive(self, call: SimCall) -> None:
        """A call has come to its target."""
        if call.revoked or (call.deadline_ns is not None and call.deadline_ns <= self.loop.now_ns):
            return
        server = self.servers.get(call.method.target)
        if server is None:
            self.refuse(call, f"failed to connect to {call.method.target}")
        else:
            server.accept(call)

    def refuse(self, call: SimCall, why: str) -> None:
        """Tell a caller that its connection is no good."""
        delay_ns = call.method.back.transit_ns(reply=True)
        if delay_ns is not None:
            self.loop.after_ns(delay_ns, call.answer, (grpc.StatusCode.UNAVAILABLE, why, (), None))

    # FaultyWorld --------------------------------------------------------------------------------

    def lose(self, rate: float, *, requests: bool = True, replies: bool = True) -> None:
        """Lose messages on every link."""

        def change() -> None:
            self.network.loss_of_requests = rate if requests else 0.0
            self.network.loss_of_replies = rate if replies else 0.0

        self._change(change)

    def duplicate(self, rate: float) -> None:
        """Deliver requests twice."""
        self._change(lambda: setattr(self.network, "duplication", rate))

    def reorder(self, rate: float, seconds: float) -> None:
        """Hold messages back for up to `seconds`."""

        def change() -> None:
            self.network.reordering, self.network.reorder_s = rate, seconds

        self._change(change)

    def delay(self, a: str, b: str, seconds: float) -> None:
        """Add `seconds` to every message between two nodes, either way."""

        def change() -> None:
            for link in (self.network.link(a, b), self.network.link(b, a)):
                link.extra_ns = round(seconds * 1_000_000_000)

        self._change(change)

    def partition(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Lose everything from `a` to `b` and, unless `one_way`, from `b` to `a`."""

        def change() -> None:
            self.network.cut(a, b)
            if not one_way:
                self.network.cut(b, a)

        self._change(change)

    def heal(self) -> None:
        """End every fault of the network."""
        self._change(self.network.heal)

    def pause(self, node: str) -> None:
        """Stop a node where it stands."""
        self._change(lambda: [self.loop.freeze(host) for host in self._alive(node)])

    def resume(self, node: str) -> None:
        """Let a paused node go on."""
        self._change(lambda: [self.loop.thaw(host) for host in self._alive(node)])

    def slow(self, node: str, factor: float) -> None:
        """Make a node's messages and computing take `factor` times as long."""

        def change() -> None:
            self.network.slowness.pop(node, None)
            if factor != 1.0:
                self.network.slowness[node] = factor

        self._change(change)

    def skew(self, node: str, seconds: float) -> None:
        """Set a node's clock forward or back."""
        self._change(lambda: self.skews.update({node: seconds}))

    def crash_at_commit(
        self, node: str, point: CommitPoint, crash: Callable[[], Coroutine[Any, Any, None]], *, nth: int = 1
    ) -> None:
        """Kill a node at its `nth` commit that writes, from now on."""

        def change() -> None:
            for host in self._alive(node):
                host.crash_point = ArmedCrash(point, crash, nth=nth)

        self._change(change)

    def _change(self, change: Callable[[], object]) -> None:
        def run() -> None:
            change()
            self.network.refresh()

        self._thread.aside(run)

    def _alive(self, node: str) -> list[SimHost]:
        return [host for host in self._hosts if host.identity.node == node and not host.dead]


def _nowhere(_event: Event) -> None:
    """The world has ended."""
