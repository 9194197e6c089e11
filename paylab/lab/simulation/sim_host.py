"""A node's host in a simulated world: virtual time, seeded chance, and a life that can end at any moment."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from paylab.core.authorization import Identity
from paylab.core.decisions import DEFAULT, Decisions
from paylab.lab.faulty_world import CommitPoint
from paylab.lab.simulation.choices import seeded
from paylab.lab.simulation.sim_calls import SimCall
from paylab.lab.simulation.sim_channel import SimChannel
from paylab.lab.simulation.sim_disk import LAST_WORDS_US, NS_PER_US, SimStore
from paylab.lab.simulation.sim_server import SimServer
from paylab.lab.simulation.virtual_thread import where
from paylab.lab.simulation.virtual_time import DAEMON, OWNER, VirtualLoop
from paylab.nodes.events import Event, Kind, Recorder
from paylab.nodes.interceptors import server_interceptors
from paylab.nodes.recorded_channel import RecordedChannel
from paylab.nodes.store import Store
from paylab.nodes.token_verifier import TokenVerifier

if TYPE_CHECKING:  # the world makes its hosts, so at run time the import goes the other way
    from paylab.lab.simulation.simulator import SimWorld

T = TypeVar("T")

# What Argon2 with its real cost takes; here it is computed with hardly any.
COMPUTE_LEAST_US = 30_000
COMPUTE_MOST_US = 60_000
# What is heard of a dead node: that it is dead, and what became durable without it.
LAST_WORDS = frozenset({Kind.CRASHED, Kind.FORCED_WRITE, Kind.STATE})
# How often the tasks of a dead node are let run when the world ends; one that needs more is left.
LAST_STEPS = 100


# Code that stands between a node's own and what is recorded: it is not shown as where something was done.
BETWEEN = (
    "/paylab/lab/simulation/",
    "/paylab/nodes/events.py",
    "/paylab/nodes/interceptors.py",
    "/paylab/nodes/recorded_channel.py",
    "/paylab/nodes/store.py",
    "/asyncio/",
)
LOOP_FILE = VirtualLoop._run_once.__code__.co_filename  # noqa: SLF001 - where it stands, not what it does


@cache
def _is_between(file: str) -> bool:
    return any(part in file.replace("\\", "/") for part in BETWEEN)


def running_code() -> tuple[str, int] | None:
    """File and line of the innermost code of a node's own; None while only the world's runs."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - inspect.stack reads source files, and this runs at every event
    while frame is not None:
        file = frame.f_code.co_filename
        if not _is_between(file):
            return file, frame.f_lineno
        # The loop runs all there is of a node's own, so nothing is looked for under it.
        frame = None if file == LOOP_FILE else frame.f_back
    return None


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


class Steps:
    """Every place before and after a call that a node makes on its host; the node may be told to die at one.

    A write has a place before and one after it; a call to another node one before, one when it has left and
    one when the answer comes; a sleep and a timer one before and one after; what is spawned has one.
    """

    def __init__(self, crash: Callable[[], Coroutine[Any, Any, None]], *, nth: int = 0) -> None:
        """Die at the `nth` place from now on, or at none; `crash` does the bookkeeping once it is dead."""
        self.crash = crash
        self.places: list[str] = []
        self._nth = nth

    def reached(self, place: str) -> bool:
        """Count one place; whether it is the one."""
        self.places.append(place)
        return len(self.places) == self._nth


class SimHost:
    """A node's host in a simulated world."""

    def __init__(self, identity: Identity, *, world: "SimWorld", life: int) -> None:
        """Made by the world; `life` counts the node's restarts."""
        node = identity.node
        self.identity = identity
        self.world = world
        self.rng = seeded(world.seed, "rng", node, life)
        self.recorder = Recorder(node, self.now, self._record, origin=running_code)
        self.decisions: Decisions = DEFAULT
        self.verifier = TokenVerifier(self)
        self.failures: list[BaseException] = []
        self.dead = False
        # What the node would have done while it is paused or after its death.
        self.frozen: list[asyncio.Handle] | None = None
        self.crash_point: ArmedCrash | None = None
        self.steps: Steps | None = None
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
        self.daemon_context.run(DAEMON.set, True)  # noqa: FBT003 - the variable is one of yes and no
        self._secrets = seeded(world.seed, "secrets", node, life)
        self._compute = world.choices.lane("compute", node)
        self._channels: dict[str, Any] = {}
        self._servers: list[SimServer] = []
        self._stores: list[SimStore] = []
        self._tasks: dict[asyncio.Task[Any], bool] = {}

    # Time, chance and work ----------------------------------------------------------------------

    def now(self) -> float:
        """Virtual time, as far off as this node's clock is."""
        world = self.world
        return world.now() + world.skews.get(self.identity.node, 0.0) if world.skews else world.now()

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        self.step("before a sleep")
        await asyncio.sleep(seconds)
        if self.step("after a sleep"):
            await self.world.loop.create_future()  # from which a dead node's code never comes back

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Run `callback` later; a crash forgets it."""
        self.step("before a timer")
        if not self.dead:
            self.world.loop.call_later(delay_s, self._fire, callback, context=self.context.copy())

    def _fire(self, callback: Callable[[], None]) -> None:
        if not self.dead and not self.step("after a timer"):
            callback()

    def spawn(self, work: Coroutine[Any, Any, T], *, daemon: bool = False) -> asyncio.Task[T]:
        """Start a task in a context that holds nothing but whose it is."""
        self.step("before a spawn")
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
        # A dead node tells nothing but that it is dead; its disk may tell of a write that was under way.
        if not self.dead or event.kind in LAST_WORDS:
            self.world.sink(event)

    # Disk and network ---------------------------------------------------------------------------

    def store(self, name: str) -> Store:
        """A handle of this node's own on the shared database."""
        store = SimStore(self.world.databases.open(name), host=self)
        self._stores.append(store)
        return store

    def server(self, *, ports: int = 1) -> grpc.aio.Server:  # noqa: ARG002 - there are none
        """A server with paylab's interceptors."""
        interceptors = server_interceptors(self, self.verifier)
        server = SimServer(
            self,
            interceptors,
            message_bytes_max=self.decisions.server_transport(self.identity).message_bytes_max,
        )
        self._servers.append(server)
        return server

    def channel(self, target: str) -> grpc.aio.Channel:
        """The channel to the node of that name."""
        channel = self._channels.get(target)
        if channel is None:
            channel = self._channels[target] = RecordedChannel(self.dial(target), self, target)
        return channel  # type: ignore[return-value] # it stands where one would

    def dial(self, target: str, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()) -> grpc.aio.Channel:
        """A new channel to the node of that name, of which nobody keeps a record."""
        return SimChannel(self, target, interceptors)

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

    def step(self, place: str) -> bool:
        """Pass a place before or after a call on this host; whether the node has died of it."""
        if self.steps is None or self.dead or not self.steps.reached(place):
            return False
        self.die_of(self.steps)
        return True

    def die_of(self, armed: "ArmedCrash | Steps") -> None:
        """Die at the place that was named, and have the lab know."""
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
