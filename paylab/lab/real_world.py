"""The real world of a lab: one event loop, real gRPC servers over mutual TLS, files in a folder."""

import secrets
import sqlite3
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from paylab.core.authorization import Identity
from paylab.lab.faulty_world import Troubles
from paylab.lab.loop import CALL_TIMEOUT_S, LabFuture, LoopThread
from paylab.lab.pki import Authority
from paylab.lab.processes.addresses import SharedAddresses
from paylab.lab.processes.node_process import NodeProcess
from paylab.lab.real_faults import FaultyHost, Links, RealFaults
from paylab.nodes.events import Event
from paylab.nodes.host import AddressBook, Credentials, GrpcHost, Host
from paylab.nodes.passwords import PasswordCost
from paylab.nodes.store import Databases

T = TypeVar("T")


class World(Protocol):
    """What a lab needs of its world, real or simulated."""

    # What a badge on a figure says: "real", or "simulated, seed 7".
    badge: str
    # What hashing a password costs here.
    password_cost: PasswordCost

    def call(self, work: Coroutine[Any, Any, T], *, timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Run work on the world's loop and wait for it."""

    def submit(self, work: Coroutine[Any, Any, T]) -> LabFuture[T]:
        """Start work on the world's loop."""

    def host(self, identity: Identity) -> Host:
        """A new host; called on the loop. A second one of the same name is a restart of the first."""

    def process(self, identity: Identity) -> NodeProcess:
        """A new process for a node. Raises LabError BAD_ARGUMENT in a simulated world."""

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` on the loop's thread after `delay_s` of the wall clock; from any thread."""

    async def crash(self, host: Host) -> None:
        """Kill what runs on a host."""

    async def stop(self, host: Host) -> None:
        """End what runs on a host in order."""

    def troubles(self) -> Troubles:
        """What is wrong with nodes and links at the moment."""

    def now(self) -> float:
        """The world's time, seconds since the Unix epoch."""

    def advance(self, seconds: float) -> None:
        """Let time pass."""

    def secret_bytes(self, length: int) -> bytes:
        """Bytes for the lab's own secrets."""

    def rows(self, store: str, query: str) -> list[tuple[Any, ...]]:
        """Read a database independently of the nodes; empty when it does not exist yet."""

    def snapshot(self, queries: Mapping[str, Sequence[str]]) -> dict[str, list[list[tuple[Any, ...]]]]:
        """The same with several queries of each database, all of them about one moment."""

    def write(self, store: str, statement: str, *values: Any) -> int:
        """Change a database past the nodes, as whoever holds the disk can; returns how many rows changed."""

    def close(self) -> None:
        """Stop the loop and close the databases."""


class RealWorld(RealFaults):
    """Real servers, real time, real files, and faults on request. Implements `World` and `FaultyWorld`."""

    badge = "real"
    password_cost = PasswordCost()

    def __init__(
        self, name: str, *, data_dir: Path | None, sink: Callable[[Event], None], processes: bool = False
    ) -> None:
        """Files go to `data_dir`, or to a fresh folder that vanishes with the lab.

        With `processes`, nodes may run as such; what they must be told is in another folder that vanishes.
        """
        self._temporary = None if data_dir else tempfile.TemporaryDirectory(prefix="paylab-")
        self.folder = data_dir or Path(self._temporary.name if self._temporary else "")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._authority = Authority()
        self._processes: list[NodeProcess] = []
        self._process_folder: tempfile.TemporaryDirectory[str] | None = None
        self._addresses = AddressBook()
        if processes:
            self._process_folder = tempfile.TemporaryDirectory(prefix="paylab-nodes-")
            shared = Path(self._process_folder.name) / "addresses"
            shared.mkdir()
            self._addresses = SharedAddresses(shared)
        self._databases = Databases(self.folder)
        self._sink = sink
        self._links = Links()
        # The living host of each node.
        self._hosts: dict[str, FaultyHost] = {}
        RealFaults.__init__(self, self._links, self._hosts)
        self._loop = LoopThread(name)
        self.call = self._loop.call
        self.submit = self._loop.submit
        self.later = self._loop.later

    def host(self, identity: Identity) -> GrpcHost:
        """A host with a new certificate."""
        host = FaultyHost(
            identity,
            links=self._links,
            credentials=self._authority.issue(identity),
            addresses=self._addresses,
            databases=self._databases,
            sink=self._sink,
        )
        self._hosts[identity.node] = host
        return host

    def process(self, identity: Identity) -> NodeProcess:
        """A process with a new certificate."""
        assert self._process_folder is not None, "this world was not made for processes"
        process = NodeProcess(
            identity,
            folder=Path(self._process_folder.name),
            data=self.folder.absolute(),
            credentials=self._authority.issue(identity),
            sink=self._sink,
        )
        self._processes.append(process)
        return process

    def address(self, node: str) -> str:
        """Where a node listens."""
        return self._addresses.of(node)

    def credentials(self, identity: Identity, *, expired_at: datetime | None = None) -> Credentials:
        """A certificate for a tool that is no node."""
        return self._authority.issue(identity, expired_at=expired_at)

    async def crash(self, host: Host) -> None:
        """Kill what runs on a host."""
        assert isinstance(host, GrpcHost)
        await host.crash()

    async def stop(self, host: Host) -> None:
        """End what runs on a host in order."""
        assert isinstance(host, GrpcHost)
        await host.stop(grace_s=0.5)

    async def _stop_all(self) -> None:
        for host in self._hosts.values():
            await host.stop(grace_s=0)

    def now(self) -> float:
        """The wall clock."""
        return time.time()

    def advance(self, seconds: float) -> None:
        """Wait for real."""
        time.sleep(seconds)

    def secret_bytes(self, length: int) -> bytes:
        """From the operating system."""
        return secrets.token_bytes(length)

    def rows(self, store: str, query: str) -> list[tuple[Any, ...]]:
        """Read through a connection of our own."""
        return self.snapshot({store: [query]})[store][0]

    def snapshot(self, queries: Mapping[str, Sequence[str]]) -> dict[str, list[list[tuple[Any, ...]]]]:
        """Read through connections of our own, after all of them have begun to."""
        found: dict[str, list[list[tuple[Any, ...]]]] = {
            store: [[] for _ in queries[store]] for store in queries
        }
        with ExitStack() as stack:
            begun = {}
            for store in queries:
                path = self.folder / f"{store}.sqlite"
                if path.exists():
                    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
                    begun[store] = stack.enter_context(closing(connection))
                    connection.execute("BEGIN")
                    # From its first reading on it sees the database as that found it.
                    connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            for store, connection in begun.items():
                found[store] = [connection.execute(query).fetchall() for query in queries[store]]
        return found

    def write(self, store: str, statement: str, *values: Any) -> int:
        """Change a database past the nodes, as whoever holds the disk can; returns how many rows changed."""
        with closing(sqlite3.connect(self.folder / f"{store}.sqlite", timeout=10)) as connection, connection:
            return connection.execute(statement, values).rowcount

    def close(self) -> None:
        """Stop whatever still serves, the loop, and close the files; remove temporary folders."""
        if not self._loop.closed:
            self.call(self._stop_all())
        self._loop.close()
        for process in self._processes:
            process.kill()
        self._databases.close()
        for folder in (self._temporary, self._process_folder):
            if folder is not None:
                folder.cleanup()
