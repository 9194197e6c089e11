"""The seam between a node and its world: clock, chance, disk and network.

A node touches the world only through its `Host`, so the same node runs on real gRPC and in the
simulation and never asks which of the two it is in.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, TypeVar

import grpc

from paylab.core.authorization import Identity
from paylab.core.decisions import DEFAULT, Decisions
from paylab.core.transport import MESSAGE_BYTES_MAX, Transport
from paylab.nodes.events import Event, Recorder
from paylab.nodes.interceptors import server_interceptors
from paylab.nodes.many_ports import ManyPorts, address_of, channel_options
from paylab.nodes.recorded_channel import RecordedChannel
from paylab.nodes.store import Databases, Store
from paylab.nodes.token_verifier import TokenVerifier

T = TypeVar("T")

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # A node that comes back is dialled again soon; gRPC's own default is a second and more.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # What one attempt to connect may take: on a busy machine a handshake takes longer than it should.
    ("grpc.min_reconnect_backoff_ms", 3000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Host(Protocol):
    """What a node may ask of the world."""

    identity: Identity
    rng: random.Random
    recorder: Recorder
    # What the node decides by; every one can be replaced.
    decisions: Decisions
    # What failed in the background; closing the lab raises it.
    failures: list[BaseException]

    def now(self) -> float:
        """Seconds since the Unix epoch by this node's clock."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Run `callback` after `delay_s`, unless the node has gone by then."""

    def spawn(self, work: Coroutine[Any, Any, T], *, daemon: bool = False) -> asyncio.Task[T]:
        """Run work of the node's own, free of the caller's deadline. A daemon is never waited for."""

    async def run_blocking(self, function: Callable[[], T]) -> T:
        """Run something that blocks (SQL, Argon2) without stopping the loop."""

    def new_id(self) -> str:
        """A fresh id, unique for ever."""

    def secret_bytes(self, length: int) -> bytes:
        """Bytes that nobody can guess."""

    def store(self, name: str) -> Store:
        """The disk of that name, shared by every node that asks for the same name."""

    def server(self, *, ports: int = 1) -> grpc.aio.Server:
        """A server with paylab's interceptors, reachable under the node's name once it is started.

        With several ports it takes several calls in at a time.
        """

    def channel(self, target: str) -> grpc.aio.Channel:
        """The channel to the node of that name, wherever it is now."""


# A node that never started has no address; port 1 answers as a dead one would.
NOWHERE = "127.0.0.1:1"


class AddressBook:
    """Where each node listens, by name. A restarted node listens somewhere else."""

    def __init__(self) -> None:
        """Nobody listens."""
        self._addresses: dict[str, str] = {}

    def of(self, node: str) -> str:
        """Where a node listens now."""
        return self._addresses.get(node, NOWHERE)

    def announce(self, node: str, address: str) -> None:
        """Say where a node listens from now on."""
        self._addresses[node] = address


