"""The simulated world: the same nodes in virtual time, over a network and disks that misbehave on request.

A world with the same seed that is asked the same things does the same, event for event.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from typing import Any, TypeVar

import grpc

from paylab.core.authorization import Identity
from paylab.errors import LabError
from paylab.lab.faulty_world import CommitPoint, Troubles
from paylab.lab.loop import CALL_TIMEOUT_S, LabFuture
from paylab.lab.processes.node_process import NodeProcess
from paylab.lab.simulation.choices import Choices
from paylab.lab.simulation.sim_calls import SimCall
from paylab.lab.simulation.sim_deadlines import Deadlines
from paylab.lab.simulation.sim_disk import SimDatabases
from paylab.lab.simulation.sim_host import ArmedCrash, SimHost, Steps
from paylab.lab.simulation.sim_network import Network
from paylab.lab.simulation.sim_server import SimServer
from paylab.lab.simulation.virtual_thread import VirtualThread
from paylab.lab.simulation.virtual_time import NS_PER_S, VirtualLoop
from paylab.nodes.events import Event
from paylab.nodes.host import Host
from paylab.nodes.passwords import PasswordCost

T = TypeVar("T")

# Every simulation begins on 1 January 2026, 00:00 UTC.
EPOCH_S = 1_767_225_600.0
STOP_GRACE_S = 0.5


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
        self.choices = choices if choices is not None else Choices(seed)
        self.seed = self.choices.seed
        self.badge = f"simulated, seed {self.seed}"
        self.sink = sink
        self.network = Network(self.choices)
        self.databases = SimDatabases(self.choices)
        self.servers: dict[str, SimServer] = {}
        self.skews: dict[str, float] = {}
        self._lives: dict[str, int] = {}
        self._hosts: list[SimHost] = []
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

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` between two of the nodes' steps, after `delay_s` of the wall clock."""
        self._thread.later(delay_s, callback)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.call(asyncio.sleep(seconds))

    def host(self, identity: Identity) -> SimHost:
        """A new host; a second one of the same name is a restart of the first."""
        life = self._lives[identity.node] = self._lives.get(identity.node, 0) + 1
        host = SimHost(identity, world=self, life=life)
        self._hosts.append(host)
        return host

    def process(self, identity: Identity) -> NodeProcess:
        """There is none: a simulated world is one process. Raises LabError BAD_ARGUMENT."""
        raise LabError("BAD_ARGUMENT", f"{identity.node} cannot be a process in a simulated world")

    async def crash(self, host: Host) -> None:
        """Kill what runs on a host."""
        assert isinstance(host, SimHost)
        host.die()

    async def stop(self, host: Host) -> None:
        """End what runs on a host in order."""
        assert isinstance(host, SimHost)
        await host.stop(grace_s=STOP_GRACE_S)
        host.failures += self.loop.failures
        self.loop.failures.clear()

    async def run_blocking(self, function: Callable[[], T]) -> T:
        """Run it at once; time does not pass."""
        return function()

    def now(self) -> float:
        """Virtual time, seconds since the Unix epoch."""
        return EPOCH_S + self.loop.now_ns / NS_PER_S

    def secret_bytes(self, length: int) -> bytes:
        """Bytes from the seed."""
        return hashlib.shake_256(f"{self.seed}/lab".encode()).digest(length)

    def rows(self, store: str, query: str) -> list[tuple[Any, ...]]:
        """Read a database past the nodes; empty when it does not exist yet."""
        return self._thread.aside(lambda: self.databases.rows(store, query))

    def snapshot(self, queries: Mapping[str, Sequence[str]]) -> dict[str, list[list[tuple[Any, ...]]]]:
        """The same with several queries of each database, all of them about one moment."""
        read = self.databases.rows
        return self._thread.aside(
            lambda: {store: [read(store, query) for query in queries[store]] for store in queries}
        )

    def write(self, store: str, statement: str, *values: Any) -> int:
        """Change a database past the nodes, as whoever holds the disk can; returns how many rows changed."""
        return self._thread.aside(lambda: self.databases.write(store, statement, *values))

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

    def lose_between(self, a: str, b: str, rate: float) -> None:
        """Lose messages between two nodes, either way."""

        def change() -> None:
            for link in (self.network.link(a, b), self.network.link(b, a)):
                link.loss = rate

        self._change(change)

    def mend(self, a: str, b: str) -> None:
        """End whatever is wrong with the link between two nodes alone."""

        def change() -> None:
            for link in (self.network.link(a, b), self.network.link(b, a)):
                link.cut, link.extra_ns, link.loss = False, 0, 0.0

        self._change(change)

    def troubles(self) -> Troubles:
        """What is wrong at the moment; on the loop's thread, or while time stands still."""
        network = self.network
        links = {(link.source, link.target): link for link in network.links()}
        return Troubles(
            frozenset(
                host.identity.node for host in self._hosts if host.frozen is not None and not host.dead
            ),
            frozenset(ends for ends, link in links.items() if link.cut),
            {ends: link.extra_ns / NS_PER_S for ends, link in links.items() if link.extra_ns},
            {ends: link.loss for ends, link in links.items() if link.loss},
            dict(network.slowness),
            max(network.loss_of_requests, network.loss_of_replies),
        )

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
                link.extra_ns = round(seconds * NS_PER_S)

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

        def change() -> None:
            for host in self._alive(node):
                self.loop.freeze(host)

        self._change(change)

    def resume(self, node: str) -> None:
        """Let a paused node go on."""

        def change() -> None:
            for host in self._alive(node):
                self.loop.thaw(host)

        self._change(change)

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

    def crash_at_step(
        self, node: str, crash: Callable[[], Coroutine[Any, Any, None]], *, nth: int = 0
    ) -> Steps:
        """Kill a node at its `nth` step from now on (`Steps`), or let it only count them."""
        steps = Steps(crash, nth=nth)

        def change() -> None:
            for host in self._alive(node):
                host.steps = steps

        self._change(change)
        return steps

    def _change(self, change: Callable[[], object]) -> None:
        def run() -> None:
            change()
            self.network.refresh()

        self._thread.aside(run)

    def _alive(self, node: str) -> list[SimHost]:
        return [host for host in self._hosts if host.identity.node == node and not host.dead]


def _nowhere(_event: Event) -> None:
    """The world has ended."""