@dataclass(frozen=True, slots=True)
class Credentials:
    """A node's certificate and key, and the authority that it trusts, all PEM."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@cache
def keep_grpc_running() -> None:
    """Hold grpc.aio up for the rest of the process.

    It shuts down with its last channel or server, in whichever thread the garbage collector runs at that
    moment, and waits there for its own thread; whoever opens the next channel then waits for ever.
    """
    grpc.aio.init_grpc_aio()


class GrpcHost:
    """The real world: grpc.aio over mutual TLS, the wall clock, files."""

    def __init__(
        self,
        identity: Identity,
        *,
        credentials: Credentials,
        addresses: AddressBook,
        databases: Databases,
        sink: Callable[[Event], None],
    ) -> None:
        """Must be made on the event loop that will own every aio object of this host."""
        keep_grpc_running()
        self.identity = identity
        self.rng = random.Random()  # noqa: S311 - for jitter; secrets come from secret_bytes
        self.recorder = Recorder(identity.node, self.now, sink)
        self.decisions = DEFAULT
        self.verifier = TokenVerifier(self)
        self._credentials = credentials
        self._addresses = addresses
        self._databases = databases
        self._stores: list[Store] = []
        self._servers: list[grpc.aio.Server] = []
        self._channels: dict[str, tuple[str, grpc.aio.Channel]] = {}
        self._tasks: dict[asyncio.Task[Any], bool] = {}
        self._timers: dict[asyncio.TimerHandle, None] = {}
        self.failures: list[BaseException] = []

    def now(self) -> float:
        """Read the wall clock."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait for real."""
        await asyncio.sleep(seconds)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Run `callback` on the loop later; a crash forgets it."""

        def fire() -> None:
            self._timers.pop(handle, None)
            callback()

        handle = asyncio.get_running_loop().call_later(delay_s, fire, context=Context())
        self._timers[handle] = None

    def spawn(self, work: Coroutine[Any, Any, T], *, daemon: bool = False) -> asyncio.Task[T]:
        """Start a task in an empty context; what it raises is kept in `failures`."""
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks[task] = daemon
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)

    async def run_blocking(self, function: Callable[[], T]) -> T:
        """Run it in a thread."""
        return await asyncio.get_running_loop().run_in_executor(None, function)

    def new_id(self) -> str:
        """96 random bits, as hex."""
        return secrets.token_hex(12)

    def secret_bytes(self, length: int) -> bytes:
        """From the operating system."""
        return secrets.token_bytes(length)

    def store(self, name: str) -> Store:
        """A handle of this node's own on the shared database, so that a crash fences this node alone."""
        store = Store(self._databases.open(name), run_blocking=self.run_blocking, recorder=self.recorder)
        self._stores.append(store)
        return store

    def server(self, *, ports: int = 1) -> grpc.aio.Server:
        """Bind ephemeral ports of the loopback interface, demanding a client certificate."""
        transport = self.decisions.server_transport(self.identity)
        interceptors, options = server_interceptors(self, self.verifier), _options(transport)
        server = ManyPorts(
            [grpc.aio.server(interceptors=interceptors, options=options) for _ in range(ports)]
        )
        trusted_pem = self._credentials.ca_pem + transport.also_trusted_pem
        credentials = grpc.ssl_server_credentials(
            [(self._credentials.key_pem, self._credentials.certificate_pem)],
            root_certificates=trusted_pem if transport.client_certificates else None,
            require_client_auth=transport.client_certificates,
        )
        server.add_secure_port("127.0.0.1:0", credentials)
        self._addresses.announce(self.identity.node, address_of(server.ports))
        self._servers.append(server)
        return server

    def channel(self, target: str) -> grpc.aio.Channel:
        """One warm channel per target; a target that has moved gets a new one."""
        address = self._addresses.of(target)
        known = self._channels.get(target)
        if known is not None and known[0] == address:
            return known[1]
        channel: Any = RecordedChannel(self.dial(target), self, target)
        self._channels[target] = (address, channel)
        if known is not None:
            self.spawn(known[1].close(grace=1.0), daemon=True)
        return channel  # type: ignore[no-any-return] # it stands where one would

    def dial(self, target: str, interceptors: Sequence[grpc.aio.ClientInterceptor] = ()) -> grpc.aio.Channel:
        """A new channel to the node of that name, of which nobody keeps a record."""
        credentials = grpc.ssl_channel_credentials(
            self._credentials.ca_pem, self._credentials.key_pem, self._credentials.certificate_pem
        )
        address = self._addresses.of(target)
        override = ("grpc.ssl_target_name_override", target)
        options = (*CHANNEL_OPTIONS, *channel_options(address), override)
        return grpc.aio.secure_channel(address, credentials, options, interceptors=interceptors)

    def working(self) -> bool:
        """Whether work of the node's own, other than daemons, is under way."""
        return any(not daemon for daemon in self._tasks.values())

    async def stop(self, *, grace_s: float) -> None:
        """End in order: no new calls, running ones get `grace_s`, then everything stops."""
        for server in self._servers:
            await server.stop(grace_s)
        await self._end_tasks()

    async def crash(self) -> None:
        """Die: disk and timers first, so that nothing of the dead node reaches the world any more."""
        failures = list(self.failures)
        for store in self._stores:
            store.fence()
        for server in self._servers:
            await server.stop(None)
        await self._end_tasks()
        for store in self._stores:
            await store.drain()
        self.failures[:] = failures  # what broke on the way down is the crash

    async def _end_tasks(self) -> None:
        for handle in self._timers:
            handle.cancel()
        self._timers.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, channel in self._channels.values():
            await channel.close()
        self._channels.clear()


def _options(transport: Transport) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", transport.message_bytes_max),
        ("grpc.max_metadata_size", transport.metadata_bytes_max),
        ("grpc.absolute_max_metadata_size", transport.metadata_bytes_max),
    )
